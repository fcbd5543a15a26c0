// Owns curves: points of a day's PnL, bounded, and the drawing of any curve with uPlot, coloured by the side of a line.

import { el, setText } from './dom.js';
import { clock, mark } from './format.js';
import { paint } from './paint.js';

// Two points closer than this (s) are one on a screen; with the bound below a whole day fits.
const FIRST_SPACING = 5;
// More points than pixels of a wide screen add nothing. Full: every second one goes and the spacing doubles.
const MOST_POINTS = 4096;
// A curve of hours does not move visibly within a second.
const DRAW_EVERY = 1000;
// Steps (s) of the time axis: its marks are written in seconds or minutes, so that a finer step would write one twice.
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400];
// A span (s) this short has several marks a minute.
const SECONDS_BELOW = 480;

/** Points `times` (s), `values` of one local day. Pure but for what it keeps. */
export class Series {
  times = [];
  values = [];
  spacing = FIRST_SPACING;
  #day = '';

  /** Add `value` at `at` (ms). A new local day begins a new curve. Within the spacing the newest value replaces the last. */
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

/** A Series of the recorded `points` `{at, value}` (ms, ascending) and after them what `newer`, a Series or null, holds. */
export function joined(points, newer) {
  const series = new Series();
  for (const { at, value } of points) series.add(at, value);
  const last = points.at(-1)?.at ?? -Infinity;
  for (const [index, seconds] of (newer?.times ?? []).entries())
    if (seconds * 1000 > last) series.add(seconds * 1000, newer.values[index]);
  return series;
}

/** The sum of several recordings `[{at, value}]`, from when each of them has a value. */
export function summed(recordings) {
  const points = recordings.flatMap((points, place) => points.map(({ at, value }) => ({ at, value, place })));
  points.sort((a, b) => a.at - b.at);
  const latest = new Map();
  const sums = [];
  for (const { at, value, place } of points) {
    latest.set(place, value);
    if (latest.size < recordings.length) continue;
    const total = [...latest.values()].reduce((sum, each) => sum + each, 0);
    if (sums.at(-1)?.at === at) sums.at(-1).value = total;
    else sums.push({ at, value: total });
  }
  return sums;
}

/**
 * A drawn curve in `host`. `data()`: `{times, values}` or null; `base()`: the value of the line that parts rise from
 * fall, or null; `reading(at, value)`: writes the value under the pointer, or the newest; `nothing(points)`: writes why
 * there is no curve; `axis(value, step)`: a mark of the value axis.
 */
export class Curve {
  #plot = null;
  #drawnAt = 0;
  #timer = null;
  #draw = () => this.#show();

  constructor(host, { data, base, reading, nothing, axis = inSteps }) {
    Object.assign(this, { host, data, base, reading, nothing, axis });
    new ResizeObserver(() => paint(() => this.#resize())).observe(host);
    addEventListener('themechange', () => this.redraw());
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

  /** Another subject or another colour scheme: draw from the beginning. */
  redraw() {
    this.#plot?.destroy();
    this.#plot = null;
    paint(this.#draw);
  }

  #size() {
    return { width: Math.max(120, this.host.clientWidth), height: Math.max(70, this.host.clientHeight) };
  }

  #resize() {
    const size = this.#size();
    if (this.#plot && (this.#plot.width !== size.width || this.#plot.height !== size.height)) this.#plot.setSize(size);
  }

  #show() {
    this.#drawnAt = performance.now();
    const data = this.data();
    const points = data?.times.length ?? 0;
    if (points < 2) {
      this.nothing(points);
      this.#plot?.destroy();
      this.#plot = null;
      return;
    }
    if (this.#plot) this.#plot.setData([data.times, data.values]);
    else this.#plot = new uPlot(this.#options(), [data.times, data.values], this.host);
    this.#read(this.#plot.cursor.idx ?? points - 1);
  }

  #read(index) {
    const data = this.data();
    if (data && index in data.times) this.reading(data.times[index] * 1000, data.values[index]);
  }

  #options() {
    const colour = colours(this.host);
    const axis = {
      stroke: colour('--muted'),
      font: '11px system-ui, sans-serif',
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    const [up, down, plain] = ['--up', '--down', '--accent'].map(colour);
    const parted = (alpha) => (plot) => {
      const base = this.base();
      if (base === null) return translucent(plain, alpha);
      const { top, height } = plot.bbox;
      const place = Math.min(1, Math.max(0, (plot.valToPos(base, 'y', true) - top) / height));
      const gradient = plot.ctx.createLinearGradient(0, top, 0, top + height);
      gradient.addColorStop(0, translucent(up, alpha));
      gradient.addColorStop(place, translucent(up, alpha));
      gradient.addColorStop(place, translucent(down, alpha));
      gradient.addColorStop(1, translucent(down, alpha));
      return gradient;
    };
    return {
      ...this.#size(),
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7, fill: plain } },
      scales: { y: { range: (_, low, high) => around(low, high, this.base()) } },
      axes: [
        {
          ...axis,
          size: 24,
          space: 76,
          incrs: STEPS,
          grid: { show: false },
          values: (plot, ticks) =>
            ticks.map((at) => mark(at * 1000, plot.scales.x.max - plot.scales.x.min < SECONDS_BELOW)),
        },
        {
          ...axis,
          size: (_, marks) => 14 + 6.6 * Math.max(4, ...(marks ?? []).map((text) => text.length)),
          space: 28,
          values: (_, ticks, axis_, space, step) => ticks.map((value) => this.axis(value, step)),
        },
      ],
      series: [
        {},
        {
          stroke: parted(1),
          width: 1.75,
          fill: parted(0.14),
          fillTo: (plot) => this.base() ?? plot.scales.y.min,
          points: { show: false },
        },
      ],
      hooks: {
        drawAxes: [(plot) => this.#line(plot, colour('--edge'))],
        setCursor: [(plot) => this.#read(plot.cursor.idx ?? this.data().times.length - 1)],
      },
    };
  }

  #line(plot, stroke) {
    const base = this.base();
    if (base === null) return;
    const { left, width } = plot.bbox;
    const y = Math.round(plot.valToPos(base, 'y', true)) + 0.5;
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = stroke;
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.restore();
  }
}

/** Reads the theme's colours as the canvas takes them: resolved for the scheme that is in force. */
function colours(host) {
  return (name) => {
    const probe = el('i', { hidden: true });
    probe.style.color = `var(${name})`;
    host.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  };
}

const translucent = (rgb, alpha) => (alpha === 1 ? rgb : rgb.replace('rgb(', 'rgba(').replace(')', `, ${alpha})`));

/** A mark of the axis: with as many decimals as its steps have. */
function inSteps(value, step) {
  const digits = Math.min(4, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)));
  return value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A range with air around the curve and its base line, also where it is flat. */
function around(low, high, base) {
  const [from, to] = base === null ? [low, high] : [Math.min(low, base), Math.max(high, base)];
  const air = Math.max((to - from) * 0.1, Math.abs(to) * 0.0005, 0.01);
  return [from - air, to + air];
}

/** Why there is no curve, or what it shows, in `node`. */
export function caption(node, at, text) {
  setText(node, at === null ? text : `${clock(at)}  ${text}`);
}
