// Owns the accounts panel: the chosen account's figures (or those of all together), the table of several, and the PnL
// curve of the day.

import { Problem, read, serverNow } from './api.js';
import { caption, Curve, joined, Series, summed } from './chart.js';
import { byId, el, setData, setHidden, setText } from './dom.js';
import { DASH, instant, known, money, part, relative, signed } from './format.js';
import { freshnessNote } from './freshness.js';
import { accountValue, commonCurrency, sum } from './money.js';
import { everySecond, paint } from './paint.js';
import { sign, Table } from './table.js';
import { MONEY_WORDS, moneyOf } from './wording.js';

// `tag` is of the account's values, `pnl` of its PnL; `ratio` is no amount.
const FIGURES = [
  { key: 'net', label: 'Net liquidation', tag: 'NetLiquidation', large: true },
  { key: 'daily', label: 'PnL today', pnl: 'dailyPnL', large: true },
  { key: 'unrealized', label: 'Unrealized PnL', pnl: 'unrealizedPnL' },
  { key: 'realized', label: 'Realized PnL', pnl: 'realizedPnL' },
  { key: 'cash', label: 'Cash', tag: 'TotalCashValue' },
  { key: 'available', label: 'Available funds', tag: 'AvailableFunds' },
  { key: 'excess', label: 'Excess liquidity', tag: 'ExcessLiquidity' },
  { key: 'margin', label: 'Maintenance margin', tag: 'MaintMarginReq' },
  { key: 'power', label: 'Buying power', tag: 'BuyingPower' },
  { key: 'cushion', label: 'Cushion', ratio: true },
];
const TABLE_FIGURES = ['net', 'daily', 'unrealized', 'realized', 'cash', 'excess', 'cushion'];
const HISTORY = '/api/ibkr/account/pnl/history?account=';
// A day of one account is up to 17,000 points: of many accounts together the curve begins with the page.
const MOST_RECORDINGS = 5;
const ALL = '';

/** `{value, missing}` of `figure` over `accounts`, in their common currency. */
function valueOf(model, figure, accounts) {
  const tag = (name) => sum(accounts.map((account) => accountValue(model.worth, account, name)));
  if (figure.pnl) return sum(accounts.map((account) => known(model.rows('pnl').get(account)?.[figure.pnl])));
  if (!figure.ratio) return tag(figure.tag);
  const [excess, net] = [tag('ExcessLiquidity'), tag('NetLiquidation')];
  const ratio = excess.value === null || !net.value ? null : excess.value / net.value;
  return { value: ratio, missing: Math.max(excess.missing, net.missing) };
}

const write = (figure, value) => (figure.ratio ? part(value) : figure.pnl ? signed(value) : money(value));

/** What the day brought in relation to what there was before it. */
function dayChange(model, accounts) {
  const daily = valueOf(model, FIGURES[1], accounts).value;
  const net = valueOf(model, FIGURES[0], accounts).value;
  return daily === null || net === null || net - daily <= 0 ? null : daily / (net - daily);
}

