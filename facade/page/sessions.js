// Owns the switch between the facade's sessions. Another session is another address and another load of the page, so
// that no value of one is ever shown as the other's.

import { read, session } from './api.js';
import { byId, el, setHidden } from './dom.js';
import { words } from './format.js';

const READ_EVERY = 15_000;

/** A session in one line: its name, whether its money is real, its state. */
function inWords({ name, paper, phase, connected, available }) {
  const money = paper === null ? '' : paper ? 'paper' : 'LIVE';
  const link = !available ? 'daemon not answering' : connected ? 'connected' : words(phase);
  return [name, money, link].filter(Boolean).join(' · ');
}

export function mountSessions() {
  const select = byId('session');

  async function refresh() {
    try {
      const { data } = await read('/api/ibkr/sessions', undefined, { allSessions: true, ask: false });
      draw(data);
    } catch {
      // the head of the page shows what is wrong; the switch keeps what it has
    }
    setTimeout(refresh, READ_EVERY);
  }

  function draw(rows) {
    const texts = rows.map(inWords);
    if (texts.join('\n') !== [...select.options].map(({ text }) => text).join('\n'))
      select.replaceChildren(...rows.map((row, index) => el('option', { value: row.name }, texts[index])));
    select.value = (rows.find(({ name, default: first }) => (session === null ? first : name === session)) ?? {}).name;
    setHidden(select, rows.length < 2);
  }

  select.addEventListener('change', () => {
    const address = new URL(location.href);
    address.searchParams.set('session', select.value);
    location.assign(address);
  });
  refresh();
}
