// Owns the text format of Server-Sent Events: chunks of text in, events out. Pure. The browser's EventSource is not
// used: it can carry no token, shows no heartbeat and waits seconds before it tries again.

// The largest snapshot page is far below this; more without a line end is not our facade talking.
const LONGEST_EVENT = 16 * 1024 * 1024;

/**
 * A parser to be fed with text; `emit({event, data, id})` is called for each complete event, `id` null where none
 * stands.
 */
export function eventParser(emit) {
  let rest = '';
  let event = 'message';
  let data = [];
  let id = null;

  function line(text) {
    if (text === '') {
      if (data.length) emit({ event, data: data.join('\n'), id });
      event = 'message';
      data = [];
      id = null;
      return;
    }
    const colon = text.indexOf(':');
    if (colon === 0) return; // a comment: the heartbeat
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data.push(value);
    else if (field === 'event') event = value;
    else if (field === 'id') id = value;
  }

  return (chunk) => {
    rest += chunk;
    let from = 0;
    for (let end = rest.indexOf('\n', from); end >= 0; end = rest.indexOf('\n', from)) {
      line(rest.slice(from, rest[end - 1] === '\r' && end > from ? end - 1 : end));
      from = end + 1;
    }
    rest = rest.slice(from);
    if (rest.length > LONGEST_EVENT) throw new RangeError('an event without end');
  };
}
