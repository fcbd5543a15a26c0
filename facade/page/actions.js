// Owns what a person can do to the link: connect, connect elsewhere, disconnect, try now; and the token where one is
// asked for.

import { command, onTokenNeeded, setToken } from './api.js';
import { byId, setHidden, setText } from './dom.js';
import { paint } from './paint.js';
import { clearProblem, showProblem } from './problem.js';

const STANDARD_PORTS = new Set(['7497', '7496', '4002', '4001']);

export function mountActions(model) {
  const problem = byId('problem');
  const buttons = { connect: byId('connect'), reconnect: byId('reconnect'), disconnect: byId('disconnect') };
  const form = byId('target');

  async function run(button, path, body) {
    if (button.getAttribute('aria-busy') === 'true') return false;
    button.setAttribute('aria-busy', 'true');
    clearProblem(problem);
    try {
      await command(path, body);
      return true;
    } catch (refusal) {
      showProblem(problem, refusal);
      return false;
    } finally {
      button.removeAttribute('aria-busy');
    }
  }

  // The button names nothing: what .env or the last request says is what is dialled; it joins an attempt under way.
  buttons.connect.addEventListener('click', () => run(buttons.connect, '/api/ibkr/connect', {}));
  buttons.disconnect.addEventListener('click', () => run(buttons.disconnect, '/api/ibkr/disconnect', {}));
  buttons.reconnect.addEventListener('click', () => run(buttons.reconnect, '/api/ibkr/reconnect', {}));

  model.show(
    function available() {
      const phase = model.facade ? (model.link?.phase ?? null) : null;
      // A dial after a failure lasts a moment and comes twice a second: the button must not go from under the finger.
      const trying = phase === 'connecting' && model.link.reason !== null;
      buttons.disconnect.disabled = phase === null || phase === 'held' || phase === 'disabled' || phase === 'stopping';
      buttons.reconnect.disabled = phase !== 'waiting' && phase !== 'blocked' && !trying;
    },
    'link',
    'facade',
  );

  mountForm(model, form, (body, button) => run(button, '/api/ibkr/connect', body));
  mountToken();
}

function mountForm(model, form, connect) {
  const { host, named, port, clientId } = form.elements;
  const opener = byId('elsewhere');

  function shown(open) {
    setHidden(form, !open);
    opener.setAttribute('aria-expanded', String(open));
    if (open) fill();
    (open ? host : opener).focus();
  }

  function fill() {
    const gateway = model.link?.gateway;
    host.value = gateway?.host ?? '';
    port.value = gateway?.port ?? 7497;
    clientId.value = gateway?.clientId ?? 1;
    named.value = STANDARD_PORTS.has(port.value) ? port.value : '';
  }

  opener.addEventListener('click', () => shown(form.hidden));
  byId('target-close').addEventListener('click', () => shown(false));
  form.addEventListener('keydown', (event) => event.key === 'Escape' && shown(false));
  named.addEventListener('change', () => {
    if (named.value) port.value = named.value;
    else port.select();
  });
  port.addEventListener('input', () => (named.value = STANDARD_PORTS.has(port.value) ? port.value : ''));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const body = { port: port.valueAsNumber, clientId: clientId.valueAsNumber };
    if (host.value.trim()) body.host = host.value.trim();
    if (await connect(body, event.submitter ?? form.querySelector('[type=submit]'))) paint(() => shown(false));
  });
}

function mountToken() {
  const dialog = byId('token-dialog');
  const input = byId('token');
  let waiting = null; // one question for all requests that were refused meanwhile

  onTokenNeeded((refused) => {
    waiting ??= new Promise((resolve) => {
      if (refused)
        setText(
          byId('token-why'),
          'The facade refused this token. It stands in the file that IBKR_FACADE_TOKEN_FILE names.',
        );
      input.value = '';
      dialog.showModal();
      dialog.addEventListener(
        'close',
        () => {
          waiting = null;
          resolve();
        },
        { once: true },
      );
    });
    return waiting;
  });
  dialog.addEventListener('cancel', (event) => event.preventDefault()); // without a token there is nothing to go on with
  byId('token-form').addEventListener('submit', () => setToken(input.value.trim()));
}
