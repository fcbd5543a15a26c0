// Owns requests to the facade: the token, problems (RFC 9457), deadlines, and the server's clock as seen in the Date
// header.

import { tab } from './storage.js';

const TOKEN = 'ibkr.token';
const API = '/api/ibkr/';
// A connect answers when the attempt has ended; IBKR_CONNECT_TIMEOUT is seldom above a minute. The event stream
// shows the state meanwhile.
const COMMAND_DEADLINE = 90_000;
const READ_DEADLINE = 15_000;
// Date has whole seconds: differences below this are its rounding, not a skew.
const SKEW_FLOOR = 1500;

/** A refusal as the facade words it: `title`, `detail`, `reason`, `advice`, `status`. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail || body.title);
    this.name = 'Problem';
    Object.assign(
      this,
      { title: '', detail: '', reason: null, advice: [], status: 0, nextAttemptAt: null, retryAfter: null },
      body,
    );
  }

  static async of(response) {
    const retryAfter = Number(response.headers.get('Retry-After')) || null;
    try {
      return new Problem({ ...(await response.json()), status: response.status, retryAfter });
    } catch {
      return new Problem({
        title: `HTTP ${response.status}`,
        detail: response.statusText,
        status: response.status,
        retryAfter,
      });
    }
  }

  /** No answer at all. */
  static silence(error) {
    const late = error.name === 'TimeoutError';
    return new Problem({
      title: late ? 'No answer in time' : 'Facade not answering',
      detail: late ? 'The facade did not answer within the deadline.' : 'The request did not reach the facade.',
      reason: late ? 'timeout' : 'facadeUnreachable',
      advice: ['Check the state at the top of the page: it reconnects to the facade by itself.'],
    });
  }
}

/** The session that the page's address names, or null for the facade's default session. */
export const session = new URLSearchParams(location.search).get('session');

/** The address of `path` (`/api/ibkr/…`) in this page's session. */
export const inSession = (path) =>
  session === null ? path : path.replace(API, `${API}sessions/${encodeURIComponent(session)}/`);

let skew = 0;

/** The server's time in ms since the epoch, as far as the browser can know it. */
export const serverNow = () => Date.now() + skew;

/** The kept token, or null. */
export const token = () => tab.get(TOKEN);

export const hasToken = () => token() !== null;

export function setToken(token) {
  tab.set(TOKEN, token);
}

let waiting = null; // one question for all requests that were refused meanwhile
let askForToken = () => new Promise(() => {});

/** `ask(refused)` resolves when the person has given a token. */
export function onTokenNeeded(ask) {
  askForToken = (refused) => (waiting ??= ask(refused).finally(() => (waiting = null)));
}

/**
 * One request, to this page's session. Prompts for the token when the facade requires one (`ask`). `allSessions`: the path
 * is of all sessions. Throws Problem, or the fetch error of an aborted
 * or lost request.
 */
export async function send(path, { method = 'GET', headers = {}, body, signal, ask = true, allSessions = false } = {}) {
  for (;;) {
    const used = token();
    const authorization = used === null ? {} : { Authorization: `Bearer ${used}` };
    const response = await fetch(allSessions ? path : inSession(path), {
      method,
      headers: { ...headers, ...authorization },
      body,
      signal,
      cache: 'no-store',
    });
    const date = Date.parse(response.headers.get('Date') ?? '');
    if (Number.isFinite(date)) {
      const difference = date + 500 - Date.now();
      skew = Math.abs(difference) < SKEW_FLOOR ? 0 : difference;
    }
    if (response.ok) return response;
    const problem = await Problem.of(response);
    if (response.status !== 401 || !ask) throw problem;
    await askForToken(used !== null && used === token());
    signal?.throwIfAborted();
  }
}

async function answered(path, options) {
  try {
    return await (await send(path, options)).json();
  } catch (error) {
    throw error instanceof Problem ? error : Problem.silence(error);
  }
}

export const read = (path, deadline = READ_DEADLINE, options = {}) =>
  answered(path, { signal: AbortSignal.timeout(deadline), ...options });

/** The answers to `path` and to the pages that follow it, `most` at most. */
export async function readPages(path, most) {
  const answers = [];
  try {
    for (let next = path; next !== null && answers.length < most; ) {
      const response = await send(next, {
        signal: AbortSignal.timeout(READ_DEADLINE),
        allSessions: answers.length > 0, // a link to a page is whole
      });
      answers.push(await response.json());
      next = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('Link') ?? '')?.[1] ?? null;
    }
  } catch (error) {
    throw error instanceof Problem ? error : Problem.silence(error);
  }
  return answers;
}

/** A command: POST with a JSON body. */
export const command = (path, body = {}) =>
  answered(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(COMMAND_DEADLINE),
  });
