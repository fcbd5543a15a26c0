// Owns what the page believes and how fresh it is: the replica of the stream, whether the facade answers, and the
// facade's own word about the link while the stream is silent. Views read it and are drawn when a topic of theirs
// changes.

import { serverNow } from './api.js';
import { instant } from './format.js';
import { Replica } from './fold.js';
import { paint } from './paint.js';

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
   * Since when (ms) the link has not been ready, as the ledger tells it (timeline.js); null while it is, or not known.
   */
  troubleSince = null;
  /** Since when (ms) the facade or the daemon does not answer, as seen from here; null while both do. */
  awaySince = null;
  #probed = null; // link row of GET /link, newer than the stream's while the stream is silent
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

  /** The facade's answer about the link. It wins where the stream cannot speak: with the daemon away, a proof
   * that has grown too old, before a first snapshot, or where no stream is (`silent`): what the last one told is old
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

  /** The link row, or null before the first. */
  get link() {
    return this.#probed ?? this.replica.row('link', 'link') ?? null;
  }

  /** Whether what stands on the page is what IBKR says now. */
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
