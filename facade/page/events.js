// Owns the one connection to /api/ibkr/events and the watch over it: reads, resumes, and finds within two seconds
// whether the facade answers. What a row means is model.js's business.

import { Problem, send } from './api.js';
import { eventParser } from './sse.js';

// With a live link the daemon publishes a newer proof every second: after this many ms of silence the facade is probed
// …
const SILENCE = 700;
// … which a facade on the same machine answers in a few ms. Together below the two seconds the page promises.
const PROBE_DEADLINE = 900;
// The heartbeat comes every 15 s: a stream without two of them is dead, even with an open socket (sleep, a proxy).
const STREAM_SILENCE = 40_000;
const WATCH_EVERY = 100;
// A retry costs a loopback dial; the page should be right at once when the facade is back.
const RETRY_FIRST = 100;
const RETRY_MAX = 1000;

export class EventStream {
  #topics = [];
  #attempt = null; // AbortController of the connection under way
  #wake = () => {};
  #receivedAt = -Infinity; // performance.now() of the last byte of the stream or the last answer
  #streamAt = Infinity; // performance.now() of the stream's last byte or its beginning, Infinity while there is none
  #lostAt = null; // performance.now() of the end of the last stream, null while one is open
  #probing = false;

  /**
   * `replica` is resumed from its lastId. Calls: `changed(topics)` after each consistent step, `facade(answers: bool)`,
   * `link(row, silent)` with the facade's own link row, and whether no stream is there to bring it,
   * `refused(problem)` for a refused stream.
   */
  constructor(replica, { changed, facade, link, refused }) {
    Object.assign(this, { replica, changed, facade, link, refused });
  }

  /** Begin, or go on with other topics (the stream is opened again and brings its own snapshot). */
  open(topics) {
    const first = !this.#topics.length;
    this.#topics = topics;
    if (first) {
      this.#run();
      setInterval(() => this.#watch(), WATCH_EVERY);
      addEventListener('online', () => this.#retryNow());
      addEventListener('pageshow', (event) => event.persisted && this.#retryNow());
      return;
    }
    this.replica.restart();
    this.#attempt?.abort();
    this.#retryNow();
  }

  #retryNow() {
    this.#wake();
  }

  async #run() {
    let wait = RETRY_FIRST;
    for (;;) {
      let refusal = null;
      try {
        await this.#read(() => (wait = RETRY_FIRST));
      } catch (error) {
        if (error instanceof Problem) refusal = error;
        else if (error.name !== 'AbortError' && error.name !== 'TypeError') reportError(error);
      }
      this.replica.interrupted();
      this.#streamAt = Infinity;
      this.#lostAt ??= performance.now();
      if (refusal) {
        this.#answered();
        this.refused(refusal);
        await new Promise((resolve) => setTimeout(resolve, Math.max(wait, (refusal.retryAfter ?? 0) * 1000)));
      } else {
        this.#receivedAt = -Infinity; // probe the facade at once, not with a timer: a hidden tab's come once a minute
        this.#watch();
        await this.#pause(wait);
      }
      wait = Math.min(RETRY_MAX, wait * 2);
    }
  }

  #pause(ms) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, ms);
    });
  }

  async #read(opened) {
    this.#attempt = new AbortController();
    const { signal } = this.#attempt;
    const headers = { Accept: 'text/event-stream' };
    if (this.replica.lastId !== null) headers['Last-Event-ID'] = this.replica.lastId;
    this.#streamAt = performance.now(); // a stream that does not open is as dead as a silent one
    const path = `/api/ibkr/events?topics=${this.#topics.map(encodeURIComponent).join(',')}`;
    const response = await send(path, { headers, signal });
    opened();
    this.#lostAt = null;
    this.refused(null);
    this.#streamAt = performance.now();
    let changed = new Set();
    const parse = eventParser(({ event, data, id }) => {
      const change = JSON.parse(data);
      // The facade reports the daemon's absence outside the daemon's steps: no id will close that at once.
      if (id === null && event === 'delta' && change.topic === 'link' && change.rows.link)
        this.link(change.rows.link, false);
      for (const topic of this.replica.accept(event, change, id) ?? []) changed.add(topic);
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
      signal.throwIfAborted(); // a chunk that was under way: with other topics its id must not be resumed from
      this.#answered();
      this.#streamAt = performance.now();
      parse(value);
      if (changed.size) {
        this.changed(changed);
        changed = new Set();
      }
    }
  }

  #answered() {
    this.#receivedAt = performance.now();
    this.facade(true);
  }

  async #watch() {
    if (performance.now() - this.#streamAt > STREAM_SILENCE) this.#attempt.abort();
    if (this.#probing || performance.now() - this.#receivedAt < SILENCE) return;
    this.#probing = true;
    try {
      const response = await send('/api/ibkr/link', { signal: AbortSignal.timeout(PROBE_DEADLINE), ask: false });
      const row = await response.json();
      this.#answered();
      this.link(row, this.#lostAt !== null && performance.now() - this.#lostAt > SILENCE);
      this.#retryNow();
    } catch (error) {
      if (error instanceof Problem) this.#answered();
      else this.facade(false);
    } finally {
      this.#probing = false;
    }
  }
}
