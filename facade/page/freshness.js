// Owns the note in a panel's head: how many, or not known, or how old.

import { serverNow } from './api.js';
import { setData, setText } from './dom.js';
import { clock, duration } from './format.js';

/** Write in `node` how fresh a topic is; `count` is the note of a current one. */
export function freshnessNote(node, { known, stale, asOf }, count) {
  const now = serverNow();
  setData(node, 'fresh', !known ? 'unknown' : stale ? 'stale' : 'current');
  if (!known) setText(node, 'not known');
  else if (!stale) setText(node, count);
  else
    setText(
      node,
      asOf === null ? 'stale' : `stale · as of ${clock(asOf, now)}, ${duration(Math.max(0, now - asOf) / 1000)} old`,
    );
}
