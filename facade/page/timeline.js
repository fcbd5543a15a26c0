// Owns the bar of the last 24 hours, its reading by pointer and keyboard, the uptime figures and the event log below.

import { read, serverNow } from './api.js';
import { byId, el, setText } from './dom.js';
import { clock, duration, hour, instant, percent } from './format.js';
import { DAY_MS, eventWords, gapMarks, KINDS, logLines, segments, segmentWords, troubleSince } from './history.js';
import { paint } from './paint.js';
import { Table } from './table.js';

// Between two reads of the ledger the stream's link row tells of each change; the read brings uptimes and what was
// missed.
const READ_EVERY = 60_000;
// A flapping link must not become a flood of reads.
const READ_AFTER_CHANGE = 2000;
const HOURS_BETWEEN = 4;
const MONTH_S = 30 * 86_400;

export function mountTimeline(model) {
  const bar = byId('timeline');
  let events = [];
  let uptime = null;
  let parts = [];
  let gaps = [];
  let focused = null; // index of the part under pointer or keyboard
  let timer = null;

  const log = new Table(byId('log'), {
    label: 'Event log',
    extraClass: 'log-table',
    sort: { key: 'at', descending: true },
    empty: 'Nothing has happened yet.',
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
      const { data } = await read(`/api/ibkr/link/events?since=${new Date(serverNow() - DAY_MS).toISOString()}`);
      events = data.events ?? [];
      uptime = data.uptime ?? null;
    } catch {
      schedule(READ_AFTER_CHANGE); // the header says what is wrong; the bar keeps what it has
    }
    current();
  }

  function schedule(delay) {
    clearTimeout(timer);
    timer = setTimeout(readLedger, delay);
  }

  /** Put the stream's own phase at the end of what the ledger told. */
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
    parts = segments(events, now);
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
    say(focused);
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

  /** What the gaps within a part brought back, for its reading. */
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
    const figures = [
      ['24 h', '24h'],
      ['7 d', '7d'],
      ['30 d', '30d'],
    ].map(([label, key]) => {
      const span = uptime?.[key];
      const known = span?.knownS > 0 ? span.ratio : null;
      const title =
        known === null
          ? 'not known yet'
          : `up ${duration(span.upS)}, down ${duration(span.downS)}, planned ${duration(span.plannedS)}, of ${duration(span.knownS)} known`;
      return el('div', { title }, el('dt', {}, label), el('dd', {}, percent(known)));
    });
    // A figure of 30 days stands for as many seconds as were recorded.
    const recorded = Math.max(0, ...Object.values(uptime ?? {}).map((span) => span.knownS));
    if (recorded > 0 && recorded < MONTH_S)
      figures.push(el('div', {}, el('dt', {}, 'recorded'), el('dd', {}, duration(recorded))));
    byId('uptime').replaceChildren(...figures);
  }

  function spanOf(part, now) {
    return `${clock(part.from, now)} – ${now - part.to < 1500 ? 'now' : clock(part.to, now)}`;
  }

  function say(index) {
    const now = serverNow();
    const part = parts[index ?? parts.length - 1];
    for (const [place, node] of [...bar.children].entries()) node.classList.toggle('pointed', place === index);
    const reading = part ? `${spanOf(part, now)} · ${segmentWords(part)}${gapsIn(part)}` : 'Nothing recorded yet.';
    setText(byId('timeline-reading'), reading);
    byId('timeline-reading').title = reading;
  }

  function drawLog() {
    const notices = byId('log-notices').checked ? model.rows('notices') : new Map();
    log.show(new Map(logLines(events, notices, model.rows('gaps')).map((line) => [line.key, line])));
  }

  function point(index) {
    focused = index;
    say(index);
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
    if (now === shown) return; // a newer proof is no event
    shown = now;
    current();
  }, 'link');
  model.listen(() => model.facade && readLedger(), 'facade');
  model.show(drawLog, 'notices', 'gaps');
  model.show(draw, 'gaps');
  byId('log-notices').addEventListener('change', () => paint(drawLog));
  setInterval(() => paint(draw), 30_000);
  byId('timeline').title = Object.values(KINDS).join(' · ');
  readLedger();
}
