// Owns the tables of positions, open orders and fills: which columns, in which words.

import { serverNow } from './api.js';
import { byId, el, setData } from './dom.js';
import {
  averagePrice,
  capital,
  clock,
  contractName,
  DASH,
  date,
  instant,
  known,
  money,
  part,
  price,
  quantity,
  relative,
  signed,
  words,
} from './format.js';
import { csv, download } from './csv.js';
import { freshnessNote } from './freshness.js';
import { commonCurrency, dayPnl, oneCurrency, rate, returnOf, sumOf } from './money.js';
import { everySecond, paint } from './paint.js';
import { byNumber, sign, Table } from './table.js';

export function contractTitle(row) {
  const { localSymbol, secType, exchange, currency, conId, modelCode } = row;
  return [localSymbol, secType, exchange, currency, conId ? `conId ${conId}` : '', modelCode && `model ${modelCode}`]
    .filter(Boolean)
    .join(' · ');
}

const exact = (field) => (row) => (known(row[field]) === null ? '' : String(row[field]));
const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

/** The columns' common parts; `unit(row)` is the currency where the rows have several. */
function contractColumn(open) {
  return {
    key: 'contract',
    label: 'Contract',
    left: true,
    text: contractName,
    unit: (row) => [row.secType === 'STK' ? '' : row.secType, row.modelCode].filter(Boolean).join(' '),
    title: contractTitle,
    name: (row) => `${contractName(row)}: quote and chart`,
    press: (_, row) => open(row),
  };
}

// Not drawn while there is one account only, or one is chosen (table.css).
const account = { key: 'account', label: 'Account', left: true, text: (row) => row.account ?? DASH };

function pnl(key, label, value, unit, total) {
  return {
    key,
    label,
    text: (row) => signed(value(row)),
    sort: (row) => known(value(row)),
    unit,
    tone: (row) => sign(value(row)),
    total,
  };
}

/** `context()` is `{worth, accounts, quote(conId), traded(conId)}`, the state that a column needs beside its row. */
function positionColumns(open, context, unit) {
  const value = (row) => known(row.marketValue);
  const day = (row) => dayPnl(row, context().quote(row.conId), context().traded(row));
  const net = () => {
    const { worth, accounts, netOf } = context();
    return commonCurrency(worth, accounts) ? netOf(accounts) : null;
  };
  const weight = (row) => {
    const { worth, accounts } = context();
    const [whole, each] = [net(), rate(worth, row.account, row.currency)];
    return value(row) === null || !whole || each === null || !commonCurrency(worth, accounts)
      ? null
      : (value(row) * each) / whole;
  };
  const total = (field, write) => (rows) => {
    const { worth, accounts } = context();
    const common = commonCurrency(worth, accounts);
    const { value: sum, missing } = common ? sumOf(rows, field, worth) : { value: null, missing: 0 };
    // A sum without a part of it is no sum.
    const whole = missing ? null : sum;
    return {
      text: write(whole),
      unit: whole === null ? '' : unit({ currency: common }),
      tone: write === signed ? sign(whole) : '',
      title: missing ? `${many(missing, 'position')} without a value or an exchange rate` : common ? `in ${common}` : '',
    };
  };
  return [
    { ...contractColumn(open), total: (rows) => ({ text: `Total of ${rows.size}` }) },
    account,
    { key: 'position', label: 'Position', text: (row) => quantity(row.position), sort: byNumber('position') },
    {
      key: 'avg',
      label: 'Avg price',
      text: (row) => price(averagePrice(row), row.secType, true),
      sort: averagePrice,
      title: (row) => (known(row.avgCost) === null ? '' : `average cost ${row.avgCost}`),
    },
    {
      key: 'price',
      label: 'Price',
      text: (row) => price(row.marketPrice, row.secType, true),
      sort: byNumber('marketPrice'),
      title: exact('marketPrice'),
    },
    {
      key: 'value',
      label: 'Value',
      text: (row) => money(row.marketValue),
      sort: byNumber('marketValue'),
      unit,
      total: total('marketValue', money),
    },
    { key: 'weight', label: 'Weight', text: (row) => part(weight(row)), sort: weight },
    {
      ...pnl('day', 'Today', day, unit),
      title: () => 'Since the last close, before commissions; from the quote',
    },
    pnl('unrealized', 'Unrealized', (row) => row.unrealizedPNL, unit, total('unrealizedPNL', signed)),
    {
      key: 'return',
      label: '%',
      text: (row) => relative(returnOf(row)),
      sort: returnOf,
      tone: (row) => sign(row.unrealizedPNL),
    },
    pnl('realized', 'Realized', (row) => row.realizedPNL, unit, total('realizedPNL', signed)),
  ];
}

