// Owns the page's state and how fresh it is: the replica of the stream, whether the facade answers, the facade's own
// link row while the stream is silent, and which account is chosen. Views read it and are drawn when a topic of theirs
// changes.

import { serverNow } from './api.js';
import { instant } from './format.js';
import { Replica } from './fold.js';
import { baseCurrencies } from './money.js';
import { paint } from './paint.js';
import { browser } from './storage.js';

const CHOSEN = 'ibkr.account';

export const BASE_TOPICS = [
  'link',
  'farms',
  'accounts',
  'summary',
  'pnl',
  'positions',
  'orders',
  'fills',
  'gaps',
  'notices',
  'sync',
];

export class Model {
  replica = new Replica();
  /** null before the first sign, then whether the facade answers. */
  facade = null;
  /** Problem with which the stream was refused, or null. */
  refusal = null;
  /**
   * Since when (ms) the link has not been ready, by the ledger (timeline.js); null while it is, or not known.
   */
  troubleSince = null;
  /** Since when (ms) the facade or the daemon does not answer, as seen from here; null while both do. */
  awaySince = null;
  #chosen = browser.get(CHOSEN);
  #probed = null; // link row of GET /link, newer than the stream's while the stream is silent
  #worth = null; // {summary, bases} of the present account values
  #silent = false; // whether the facade answers, but no stream has been there for a while
  #views = new Map(); // topic or 'facade' -> Set(view)
  #listeners = new Map(); // as #views, but called at once: what must also happen in a hidden tab

  /** Draw `view` after each change of one of the topics; 'facade' stands for reachability. */
  show(view, ...topics) {
    subscribe(this.#views, view, topics);
  }

  /** Call `listener` at each change of one of the topics, not in a frame. */
  listen(listener, ...topics) {
    subscribe(this.#listeners, listener, topics);
  }

  changed(topics) {
    if (topics.has('link')) {
      this.#probed = null;
      this.#silent = false;
    }
    if (topics.has('summary')) this.#worth = null;
    this.#away();
    const listeners = new Set();
    for (const topic of topics) {
      for (const view of this.#views.get(topic) ?? []) paint(view);
      for (const listener of this.#listeners.get(topic) ?? []) listeners.add(listener);
    }
    for (const listener of listeners) listener();
  }

  facadeAnswers(answers) {
    if (this.facade === answers) return;
    this.facade = answers;
    this.changed(new Set(['facade']));
  }

  streamRefused(problem) {
    if (this.refusal === problem) return;
    this.refusal = problem;
    this.changed(new Set(['facade']));
  }

  /** The facade's answer about the link. It wins where the stream cannot: with the daemon away, a proof
   * that has grown too old, before a first snapshot, or where no stream is (`silent`): its last rows are old
   * then. */
  linkAnswered(row, silent) {
    const wins = row.phase === null || row.stale || !this.replica.complete || silent;
    this.#silent = silent;
    if (!wins && this.#probed === null) return;
    this.#probed = wins ? row : null;
    this.#away();
    for (const view of this.#views.get('link') ?? []) paint(view);
    for (const listener of this.#listeners.get('link') ?? []) listener();
  }

  #away() {
    const away = this.facade === false || (this.link !== null && this.link.phase === null);
    if (!away) this.awaySince = null;
    else this.awaySince ??= serverNow();
  }

  rows(topic) {
    return this.replica.rows(topic);
  }

  /** The session's accounts, sorted; those of the link row while their own rows have not come. */
  get accounts() {
    const rows = this.rows('accounts');
    return (rows.size ? [...rows.keys()] : [...(this.link?.accounts ?? [])]).sort();
  }

  /** The account that tables, totals and the curve are of, or null for all of them. */
  get account() {
    const ids = this.accounts;
    if (ids.length === 1) return ids[0];
    return ids.includes(this.#chosen) ? this.#chosen : null;
  }

  /** The account values with the accounts' own currencies, as money.js takes them. */
  get worth() {
    const summary = this.rows('summary');
    return (this.#worth ??= { summary, bases: baseCurrencies(summary) });
  }

  /** Choose an account, or all with null. Views of topic 'account' are drawn. */
  choose(id) {
    this.#chosen = id;
    browser.set(CHOSEN, id ?? '');
    this.changed(new Set(['account']));
  }

  /** The rows of `topic` that are the chosen account's. */
  chosenRows(topic) {
    const rows = this.rows(topic);
    const { account } = this;
    if (account === null || this.accounts.length < 2) return rows;
    const kept = new Map();
    for (const [key, row] of rows) if (row.account === account) kept.set(key, row);
    return kept;
  }

  /**
   * Until when (ms) the link's state is known: now, unless the daemon or the facade does not answer.
   */
  knownUntil(now) {
    return this.awaySince === null ? now : Math.min(now, this.awaySince);
  }

  /** The link row, or null before the first. */
  get link() {
    return this.#probed ?? this.replica.row('link', 'link') ?? null;
  }

  /** Whether what the page shows is IBKR's present state. */
  get current() {
    return this.facade === true && !this.#silent && this.link?.connected === true && !this.link.stale;
  }

  /** `{known, stale, asOf}` of a topic; asOf in ms or null. An empty topic is only empty where it is known. */
  freshness(topic) {
    const sync = this.replica.row('sync', topic);
    const known = this.replica.complete && sync?.known === true;
    const asOf = instant(sync?.asOf);
    if (this.current || asOf === null) return { known, stale: known && sync.stale, asOf };
    return { known, stale: known, asOf: Math.max(asOf, this.#lastCurrent ?? asOf) };
  }

  /**
   * When (ms) the link that is not current now was so last: with the last proof, or when the trouble began if that was
   * before.
   */
  get #lastCurrent() {
    const proof = instant(this.link?.proof?.at);
    return proof === null || this.troubleSince === null ? proof : Math.min(proof, this.troubleSince);
  }
}

function subscribe(table, callback, topics) {
  for (const topic of topics) {
    if (!table.has(topic)) table.set(topic, new Set());
    table.get(topic).add(callback);
  }
}
