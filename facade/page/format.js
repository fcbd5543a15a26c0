// Owns how a value is written for a person. Pure: no DOM, no state but cached number formats.
// The law: what is not known is a dash, never 0; a figure keeps its unit and its sign.

export const DASH = '—';

const formats = new Map();

function numberFormat(minimum, maximum, signDisplay, style = 'decimal') {
  const key = `${minimum}/${maximum}/${signDisplay}/${style}`;
  let format = formats.get(key);
  if (!format) {
    format = new Intl.NumberFormat(undefined, {
      style,
      minimumFractionDigits: minimum,
      maximumFractionDigits: maximum,
      signDisplay,
    });
    formats.set(key, format);
  }
  return format;
}

/** The number in `value` (IBKR sends some as text), or null where none is known. */
export function known(value) {
  if (value === null || value === undefined || value === '' || typeof value === 'boolean') return null;
  const number = Number(value);
  return Number.isFinite(number) ? number : null;
}

function written(value, minimum, maximum, signDisplay = 'negative') {
  const number = known(value);
  return number === null ? DASH : numberFormat(minimum, maximum, signDisplay).format(number);
}

/** An amount of money, two decimals; its currency is written beside it by the caller. */
export const money = (value) => written(value, 2, 2);

/** A profit or loss: as money, with its sign always shown, so that colour is never the only sign. */
export const signed = (value) => written(value, 2, 2, 'exceptZero');

/** How many shares or contracts: no needless decimals, fractions kept (of a coin down to its eighth decimal). */
export const quantity = (value) => written(value, 0, 8);

// IBKR's portfolio prices come as 32-bit floats: 187.52 is sent as 187.5200043.
const FLOAT32 = 2 ** -24;
const MOST_DECIMALS = 8;

/** The fewest decimals, `least` or more, that write `number` to within `slack`. */
function decimals(number, least, slack) {
  let places = least;
  while (places < MOST_DECIMALS && Math.abs(Number(number.toFixed(places)) - number) > slack) places += 1;
  return places;
}

/**
 * A price with as many decimals as its tick needs: two at least, five of a currency pair, four below 1. `computed`: an
 * average or a mark, which no tick bounds; a future keeps its tick all the same. The exact figure is the cell's title.
 */
export function price(value, secType, computed = false) {
  const number = known(value);
  if (number === null) return DASH;
  const least = secType === 'CASH' ? 5 : Math.abs(number) < 1 && number !== 0 ? 4 : 2;
  const ticked = !computed || secType === 'FUT' || secType === 'FOP' || secType === 'BOND';
  const places = ticked ? decimals(number, least, computed ? Math.abs(number) * FLOAT32 : 1e-9) : least;
  return written(number, least, places);
}

/** Whether `avgCost` of this kind of contract is of the whole contract: its price is that by the multiplier. */
const perContract = (row) => ['FUT', 'OPT', 'FOP'].includes(row.secType) && known(row.multiplier) > 0;

/** The average price of a position; IBKR's `avgCost` of a future or an option is that of the whole contract. */
export function averagePrice(row) {
  const cost = known(row.avgCost);
  return cost !== null && perContract(row) ? cost / Number(row.multiplier) : cost;
}

/** The share in 0..1 as a percentage. Never rounded up to 100 %: a lost second stays visible. */
export function percent(ratio, digits = 2) {
  const number = known(ratio);
  if (number === null) return DASH;
  const scale = 10 ** (digits + 2);
  const share = number >= 1 ? 1 : Math.floor(number * scale) / scale;
  return numberFormat(share === 1 ? 0 : digits, digits, 'negative', 'percent').format(share);
}

/** A part of a whole, rounded, one decimal. */
export function part(ratio) {
  const number = known(ratio);
  return number === null ? DASH : numberFormat(1, 1, 'negative', 'percent').format(number);
}

