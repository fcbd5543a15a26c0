// Owns the wiring: the stream feeds the model, the views read it. It knows no row and draws nothing.

import { mountAccounts } from './accounts.js';
import { mountActions } from './actions.js';
import { mountBlotter } from './blotter.js';
import { EventStream } from './events.js';
import { mountHeader } from './header.js';
import { BASE_TOPICS, Model } from './model.js';
import { mountQuotes } from './quotes.js';
import { mountTimeline } from './timeline.js';

const model = new Model();
const stream = new EventStream(model.replica, {
  changed: (topics) => model.changed(topics),
  facade: (answers) => model.facadeAnswers(answers),
  link: (row, silent) => model.linkAnswered(row, silent),
  refused: (problem) => model.streamRefused(problem),
});

mountHeader(model);
mountActions(model);
mountTimeline(model);
mountAccounts(model);
mountBlotter(model);
const quotes = mountQuotes(model, () => stream.open([...BASE_TOPICS, ...quotes()]));
stream.open([...BASE_TOPICS, ...quotes()]);