const PLACED_BY = { thisClient: 'here', otherClient: 'client', manual: 'by hand' };

const orderColumns = (open) => [
  contractColumn(open),
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
    sort: (row) => given(row.lmtPrice) ?? given(row.auxPrice),
    title: orderPrices,
  },
  { key: 'status', label: 'Status', left: true, text: (row) => row.status || DASH, title: (row) => row.whyHeld ?? '' },
  { key: 'by', label: 'Placed', left: true, text: placedBy },
];

/** A price of an order: TWS sends 0 for one that the order does not have. */
const given = (value) => known(value) || null;

/** The price that decides: the limit, else the stop price, else how far a trailing stop follows. All are in the title. */
function orderPrice(row) {
  const limit = given(row.lmtPrice) ?? given(row.trailStopPrice) ?? given(row.auxPrice);
  if (limit === null && given(row.trailingPercent) !== null) return `${quantity(row.trailingPercent)} %`;
  return price(limit, row.secType);
}

function orderPrices(row) {
  const parts = [
    ['limit', given(row.lmtPrice)],
    [row.orderType?.startsWith('TRAIL') ? 'trail by' : 'stop', given(row.auxPrice)],
    ['trailing stop at', given(row.trailStopPrice)],
  ].filter(([, value]) => value !== null);
  const text = parts.map(([name, value]) => `${name} ${price(value, row.secType)}`);
  if (given(row.trailingPercent) !== null) text.push(`trail by ${quantity(row.trailingPercent)} %`);
  if (given(row.cashQty) !== null) text.push(`cash quantity ${money(row.cashQty)}`);
  return text.join(' · ');
}

function placedBy(row) {
  const by = PLACED_BY[row.placedBy] ?? words(row.placedBy);
  return row.placedBy === 'otherClient' ? `${by} ${row.clientId ?? ''}`.trim() : by || DASH;
}

const fillColumns = (open, unit) => [
  {
    key: 'time',
    label: 'Time',
    left: true,
    text: (row) => clock(instant(row.time), serverNow()),
    sort: (row) => instant(row.time),
    title: (row) => (instant(row.time) === null ? '' : `${date(instant(row.time))} ${clock(instant(row.time))}`),
  },
  contractColumn(open),
  account,
  {
    key: 'side',
    label: 'Side',
    left: true,
    text: (row) => row.side || DASH,
    tone: (row) => (row.side === 'SLD' ? 'sell' : 'buy'),
  },
  { key: 'shares', label: 'Quantity', text: (row) => quantity(row.shares), sort: byNumber('shares') },
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
  pnl('realized', 'Realized', (row) => row.realizedPNL, unit),
  {
    key: 'mark',
    label: 'Note',
    left: true,
    text: (row) => (row.recovered ? 'recovered' : ''),
    tone: (row) => (row.recovered ? 'chip' : ''),
    title: (row) => (row.recovered ? 'Executed while the link was down; read from IBKR afterwards' : ''),
  },
];

