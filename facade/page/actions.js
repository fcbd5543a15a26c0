// Owns what a person can do to the link: connect, connect elsewhere, disconnect; and the token where one is required.

import { command, hasToken, inSession, onTokenNeeded, setToken } from './api.js';
import { byId, setHidden, setText } from './dom.js';
import { paint } from './paint.js';
import { clearProblem, showProblem } from './problem.js';
import { moneyOf } from './wording.js';

const STANDARD_PORTS = new Set(['7497', '7496', '4002', '4001']);

export function mountActions(model) {
  const problem = byId('problem');
  const buttons = { connect: byId('connect'), disconnect: byId('disconnect') };
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

  const disconnect = () => run(buttons.disconnect, '/api/ibkr/disconnect', {});
  const confirm = byId('confirm-dialog');

  // The button names nothing: it dials what .env or the last request names, joins an attempt under way, ends a wait.
  buttons.connect.addEventListener('click', () => run(buttons.connect, '/api/ibkr/connect', {}));
  buttons.disconnect.addEventListener('click', () => {
    const kind = moneyOf([...model.rows('accounts').values()]);
    if (model.link?.phase === 'ready' && (kind === 'live' || kind === 'mixed')) confirm.showModal();
    else disconnect();
  });
  confirm.addEventListener('close', () => confirm.returnValue === 'disconnect' && disconnect());

  model.show(
    function available() {
      const phase = model.facade ? (model.link?.phase ?? null) : null;
      setHidden(buttons.disconnect, phase === null || phase === 'held' || phase === 'disabled' || phase === 'stopping');
      // While all is well the button is at hand and no more than that.
      buttons.connect.classList.toggle('primary', phase !== 'ready');
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
  onTokenNeeded(
    (refused) =>
      new Promise((resolve) => {
        if (refused)
          setText(
            byId('token-why'),
            'The facade refused this token. It is in the file that IBKR_FACADE_TOKEN_FILE names.',
          );
        input.value = '';
        dialog.showModal();
        dialog.addEventListener('close', () => resolve(), { once: true });
      }),
  );
  dialog.addEventListener('cancel', (event) => event.preventDefault()); // without a token there is nothing to go on with
  byId('token-form').addEventListener('submit', () => {
    setToken(input.value.trim());
    plainLinks();
  });
  byId('link-json').href = inSession('/api/ibkr/link');
  plainLinks();
}

/** A link of the browser carries no token: with one, those that need it would lead to a refusal. */
function plainLinks() {
  for (const link of document.querySelectorAll('.open-only')) setHidden(link, hasToken());
}
