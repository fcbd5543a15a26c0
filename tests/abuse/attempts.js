// Everything that a page can try with another origin's address `base`; what each attempt came to.
async (base) => {
    const attempts = {};
    const attempt = async (name, act) => {
        const limit = new Promise((_, fail) => setTimeout(fail, 3000, 'time'));
        try { attempts[name] = await Promise.race([act(), limit]); } catch (error) { attempts[name] = `refused: ${error}`; }
    };
    const read = async (path, options) => {
        const answer = await fetch(base + path, options);
        return answer.type === 'opaque' ? 'opaque' : `read ${answer.status}: ${(await answer.text()).slice(0, 80)}`;
    };
    const element = (tag, attributes) => new Promise((done, fail) => {
        const made = Object.assign(document.createElement(tag), attributes);
        made.onload = () => done(`loaded`);
        made.onerror = () => fail('error');
        document.body.append(made);
    });
    const json = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' };
    for (const path of ['/api/ibkr/status', '/api/ibkr/positions', '/', '/metrics', '/livez', '/api/ibkr/openapi.json']) {
        await attempt(`read ${path}`, () => read(path));
        await attempt(`read with credentials ${path}`, () => read(path, { credentials: 'include' }));
        await attempt(`no-cors ${path}`, () => read(path, { mode: 'no-cors' }));
    }
    await attempt('stream by fetch', () => read('/api/ibkr/events'));
    await attempt('stream by fetch, no-cors', () => read('/api/ibkr/events', { mode: 'no-cors' }));
    await attempt('EventSource', () => new Promise((done, fail) => {
        const source = new EventSource(base + '/api/ibkr/events');
        source.onopen = () => done('opened');
        source.onerror = () => { source.close(); fail('error'); };
    }));
    await attempt('WebSocket', () => new Promise((done, fail) => {
        const socket = new WebSocket(base.replace('http', 'ws') + '/api/ibkr/events');
        socket.onopen = () => done('opened');
        socket.onerror = () => fail('error');
    }));
    for (const path of ['/api/ibkr/connect', '/api/ibkr/disconnect', '/api/ibkr/reconnect']) {
        await attempt(`POST json ${path}`, () => read(path, json));
        await attempt(`POST no-cors ${path}`, () => read(path, { ...json, mode: 'no-cors' }));
        await attempt(`POST text ${path}`, () => read(path, { method: 'POST', mode: 'no-cors', body: '{}' }));
        await attempt(`POST blob ${path}`, () => read(path, {
            method: 'POST', mode: 'no-cors', body: new Blob(['{}'], { type: 'application/json' }),
        }));
        await attempt(`beacon ${path}`, async () => `${navigator.sendBeacon(base + path, new Blob(['{}'], { type: 'text/plain' }))}`);
        for (const kind of ['application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain']) {
            await attempt(`form ${kind} ${path}`, () => new Promise((done) => {
                const frame = Object.assign(document.createElement('iframe'), { name: `f${Math.random()}` });
                frame.onload = () => done('sent');
                document.body.append(frame);
                const form = Object.assign(document.createElement('form'), {
                    action: base + path, method: 'POST', enctype: kind, target: frame.name,
                });
                form.append(Object.assign(document.createElement('input'), { name: '{"a":"', value: '"}' }));
                document.body.append(form);
                frame.onload = () => done('sent');
                form.submit();
            }));
        }
    }
    await attempt('script', () => element('script', { src: base + '/api/ibkr/positions' }));
    await attempt('script of the page', () => element('script', { src: base + '/ui/app.js', type: 'module' }));
    await attempt('style', () => element('link', { href: base + '/ui/page.css', rel: 'stylesheet' }));
    await attempt('image', () => element('img', { src: base + '/ui/icons/good.svg' }));
    await attempt('frame', async () => {
        const frame = document.createElement('iframe');
        frame.src = base + '/ui/complete_platform.html';
        const loaded = new Promise((done) => { frame.onload = done; });
        document.body.append(frame);
        await loaded;
        return frame.contentDocument ? `read ${frame.contentDocument.body.innerText}` : 'opaque';
    });
    return attempts;
}
