// Owns the tables of positions, open orders and fills: which columns, in which words.

import { serverNow } from './api.js';
import { byId } from './dom.js';
import { capital, clock, contractName, DASH, instant, known, price, quantity, money, signed, words } from './format.js';
import { freshnessNote } from './freshness.js';
import { paint } from './paint.js';
import { byNumber, sign, Table } from './table.js';

const contract = {
  key: 'contract',
  label: 'Contract',
  left: true,
  text: contractName,
  unit: (row) => (row.secType === 'STK' ? '' : row.secType),
  title: contractTitle,
};
// Not drawn while there is one account only (table.css).
const account = { key: 'account', label: 'Account', left: true, text: (row) => row.account ?? DASH };

export function contractTitle(row) {
  return [row.localSymbol, row.secType, row.exchange, row.currency, row.conId ? `conId ${row.conId}` : '']
    .filter(Boolean)
    .join(' · ');
}

function pnl(key, label, field, currency = (row) => row.currency ?? '') {
  return {
    key,
    label,
    text: (row) => signed(row[field]),
    sort: byNumber(field),
    unit: currency,
    tone: (row) => sign(row[field]),
  };
}

const exact = (field) => (row) => (known(row[field]) === null ? '' : String(row[field]));

const POSITIONS = [
  contract,
  account,
  { key: 'position', label: 'Position', text: (row) => quantity(row.position), sort: byNumber('position') },
  {
    key: 'avg',
    label: 'Avg cost',
    text: (row) => price(row.avgCost, row.secType),
    sort: byNumber('avgCost'),
    title: exact('avgCost'),
  },
  {
    key: 'price',
    label: 'Price',
    text: (row) => price(row.marketPrice, row.secType),
    sort: byNumber('marketPrice'),
    title: exact('marketPrice'),
  },
  {
    key: 'value',
    label: 'Value',
    text: (row) => money(row.marketValue),
    sort: byNumber('marketValue'),
    unit: (row) => row.currency ?? '',
  },
  pnl('unrealized', 'Unrealized', 'unrealizedPNL'),
  pnl('realized', 'Realized', 'realizedPNL'),
];

const PLACED_BY = { thisClient: 'here', otherClient: 'client', manual: 'by hand' };

const ORDERS = [
  contract,
  {
    key: 'side',
    label: 'Side',
    left: true,
    text: (row) => row.action ?? DASH,
    tone: (row) => (row.action === 'SELL' ? 'sell' : 'buy'),
  },
  account,
  {
    key: 'filled',
    label: 'Filled',
    text: (row) => `${quantity(row.filled)} / ${quantity(row.totalQuantity)}`,
    sort: byNumber('totalQuantity'),
  },
  { key: 'type', label: 'Type', left: true, text: (row) => [row.orderType, row.tif].filter(Boolean).join(' ') || DASH },
  {
    key: 'price',
    label: 'Price',
    text: orderPrice,
    sort: (row) => known(row.lmtPrice) ?? known(row.auxPrice),
    title: orderPrices,
  },
  { key: 'status', label: 'Status', left: true, text: (row) => row.status || DASH, title: (row) => row.whyHeld ?? '' },
  { key: 'by', label: 'Placed', left: true, text: placedBy },
];

/** The price that decides: the limit, else the auxiliary (stop) price. Both are in the title. */
function orderPrice(row) {
  return price(known(row.lmtPrice) === null ? row.auxPrice : row.lmtPrice, row.secType);
}

function orderPrices(row) {
  return `limit ${price(row.lmtPrice, row.secType)} · aux ${price(row.auxPrice, row.secType)}`;
}

function placedBy(row) {
  const by = PLACED_BY[row.placedBy] ?? words(row.placedBy);
  return row.placedBy === 'otherClient' ? `${by} ${row.clientId ?? ''}`.trim() : by || DASH;
}

const FILLS = [
  {
    key: 'time',
    label: 'Time',
    left: true,
    text: (row) => clock(instant(row.time), serverNow()),
    sort: (row) => instant(row.time),
  },
  contract,
  account,
  {
    key: 'side',
    label: 'Side',
    left: true,
    text: (row) => row.side || DASH,
    tone: (row) => (row.side === 'SLD' ? 'sell' : 'buy'),
  },
  { key: 'shares', label: 'Shares', text: (row) => quantity(row.shares), sort: byNumber('shares') },
  {
    key: 'price',
    label: 'Price',
    text: (row) => price(row.price, row.secType),
    sort: byNumber('price'),
    title: exact('price'),
  },
  {
    key: 'commission',
    label: 'Comm.',
    text: (row) => money(row.commission),
    sort: byNumber('commission'),
    unit: (row) => (row.commissionCurrency === row.currency ? '' : (row.commissionCurrency ?? '')),
    title: (row) => row.commissionCurrency ?? '',
  },
  pnl('realized', 'Realized', 'realizedPNL'),
  {
    key: 'mark',
    label: 'Note',
    left: true,
    text: (row) => (row.recovered ? 'recovered' : ''),
    tone: (row) => (row.recovered ? 'chip' : ''),
    title: (row) => (row.recovered ? 'Missed while the link was down and learnt by asking afterwards' : ''),
  },
];

const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

export function mountBlotter(model) {
  panel(model, 'positions', {
    label: 'Positions',
    columns: POSITIONS,
    sort: { key: 'value', descending: true },
    empty: 'No positions.',
    rows: (rows) => filtered(rows, (row) => known(row.position) !== 0),
    count: (size) => many(size, 'position'),
  });
  panel(model, 'orders', {
    label: 'Open orders',
    columns: ORDERS,
    sort: { key: 'contract', descending: false },
    empty: 'No open orders.',
    rows: (rows) => filtered(rows, (row) => !row.done),
    count: (size) => many(size, 'open order'),
  });
  panel(model, 'fills', {
    label: 'Fills',
    columns: FILLS,
    sort: { key: 'time', descending: true },
    empty: 'No fills in the last 24 hours.',
    rows: (rows) => rows,
    count: (size, rows) => [many(size, 'fill'), recoveredWords(rows)].filter(Boolean).join(' · '),
  });
}

function recoveredWords(rows) {
  let recovered = 0;
  for (const row of rows.values()) if (row.recovered) recovered += 1;
  return recovered ? `${recovered} recovered` : '';
}

function filtered(rows, keep) {
  const kept = new Map();
  for (const [key, row] of rows) if (keep(row)) kept.set(key, row);
  return kept;
}

function panel(model, topic, { label, columns, sort, empty, rows, count }) {
  const table = new Table(byId(`${topic}-table`), {
    label: capital(label),
    columns,
    sort,
    empty,
    extraClass: `${topic}-table`,
  });
  function draw() {
    const fresh = model.freshness(topic);
    const shown = rows(model.rows(topic));
    table.show(shown, fresh);
    freshnessNote(byId(`${topic}-note`), fresh, count(shown.size, shown));
  }
  model.show(draw, topic, 'sync', 'link', 'facade');
  // The age in the note goes on while nothing else changes.
  setInterval(() => model.freshness(topic).stale && paint(draw), 1000);
  draw();
}