/** `open(contract)` shows a contract's quote and chart. */
export function mountBlotter(model, open) {
  const quote = (conId) => model.rows(`quotes:${conId}`).get(String(conId));
  let tradedNow = new Set();
  const context = () => ({
    worth: model.worth,
    accounts: model.account === null ? model.accounts : [model.account],
    quote: model.current ? quote : () => undefined,
    traded: (row) => tradedNow.has(`${row.account}:${row.conId}`),
    netOf: (accounts) => {
      let net = 0;
      for (const id of accounts) {
        const value = known(
          model.worth.summary.get(`${id}:NetLiquidation:${model.worth.bases.get(id)}`)?.value,
        );
        if (value === null) return null;
        net += value;
      }
      return net;
    },
  });

  const positions = panel(model, 'positions', {
    label: 'Positions',
    columns: (unit) => positionColumns(open, context, unit),
    sort: { key: 'value', descending: true },
    empty: 'No positions.',
    one: 'position',
    keep: (row) => known(row.position) !== 0,
    before(rows) {
      tradedNow = new Set([...model.rows('fills').values()].map((fill) => `${fill.account}:${fill.conId}`));
      const some = [...rows.values()].some((row) => dayPnl(row, context().quote(row.conId), false) !== null);
      setData(byId('positions-table'), 'day', String(some));
    },
  });
  const orders = panel(model, 'orders', {
    label: 'Open orders',
    columns: () => orderColumns(open),
    sort: { key: 'contract', descending: false },
    empty: 'No open orders.',
    one: 'open order',
    keep: (row) => !row.done,
    unknown: () =>
      model.link?.readOnly
        ? 'Not known: the TWS API is read-only and sends no orders. In TWS: Global Configuration, API, Settings, clear “Read-Only API”.'
        : null,
  });
  const fills = panel(model, 'fills', {
    label: 'Fills',
    columns: (unit) => fillColumns(open, unit),
    sort: { key: 'time', descending: true },
    empty: 'No fills in the last 24 hours.',
    one: 'fill',
    note: recoveredWords,
  });
  // Weights depend on the account's value, the day's PnL on the quotes.
  everySecond(() => document.hidden || positions.renew());
  let today = new Date(serverNow()).toDateString();
  everySecond(() => {
    const day = new Date(serverNow()).toDateString();
    if (day === today) return;
    today = day; // a fill of yesterday is written with its day from now on
    fills.renew();
    orders.renew();
  });
}

function recoveredWords(rows) {
  let recovered = 0;
  for (const row of rows.values()) if (row.recovered) recovered += 1;
  return recovered ? `${recovered} recovered` : '';
}

/** What a filter is matched with: a contract's and an order's names, in one line. */
const haystack = (row) =>
  [contractName(row), row.localSymbol, row.secType, row.exchange, row.currency, row.account, row.conId, row.action]
    .concat(row.side, row.orderType, row.status, row.orderRef)
    .filter(Boolean)
    .join(' ')
    .toLowerCase();

function panel(model, topic, { label, columns, sort, empty, one, keep, note, before, unknown }) {
  let currency = null; // the one currency of all rows, written once in the head of the panel
  const table = new Table(byId(`${topic}-table`), {
    label: capital(label),
    columns: columns((row) => (row.currency && row.currency !== currency ? row.currency : '')),
    sort,
    extraClass: `${topic}-table`,
  });
  const filter = el('input', {
    type: 'search',
    class: 'filter',
    placeholder: 'Filter',
    'aria-label': `Filter ${label.toLowerCase()}`,
    autocomplete: 'off',
    spellcheck: 'false',
    maxlength: 64,
  });
  const save = el('button', { type: 'button', class: 'small', 'aria-label': `${label} as CSV` }, 'CSV');
  byId(`${topic}-tools`).append(filter, save);

  function rowsShown() {
    const wanted = filter.value.trim().toLowerCase();
    const all = new Map();
    const rows = new Map();
    for (const [key, row] of model.chosenRows(topic)) {
      if (keep && !keep(row)) continue;
      all.set(key, row);
      if (!wanted || haystack(row).includes(wanted)) rows.set(key, row);
    }
    return { all, rows, wanted };
  }

  function draw() {
    const fresh = model.freshness(topic);
    const { all, rows, wanted } = rowsShown();
    const now = oneCurrency(all);
    if (now !== currency) {
      currency = now;
      table.renew();
    }
    before?.(rows);
    const nothing = fresh.known
      ? wanted && all.size
        ? `None of ${many(all.size, one)} matches “${wanted}”.`
        : empty
      : (unknown?.() ?? 'Not known: no complete list has come from IBKR yet.');
    table.show(rows, { stale: fresh.stale, empty: nothing });
    const count = wanted ? `${rows.size} of ${many(all.size, one)}` : many(all.size, one);
    const parts = [count, note?.(rows), topic !== 'orders' && currency && all.size ? `in ${currency}` : ''];
    freshnessNote(byId(`${topic}-note`), fresh, parts.filter(Boolean).join(' · '));
    save.disabled = !rows.size;
  }

  filter.addEventListener('input', () => paint(draw));
  save.addEventListener('click', () => {
    const fresh = model.freshness(topic);
    download(csv([...rowsShown().rows.values()]), topic, new Date(fresh.stale ? fresh.asOf : serverNow()), fresh.stale);
  });
  model.show(draw, topic, 'sync', 'link', 'facade', 'account', 'accounts');
  // The age in the note grows while nothing else changes.
  everySecond(() => model.freshness(topic).stale && paint(draw));
  draw();
  return table;
}
