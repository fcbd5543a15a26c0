// Owns the text format of comma-separated values (RFC 4180) and how it is saved. `csv` is pure.

import { session } from './api.js';

/** `rows` (objects of one shape) with their fields as the first line; what is not known is empty. */
export function csv(rows) {
  const fields = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const lines = [fields, ...rows.map((row) => fields.map((field) => row[field]))];
  return lines.map((line) => line.map(cell).join(',')).join('\r\n') + '\r\n';
}

/** A text that a spreadsheet would take for a formula is written as a text. */
function cell(value) {
  if (value === null || value === undefined) return '';
  const text = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Save `text` as a file named for the session, its `topic` and the time `at`; the name of a `stale` one has that word. */
export function download(text, topic, at, stale) {
  const time = at.toISOString().slice(0, 19).replaceAll(':', '-');
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = `${session === null ? '' : `${session}-`}${topic}-${stale ? 'stale-' : ''}${time}Z.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
