// Owns the watch list: finding a contract, keeping the list over a reload, and the table of its quotes.

import { read, serverNow } from './api.js';
import { byId, el, setData, setHidden } from './dom.js';
import { age, change, clock, contractName, DASH, instant, known, price, quantity, words } from './format.js';
import { freshnessNote } from './freshness.js';
import { paint } from './paint.js';
import { clearProblem, showProblem } from './problem.js';
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
  'currency',
  'localSymbol',
  'tradingClass',
];

const COLUMNS = (remove) => [
  {
    key: 'contract',
    label: 'Contract',
    left: true,
    text: (row) => contractName(row.contract),
    unit: (row) => (row.contract.secType === 'STK' ? '' : (row.contract.secType ?? '')),
    title: (row) => contractTitle(row.contract),
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
    text: (row) => change(row.last, row.close),
    sort: moved,
    tone: (row) => sign(moved(row)),
    title: (row) => `close ${price(row.close, row.contract.secType)}`,
  },
  {
    key: 'kind',
    label: 'Data',
    left: true,
    text: kind,
    tone: kindTone,
    title: (row) => (row.asOf ? `as of ${clock(instant(row.asOf), serverNow())}` : ''),
  },
  {
    key: 'remove',
    label: 'Remove',
    text: () => '×',
    title: (row) => `Remove ${contractName(row.contract)}`,
    button: remove,
  },
];

function moved(row) {
  const [last, close] = [known(row.last), known(row.close)];
  return last === null || !close ? null : last / close - 1;
}

function kind(row) {
  if (row.ibCode) return `IBKR ${row.ibCode}`;
  if (row.stale) return row.asOf ? `${age((serverNow() - instant(row.asOf)) / 1000)} old` : DASH;
  return row.marketDataType ? words(row.marketDataType) : 'waiting';
}

function kindTone(row) {
  if (row.ibCode) return 'warn';
  return row.marketDataType === 'live' || row.stale || !row.marketDataType ? 'muted' : 'chip';
}

/** The stored list: contracts, checked, as another version of the page or a hand may have written it. */
function stored() {
  try {
    const list = JSON.parse(localStorage.getItem(STORED) ?? '[]');
    return list.filter((row) => Number.isSafeInteger(row?.conId) && row.conId > 0).slice(0, MOST_QUOTES);
  } catch {
    return [];
  }
}

/** `changed()` is called when other quotes are wanted. Returns `topics()`. */
export function mountQuotes(model, changed) {
  let list = stored();
  const table = new Table(byId('quotes-table'), {
    label: 'Quotes',
    columns: COLUMNS((key) => remove(key)),
    sort: { key: 'contract', descending: false },
    empty: 'No quotes yet: add a symbol above.',
    extraClass: 'quotes-table',
  });
  const topics = () => list.map(({ conId }) => `quotes:${conId}`);

  function draw() {
    const stale = !model.current;
    const rows = new Map(
      list.map((contract) => {
        const quote = model.rows(`quotes:${contract.conId}`).get(String(contract.conId)) ?? {};
        return [String(contract.conId), { ...quote, contract, stale }];
      }),
    );
    table.show(rows, { stale });
    const fresh =
      model.replica.complete || !list.length
        ? { known: true, stale: stale && list.length > 0, asOf: null }
        : { known: false };
    freshnessNote(byId('quotes-note'), fresh, list.length ? `${list.length} of ${MOST_QUOTES}` : '');
  }

  function store() {
    localStorage.setItem(STORED, JSON.stringify(list));
    subscribe();
    changed();
    paint(draw);
  }

  function subscribe() {
    model.show(draw, ...topics());
  }

  function add(contract) {
    if (!list.some(({ conId }) => conId === contract.conId)) {
      if (list.length >= MOST_QUOTES) {
        showProblem(byId('quote-problem'), {
          title: 'Enough quotes',
          detail: `This page shows at most ${MOST_QUOTES}, so that other readers keep market-data lines. Remove one first.`,
        });
        return;
      }
      list = [...list, Object.fromEntries(CONTRACT_FIELDS.map((field) => [field, contract[field] ?? null]))];
      store();
    }
  }

  function remove(key) {
    list = list.filter(({ conId }) => String(conId) !== key);
    store();
  }

  mountSearch(add);
  subscribe();
  model.show(draw, 'link', 'facade', 'sync');
  setInterval(() => !model.current && paint(draw), 1000);
  draw();
  return topics;
}

function mountSearch(add) {
  const input = byId('quote-search');
  const found = byId('quote-found');
  const problem = byId('quote-problem');
  let rows = [];
  let marked = -1;
  let timer = null;
  let asked = 0; // number of the newest question: an older answer is not shown

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
    const question = ++asked;
    clearTimeout(timer);
    clearProblem(problem);
    setData(input, 'busy', 'true');
    try {
      const path = /^\d+$/.test(text)
        ? `/api/ibkr/contracts/${text}`
        : `/api/ibkr/contracts/search?q=${encodeURIComponent(text)}`;
      const { data } = await read(path);
      if (question !== asked) return;
      const list = Array.isArray(data) ? data : [data];
      show(list.filter((row) => Number.isSafeInteger(row?.conId)));
      if (!rows.length)
        showProblem(problem, { title: 'Nothing found', detail: `IBKR lists no contract for “${text}”.` });
    } catch (refusal) {
      if (question === asked) {
        show([]);
        showProblem(problem, refusal);
      }
    } finally {
      if (question === asked) setData(input, 'busy', 'false');
    }
  }

  input.addEventListener('input', () => {
    clearTimeout(timer);
    clearProblem(problem);
    const text = input.value.trim();
    asked += 1;
    if (!text) show([]);
    // A conId is looked up when it is complete, which only Enter says.
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
