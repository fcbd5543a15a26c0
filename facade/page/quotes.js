// Owns the watch list: finding a contract, keeping the list over a reload, and the table of its quotes.

import { read, serverNow } from './api.js';
import { byId, el, setData, setHidden } from './dom.js';
import { clock, contractName, DASH, duration, instant, known, moved, price, quantity, relative, words } from './format.js';
import { freshnessNote } from './freshness.js';
import { oneCurrency } from './money.js';
import { everySecond, paint } from './paint.js';
import { clearProblem, showProblem } from './problem.js';
import { browser } from './storage.js';
import { byNumber, sign, Table } from './table.js';
import { contractTitle } from './blotter.js';

const STORED = 'ibkr.quotes';
// IBKR gives an account 100 market-data lines by default; half of them for one page leaves the rest to other readers.
const MOST_QUOTES = 50;
const SEARCH_AFTER = 250; // ms of no typing
const MOST_FOUND = 12;
const CONTRACT_FIELDS = [
  'conId',
  'symbol',
  'secType',
  'lastTradeDateOrContractMonth',
  'strike',
  'right',
  'multiplier',
  'exchange',
  'primaryExchange',
  'currency',
  'localSymbol',
  'tradingClass',
];

const change = (row) => moved(row.last, row.close);

const exchangeOf = ({ primaryExchange, exchange }) => primaryExchange || (exchange === 'SMART' ? '' : exchange);

/** Where and in which currency a contract trades: what distinguishes three IBMs. */
export const venue = (contract) => [exchangeOf(contract), contract.currency].filter(Boolean).join(' ');

/** The columns; `several()`: whether the quotes are in several currencies. */
const COLUMNS = (open, remove, several) => [
  {
    key: 'contract',
    label: 'Contract',
    left: true,
    text: (row) => contractName(row.contract),
    unit: ({ contract }) =>
      [contract.secType === 'STK' ? '' : contract.secType, several() ? venue(contract) : exchangeOf(contract)]
        .filter(Boolean)
        .join(' '),
    title: (row) => contractTitle(row.contract),
    name: (row) => `${contractName(row.contract)} ${venue(row.contract)}: quote and chart`,
    press: (_, row) => open(row.contract),
  },
  {
    key: 'bid',
    label: 'Bid',
    text: (row) => price(row.bid, row.contract.secType),
    sort: byNumber('bid'),
    title: (row) => `size ${quantity(row.bidSize)}`,
  },
  {
    key: 'ask',
    label: 'Ask',
    text: (row) => price(row.ask, row.contract.secType),
    sort: byNumber('ask'),
    title: (row) => `size ${quantity(row.askSize)}`,
  },
  {
    key: 'last',
    label: 'Last',
    text: (row) => price(row.last, row.contract.secType),
    sort: byNumber('last'),
    title: (row) => `size ${quantity(row.lastSize)} · volume ${quantity(row.volume)}`,
  },
  {
    key: 'change',
    label: 'Change',
    text: (row) => relative(change(row)),
    sort: change,
    tone: (row) => sign(change(row)),
    title: (row) => `close ${price(row.close, row.contract.secType)}`,
  },
  {
    key: 'kind',
    label: 'Data',
    left: true,
    text: dataKind,
    tone: dataTone,
    title: (row) => (dataAt(row) === null ? '' : `as of ${clock(dataAt(row), serverNow())}`),
  },
  {
    key: 'remove',
    label: 'Remove',
    unseen: true,
    text: () => '×',
    name: (row) => `Remove ${contractName(row.contract)}`,
    title: (row) => `Remove ${contractName(row.contract)}`,
    press: remove,
  },
];

/** When (ms) a quote's prices were last received. */
const dataAt = (row) => instant(row.priceAsOf ?? row.asOf);

/** A span of `seconds` in its largest unit: a narrow column has no room for two. */
const largestUnit = (seconds) => duration(seconds).split(' ').slice(0, 2).join(' ');

/** Of what kind a quote's data is: live, delayed, frozen, refused, old, or not there yet. */
export function dataKind(row) {
  if (row.ibCode) return `IBKR ${row.ibCode}`;
  if (row.stale) return dataAt(row) === null ? DASH : `${largestUnit((serverNow() - dataAt(row)) / 1000)} old`;
  return row.marketDataType ? words(row.marketDataType) : 'waiting';
}

export function dataTone(row) {
  if (row.ibCode) return 'warn';
  return row.marketDataType === 'live' || row.stale || !row.marketDataType ? 'muted' : 'chip';
}

/** The stored list of contracts, checked: another version of the page may have written it. */
function stored() {
  try {
    const list = JSON.parse(browser.get(STORED) ?? '[]');
    return list.filter((row) => Number.isSafeInteger(row?.conId) && row.conId > 0).slice(0, MOST_QUOTES);
  } catch {
    return [];
  }
}

