// Owns the wiring: the stream feeds the model, the views read it. It has no row of its own and draws nothing.

import { mountAccounts } from './accounts.js';
import { mountActions } from './actions.js';
import { mountAlerts } from './alerts.js';
import { mountBlotter } from './blotter.js';
import { EventStream } from './events.js';
import { mountHeader } from './header.js';
import { mountInstrument } from './instrument.js';
import { BASE_TOPICS, Model } from './model.js';
import { mountNotify } from './notify.js';
import { mountQuotes } from './quotes.js';
import { mountSessions } from './sessions.js';
import { mountTimeline } from './timeline.js';

const model = new Model();
const stream = new EventStream(model.replica, {
  changed: (topics) => model.changed(topics),
  facade: (answers) => model.facadeAnswers(answers),
  link: (row, silent) => model.linkAnswered(row, silent),
  refused: (problem) => model.streamRefused(problem),
});
let open = '';

/** Open the stream with the quotes that are wanted now, if they are others than before. */
function subscribe() {
  const conIds = new Set([...quotes.conIds(), ...(instrument.conId() === null ? [] : [instrument.conId()])]);
  const topics = [...BASE_TOPICS, ...[...conIds].map((conId) => `quotes:${conId}`)];
  if (topics.join() === open) return;
  open = topics.join();
  stream.open(topics);
}

mountHeader(model);
mountActions(model);
mountTimeline(model);
mountAlerts(model);
mountAccounts(model);
const instrument = mountInstrument(model, subscribe, (conId) => quotes.conIds().includes(conId));
mountBlotter(model, instrument.open);
const quotes = mountQuotes(model, subscribe, instrument.open);
instrument.watch(quotes.add);
mountNotify(model);
mountSessions();
subscribe();
