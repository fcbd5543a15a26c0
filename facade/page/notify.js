// Owns what the page announces while its tab is in the background, if that is switched on: a loss that lasts, the
// return, a fill, a login that is needed. What is announced when is decided by `announce`, which is pure.

import { serverNow, session } from './api.js';
import { byId, setHidden, setText } from './dom.js';
import { contractName, duration, price, quantity } from './format.js';
import { everySecond } from './paint.js';
import { browser } from './storage.js';
import { state } from './wording.js';

const WANTED = 'ibkr.notify';
// ms that a loss must last: a restart of TWS's connection or of the daemon is over sooner.
export const LASTS = 30_000;
// More fills at once than this are one notification.
const MOST_FILLS = 3;

/** What has been announced: nothing yet. `fills` is null until the first complete snapshot: those are no news. */
export const QUIET = { downSince: null, lossAnnounced: false, loginAnnounced: false, fills: null };

/**
 * The next state and the notifications `{tag, title, body}` of this moment. `seen`: `{at, known, ready, wanted, expected,
 * login, headline, sentence, fills}`; `known`: whether there is any state yet; `wanted`: whether a link is wanted
 * (it was not disconnected by hand); `fills`: Map(execId -> row) or null where they are not known.
 */
export function announce(before, seen) {
  if (!seen.known) return [before, []];
  const notes = [];
  const next = { ...before };
  if (seen.ready || !seen.wanted) {
    if (seen.ready && (before.lossAnnounced || before.loginAnnounced)) {
      const away = before.downSince === null ? '' : ` after ${duration((seen.at - before.downSince) / 1000)}`;
      notes.push({ tag: 'link', title: 'IBKR: Connected', body: `The link is back${away}.` });
    }
    Object.assign(next, { downSince: null, lossAnnounced: false, loginAnnounced: false });
  } else {
    next.downSince ??= seen.at;
    const lasting = seen.at - next.downSince >= LASTS && !seen.expected;
    const note = { tag: 'link', title: seen.headline, body: seen.sentence };
    if (seen.login) {
      if (!before.loginAnnounced) notes.push(note);
      next.loginAnnounced = next.lossAnnounced = true;
    } else {
      if (lasting && !before.lossAnnounced) notes.push(note);
      next.lossAnnounced ||= lasting;
    }
  }
  if (seen.fills !== null) {
    const fresh = before.fills === null ? [] : [...seen.fills].filter(([id]) => !before.fills.has(id));
    if (fresh.length > MOST_FILLS) notes.push({ tag: 'fills', title: `${fresh.length} fills`, body: '' });
    else for (const [id, row] of fresh) notes.push({ tag: `fill-${id}`, title: fillWords(row), body: row.account ?? '' });
    next.fills = new Set(seen.fills.keys());
  }
  return [next, notes];
}

function fillWords(row) {
  const side = row.side === 'SLD' ? 'Sold' : 'Bought';
  return `${side} ${quantity(row.shares)} ${contractName(row)} at ${price(row.price, row.secType)}`;
}

export function mountNotify(model) {
  const button = byId('notify');
  if (!('Notification' in window) || !isSecureContext) return;
  let announced = QUIET;
  let on = browser.get(WANTED) === 'yes' && Notification.permission === 'granted';

  function draw() {
    setHidden(button, false);
    button.disabled = Notification.permission === 'denied';
    button.setAttribute('aria-pressed', String(on));
    setText(button, on ? 'Notifications on' : 'Notify me');
    button.title = button.disabled
      ? 'This browser blocks notifications of this page.'
      : 'While this tab is in the background: a loss that lasts, the return, a fill, a login that is needed';
  }

  function look() {
    const now = state(model);
    const { link } = model;
    const seen = {
      at: serverNow(),
      known: model.facade === false || link !== null,
      ready: now.lamp === 'good',
      wanted: now.lamp !== 'off',
      expected: Boolean(model.facade && link?.expected?.active),
      login: now.reason === 'loginRequired',
      headline: now.headline,
      sentence: now.sentence,
      fills: model.freshness('fills').known ? model.rows('fills') : null,
    };
    let notes;
    [announced, notes] = announce(announced, seen);
    if (on && document.hidden) notes.forEach(show);
  }

  function show({ tag, title, body }) {
    try {
      // pages of two sessions share their notifications: one must neither replace nor pass for the other's
      const [of, own] = session === null ? ['', ''] : [` · ${session}`, `${session}-`];
      const note = new Notification(`${title}${of}`, { tag: `ibkr-${own}${tag}`, body, icon: '/ui/icons/good.svg' });
      note.addEventListener('click', () => {
        focus();
        note.close();
      });
    } catch {
      on = false; // Android's browsers take notifications of service workers only
      setHidden(button, true);
    }
  }

  button.addEventListener('click', async () => {
    on = !on && (await Notification.requestPermission()) === 'granted';
    browser.set(WANTED, on ? 'yes' : 'no');
    draw();
  });
  model.listen(look, 'link', 'facade', 'fills', 'sync');
  everySecond(look);
  draw();
}
