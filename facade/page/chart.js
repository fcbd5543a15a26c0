// Owns the curve of a day's PnL: points by account, bounded, and their drawing with uPlot.

import { byId, setText } from './dom.js';
import { clock, signed } from './format.js';
import { paint } from './paint.js';

// Two points closer than this are one on a screen; with the bound below a whole day fits.
const FIRST_SPACING = 5;
// More points than pixels of a wide screen tell nothing more. Full: every second one goes and the spacing doubles.
const MOST_POINTS = 4096;
// A curve of hours does not move visibly within a second.
const DRAW_EVERY = 1000;
// Steps (s) of the time axis: its marks are written in seconds or minutes, so that a finer step would write one twice.
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600];
// A span (s) this short has several marks a minute.
const SECONDS_BELOW = 480;

/** Points `[seconds], [value]` of one account and one local day. Pure but for what it keeps. */
export class Series {
  times = [];
  values = [];
  spacing = FIRST_SPACING;
  #day = '';

  /**
   * Add `value` at `at` (ms). A new local day begins a new curve. Within the spacing the newest value replaces the
   * last.
   */
  add(at, value) {
    const day = new Date(at).toDateString();
    if (day !== this.#day) {
      this.#day = day;
      this.times.length = this.values.length = 0;
      this.spacing = FIRST_SPACING;
    }
    const seconds = at / 1000;
    const size = this.times.length;
    if (size > 1 && seconds - this.times[size - 2] < this.spacing) {
      this.times[size - 1] = Math.max(seconds, this.times[size - 2]);
      this.values[size - 1] = value;
      return;
    }
    this.times.push(seconds);
    this.values.push(value);
    if (this.times.length > MOST_POINTS) {
      this.times = this.times.filter((_, index) => index % 2 === 0);
      this.values = this.values.filter((_, index) => index % 2 === 0);
      this.spacing *= 2;
    }
  }
}

/** The drawn curve. `series()` gives the Series to show, or null; `currency()` its unit. */
export class Curve {
  #plot = null;
  #drawnAt = 0;
  #timer = null;
  #draw = () => this.#show();

  constructor(host, { series, currency }) {
    Object.assign(this, { host, series, currency });
    new ResizeObserver(() => paint(() => this.#resize())).observe(host);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
  }

  /** The data changed: draw within a second. */
  changed() {
    if (this.#timer !== null) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        paint(this.#draw);
      },
      Math.max(0, DRAW_EVERY - (performance.now() - this.#drawnAt)),
    );
  }

  /** Another account or another colour scheme: begin anew. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    paint(this.#draw);
  }

  #size() {
    return { width: Math.max(120, this.host.clientWidth), height: Math.max(80, this.host.clientHeight) };
  }

  #resize() {
    const size = this.#size();
    if (this.#plot && (this.#plot.width !== size.width || this.#plot.height !== size.height)) this.#plot.setSize(size);
  }

  #show() {
    this.#drawnAt = performance.now();
    const series = this.series();
    const points = series?.times.length ?? 0;
    if (points < 2) {
      setText(byId('curve-reading'), points ? 'collecting since this page was opened' : 'not known yet');
      this.#plot?.destroy();
      this.#plot = null;
      return;
    }
    const data = [series.times, series.values];
    if (this.#plot) this.#plot.setData(data);
    else this.#plot = new uPlot(this.#options(), data, this.host);
    this.#reading(points - 1);
  }

  #reading(index) {
    const series = this.series();
    if (!series || index === null || index === undefined || !(index in series.times)) return;
    setText(
      byId('curve-reading'),
      `${clock(series.times[index] * 1000)}  ${signed(series.values[index])} ${this.currency()}`,
    );
  }

  #options() {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = {
      stroke: colour('--muted'),
      font: '11px system-ui, sans-serif',
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    return {
      ...this.#size(),
      padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { y: { range: (_, low, high) => around(low, high) } },
      axes: [
        {
          ...axis,
          size: 26,
          space: 80,
          incrs: STEPS,
          values: (plot, ticks) =>
            ticks.map((at) => clock(at * 1000).slice(0, plot.scales.x.max - plot.scales.x.min < SECONDS_BELOW ? 8 : 5)),
        },
        { ...axis, size: 72, values: (_, ticks, axis_, space, step) => ticks.map((value) => inSteps(value, step)) },
      ],
      series: [
        {},
        {
          stroke: colour('--accent'),
          width: 1.75,
          fill: colour('--accent-faint'),
          fillTo: (plot) => plot.scales.y.min,
          points: { show: false },
        },
      ],
      hooks: { setCursor: [(plot) => this.#reading(plot.cursor.idx ?? this.series().times.length - 1)] },
    };
  }
}

/** A mark of the axis: with as many decimals as its steps have. */
function inSteps(value, step) {
  const digits = Math.min(2, Math.max(0, Math.ceil(-Math.log10(step))));
  return value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A range with air around the curve, also where it is flat. */
function around(low, high) {
  const air = Math.max((high - low) * 0.12, Math.abs(high) * 0.0005, 0.5);
  return [low - air, high + air];
}
