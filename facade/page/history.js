// Owns what the link's past looks like: the ledger's events as segments of a timeline and as lines of a log. Pure.

import { capital, duration, instant, words } from './format.js';

export const DAY_MS = 24 * 3600 * 1000;

// A log is read, not searched: beyond this many lines the oldest are left to GET /link/events.
const LONGEST_LOG = 2000;

const UNRECORDED = 'no daemon was running';
const UNREACHABLE = 'daemon or facade not answering';
// The state of IBKR's data farms: connected, idle, connected again. They say nothing of the link.
const FARM_STATUS = new Set([2104, 2106, 2107, 2108, 2119, 2158]);

export const KINDS = {
  up: 'Connected',
  down: 'Not connected',
  planned: 'Not connected, expected',
  off: 'Switched off',
  unknown: 'Not known',
};

const kept = (phase) => phase === 'disabled' || phase === 'held';

function kindOf(event, before) {
  if (event.phase === 'ready') return 'up';
  if (kept(event.phase) || event.phase === 'stopping') return 'off';
  if (event.expected) return 'planned';
  // The first dial after a start is no outage: nothing was up before it.
  if (
    (event.phase === 'connecting' || event.phase === 'syncing') &&
    (before === undefined || before === 'off' || before === 'unknown')
  )
    return 'off';
  return 'down';
}

/**
 * The last 24 h as `{from, to, kind, phases: Set(words)}`, ms, neighbours of one kind joined, oldest first.
 * What lies before the first event, between the end of one and the next (no daemon ran), or after `knownUntil` (the daemon or
 * the facade does not answer since then) is `unknown`.
 */
export function segments(events, now, knownUntil = now) {
  const start = now - DAY_MS;
  const joined = [];
  const add = (from, to, kind, label) => {
    if (to <= start || to < from) return;
    const last = joined.at(-1);
    if (last && last.kind === kind) {
      last.to = to;
      last.phases.add(label);
    } else joined.push({ from: Math.max(from, start), to, kind, phases: new Set([label]) });
  };
  let end = start;
  let kind;
  for (const event of events) {
    const at = instant(event.at);
    if (at === null) continue;
    // At most a second is lost between two writes of a ledger; more means that no daemon was running.
    if (at - end > 1000) add(end, at, (kind = 'unknown'), UNRECORDED);
    kind = kindOf(event, kind);
    const until = event.durationS === null || event.durationS === undefined ? Math.max(at, knownUntil) : at + event.durationS * 1000;
    add(Math.max(at, Math.min(end, at)), until, kind, eventWords(event));
    end = Math.max(end, until);
  }
  if (knownUntil - end > 1000) add(end, (end = knownUntil), 'unknown', UNRECORDED);
  if (now - end > 1000) add(end, now, 'unknown', UNREACHABLE);
  return joined;
}

export function eventWords({ phase, reason }) {
  const what = phase === 'ready' ? 'connected' : words(phase);
  return reason && words(reason) !== what ? `${what}: ${words(reason)}` : what;
}

/** A segment in words: at most three of its phases, the rest counted. */
export function segmentWords(segment) {
  const phases = [...segment.phases];
  const rest = phases.length > 3 ? ` and ${phases.length - 3} more` : '';
  return `${KINDS[segment.kind]} for ${duration((segment.to - segment.from) / 1000)} (${phases.slice(0, 3).join('; ')}${rest})`;
}

// s: a dial and a first reading that take no longer are part of being connected.
const MOMENT_S = 2;
const underWay = (phase) => phase === 'connecting' || phase === 'syncing';
const trying = (phase) => phase === 'waiting' || phase === 'connecting';

/** Whether a notice is only a farm's status and no error. */
export const isFarmStatus = ({ code }) => FARM_STATUS.has(code);

/**
 * The log's lines, `{key, at, what, detail, tone, seconds}`, newest first: phases (a row of attempts that failed for
 * one reason is one line; the ledger does not keep their number; a dial that succeeds at once is none), IBKR's notices,
 * gaps.
 */
export function logLines(events, notices, gaps) {
  const lines = [];
  let run = null;
  for (const [index, event] of events.entries()) {
    const at = instant(event.at);
    if (at === null) continue;
    if (!event.reason && underWay(event.phase) && event.durationS !== null && event.durationS < MOMENT_S) continue;
    if (run && trying(event.phase) && (event.reason === run.reason || !event.reason)) {
      run.seconds = event.durationS === null ? null : (at - run.at) / 1000 + event.durationS;
      continue;
    }
    run = {
      key: `e${event.at}/${index}`,
      at,
      what: event.phase === 'ready' ? 'Connected' : capital(words(event.phase)),
      reason: event.reason,
      expected: event.expected,
      seconds: event.durationS ?? null,
      tone: event.phase === 'ready' ? 'up' : trying(event.phase) || event.phase === 'syncing' ? '' : 'warn',
    };
    lines.push(run);
    if (!trying(event.phase) || !event.reason) run = null;
  }
  for (const line of lines) {
    const reason = line.reason ? capital(words(line.reason)) : '';
    line.detail = [reason === line.what ? '' : reason, line.expected ? 'expected' : ''].filter(Boolean).join(' · ');
  }
  for (const [key, notice] of notices) {
    lines.push({
      key: `n${key}`,
      at: instant(notice.at),
      what: `IBKR ${notice.code}`,
      detail: notice.text ?? '',
      tone: 'notice',
      seconds: null,
    });
  }
  for (const [key, gap] of gaps)
    lines.push({
      key: `g${key}`,
      at: instant(gap.to),
      what: 'Gap closed',
      detail: gapWords(gap),
      tone: 'warn',
      seconds: (instant(gap.to) - instant(gap.from)) / 1000,
    });
  return lines.sort((a, b) => b.at - a.at).slice(0, LONGEST_LOG);
}

/**
 * Since when (ms) the link has not been ready, or has been kept off: attempts begin a phase twice a second, the trouble
 * began before them. Null while it is ready or nothing is recorded.
 */
export function troubleSince(events) {
  const last = events.at(-1);
  if (!last || last.phase === 'ready') return null;
  let since = null;
  for (let place = events.length - 1; place >= 0; place -= 1) {
    const { phase, at, durationS } = events[place];
    const next = instant(events[place + 1]?.at);
    const unrecorded = next !== null && durationS !== null && next - (instant(at) + durationS * 1000) > 1000;
    if (phase === 'ready' || kept(phase) !== kept(last.phase) || unrecorded) break;
    since = instant(at);
  }
  return since;
}

/** The gaps that touch the last 24 h, as `{from, to, words}`, ms. */
export function gapMarks(gaps, now) {
  const marks = [];
  for (const gap of gaps) {
    const [from, to] = [instant(gap.from), instant(gap.to)];
    if (from !== null && to !== null && to > now - DAY_MS)
      marks.push({ from: Math.max(from, now - DAY_MS), to, words: gapWords(gap) });
  }
  return marks;
}

function gapWords({ cause, recovered, unrecovered, expected }) {
  const fills = recovered?.fillCount ?? recovered?.fills?.length ?? 0; // a daemon of before names all, uncounted
  const streams = recovered?.streams ?? 0;
  return [
    capital(words(cause)),
    fills ? `${fills} ${fills === 1 ? 'fill' : 'fills'} recovered` : 'no fill missed',
    streams ? `${streams} ${streams === 1 ? 'stream' : 'streams'} requested again` : '',
    unrecovered?.length ? `lost: ${unrecovered.map(words).join(', ')}` : '',
    expected ? 'expected' : '',
  ]
    .filter(Boolean)
    .join(' · ');
}
