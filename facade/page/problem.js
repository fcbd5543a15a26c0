// Owns how a refusal is shown: as the facade words it, with its advice, until it is closed or the next try.

import { el, setHidden } from './dom.js';

export function showProblem(host, problem) {
  const advice = (problem.advice ?? []).map((text) => el('li', {}, text));
  const close = el('button', { type: 'button', class: 'quiet', 'aria-label': 'Close this message' }, '×');
  close.addEventListener('click', () => clearProblem(host));
  host.replaceChildren(
    el('div', { class: 'problem-head' }, el('strong', {}, problem.title || 'Refused'), problem.reason ? el('code', {}, problem.reason) : '', close),
    el('p', {}, problem.detail || ''),
    ...(advice.length ? [el('ol', { class: 'advice' }, ...advice)] : []),
  );
  setHidden(host, false);
}

export function clearProblem(host) {
  setHidden(host, true);
  host.replaceChildren();
}
