// Owns one contract seen closely: its quote with sizes and the day's range, the position in it, and a chart of the day.

import { read, serverNow } from './api.js';
import { caption, Curve } from './chart.js';
import { byId, el, setData, setHidden, setText } from './dom.js';
import { averagePrice, contractName, DASH, date, instant, known, moved, price, quantity, relative, signed } from './format.js';
import { everySecond, paint } from './paint.js';
import { dataKind, dataTone, venue } from './quotes.js';
import { sign } from './table.js';

// IBKR counts requests for bars (pacing); the newest price is drawn from the quote between two of them.
const BARS_EVERY = 300_000;
const BARS_DEADLINE = 30_000;
const BAR = '5 mins';

// s: bars older than this are of another day, and the newest price does not continue them.
const SAME_DAY = 7200;

const sized = (write, value, size) => (known(size) === null ? write(value) : `${write(value)} × ${quantity(size)}`);
const FIELDS = [
  ['bid', 'Bid', (row, write) => sized(write, row.bid, row.bidSize)],
  ['ask', 'Ask', (row, write) => sized(write, row.ask, row.askSize)],
  ['lastSize', 'Last size', (row) => quantity(row.lastSize)],
  ['open', 'Open', (row, write) => write(row.open)],
  ['high', 'High', (row, write) => write(row.high)],
  ['low', 'Low', (row, write) => write(row.low)],
  ['close', 'Prev. close', (row, write) => write(row.close)],
  ['volume', 'Volume', (row) => quantity(row.volume)],
  ['held', 'Position', (row, write, held) => held],
];

/** What bars are made of: currencies, metals and bonds have no trades. */
const whatToShow = ({ secType }) => (['CASH', 'CFD', 'CMDTY', 'BOND'].includes(secType) ? 'MIDPOINT' : 'TRADES');

/**
 * `changed()` is called when the shown contract has changed, and with it the wanted quotes; `watched(conId)`: whether a
 * contract is among the quotes. Returns `{open, conId(), watch(add)}`; `watch` takes what adds a contract to them.
 */
export function mountInstrument(model, changed, watched) {
  const host = byId('instrument');
  const cells = new Map();
  let contract = null;
  let bars = null; // {times, values} of the day, or null
  let trouble = ''; // why there are no bars
  let timer = null;
  let opener = null; // what had the focus

  for (const [key, label] of FIELDS) {
    const value = el('dd', {}, DASH);
    cells.set(key, value);
    byId('instrument-figures').append(el('div', {}, el('dt', {}, label), value));
  }

  const quote = () => (contract && model.rows(`quotes:${contract.conId}`).get(String(contract.conId))) ?? {};
  const write = (value) => price(value, contract?.secType);
  const curve = new Curve(byId('instrument-curve'), {
    data: withLast,
    base: () => (ofToday() ? known(quote().close) : null),
    axis: write,
    reading: (at, value) => caption(byId('instrument-reading'), at, write(value)),
    nothing: () => setText(byId('instrument-reading'), trouble || 'Reading the bars of the day…'),
  });

  /** Whether the bars reach into the present: outside trading hours IBKR sends those of the last day. */
  const ofToday = () => bars !== null && serverNow() / 1000 - bars.times.at(-1) < SAME_DAY;

  /** The bars' closes, and the last price after them. */
  function withLast() {
    const { last, priceAsOf, asOf } = quote();
    const at = instant(priceAsOf ?? asOf) / 1000;
    if (!ofToday() || known(last) === null || !model.current || !(at > bars.times.at(-1))) return bars;
    return { times: [...bars.times, at], values: [...bars.values, last] };
  }

  function draw() {
    if (!contract) return;
    const row = { ...quote(), stale: !model.current };
    const change = moved(row.last, row.close);
    setText(byId('instrument-name'), contractName(contract));
    setText(byId('instrument-venue'), [contract.secType, venue(contract)].filter(Boolean).join(' · '));
    setText(byId('instrument-last'), write(row.last));
    setText(byId('instrument-change'), change === null ? '' : `${signed(row.last - row.close)} (${relative(change)})`);
    setData(byId('instrument-change'), 'tone', sign(change));
    setText(byId('instrument-kind'), dataKind(row));
    setData(byId('instrument-kind'), 'tone', dataTone(row));
    setData(host, 'stale', String(row.stale));
    setHidden(byId('instrument-watch'), watched(contract.conId));
    const day = bars === null || ofToday() ? 'Today' : date(bars.times.at(-1) * 1000);
    setText(byId('instrument-title'), `${day}, every 5 minutes`);
    const held = position();
    for (const [key, , text] of FIELDS) setText(cells.get(key), text(row, write, held));
    curve.changed();
  }

  /** The chosen account's position in the contract, in words. */
  function position() {
    const rows = [...model.chosenRows('positions').values()].filter((row) => row.conId === contract.conId);
    const size = rows.reduce((sum, row) => sum + (known(row.position) ?? 0), 0);
    if (!model.freshness('positions').known) return DASH;
    if (!size) return 'none';
    return rows.length === 1 ? `${quantity(size)} at ${price(averagePrice(rows[0]), contract.secType, true)}` : quantity(size);
  }

  async function readBars() {
    clearTimeout(timer);
    const { conId } = contract;
    const query = new URLSearchParams({
      conId,
      durationStr: '1 D',
      barSizeSetting: BAR,
      whatToShow: whatToShow(contract),
      useRTH: 'false',
    });
    try {
      const { data } = await read(`/api/ibkr/bars?${query}`, BARS_DEADLINE);
      if (contract?.conId !== conId) return;
      const whole = data.filter((bar) => instant(bar.date) !== null && known(bar.close) !== null);
      const times = whole.map((bar) => instant(bar.date) / 1000);
      bars = whole.length ? { times, values: whole.map((bar) => bar.close) } : null;
      trouble = whole.length ? '' : 'IBKR has no bars of this contract today.';
    } catch (problem) {
      if (contract?.conId !== conId) return;
      trouble = `No chart: ${problem.detail || problem.title}`;
    }
    timer = setTimeout(readBars, BARS_EVERY);
    draw();
    curve.redraw();
  }

  function open(row) {
    if (contract?.conId !== row.conId) {
      contract = row;
      bars = null;
      trouble = '';
      model.show(draw, `quotes:${row.conId}`);
      changed();
      readBars();
    }
    opener ??= document.activeElement;
    setHidden(host, false);
    draw();
    curve.redraw();
    byId('instrument-name').focus();
    host.scrollIntoView({ block: 'nearest' });
  }

  function close() {
    contract = null;
    clearTimeout(timer);
    setHidden(host, true);
    opener?.focus();
    opener = null;
    changed();
  }

  byId('instrument-close').addEventListener('click', close);
  host.addEventListener('keydown', (event) => event.key === 'Escape' && close());
  model.show(draw, 'link', 'facade', 'positions', 'account');
  everySecond(() => contract && !model.current && paint(draw));
  return {
    open,
    conId: () => contract?.conId ?? null,
    watch: (add) =>
      byId('instrument-watch').addEventListener('click', () => {
        add(contract);
        draw();
        byId('instrument-name').focus(); // the button is gone
      }),
  };
}
