// Owns the words for the state of the link: one headline, one sentence, what to do. Pure.
// The daemon's sentences and advice come from its catalogue, in the row; only the facade's own absence is worded here.

import { capital, words } from './format.js';

const HEADLINES = { ready: 'Connected', upstreamLost: 'Upstream lost' };

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
    'The web server of this page does not answer. The session to IBKR is held by the daemon and does not depend on it; what stands below is the last that was known.',
  advice: [
    'Wait a moment: this page goes on trying and is right again by itself.',
    'If it stays: ./scripts/restart_facade, or ./scripts/start where nothing runs.',
    'The link itself can be asked in a terminal: ibkr status',
  ],
};

const LOADING = { lamp: 'off', headline: 'IBKR: Loading', sentence: 'Reading the state of the link.', advice: [] };

/** What a phase without trouble means, for the moments in which the daemon says nothing of its own. */
function plain({ phase, gateway }) {
  if (phase === 'ready') return 'The session is up and proven.';
  if (phase === 'connecting') return gateway ? `Dialling ${gateway.host}:${gateway.port}.` : 'Dialling the gateway.';
  if (phase === 'syncing') return 'Connected; reading accounts, positions and orders.';
  return '';
}

/** `{lamp, headline, sentence, advice, phase, reason}` of what the model believes. */
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
    return { lamp: 'warn', headline: 'IBKR: Not proven', sentence, advice, phase, reason };
  }
  // A dial after a failure is still the trouble that the reason names.
  const lamp = phase === 'connecting' && reason ? 'warn' : (LAMPS[phase] ?? 'warn');
  return { lamp, headline: `IBKR: ${HEADLINES[phase] ?? capital(words(phase))}`, sentence, advice, phase, reason };
}

/** Whether the accounts are paper, live or not known: `paper`, `live`, `mixed`, `unknown`. */
export function moneyOf(accounts) {
  const kinds = new Set();
  for (const { paper } of accounts) if (typeof paper === 'boolean') kinds.add(paper ? 'paper' : 'live');
  return kinds.size > 1 ? 'mixed' : ([...kinds][0] ?? 'unknown');
}

export const MONEY_WORDS = { paper: 'PAPER', live: 'LIVE', mixed: 'LIVE + PAPER', unknown: '—' };
