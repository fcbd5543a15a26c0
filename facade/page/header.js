// Owns the top of the page: lamp, headline, sentence, advice, countdown, kind of account, facts about the link.

import { serverNow, session } from './api.js';
import { byId, el, setData, setHidden, setText } from './dom.js';
import { DASH, age, capital, clock, countdown, duration, hour, instant, words } from './format.js';
import { paint } from './paint.js';
import { reasonLink } from './problem.js';
import { MONEY_WORDS, moneyOf, state } from './wording.js';

// The age of the last message has tenths of a second; four times a second is as often as an eye follows.
const CLOCK_EVERY = 250;
// ms: a dial that fails sooner would only make the headline flicker.
const DIAL_SHOWN_AFTER = 400;

export function mountHeader(model) {
  const status = byId('status');
  const facts = factList(byId('facts'));
  const opener = byId('details-open');
  let dialSince = null; // performance.now() of a dial that is not shown yet
  let waitFrom = null; // where the bar of the countdown began: {until, from}

  opener.addEventListener('click', () => {
    const open = byId('details').hidden;
    setHidden(byId('details'), !open);
    opener.setAttribute('aria-expanded', String(open));
    ticking();
  });

  function title() {
    const now = state(model);
    if (passing(now)) return;
    const { headline, lamp } = now;
    const title = session === null ? headline : `${headline} · ${session}`;
    if (document.title !== title) document.title = title;
    const icon = document.querySelector('link[rel=icon]');
    const href = `/ui/icons/${lamp}.svg`;
    if (icon.getAttribute('href') !== href) icon.setAttribute('href', href);
  }

  function draw() {
    const now = state(model);
    if (passing(now)) return;
    if (model.replica.complete || model.facade === false || now.phase !== null || now.reason !== null)
      delete document.body.dataset.loading;
    setData(status, 'state', now.lamp);
    setData(status, 'phase', now.phase ?? '');
    setData(status, 'reason', now.reason ?? '');
    setData(document.body, 'current', String(model.current));
    byId('lamp').setAttribute('href', `#lamp-${now.lamp}`);
    setText(byId('headline'), now.headline);
    setHidden(byId('person'), !now.person);
    setText(byId('sentence'), now.sentence || DASH);
    setHidden(byId('sentence'), now.lamp === 'good');
    reasonLink(byId('reason'), now.lamp === 'good' ? null : now.reason);
    setData(byId('facts'), 'stale', String(model.facade === false || now.phase === null));
    advice(now);
    identity();
    ticking();
  }

  /** Whether `now` is a dial that has only just begun: on loopback it fails within a millisecond, twice a second. */
  function passing(now) {
    const dialling = now.phase === 'connecting' && now.reason !== null && byId('status').dataset.phase !== 'connecting';
    dialSince = dialling ? (dialSince ?? performance.now()) : null;
    if (!dialling || performance.now() - dialSince >= DIAL_SHOWN_AFTER) return false;
    setTimeout(() => (title(), paint(draw)), DIAL_SHOWN_AFTER);
    return true;
  }

  function advice(now) {
    const list = byId('advice');
    const texts = now.advice ?? [];
    if (texts.join('\n') !== [...list.children].map((item) => item.textContent).join('\n')) {
      list.replaceChildren(...texts.map((text) => el('li', {}, text)));
    }
    const wrong = now.lamp !== 'good' && now.lamp !== 'busy' && now.reason !== null;
    setHidden(byId('trouble'), !wrong && !texts.length);
    setHidden(byId('next-part'), now.lamp === 'good');
    const error = wrong && model.facade ? errorOfNow(model) : null;
    setHidden(byId('last-error'), error === null);
    setHidden(byId('todo'), !texts.length && error === null);
    if (error) {
      const code = error.code ? ` ${error.code}` : '';
      const at = clock(instant(error.at), serverNow());
      setText(byId('last-error'), `Last error${code}: ${error.text ?? DASH} (${at})`);
    }
  }

  function identity() {
    const rows = [...model.rows('accounts').values()];
    const kind = moneyOf(rows);
    setData(byId('money'), 'money', kind);
    setText(byId('money'), MONEY_WORDS[kind]);
    setHidden(byId('ribbon'), kind !== 'live' && kind !== 'mixed');
  }

  function ticking() {
    const { link } = model;
    const now = serverNow();
    next(link, now);
    setText(byId('pulse'), link ? pulse(link, now, model) : '');
    if (byId('details').hidden) return;
    for (const [name, fact] of Object.entries(FACTS))
      facts(name, ...(link && model.facade !== null ? fact(link, now, model) : [DASH, '']));
  }

  function next(link, now) {
    const label = byId('next-label');
    const bar = byId('next-bar');
    const until = model.facade ? instant(link?.nextAttemptAt) : null;
    setHidden(bar, until === null);
    setText(label, model.facade === false ? 'This page retries' : 'Next attempt');
    if (until === null) {
      waitFrom = null;
      setText(byId('next'), nextWords(link, model));
    } else {
      if (waitFrom?.until !== until) waitFrom = { until, from: now };
      const left = until - now;
      setText(byId('next'), left > 0 ? `in ${countdown(left / 1000)}` : 'now');
      bar.value = Math.min(1, Math.max(0, left / Math.max(1, until - waitFrom.from)));
    }
    setText(byId('next-note'), model.facade ? nextNote(link) : '');
  }

  setInterval(() => document.hidden || paint(ticking), CLOCK_EVERY);
  model.show(draw, 'link', 'accounts', 'facade');
  model.listen(title, 'link', 'facade');
  draw();
}

