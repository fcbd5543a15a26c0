// Owns the bar of the last 24 hours, its reading by pointer and keyboard, the uptime figures and the event log below.

import { readPages, serverNow } from './api.js';
import { byId, el, setText } from './dom.js';
import { clock, duration, hour, instant, percent } from './format.js';
import {
  DAY_MS,
  eventWords,
  gapMarks,
  isFarmStatus,
  KINDS,
  logLines,
  segments,
  segmentWords,
  troubleSince,
} from './history.js';
import { everySecond, paint } from './paint.js';
import { Table } from './table.js';

// Between two reads of the ledger the stream's link row brings each change; the read brings uptimes and what was missed.
const READ_EVERY = 60_000;
// A flapping link must not become a flood of reads.
const READ_AFTER_CHANGE = 2000;
const HOURS_BETWEEN = 4;
// The most events that the facade sends at once, and the most of a day that the page reads.
const PAGE = 5000;
const MOST_PAGES = 8;
// Uptime over a window is known once that much was recorded.
const WINDOWS = [
  ['24 h', '24h', 86_400],
  ['7 d', '7d', 7 * 86_400],
  ['30 d', '30d', 30 * 86_400],
];
const RECORDED_NEARLY = 0.999;

export function mountTimeline(model) {
  const bar = byId('timeline');
  let events = [];
  let recorded = false; // whether the ledger was read
  let uptime = null;
  let parts = [];
  let gaps = [];
  let focused = null; // index of the part under pointer or keyboard
  let timer = null;

  const log = new Table(byId('log'), {
    label: 'Event log',
    extraClass: 'log-table',
    sort: { key: 'at', descending: true },
    columns: [
      { key: 'at', label: 'Time', left: true, text: (line) => clock(line.at, serverNow()), sort: (line) => line.at },
      { key: 'what', label: 'Event', left: true, text: (line) => line.what, tone: (line) => line.tone },
      { key: 'detail', label: 'Detail', left: true, text: (line) => line.detail, title: (line) => line.detail },
      {
        key: 'seconds',
        label: 'Lasted',
        text: (line) => (line.seconds === null ? '' : duration(line.seconds)),
        sort: (line) => line.seconds,
      },
    ],
  });

  async function readLedger() {
    schedule(READ_EVERY);
    try {
      const since = new Date(serverNow() - DAY_MS).toISOString();
      const pages = await readPages(`/api/ibkr/link/events?since=${since}&limit=${PAGE}`, MOST_PAGES);
      events = pages.flatMap(({ data }) => data.events ?? []);
      recorded = true;
      uptime = pages[0].data.uptime ?? null;
    } catch {
      schedule(READ_AFTER_CHANGE); // the head of the page shows what is wrong; the bar keeps what it has
    }
    current();
  }

  function schedule(delay) {
    clearTimeout(timer);
    timer = setTimeout(readLedger, delay);
  }

  /** Put the stream's own phase at the end of the ledger's events. */
  function current() {
    const link = model.link;
    const at = instant(link?.since);
    const last = events.at(-1);
    if (
      link?.phase &&
      at !== null &&
      (!last || last.phase !== link.phase || (last.reason ?? null) !== (link.reason ?? null))
    ) {
      if (last && (last.durationS === null || last.durationS === undefined))
        last.durationS = Math.max(0, (Math.max(at, instant(last.at)) - instant(last.at)) / 1000);
      // A reason may change within a phase: the row's `since` is then the phase's, and the event begins now.
      const from = last && at <= instant(last.at) ? serverNow() : at;
      events.push({
        at: new Date(from).toISOString(),
        phase: link.phase,
        reason: link.reason,
        durationS: null,
        expected: Boolean(link.expected?.active),
      });
      schedule(READ_AFTER_CHANGE);
    }
    model.troubleSince = troubleSince(events);
    paint(draw);
    paint(drawLog);
  }

  function draw() {
    const now = serverNow();
    gaps = gapMarks(model.rows('gaps').values(), now);
    parts = segments(events, now, model.knownUntil(now));
    while (bar.children.length > parts.length) bar.lastChild.remove();
    while (bar.children.length < parts.length)
      bar.append(el('button', { type: 'button', class: 'part', tabindex: -1 }));
    for (const [index, part] of parts.entries()) {
      const node = bar.children[index];
      node.dataset.kind = part.kind;
      node.style.left = `${((part.from - (now - DAY_MS)) / DAY_MS) * 100}%`;
      node.style.width = `${((part.to - part.from) / DAY_MS) * 100}%`;
      node.setAttribute('aria-label', `${spanOf(part, now)}: ${segmentWords(part)}${gapsIn(part)}`);
      node.tabIndex = index === (focused ?? parts.length - 1) ? 0 : -1;
    }
    drawGaps(now);
    drawHours(now);
    drawUptime();
    readOut(focused);
  }

  function drawGaps(now) {
    byId('timeline-gaps').replaceChildren(
      ...gaps.map((gap) => {
        const node = el('span', { title: `Gap: ${gap.words}` });
        node.style.left = `${((gap.from - (now - DAY_MS)) / DAY_MS) * 100}%`;
        node.style.width = `${((gap.to - gap.from) / DAY_MS) * 100}%`;
        return node;
      }),
    );
  }

  /** What was recovered from the gaps within a part, for its reading. */
  function gapsIn(part) {
    if (part.kind === 'up') return '';
    const within = gaps.filter((gap) => gap.from < part.to && part.from < gap.to);
    return within.length ? ` · gap: ${within.map((gap) => gap.words).join('; ')}` : '';
  }

  function drawHours(now) {
    const step = HOURS_BETWEEN * 3600 * 1000;
    const offset = new Date(now).getTimezoneOffset() * 60_000;
    const nodes = [];
    for (let at = Math.ceil((now - DAY_MS - offset) / step) * step + offset; at < now; at += step) {
      const [mark, label] = [el('i'), el('span', {}, hour(at))];
      for (const node of [mark, label])
        node.style.setProperty('--at', `${((at - (now - DAY_MS)) / DAY_MS) * 100}%`);
      nodes.push(mark, label);
    }
    byId('timeline-hours').replaceChildren(...nodes);
  }

  function drawUptime() {
    const title = (span) =>
      span
        ? `up ${duration(span.upS)}, down ${duration(span.downS)}, planned ${duration(span.plannedS)}, of ${duration(span.knownS)} recorded`
        : 'not known yet';
    const figure = (label, ratio, span) =>
      el('div', { title: title(span) }, el('dt', {}, label), el('dd', {}, percent(ratio)));
    const recorded = Math.max(0, ...Object.values(uptime ?? {}).map((span) => span.knownS));
    const figures = WINDOWS.map(([label, key, seconds]) => {
      const span = uptime?.[key];
      return figure(label, span?.knownS >= seconds * RECORDED_NEARLY ? span.ratio : null, span);
    });
    const longest = uptime?.['30d'];
    if (recorded > 0 && recorded < WINDOWS[2][2] * RECORDED_NEARLY)
      figures.unshift(figure(`${duration(recorded)} recorded`, longest.ratio, longest));
    byId('uptime').replaceChildren(...figures);
  }

  function spanOf(part, now) {
    return `${clock(part.from, now)} – ${now - part.to < 1500 ? 'now' : clock(part.to, now)}`;
  }

  function readOut(index) {
    const now = serverNow();
    const part = parts[index ?? parts.length - 1];
    for (const [place, node] of [...bar.children].entries()) node.classList.toggle('pointed', place === index);
    const reading = part ? `${spanOf(part, now)} · ${segmentWords(part)}${gapsIn(part)}` : 'Nothing recorded yet.';
    setText(byId('timeline-reading'), reading);
    byId('timeline-reading').title = reading;
  }

  function drawLog() {
    const { value } = byId('log-show');
    const notices = new Map();
    if (value !== 'link')
      for (const [key, row] of model.rows('notices'))
        if (value === 'everything' || !isFarmStatus(row)) notices.set(key, row);
    const lines = logLines(events, notices, model.rows('gaps'));
    log.show(new Map(lines.map((line) => [line.key, line])), {
      empty: recorded ? 'Nothing has happened yet.' : 'Not known: the record of the link has not been read yet.',
    });
  }

  function point(index) {
    focused = index;
    readOut(index);
  }

  bar.addEventListener('pointermove', (event) => {
    const box = bar.getBoundingClientRect();
    const at = serverNow() - DAY_MS + ((event.clientX - box.left) / box.width) * DAY_MS;
    const direct = event.target.closest('.part');
    const index = direct
      ? [...bar.children].indexOf(direct)
      : parts.findIndex((part) => part.from <= at && at < part.to);
    if (index >= 0) point(index);
  });
  bar.addEventListener('pointerleave', () => bar.contains(document.activeElement) || point(null));
  bar.addEventListener('focusin', (event) => point([...bar.children].indexOf(event.target)));
  bar.addEventListener('focusout', () => point(null));
  bar.addEventListener('keydown', (event) => {
    const here = focused ?? parts.length - 1;
    const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: parts.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const node = bar.children[Math.min(parts.length - 1, Math.max(0, to))];
    node.tabIndex = 0;
    node.focus();
  });

  let shown = '';
  model.listen(() => {
    const link = model.link;
    const now = link ? eventWords(link) : '';
    if (now === shown) return; // a newer time of the last message is no event
    shown = now;
    current();
  }, 'link');
  model.listen(() => (paint(draw), model.facade && readLedger()), 'facade');
  model.show(drawLog, 'notices', 'gaps');
  model.show(draw, 'gaps');
  byId('log-show').addEventListener('change', () => paint(drawLog));
  setInterval(() => paint(draw), 30_000);
  everySecond(() => model.awaySince !== null && paint(draw)); // the unknown grows
  byId('timeline').title = Object.values(KINDS).join(' · ');
  readLedger();
}
