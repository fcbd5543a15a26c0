// Owns the words for the state of the link: one headline, one sentence, what to do. Pure.
// The daemon's sentences and advice come from its catalogue, in the row; only the facade's absence is worded here.

import { capital, words } from './format.js';

const HEADLINES = {
  ready: 'Connected',
  held: 'Disconnected by you',
  upstreamLost: 'Upstream lost',
  unproven: 'Not responding',
};

// Reasons that only a person at the gateway can mend, whatever the daemon tries meanwhile.
const NEEDS_PERSON = { loginRequired: 'Login needed' };

// Which lamp a phase lights. The lamp has a shape of its own for each.
const LAMPS = {
  ready: 'good',
  connecting: 'busy',
  syncing: 'busy',
  upstreamLost: 'warn',
  unproven: 'warn',
  waiting: 'warn',
  blocked: 'bad',
  disabled: 'off',
  held: 'off',
  stopping: 'off',
};

const FACADE_AWAY = {
  lamp: 'bad',
  headline: 'IBKR: Facade not answering',
  sentence:
    'The web server of this page does not answer. The daemon holds the session to IBKR and does not depend on it. The values below are the last ones received.',
  advice: [
    'Wait a moment: the page retries every second and recovers by itself.',
    'If it stays away: run ./scripts/restart_facade, or ./scripts/start where nothing is running.',
    'To see the state of the link in a terminal: ibkr status',
  ],
};

const LOADING = { lamp: 'off', headline: 'IBKR: Loading', sentence: 'Reading the state of the link.', advice: [] };

/** The sentence of a phase without trouble, where the row has none. */
function plain({ phase, gateway }) {
  if (phase === 'ready') return 'Connected to IBKR.';
  if (phase === 'connecting') return gateway ? `Dialling ${gateway.host}:${gateway.port}.` : 'Dialling the gateway.';
  if (phase === 'syncing') return 'Connected; reading accounts, positions and orders.';
  return '';
}

/** `{lamp, headline, sentence, advice, phase, reason, person}` of the model; `person`: it needs a person. */
export function state({ facade, link, refusal }) {
  if (facade === false) return { ...FACADE_AWAY, phase: null, reason: 'facadeUnreachable' };
  if (link === null) {
    if (!refusal) return { ...LOADING, phase: null, reason: null };
    return {
      lamp: 'bad',
      headline: `IBKR: ${refusal.title}`,
      sentence: refusal.detail,
      advice: refusal.advice,
      phase: null,
      reason: refusal.reason,
    };
  }
  const { phase, reason } = link;
  const sentence = link.sentence || plain(link);
  const advice = link.advice ?? [];
  if (phase === null) return { lamp: 'bad', headline: 'IBKR: Daemon not answering', sentence, advice, phase, reason };
  if (phase === 'ready' && !link.connected) {
    return { lamp: 'warn', headline: 'IBKR: Not responding', sentence, advice, phase, reason };
  }
  if (phase !== 'ready' && NEEDS_PERSON[reason]) {
    return { lamp: 'act', headline: `IBKR: ${NEEDS_PERSON[reason]}`, sentence, advice, phase, reason, person: true };
  }
  // A dial after a failure is still the trouble that the reason names.
  const lamp = phase === 'connecting' && reason ? 'warn' : (LAMPS[phase] ?? 'warn');
  const headline = `IBKR: ${HEADLINES[phase] ?? capital(words(phase))}`;
  return { lamp, headline, sentence, advice, phase, reason, person: phase === 'blocked' };
}

/** Whether the accounts are paper, live or not known: `paper`, `live`, `mixed`, `unknown`. */
export function moneyOf(accounts) {
  const kinds = new Set();
  for (const { paper } of accounts) if (typeof paper === 'boolean') kinds.add(paper ? 'paper' : 'live');
  return kinds.size > 1 ? 'mixed' : ([...kinds][0] ?? 'unknown');
}

export const MONEY_WORDS = { paper: 'PAPER', live: 'LIVE', mixed: 'LIVE + PAPER', unknown: '—' };
