// Owns the page to try the API: Swagger UI over our own document, with the token that the main page keeps for this tab.

import { hasToken, onTokenNeeded, read, setToken, token } from './api.js';
import { byId, setHidden, setText } from './dom.js';

const form = byId('token-form');

onTokenNeeded(
  (refused) =>
    new Promise((resolve) => {
      if (refused) setText(byId('token-why'), 'The facade refused this token.');
      setHidden(form, false);
      byId('token').focus();
      form.addEventListener(
        'submit',
        (event) => {
          event.preventDefault();
          setToken(byId('token').value.trim());
          setHidden(form, true);
          resolve();
        },
        { once: true },
      );
    }),
);

try {
  const spec = await read('/api/ibkr/openapi.json', 60_000, { allSessions: true });
  delete spec.servers; // there is one: where this page came from
  SwaggerUIBundle({
    spec,
    dom_id: '#api',
    deepLinking: true,
    validatorUrl: null, // nothing leaves this machine
    requestInterceptor(request) {
      if (hasToken()) request.headers.Authorization ??= `Bearer ${token()}`;
      return request;
    },
  });
} catch (problem) {
  setText(byId('api').firstElementChild, `${problem.title}: ${problem.detail}`);
}
