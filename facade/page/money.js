// Owns the arithmetic of amounts: in which currency, converted at which rate, summed over accounts and positions. Pure.
// A sum is `{value, missing}`, `missing` the number of parts that are not known.

import { known } from './format.js';

/** Each account's own currency, that of its net liquidation: Map(account -> currency). */
export function baseCurrencies(summary) {
  const bases = new Map();
  for (const row of summary.values())
    if (row.tag === 'NetLiquidation' && row.currency && row.currency !== 'BASE' && !row.modelCode)
      bases.set(row.account, row.currency);
  return bases;
}

// `worth` below is `{summary, bases}`: the account values and the accounts' own currencies.

/** The one currency of all `accounts`, or null where they differ or one is not known. */
export function commonCurrency({ bases }, accounts) {
  const currencies = new Set(accounts.map((account) => bases.get(account) ?? null));
  return currencies.size === 1 ? [...currencies][0] : null;
}

/** The account value `tag` in the account's own currency. */
export function accountValue({ summary, bases }, account, tag) {
  return known(summary.get(`${account}:${tag}:${bases.get(account)}`)?.value);
}

/** How many of the account's own currency one unit of `currency` is worth; null where it is not known. */
export function rate({ summary, bases }, account, currency) {
  if (currency && currency === bases.get(account)) return 1;
  return known(summary.get(`${account}:ExchangeRate:${currency}`)?.value);
}

/** The sum of `values` (numbers or null). Null where none is known. */
export function sum(values) {
  let total = null;
  let missing = 0;
  for (const value of values) {
    if (value === null) missing += 1;
    else total = (total ?? 0) + value;
  }
  return { value: total, missing };
}

/** The sum of `field` over position `rows`, each converted to its account's own currency. */
export function sumOf(rows, field, worth) {
  return sum(
    // a model's position is part of the account's own
    [...rows.values()].filter((row) => !row.modelCode).map((row) => {
      const [value, each] = [known(row[field]), rate(worth, row.account, row.currency)];
      return value === null || each === null ? null : value * each;
    }),
  );
}

/** The one currency of `rows`, or null where there are several or none. */
export function oneCurrency(rows) {
  let found = null;
  for (const { currency } of rows.values()) {
    if (!currency || (found !== null && found !== currency)) return null;
    found = currency;
  }
  return found;
}

/** The unrealized PnL of a position in relation to its cost. */
export function returnOf({ position, avgCost, unrealizedPNL }) {
  const [size, cost, gain] = [known(position), known(avgCost), known(unrealizedPNL)];
  return gain === null || !size || !cost ? null : gain / Math.abs(size * cost);
}

/**
 * The PnL of the day of a position that was held since the last close, in its contract's currency; null where the quote
 * lacks the close or a price, or where the contract was `traded` since: its part of the day began at another price.
 */
export function dayPnl(position, quote, traded) {
  const now = known(quote?.last) ?? known(position.marketPrice);
  const [before, size] = [known(quote?.close), known(position.position)];
  if (traded || now === null || before === null || size === null) return null;
  return size * (now - before) * (known(position.multiplier) || 1);
}