/** The link in one line: when it was last heard, and the next planned reset. */
function pulse(link, now, { facade, awaySince }) {
  const receivedAt = facade && link.phase !== null ? instant(link.proof?.at) : awaySince;
  const planned = instant(link.expected?.nextAt);
  return [
    receivedAt === null ? '' : `Last heard ${age(Math.max(0, now - receivedAt) / 1000)} ago`,
    planned === null || link.expected.active ? '' : `${words(link.expected.kind) || 'nightly reset'} ${hour(planned)}`,
  ]
    .filter(Boolean)
    .join(' · ');
}

/** The link's last error, where it belongs to the trouble of now and not to one that is over. */
function errorOfNow({ link, troubleSince }) {
  const error = link?.lastError;
  if (!error?.text && !error?.code) return null;
  const began = troubleSince ?? instant(link.since);
  const at = instant(error.at);
  // The error that began the trouble is recorded a moment before its phase.
  return at === null || began === null || at >= began - ERROR_BEFORE ? error : null;
}

const ERROR_BEFORE = 5000;

function nextWords(link, model) {
  if (model.facade === false) return 'every second';
  if (!link || link.phase === null) return 'when the daemon answers';
  if (link.phase === 'disabled' || link.phase === 'held') return 'none until you connect';
  if (link.phase === 'upstreamLost') return 'not needed: TWS restores it';
  if (link.phase === 'unproven') return 'a probe is under way';
  if (link.phase === 'stopping') return 'none';
  if (link.phase === 'connecting' || link.phase === 'syncing') return 'now';
  return DASH;
}

function nextNote(link) {
  const expected = link?.expected;
  if (expected?.active) return `Expected: ${words(expected.kind) || 'a planned window'}${until(expected)}.`;
  return link?.attempts && link.nextAttemptAt
    ? `${link.attempts} ${link.attempts === 1 ? 'attempt' : 'attempts'} so far`
    : '';
}

/** A planned window's `nextAt` is its end while it lasts. */
function until({ nextAt }) {
  const at = instant(nextAt);
  return at === null ? '' : ` until ${hour(at)}`;
}

const UPSTREAM = { ok: 'reachable', lost: 'lost', unknown: 'not known' };

