// Owns the list of incidents and of the receivers of alerts and heartbeats: what was delivered, what was not and why.

import { read, serverNow } from './api.js';
import { byId, el, setHidden, setText } from './dom.js';
import { clock, instant } from './format.js';

const READ_EVERY = 30_000;
// After a change of the link; the daemon steps its rules each second.
const READ_AFTER_CHANGE = 2000;

/** One line of the list: `{name, text, tone}`. */
export function alertLines({ known, incidents, receivers, heartbeat }, now) {
  const at = (text) => clock(instant(text), now);
  const lines = incidents.map(({ since, sentence }) => ({
    name: 'Open incident',
    text: `since ${at(since)}: ${sentence}`,
    tone: 'bad',
  }));
  for (const one of receivers) {
    const facts = [`${one.delivered} delivered${one.deliveredAt ? `, last ${at(one.deliveredAt)}` : ''}`];
    if (one.failure) facts.push(`last failure ${at(one.failedAt)}: ${one.failure}`);
    if (one.waiting) facts.push(`${one.waiting} waiting`);
    if (one.givenUp) facts.push(`${one.givenUp} given up`);
    if (one.ended) facts.push('answered 410: nothing is sent to it until the next start');
    const name = one.process === 'facade' ? `${one.receiver} (facade)` : one.receiver;
    lines.push({ name, text: facts.join(' · '), tone: one.failing || one.ended ? 'bad' : 'good' });
  }
  if (heartbeat) {
    const sent = `${heartbeat.sent} accepted${heartbeat.sentAt ? `, last ${at(heartbeat.sentAt)}` : ''}`;
    const failed = heartbeat.failing ? ` · last failure ${at(heartbeat.failedAt)}: ${heartbeat.failure}` : '';
    lines.push({
      name: `Heartbeat to ${heartbeat.receiver}`,
      text: sent + failed,
      tone: heartbeat.failing ? 'bad' : 'good',
    });
  }
  if (!known) lines.push({ name: 'Daemon', text: 'not answering: its receivers are not known', tone: 'bad' });
  return lines;
}

export function mountAlerts(model) {
  const section = byId('alerts');
  let timer = null;

  async function look() {
    schedule(READ_EVERY);
    try {
      draw(await read('/api/ibkr/alerts'));
    } catch {
      setText(byId('alerts-note'), 'as last read; the facade does not answer now');
    }
  }

  function schedule(delay) {
    clearTimeout(timer);
    timer = setTimeout(look, delay);
  }

  function draw(health) {
    const lines = alertLines(health, serverNow());
    const failing = lines.filter(({ tone }) => tone === 'bad').length;
    setText(byId('alerts-note'), failing ? `${failing} to look at` : 'none fails');
    byId('alerts-list').replaceChildren(
      ...lines.map(({ name, text, tone }) =>
        el('li', { 'data-tone': tone }, el('strong', {}, name), ' ', el('span', {}, text)),
      ),
    );
    // a daemon that has not answered yet may have no receivers
    setHidden(section, health.known ? !lines.length : section.hidden && lines.length === 1);
  }

  let phase = null;
  model.listen(() => {
    const now = model.link?.phase ?? null;
    if (now !== phase && phase !== null) schedule(READ_AFTER_CHANGE);
    phase = now;
  }, 'link');
  model.listen(() => model.facade && look(), 'facade');
  look();
}