/** A relative change (0.01 is one percent), signed. */
export function relative(ratio) {
  const number = known(ratio);
  return number === null ? DASH : numberFormat(2, 2, 'exceptZero', 'percent').format(number);
}

/** The relative change from `before` to `now`, or null where one of them is not known. */
export function moved(now, before) {
  const [from, to] = [known(before), known(now)];
  return from === null || to === null || from === 0 ? null : to / from - 1;
}

/** A span of `seconds` in its two largest units. */
export function duration(seconds) {
  const number = known(seconds);
  if (number === null) return DASH;
  if (number < 1) return '< 1 s';
  const whole = Math.floor(number);
  const [days, hours, minutes, rest] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  const pair = (large, largeUnit, small, smallUnit) =>
    small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
  if (days) return pair(days, 'd', hours, 'h');
  if (hours) return pair(hours, 'h', minutes, 'min');
  if (minutes) return pair(minutes, 'min', rest, 's');
  return `${rest} s`;
}

/** How old something is: tenths while it is fresh, then as `duration`. */
export function age(seconds) {
  const number = known(seconds);
  if (number === null) return DASH;
  return number < 10 ? `${numberFormat(1, 1, 'negative').format(Math.max(0, number))} s` : duration(number);
}

/** A wait still to go: whole seconds rounded up, so that it ends at 1 and not at 0. */
export const countdown = (seconds) => duration(Math.max(1, Math.ceil(seconds)));

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});
const HOUR = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const DAY = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });

/** Milliseconds since the epoch of an RFC 3339 text, or null. */
export function instant(text) {
  if (!text) return null;
  const at = Date.parse(text);
  return Number.isFinite(at) ? at : null;
}

/** Local time of day of `at` (ms); where it is not today's (`now`, ms) with the day and without the seconds. */
export function clock(at, now) {
  if (at === null || at === undefined) return DASH;
  if (now === undefined || new Date(at).toDateString() === new Date(now).toDateString()) return CLOCK.format(at);
  return `${DAY.format(at)} ${HOUR.format(at)}`;
}

export const hour = (at) => HOUR.format(at);

/** The mark of a time axis: with seconds where marks are closer than a minute. */
export const mark = (at, seconds) => (seconds ? CLOCK : HOUR).format(at);

const DATE = new Intl.DateTimeFormat(undefined, { weekday: 'short', month: 'short', day: 'numeric' });

export const date = (at) => DATE.format(at);

const ACRONYMS = { tws: 'TWS', ibkr: 'IBKR', pnl: 'PnL', id: 'id' };

/** A name of the wire in words: `clientIdInUse` is "client id in use", `notTws` is "not TWS". */
export function words(name) {
  if (!name) return '';
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .toLowerCase()
    .split(' ')
    .map((word) => ACRONYMS[word] ?? word)
    .join(' ');
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A contract in a trader's words: AAPL, EUR.USD, ESZ5, "GOOGL 19 Dec 25 190 C". */
export function contractName(row) {
  if (row.secType === 'OPT' || row.secType === 'FOP') {
    return [
      row.symbol,
      expiry(row.lastTradeDateOrContractMonth),
      quantity(row.strike),
      String(row.right ?? '').charAt(0),
    ].join(' ');
  }
  if (row.secType === 'CASH') return row.localSymbol || `${row.symbol}.${row.currency}`;
  if (row.secType === 'FUT') return row.localSymbol || `${row.symbol} ${expiry(row.lastTradeDateOrContractMonth)}`;
  return row.symbol || row.localSymbol || (row.conId ? `#${row.conId}` : DASH);
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

function expiry(text) {
  const match = /^(\d{4})(\d{2})(\d{2})?/.exec(text ?? '');
  if (!match) return text || DASH;
  const month = `${MONTHS[match[2] - 1] ?? match[2]} ${match[1].slice(2)}`;
  return match[3] ? `${Number(match[3])} ${month}` : month;
}
