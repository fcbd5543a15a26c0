// Owns the replica: the daemon's state as rows by topic and key. Pure: no DOM, no network, no clock. A snapshot
// is staged until its last page, a delta until the id that closes its step, so that a view never sees half of one.

export class Replica {
  constructor() {
    /** topic -> Map(key -> row) */
    this.topics = new Map();
    /** The id to resume from; null before the first consistent point and after a reset. */
    this.lastId = null;
    /** Whether a snapshot was ever complete: before that nothing is known. */
    this.complete = false;
    this.#abandon();
  }

  #staged; // topic -> Map(key -> row) of a snapshot under way, or null
  #whole; // whether its last page has come; without an id on it the next step makes it consistent
  #step;

  #abandon() {
    this.#staged = null;
    this.#whole = false;
    this.#step = [];
  }

  /** The connection ended: what it had begun and not closed is forgotten, and comes again with the next one. */
  interrupted() {
    this.#abandon();
  }

  /** What follows is another stream (other topics): it begins with a snapshot of its own. */
  restart() {
    this.#abandon();
    this.lastId = null;
  }

  /** Take one event. Returns the topics that changed as a Set, or null while the step is open. */
  accept(event, data, id) {
    if (event === 'reset') {
      this.restart();
      return null;
    }
    if (event === 'snapshot') return this.#page(data, id);
    if (event === 'delta') return this.#delta(data, id);
    return null;
  }

  #page({ topic, rows, complete }, id) {
    this.#staged ??= new Map();
    const known = this.#staged.get(topic) ?? new Map();
    for (const [key, row] of Object.entries(rows)) known.set(key, row);
    this.#staged.set(topic, known);
    this.#whole ||= complete;
    return id === null ? null : this.#consistent(id);
  }

  /**
   * A consistent point: a snapshot that is whole takes the place of everything. Returns all topics, or null while it is
   * not.
   */
  #consistent(id) {
    if (!this.#whole) return null;
    const changed = new Set([...this.topics.keys(), ...this.#staged.keys()]);
    this.topics = this.#staged;
    this.complete = true;
    this.lastId = id;
    this.#abandon();
    return changed;
  }

  #delta(delta, id) {
    this.#step.push(delta);
    if (id === null) return null;
    const changed = new Set();
    // Deltas between the pages of a snapshot are newer than the pages already seen, and are folded over them.
    const topics = this.#staged ?? this.topics;
    for (const { topic, rows } of this.#step) {
      let known = topics.get(topic);
      if (!known) topics.set(topic, (known = new Map()));
      for (const [key, row] of Object.entries(rows)) {
        if (row === null) known.delete(key);
        else known.set(key, row);
      }
      changed.add(topic);
    }
    this.#step = [];
    if (this.#staged) return this.#consistent(id);
    this.lastId = id;
    return changed;
  }

  rows(topic) {
    return this.topics.get(topic) ?? NONE;
  }

  row(topic, key) {
    return this.rows(topic).get(key);
  }
}

const NONE = new Map();
