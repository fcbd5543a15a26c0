// Owns the accounts' cards: what each is worth, what is free, what the day brought; and whose curve is drawn.

import { serverNow } from './api.js';
import { Curve, Series } from './chart.js';
import { byId, el, setData, setText } from './dom.js';
import { DASH, known, money, signed } from './format.js';
import { freshnessNote } from './freshness.js';
import { sign } from './table.js';
import { MONEY_WORDS, moneyOf } from './wording.js';

const FIGURES = [
  { key: 'NetLiquidation', label: 'Net liquidation', large: true },
  { key: 'AvailableFunds', label: 'Available funds', large: true },
  { key: 'dailyPnL', label: 'Daily PnL', large: true, pnl: true },
  { key: 'unrealizedPnL', label: 'Unrealized PnL', pnl: true },
  { key: 'realizedPnL', label: 'Realized PnL', pnl: true },
  { key: 'BuyingPower', label: 'Buying power' },
];

export function mountAccounts(model) {
  const host = byId('accounts');
  const cards = new Map(); // account -> card
  const series = new Map(); // account -> Series
  let chosen = null;

  const curve = new Curve(byId('curve'), {
    series: () => series.get(chosen) ?? null,
    currency: () => currencyOf(model.rows('summary'), chosen),
  });

  function draw() {
    const ids = accountIds(model);
    for (const [id, card] of cards) {
      if (ids.includes(id)) continue;
      card.node.remove();
      cards.delete(id);
    }
    for (const id of ids) {
      if (!cards.has(id)) {
        const card = makeCard(id, () => choose(id));
        cards.set(id, card);
        host.append(card.node);
      }
    }
    if (!ids.includes(chosen)) choose(ids[0] ?? null);
    setData(document.body, 'accounts', ids.length > 1 ? 'many' : 'one');
    const summary = model.freshness('summary');
    const pnl = model.freshness('pnl');
    for (const [id, card] of cards) write(card, id, summary, pnl);
    setText(byId('curve-title'), ids.length > 1 ? `Daily PnL, ${chosen}` : 'Daily PnL');
    freshnessNote(byId('accounts-note'), summary, ids.length ? '' : 'no account known');
  }

  function write(card, id, summary, pnl) {
    const row = model.rows('accounts').get(id);
    const kind = moneyOf(row ? [row] : []);
    setData(card.kind, 'money', kind);
    setText(card.kind, MONEY_WORDS[kind]);
    const currency = currencyOf(model.rows('summary'), id);
    const values = model.rows('pnl').get(id);
    for (const figure of FIGURES) {
      const cell = card.figures.get(figure.key);
      const value = figure.pnl ? values?.[figure.key] : summaryValue(model.rows('summary'), id, figure.key, currency);
      const text = figure.pnl ? signed(value) : money(value);
      const fresh = figure.pnl ? pnl : summary;
      setText(cell.value, text);
      setText(cell.unit, currency ?? '');
      setData(cell.node, 'tone', figure.pnl ? sign(value) : '');
      setData(cell.node, 'stale', String(fresh.stale));
    }
  }

  function choose(id) {
    chosen = id;
    for (const [account, card] of cards) card.radio.checked = account === id;
    curve.redraw();
    model.changed(new Set(['chosen']));
  }

  model.listen(function collect() {
    // A value of before a gap is no point of now.
    if (!model.current) return;
    for (const [id, { dailyPnL }] of model.rows('pnl')) {
      const value = known(dailyPnL);
      if (value === null) continue;
      if (!series.has(id)) series.set(id, new Series());
      series.get(id).add(serverNow(), value);
      if (id === chosen) curve.changed();
    }
  }, 'pnl');
  model.show(draw, 'accounts', 'summary', 'pnl', 'sync', 'link', 'facade', 'chosen');
  draw();
}

function accountIds(model) {
  const rows = model.rows('accounts');
  return rows.size ? [...rows.keys()].sort() : [...(model.link?.accounts ?? [])].sort();
}

/** The account's own currency: that of its net liquidation. */
function currencyOf(summary, account) {
  for (const row of summary.values()) {
    if (
      row.account === account &&
      row.tag === 'NetLiquidation' &&
      row.currency &&
      row.currency !== 'BASE' &&
      !row.modelCode
    )
      return row.currency;
  }
  return null;
}

function summaryValue(summary, account, tag, currency) {
  return summary.get(`${account}:${tag}:${currency}`)?.value;
}

function makeCard(id, choose) {
  const radio = el('input', { type: 'radio', name: 'account', value: id, 'aria-label': `Draw the curve of ${id}` });
  radio.addEventListener('change', choose);
  const kind = el('strong', { class: 'money small' });
  const figures = new Map();
  const list = el('dl', { class: 'figures' });
  for (const { key, label, large } of FIGURES) {
    const value = el('span', { class: 'value' }, DASH);
    const unit = el('span', { class: 'unit' });
    const node = el('dd', {}, value);
    figures.set(key, { node, value, unit });
    list.append(el('div', { class: large ? 'figure large' : 'figure' }, el('dt', {}, label, unit), node));
  }
  return {
    node: el(
      'article',
      { class: 'card', 'aria-label': `Account ${id}` },
      el('label', { class: 'card-head' }, radio, el('span', { class: 'card-id' }, id), kind),
      list,
    ),
    radio,
    kind,
    figures,
  };
}
