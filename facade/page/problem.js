// Owns how a refusal is shown: as the facade words it, with its advice, until it is closed or the next try; and how a
// reason is named.

import { el, setHidden, setText } from './dom.js';

// Reasons of this page only, which no catalogue has.
const OURS = new Set(['facadeUnreachable', 'timeout']);

/** Show `reason`'s name in the link `node`, which leads to its place in the documentation. */
export function reasonLink(node, reason) {
  setText(node, reason ?? '');
  if (reason && !OURS.has(reason)) node.setAttribute('href', `/docs/reasons#${reason}`);
  else node.removeAttribute('href');
  return node;
}

export function showProblem(host, problem) {
  const advice = (problem.advice ?? []).map((text) => el('li', {}, text));
  const close = el('button', { type: 'button', class: 'quiet', 'aria-label': 'Close this message' }, '×');
  close.addEventListener('click', () => clearProblem(host));
  host.replaceChildren(
    el(
      'div',
      { class: 'problem-head' },
      el('strong', {}, problem.title || 'Refused'),
      reasonLink(el('a', { class: 'reason' }), problem.reason),
      close,
    ),
    el('p', {}, problem.detail || ''),
    ...(advice.length ? [el('ol', { class: 'advice' }, ...advice)] : []),
  );
  setHidden(host, false);
}

export function clearProblem(host) {
  setHidden(host, true);
  host.replaceChildren();
}