export function mountAccounts(model) {
  const figures = figureList(byId('figures'));
  const select = byId('account');
  const series = new Map(); // account, or ALL for their sum -> Series
  let recorded = true; // whether the daemon keeps the day's curve

  const curveOf = () => series.get(model.account ?? ALL) ?? null;
  const currency = () => commonCurrency(model.worth, shown(model)) ?? '';
  const curve = new Curve(byId('curve'), {
    data: curveOf,
    base: () => 0,
    reading: (at, value) => caption(byId('curve-reading'), at, `${signed(value)} ${currency()}`),
    nothing: (points) =>
      setText(byId('curve-reading'), points ? 'collecting since this page was opened' : 'not known yet'),
  });

  const table = new Table(byId('accounts-table'), {
    label: 'Accounts',
    extraClass: 'accounts-table',
    sort: { key: 'net', descending: true },
    columns: accountColumns(model),
  });

  function draw() {
    const ids = model.accounts;
    const accounts = shown(model);
    const summary = model.freshness('summary');
    const pnl = model.freshness('pnl');
    const unit = currency();
    setData(document.body, 'accounts', ids.length > 1 ? 'many' : 'one');
    setData(document.body, 'account', model.account === null ? 'all' : 'one');
    drawChoice(ids);
    for (const figure of FIGURES) {
      // Amounts in several currencies have no sum.
      const { value, missing } = unit || figure.ratio ? valueOf(model, figure, accounts) : { value: null, missing: 0 };
      const cell = figures.get(figure.key);
      setText(cell.value, write(figure, value));
      setData(cell.node, 'tone', figure.pnl ? sign(value) : '');
      setData(cell.node, 'stale', String((figure.pnl ? pnl : summary).stale));
      setText(cell.below, value !== null && missing ? `${accounts.length - missing} of ${accounts.length} accounts` : '');
    }
    const change = unit ? dayChange(model, accounts) : null;
    if (change !== null) setText(figures.get('daily').below, relative(change));
    const title = model.account === null && ids.length > 1 ? 'All accounts' : 'Account';
    setText(byId('accounts-title'), title);
    const mixed = ids.length > 1 && !unit && model.rows('summary').size > 0;
    freshnessNote(byId('accounts-note'), summary, unit ? `in ${unit}` : mixed ? 'in several currencies' : '');
    setHidden(byId('accounts-table'), ids.length < 2);
    if (ids.length > 1) {
      const rows = new Map(ids.map((id) => [id, { account: id }]));
      table.show(rows, { stale: summary.stale, empty: '' });
      table.renew();
    }
  }

  /** The choice of an account in the head of the page. */
  function drawChoice(ids) {
    const options = ids.length > 1 ? [ALL, ...ids] : ids.length ? ids : [ALL];
    const names = options.map((id) => id || (ids.length ? `All ${ids.length} accounts` : 'Account not known'));
    if (names.join() !== [...select.options].map(({ text }) => text).join())
      select.replaceChildren(...options.map((id, index) => el('option', { value: id }, names[index])));
    select.value = model.account ?? ALL;
    select.disabled = ids.length < 2;
  }

  function collect() {
    // A value of before a gap is no point of now.
    if (!model.current) return;
    const at = serverNow();
    const { accounts } = model;
    for (const id of accounts) point(id, known(model.rows('pnl').get(id)?.dailyPnL), at);
    if (accounts.length < 2) return;
    const all = valueOf(model, FIGURES[1], accounts);
    if (!all.missing && commonCurrency(model.worth, accounts)) point(ALL, all.value, at);
  }

  function point(id, value, at) {
    if (value === null) return;
    if (!series.has(id)) series.set(id, new Series());
    series.get(id).add(at, value);
    if (id === (model.account ?? ALL)) curve.changed();
  }

  /** Read what the daemon recorded of today, of the shown account or of all. */
  async function readHistory() {
    const ids = shown(model);
    if (!recorded || !model.facade || !ids.length || ids.length > MOST_RECORDINGS) return;
    const key = model.account ?? ALL;
    try {
      const recordings = await Promise.all(ids.map(recording));
      series.set(key, joined(summed(recordings), series.get(key) ?? null));
      curve.redraw();
    } catch (error) {
      // Without the daemon's record the curve begins with this page.
      recorded = !(error instanceof Problem && error.status === 404);
    }
  }

  select.addEventListener('change', () => model.choose(select.value || null));
  model.listen(collect, 'pnl');
  model.listen(() => (curve.redraw(), readHistory()), 'account');
  let known_ = '';
  model.listen(
    () => {
      const state = `${model.facade} ${model.current} ${model.accounts.join()}`;
      if (state !== known_ && model.current) readHistory();
      known_ = state;
    },
    'facade',
    'accounts',
    'link',
  );
  model.show(draw, 'accounts', 'account', 'summary', 'pnl', 'sync', 'link', 'facade');
  everySecond(() => model.freshness('summary').stale && paint(draw));
  draw();
  curve.redraw();
}

/** The accounts whose figures are shown. */
const shown = (model) => (model.account === null ? model.accounts : [model.account]);

async function recording(account) {
  const { data } = await read(HISTORY + encodeURIComponent(account));
  return data
    .map(({ at, dailyPnL }) => ({ at: instant(at), value: known(dailyPnL) }))
    .filter(({ at, value }) => at !== null && value !== null);
}

function figureList(list) {
  const cells = new Map();
  for (const { key, label, large } of FIGURES) {
    const value = el('span', { class: 'value' }, DASH);
    const below = el('span', { class: 'figure-below' });
    const node = el('dd', {}, value, below);
    cells.set(key, { node, value, below });
    list.append(el('div', { class: large ? 'figure large' : 'figure', 'data-figure': key }, el('dt', {}, label), node));
  }
  return cells;
}

/** The table of all accounts: a click on one shows it alone, a second one all again. */
function accountColumns(model) {
  const kind = ({ account }) => moneyOf([model.rows('accounts').get(account)].filter(Boolean));
  const amounts = FIGURES.filter(({ key }) => TABLE_FIGURES.includes(key)).map((figure) => ({
    key: figure.key,
    label: figure.label,
    text: (row) => write(figure, valueOf(model, figure, [row.account]).value),
    sort: (row) => valueOf(model, figure, [row.account]).value,
    tone: (row) => (figure.pnl ? sign(valueOf(model, figure, [row.account]).value) : ''),
    unit: (row) =>
      figure.key === 'net' && !commonCurrency(model.worth, model.accounts)
        ? (model.worth.bases.get(row.account) ?? '')
        : '',
    total: () => {
      const common = commonCurrency(model.worth, model.accounts);
      const { value, missing } = common ? valueOf(model, figure, model.accounts) : { value: null, missing: 0 };
      return {
        text: write(figure, value),
        tone: figure.pnl ? sign(value) : '',
        title: common ? (missing ? `not known of ${missing}` : '') : 'The accounts have several currencies.',
      };
    },
  }));
  return [
    {
      key: 'id',
      label: 'Account',
      left: true,
      text: (row) => row.account,
      name: (row) => `Show ${row.account === model.account ? 'all accounts' : row.account}`,
      tone: (row) => (row.account === model.account ? 'chosen' : ''),
      press: (id) => model.choose(id === model.account ? null : id),
      total: () => ({ text: 'All' }),
    },
    { key: 'kind', label: 'Kind', left: true, text: (row) => MONEY_WORDS[kind(row)], tone: (row) => kind(row) },
    ...amounts,
  ];
}
