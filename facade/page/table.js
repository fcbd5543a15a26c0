// Owns tables: sortable, only the rows in sight drawn, cells rewritten only where their text differs.

import { el, setData, setHidden, setText } from './dom.js';
import { DASH, known } from './format.js';
import { paint } from './paint.js';

const NARROW = matchMedia('(max-width: 760px)');
const ROW = 29; // px, one line and its border; the same in table.css
const NARROW_LINE = 38; // px, a caption and a value
const NARROW_PADDING = 17;
const OVERSCAN = 6; // rows drawn beyond the edge, so that a scroll shows no blank
// Rows that change places many times a second cannot be read: the order is renewed at most once in this many ms.
const SORT_EVERY = 1000;

/**
 * `columns`: `{key, label, text(row), sort?(row), unit?(row), tone?(row), title?(row), total?(rows), left?, press?,
 * name?(row), unseen?}`; the first names the row. `total(rows)` is the column's cell of the last line: `{text, unit?,
 * tone?, title?}`. `press(key, row)` makes the cell a button of the accessible name `name(row)`; a click anywhere in the row
 * presses the first of them. `unseen`: the head's label is for screen readers only.
 */
export class Table {
  #entries = [];
  #rows = null;
  #pool = [];
  #sort;
  #sortedAt = 0;
  #sortTimer = null;
  #view = () => this.#draw();

