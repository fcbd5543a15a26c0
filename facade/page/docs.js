// Owns the page to try the API: Swagger UI over our own document, with the token that the main page keeps for this tab.

const TOKEN = 'ibkr.token';

SwaggerUIBundle({
  url: '/api/ibkr/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  validatorUrl: null, // nothing leaves this machine
  requestInterceptor(request) {
    const token = sessionStorage.getItem(TOKEN);
    if (token !== null) request.headers.Authorization ??= `Bearer ${token}`;
    return request;
  },
});