// Each fact: (link, now, model) -> [value, its second line, tone].
const FACTS = {
  Since({ since, phase }, now, { facade, awaySince, troubleSince }) {
    // With no answer only this page has seen since when.
    const at = facade && phase !== null ? (phase !== 'ready' && troubleSince) || instant(since) : awaySince;
    return at === null ? [DASH, ''] : [duration(Math.max(0, now - at) / 1000), `since ${clock(at, now)}`];
  },
  'Last heard'({ proof }, now) {
    const at = instant(proof?.at);
    if (at === null) return [DASH, 'no answer yet'];
    const round =
      proof.rttMs === null || proof.rttMs === undefined
        ? ''
        : `round trip ${proof.rttMs < 10 ? proof.rttMs.toFixed(1) : Math.round(proof.rttMs)} ms`;
    return [`${age(Math.max(0, now - at) / 1000)} ago`, round];
  },
  Gateway({ gateway }) {
    if (!gateway) return [DASH, ''];
    const { host, port, clientId, product, configured } = gateway;
    const moved = configured && (configured.port !== port || configured.host !== host);
    const below = [product, `client ${clientId}`].filter(Boolean).join(' · ');
    return [`${host}:${port}`, moved ? `configured ${configured.host}:${configured.port}` : below, moved ? 'warn' : ''];
  },
  'IBKR servers'({ upstream, expected }, now, { current }) {
    const value = current || upstream === 'lost' ? (UPSTREAM[upstream] ?? DASH) : UPSTREAM.unknown;
    const at = instant(expected?.nextAt);
    const below = expected?.active
      ? `${words(expected.kind) || 'planned window'}${until(expected)}`
      : at === null
        ? ''
        : `${words(expected.kind) || 'nightly reset'} ${hour(at)}`;
    return [value, below, upstream === 'lost' ? 'warn' : ''];
  },
  'Data farms'({ farms }, now, { current }) {
    const states = Object.entries(farms ?? {});
    if (!states.length || !current) return [DASH, ''];
    const broken = states.filter(([, { state }]) => state === 'broken').map(([name]) => name);
    if (broken.length) return [`${broken.length} broken`, broken.join(', '), 'warn'];
    const idle = states.filter(([, { state }]) => state === 'inactive').length;
    return [`${states.length - idle} ok`, idle ? `${idle} idle` : 'none broken'];
  },
  Streams({ streams, pacing }, now, { current }) {
    if (!streams || !current) return [DASH, ''];
    const missing = streams.wanted > streams.live;
    return [
      streams.wanted ? `${streams.live} of ${streams.wanted}` : 'none',
      pacing ? `history ${pacing.used} of ${pacing.limit}` : '',
      missing ? 'warn' : '',
    ];
  },
  Session({ session, gateway, readOnly }, now, { current }) {
    if (!current || !session) return [DASH, ''];
    const version = gateway?.serverVersion ? `server version ${gateway.serverVersion}` : '';
    return [`no. ${session}`, readOnly ? 'read-only: orders unknown' : version, readOnly ? 'warn' : ''];
  },
  Daemon({ daemon, phase }) {
    if (!daemon || phase === null) return [DASH, phase === null ? 'not answering' : ''];
    return [`up ${duration(daemon.uptimeS)}`, `v${daemon.version} · pid ${daemon.pid}`];
  },
};

/** The facts' cells, made once: a change of value moves nothing. */
function factList(list) {
  const cells = new Map();
  for (const name of Object.keys(FACTS)) {
    const value = el('span', { class: 'fact-value' }, DASH);
    const below = el('span', { class: 'fact-below' });
    list.append(el('div', { class: 'fact' }, el('dt', {}, capital(name)), el('dd', {}, value, below)));
    cells.set(name, { value, below });
  }
  return (name, value, below = '', tone = '') => {
    const cell = cells.get(name);
    setText(cell.value, value);
    if (cell.value.title !== value) cell.value.title = value;
    setData(cell.value, 'tone', tone);
    setText(cell.below, below);
    if (cell.below.title !== below) cell.below.title = below;
  };
}