  constructor(host, { label, columns, sort, extraClass = '' }) {
    this.columns = columns;
    this.#sort = sort;
    this.body = el('tbody', { role: 'rowgroup' });
    this.above = el('tr', { class: 'spacer', 'aria-hidden': true, hidden: true }, el('td'));
    this.below = this.above.cloneNode(true);
    this.heads = columns.map((column) => this.#head(column));
    this.foot = columns.some((column) => column.total) ? makeLine(columns, 'total') : null;
    this.table = el(
      'table',
      { role: 'table', 'aria-label': label, class: `table ${extraClass}` },
      el('colgroup', {}, ...columns.map((column) => el('col', { class: `c-${column.key}` }))),
      el('thead', { role: 'rowgroup' }, el('tr', { role: 'row', 'aria-rowindex': 1 }, ...this.heads)),
      this.body,
      ...(this.foot ? [el('tfoot', { role: 'rowgroup' }, this.foot.node)] : []),
    );
    this.body.append(this.above, this.below);
    this.scroller = el(
      'div',
      { class: 'scroller', tabindex: 0, role: 'region', 'aria-label': `${label}, scrollable` },
      this.table,
    );
    this.nothing = el('p', { class: 'nothing', hidden: true });
    host.append(this.scroller, this.nothing);
    const pressed = columns.find((column) => column.press);
    if (pressed) this.body.addEventListener('click', (event) => this.#press(event, pressed));
    this.scroller.addEventListener('scroll', () => paint(this.#view), { passive: true });
    NARROW.addEventListener('change', () => paint(this.#view));
    new ResizeObserver(() => paint(this.#view)).observe(this.scroller);
    this.#mark();
  }

  #press(event, column) {
    const node = event.target.closest('tr');
    const line = this.#pool.find((candidate) => candidate.node === node);
    if (line && !event.target.closest('button')) column.press(line.key, line.row);
  }

  #head(column) {
    const attributes = {
      scope: 'col',
      role: 'columnheader',
      class: column.left ? 'left' : null,
      'data-column': column.key,
    };
    if (column.unseen) return el('th', attributes, el('span', { class: 'unseen' }, column.label));
    const button = el('button', { type: 'button', class: 'sorter' }, column.label);
    button.addEventListener('click', () => this.#sortBy(column.key));
    return el('th', attributes, button);
  }

  #sortBy(key) {
    const { key: before, descending } = this.#sort;
    // Figures are read largest first, names from A.
    this.#sort = {
      key,
      descending: key === before ? !descending : !this.columns.find((column) => column.key === key).left,
    };
    this.#sortedAt = 0;
    this.#mark();
    this.#order();
    this.scroller.scrollTop = 0;
    paint(this.#view);
  }

  #mark() {
    for (const [index, column] of this.columns.entries()) {
      const sorted = column.key === this.#sort.key;
      this.heads[index].setAttribute(
        'aria-sort',
        sorted ? (this.#sort.descending ? 'descending' : 'ascending') : 'none',
      );
    }
  }

  /** Show `rows` (Map key -> row), or where there are none the text `empty`. To be called in a frame. */
  show(rows, { stale = false, empty }) {
    this.#rows = rows;
    this.stale = stale;
    const same = rows.size === this.#entries.length && this.#entries.every((entry) => rows.has(entry[0]));
    if (same) for (const entry of this.#entries) entry[1] = rows.get(entry[0]);
    const due = performance.now() - this.#sortedAt >= SORT_EVERY;
    if (!same || due) this.#order();
    else this.#sortTimer ??= setTimeout(() => (this.#order(), paint(this.#view)), SORT_EVERY);
    setHidden(this.nothing, rows.size > 0);
    setText(this.nothing, empty);
    setHidden(this.scroller, rows.size === 0);
    this.#draw();
    if (!same) this.#draw(); // the height of the scroller is that of the rows, and how many are in sight that of the scroller
  }

  /** Write every cell again: what they depend on beside their rows has changed (the day, a common currency). */
  renew() {
    for (const line of this.#pool) line.row = null;
    paint(this.#view);
  }

  #order() {
    clearTimeout(this.#sortTimer);
    this.#sortTimer = null;
    this.#sortedAt = performance.now();
    const column = this.columns.find((candidate) => candidate.key === this.#sort.key);
    const value = column.sort ?? column.text;
    const way = this.#sort.descending ? -1 : 1;
    const keyed = [...(this.#rows ?? [])].map(([key, row]) => ({ entry: [key, row], value: value(row) }));
    keyed.sort((a, b) => compare(a.value, b.value, way) || (a.entry[0] < b.entry[0] ? -1 : 1));
    this.#entries = keyed.map(({ entry }) => entry);
  }

  #draw() {
    const height = this.#height();
    const total = this.#entries.length;
    const top = Math.max(0, Math.floor(this.scroller.scrollTop / height) - OVERSCAN);
    const first = Math.min(top, Math.max(0, total - 1));
    const last = Math.min(total, Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / height) + OVERSCAN);
    const count = Math.max(0, last - first);
    this.table.setAttribute('aria-rowcount', total + 1);
    setData(this.table, 'stale', String(this.stale));
    while (this.#pool.length < count) this.#grow();
    const focused = this.#pool.findIndex((line) => line.node.contains(document.activeElement));
    const key = this.#pool[focused]?.key;
    const place = this.#pool[focused]?.cells.findIndex(({ face }) => face === document.activeElement);
    for (const [slot, line] of this.#pool.entries()) {
      if (slot < count) this.#write(line, first + slot);
    }
    if (focused >= 0) this.#keepFocus(focused, key, place, count);
    for (const [slot, line] of this.#pool.entries()) setHidden(line.node, slot >= count);
    spacer(this.above, first * height);
    spacer(this.below, (total - last) * height);
    if (this.foot) this.#writeFoot();
  }

  #writeFoot() {
    setHidden(this.foot.node, this.#entries.length < 2);
    for (const [place, column] of this.columns.entries()) {
      const { text = '', unit = '', tone = '', title = '' } = column.total?.(this.#rows) ?? {};
      const cell = this.foot.cells[place];
      if (cell.text.data !== text) cell.text.data = text;
      if (column.unit) setText(cell.unit, unit);
      setData(cell.node, 'tone', tone);
      if (cell.face.title !== title) cell.face.title = title;
    }
  }

  /** The focus of slot `focused` follows the row `key`; where that is gone, it goes to the one in its place. */
  #keepFocus(focused, key, place, count) {
    const drawn = this.#pool.slice(0, count);
    const line = drawn.find((candidate) => candidate.key === key) ?? drawn[Math.min(focused, count - 1)];
    if (!line) this.scroller.focus({ preventScroll: true });
    else if (line !== this.#pool[focused]) {
      setHidden(line.node, false);
      line.cells[place].face.focus({ preventScroll: true });
    }
  }

  #height() {
    if (!NARROW.matches) return ROW;
    // A column that is not drawn (one account only, no day PnL) takes no place in the card.
    const drawn = this.columns.filter((_, place) => this.heads[place].offsetParent !== null).length;
    return Math.ceil((drawn + 1) / 3) * NARROW_LINE + NARROW_PADDING;
  }

  #grow() {
    const line = makeLine(this.columns, 'row');
    for (const [place, column] of this.columns.entries())
      if (column.press) line.cells[place].face.addEventListener('click', () => column.press(line.key, line.row));
    this.#pool.push(line);
    this.below.before(line.node);
  }

  #write(line, index) {
    const [key, row] = this.#entries[index];
    line.key = key;
    line.node.setAttribute('aria-rowindex', index + 2);
    if (line.row === row) return;
    line.row = row;
    for (const [place, column] of this.columns.entries()) {
      const cell = line.cells[place];
      const text = column.text(row);
      if (cell.text.data !== text) cell.text.data = text;
      if (column.unit) setText(cell.unit, text === DASH ? '' : column.unit(row));
      setData(cell.node, 'tone', column.tone?.(row) ?? '');
      const title = column.title?.(row) ?? '';
      if (cell.face.title !== title) cell.face.title = title;
      const name = column.name?.(row);
      if (name && cell.face.getAttribute('aria-label') !== name) cell.face.setAttribute('aria-label', name);
    }
  }
}

/** A line of cells: of a row, or of the totals, which has no buttons. */
function makeLine(columns, kind) {
  const line = { node: el('tr', { role: 'row', class: kind === 'total' ? 'total' : null }), cells: [], key: null };
  for (const [index, column] of columns.entries()) {
    const cell = { text: document.createTextNode(''), unit: el('span', { class: 'unit' }) };
    const button = kind === 'row' && column.press;
    cell.face = button
      ? el('button', { type: 'button', class: `quiet ${column.left ? 'name' : ''}` }, cell.text)
      : el('span', { class: 'value' }, cell.text);
    cell.node = el(index ? 'td' : 'th', {
      role: index ? 'cell' : 'rowheader',
      scope: index ? null : 'row',
      class: column.left ? 'left' : null,
      'data-column': column.key,
      'data-label': column.label,
    });
    cell.node.append(cell.face, ...(column.unit ? [cell.unit] : []));
    line.cells.push(cell);
    line.node.append(cell.node);
  }
  return line;
}

function spacer(row, height) {
  const cell = row.firstChild;
  const text = `${height}px`;
  if (cell.style.height !== text) cell.style.height = text;
  setHidden(row, height === 0);
}

/** What is not known comes last, whichever way is sorted. */
function compare(a, b, way) {
  const [nothingA, nothingB] = [
    a === null || a === undefined || a === DASH,
    b === null || b === undefined || b === DASH,
  ];
  if (nothingA || nothingB) return nothingA - nothingB;
  return way * (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b)));
}

export const byNumber = (field) => (row) => known(row[field]);

/** Rise or fall, for the colour that repeats the sign. */
export function sign(value) {
  const number = known(value);
  return number === null || number === 0 ? '' : number > 0 ? 'up' : 'down';
}