/** `changed()` is called when other quotes are wanted, `open(contract)` to show one. Returns `{conIds(), add}`. */
export function mountQuotes(model, changed, open) {
  let list = stored();
  const table = new Table(byId('quotes-table'), {
    label: 'Quotes',
    columns: COLUMNS(
      open,
      (key) => remove(key),
      () => oneCurrency(new Map(list.map((contract) => [contract.conId, contract]))) === null,
    ),
    sort: { key: 'contract', descending: false },
    extraClass: 'quotes-table',
  });
  const conIds = () => list.map(({ conId }) => conId);

  function draw() {
    const stale = !model.current;
    const rows = new Map(
      list.map((contract) => {
        const quote = model.rows(`quotes:${contract.conId}`).get(String(contract.conId)) ?? {};
        return [String(contract.conId), { ...quote, contract, stale }];
      }),
    );
    table.show(rows, { stale, empty: 'No quotes yet: add a symbol above, or your positions.' });
    const fresh =
      model.replica.complete || !list.length
        ? { known: true, stale: stale && list.length > 0, asOf: null }
        : { known: false };
    freshnessNote(byId('quotes-note'), fresh, list.length ? `${list.length} of ${MOST_QUOTES}` : '');
  }

  function store() {
    browser.set(STORED, JSON.stringify(list));
    subscribe();
    changed();
    table.renew();
    paint(draw);
  }

  function subscribe() {
    model.show(draw, ...conIds().map((conId) => `quotes:${conId}`));
  }

  /** Add `contracts` that are not in the list yet, as many as there is room for. */
  function add(...contracts) {
    const fresh = contracts.filter(({ conId }) => !list.some((row) => row.conId === conId));
    const room = MOST_QUOTES - list.length;
    if (fresh.length > room) {
      showProblem(byId('quote-problem'), {
        title: 'Too many quotes',
        detail: `This page shows at most ${MOST_QUOTES}: other readers need market data lines too. ${room > 0 ? `The first ${room} were added.` : 'Remove one first.'}`,
      });
    }
    if (!fresh.length || room <= 0) return;
    const kept = (contract) => Object.fromEntries(CONTRACT_FIELDS.map((field) => [field, contract[field] ?? null]));
    list = [...list, ...fresh.slice(0, room).map(kept)];
    store();
  }

  /** The chosen account's positions, largest first. */
  function addPositions() {
    const rows = [...model.chosenRows('positions').values()].filter((row) => known(row.position));
    rows.sort((a, b) => Math.abs(known(b.marketValue) ?? 0) - Math.abs(known(a.marketValue) ?? 0));
    const distinct = new Map(rows.map((row) => [row.conId, row]));
    clearProblem(byId('quote-problem'));
    add(...distinct.values());
  }

  function remove(key) {
    list = list.filter(({ conId }) => String(conId) !== key);
    store();
  }

  mountSearch(add);
  subscribe();
  byId('quote-positions').addEventListener('click', addPositions);
  model.show(draw, 'link', 'facade', 'sync');
  everySecond(() => !model.current && paint(draw));
  draw();
  return { conIds, add };
}

function mountSearch(add) {
  const input = byId('quote-search');
  const found = byId('quote-found');
  const problem = byId('quote-problem');
  let rows = [];
  let marked = -1;
  let timer = null;
  let newest = 0; // number of the newest search: the answer of an older one is not shown

  function show(list) {
    rows = list.slice(0, MOST_FOUND);
    marked = rows.length ? 0 : -1;
    found.replaceChildren(
      ...rows.map((row, index) => {
        const item = el(
          'li',
          { role: 'option', id: `found-${index}`, 'data-index': index },
          el('strong', {}, contractName(row)),
          el('span', {}, [row.secType, row.primaryExchange || row.exchange, row.currency].filter(Boolean).join(' · ')),
          el('span', { class: 'found-name' }, row.longName || row.description || ''),
        );
        return item;
      }),
    );
    mark();
    setHidden(found, !rows.length);
    input.setAttribute('aria-expanded', String(rows.length > 0));
  }

  function mark() {
    for (const [index, item] of [...found.children].entries()) {
      item.setAttribute('aria-selected', String(index === marked));
      if (index === marked) item.scrollIntoView({ block: 'nearest' });
    }
    if (marked >= 0) input.setAttribute('aria-activedescendant', `found-${marked}`);
    else input.removeAttribute('aria-activedescendant');
  }

  function choose(index) {
    if (!rows[index]) return;
    add(rows[index]);
    input.value = '';
    show([]);
    input.focus();
  }

  async function search(text) {
    const number = ++newest;
    clearTimeout(timer);
    clearProblem(problem);
    setData(input, 'busy', 'true');
    try {
      const path = /^\d+$/.test(text)
        ? `/api/ibkr/contracts/${text}`
        : `/api/ibkr/contracts/search?q=${encodeURIComponent(text)}`;
      const { data } = await read(path);
      if (number !== newest) return;
      const list = Array.isArray(data) ? data : [data];
      show(list.filter((row) => Number.isSafeInteger(row?.conId)));
      if (!rows.length)
        showProblem(problem, { title: 'Nothing found', detail: `IBKR lists no contract for “${text}”.` });
    } catch (refusal) {
      if (number === newest) {
        show([]);
        showProblem(problem, refusal);
      }
    } finally {
      if (number === newest) setData(input, 'busy', 'false');
    }
  }

  input.addEventListener('input', () => {
    clearTimeout(timer);
    clearProblem(problem);
    const text = input.value.trim();
    newest += 1;
    if (!text) show([]);
    // A conId is looked up when it is complete, which only Enter shows.
    else if (!/^\d+$/.test(text)) timer = setTimeout(() => search(text), SEARCH_AFTER);
  });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') show([]);
    if (!rows.length || (event.key !== 'ArrowDown' && event.key !== 'ArrowUp')) return;
    event.preventDefault();
    marked = (marked + (event.key === 'ArrowDown' ? 1 : rows.length - 1)) % rows.length;
    mark();
  });
  input.addEventListener('blur', () => setTimeout(() => found.matches(':hover') || show([]), 150));
  found.addEventListener('pointerdown', (event) => {
    event.preventDefault();
    const item = event.target.closest('li');
    if (item) choose(Number(item.dataset.index));
  });
  byId('quote-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (rows.length && marked >= 0) choose(marked);
    else if (text) search(text);
  });
}
