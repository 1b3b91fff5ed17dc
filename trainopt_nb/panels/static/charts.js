// What the panels share: small helpers, the theme, and one chart; `uPlot` stands above in the same module.
// Every text enters the page as a text node.

const HEIGHT = 172; // of a chart, pixels
const GUTTER = 46; // for the numbers of its vertical axis, pixels
const REACH = 10; // steps to either side that the mean of the training loss takes in, as in card.py
const GONE = ["restarting", "autorestarting", "terminating", "dead"]; // what a kernel is when its widgets are lost
const STEPS = Array.from({ length: 13 }, (_, k) => [1, 2, 5].map((n) => Number(`${n}e${k - 3}`))).flat(); // of the horizontal axis

function make(tag, name, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

// as `titled` in card.py
const TITLES = { f1: "F1", auroc: "AUROC", mae: "MAE", mse: "MSE", rmse: "RMSE", r2: "R²" };

function titled(name) {
  const words = name.replaceAll("_", " ");
  return Object.hasOwn(TITLES, name) ? TITLES[name] : words.charAt(0).toUpperCase() + words.slice(1);
}

// as `compact` in progress.py: a number that fits into a narrow place
function compact(value) {
  if (Math.abs(value) >= 999.5e9) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  const steps = [[999.5e6, 1e9, " G"], [999.5e3, 1e6, " M"], [9999.5, 1e3, " k"], [0, 1, ""]];
  const [, unit, sign] = steps.find(([least]) => Math.abs(value) >= least);
  const digits = Number((value / unit).toPrecision(unit === 1 ? 4 : 3));
  return (digits !== 0 && Math.abs(digits) < 1e-3 ? digits.toExponential() : String(digits)) + sign;
}

function written(value, share) {
  return share ? `${Number((value * 100).toFixed(1))}%` : compact(value);
}

// ---- one chart

function smooth({ stride, y }) {
  const reach = Math.round(REACH / stride);
  return y.map((value, i) => {
    if (value === null) return null;
    let sum = 0, count = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(y.length - 1, i + reach); j++)
      if (y[j] !== null) (sum += y[j]), count++;
    return sum / count;
  });
}

function nearest(values, index) {
  if (index === null || index === undefined) return null;
  for (let away = 0; away < values.length; away++) {
    if (values[index - away] != null) return index - away;
    if (values[index + away] != null) return index + away;
  }
  return null;
}

// lowest and highest value of the lines `rows` between two places, the pieces of line at the edges included
function extent(x, rows, [from, to]) {
  let low = Infinity, high = -Infinity;
  const take = (value) => { low = Math.min(low, value); high = Math.max(high, value); };
  for (const y of rows) {
    let last = -1;
    for (let i = 0; i < x.length; i++) {
      if (y[i] == null) continue;
      if (x[i] >= from && x[i] <= to) take(y[i]);
      for (const edge of [from, to])
        if (last >= 0 && x[last] < edge && edge < x[i])
          take(y[last] + ((y[i] - y[last]) * (edge - x[last])) / (x[i] - x[last]));
      last = i;
    }
  }
  return low <= high ? [low, high] : null;
}

function valueRange(found, share) {
  if (!found) return [0, 1];
  const [low, high] = found;
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const bottom = low >= 0 && low < 0.3 * high ? 0 : low - room;
  return [bottom, share && high <= 1 ? Math.min(high + room, 1.005) : high + room];
}

class Chart {
  // `owner` knows the axis, the zoom and the place of the cursor, which both charts share
  constructor(owner, name, title) {
    this.owner = owner;
    this.share = false;
    this.best = null; // [x, y] of the point that is marked
    this.hint = make("span", "tonb-legend");
    this.title = title;
    this.plotted = make("div", "tonb-plot", { tabindex: "0", role: "img" });
    this.root = make("div", `tonb-chart ${name}`, { "data-points": "0" },
      make("div", "tonb-chart-head", {}, title, this.hint), this.plotted);
    this.plotted.addEventListener("keydown", (event) => this.key(event));
    this.plotted.addEventListener("blur", () => owner.point(null));
  }

  draw(series, data) {
    this.data = data;
    const kind = JSON.stringify(series);
    if (!this.plot || this.kind !== kind) this.build(series);
    else this.plot.setData(data);
  }

  build(series) {
    this.kind = JSON.stringify(series);
    this.plot?.destroy();
    const ink = (key) => () => this.owner.ink(key);
    const font = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
    const axis = { stroke: ink("soft"), font, ticks: { show: false }, gap: 6 };
    this.plot = new uPlot({
      width: Math.max(this.plotted.clientWidth, 120),
      height: HEIGHT,
      padding: [8, 16, 0, 0], // half of the last number sticks out
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 4 },
        points: { size: 7 },
        dataIdx: (plot, row, index) => (plot.series[row].quiet ? null : nearest(plot.data[row], index)),
        bind: { dblclick: () => () => this.owner.zoomTo(null) },
      },
      scales: {
        x: { time: false, range: () => this.owner.span() },
        y: { range: () => valueRange(extent(this.data[0], this.data.slice(1), this.owner.span()), this.share) },
      },
      axes: [
        { ...axis, size: 24, space: 48, incrs: () => this.places(), grid: { show: false }, values: (_, all) => all.map(compact) },
        { ...axis, size: GUTTER, space: 36, grid: { stroke: ink("grid"), width: 1 },
          values: (_, all) => all.map((value) => (this.filled() ? written(value, this.share) : "")) },
      ],
      series: [{}, ...series.map(({ colour, faint, quiet }) => ({
        stroke: ink(faint ? `${colour}-faint` : colour),
        width: faint ? 1 : 1.6,
        points: { show: (plot, row) => !faint && plot.data[row].filter((v) => v != null).length === 1, size: 6, fill: ink(colour) },
        quiet,
      }))],
      hooks: {
        setCursor: [(plot) => this.hovered(plot)],
        setSelect: [(plot) => this.selected(plot)],
        draw: [(plot) => this.mark(plot)],
      },
    }, this.data, this.plotted);
  }

  // places of the numbers below: whole epochs and steps, unless somebody looks closer
  places() {
    return this.owner.zoom || this.owner.end() < 2 ? STEPS : STEPS.filter((step) => step >= 1);
  }

  filled() {
    return this.data.slice(1).some((values) => values.length);
  }

  mark(plot) {
    const { ctx, bbox } = plot, scale = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = this.owner.ink("soft");
    ctx.font = `${10.5 * scale}px system-ui, -apple-system, "Segoe UI", sans-serif`;
    ctx.textAlign = "right";
    ctx.textBaseline = "top";
    ctx.fillText(this.owner.unitName(), bbox.left - 10 * scale, bbox.top + bbox.height + 6 * scale);
    const [low, high] = this.owner.span();
    if (this.best && this.best[0] >= low && this.best[0] <= high) {
      ctx.fillStyle = this.owner.ink("c2");
      ctx.beginPath();
      ctx.arc(plot.valToPos(this.best[0], "x", true), plot.valToPos(this.best[1], "y", true), 3.2 * scale, 0, 7);
      ctx.fill();
    }
    ctx.restore();
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.owner.zoomTo(range);
  }

  hovered(plot) {
    if (this.led) return;
    const { left, idx } = plot.cursor;
    this.owner.point(left >= 0 && idx !== null ? plot.posToVal(left, "x") : null, this);
  }

  // put the cursor at `x`, or away
  follow(x) {
    if (!this.plot) return;
    this.led = true;
    const left = x === null ? -10 : this.plot.valToPos(x, "x");
    this.plot.setCursor({ left, top: x === null ? -10 : 10 });
    this.led = false;
  }

  // where the cursor is: the place, and the values of the lines that are read
  reading() {
    const { idx, idxs } = this.plot.cursor;
    const rows = this.plot.series.map((line, row) => (row && !line.quiet ? row : 0)).filter(Boolean);
    const values = rows.map((row) => this.plot.data[row][idxs?.[row] ?? idx]);
    const places = rows.map((row) => this.plot.data[0][idxs?.[row] ?? idx]);
    return { values, places };
  }

  key(event) {
    const { owner, plot } = this;
    const [low, high] = owner.span();
    const places = plot.data[0].filter((x) => x >= low && x <= high);
    if (!places.length) return;
    const here = owner.place ?? places.at(-1);
    const near = places.reduce((best, x, i) => (Math.abs(x - here) < Math.abs(places[best] - here) ? i : best), 0);
    const stride = (event.shiftKey ? 10 : 1) * Math.max(1, Math.round(places.length / 100));
    const half = (high - low) / 4;
    const act = {
      ArrowLeft: () => owner.point(places[Math.max(0, near - stride)]),
      ArrowRight: () => owner.point(places[Math.min(places.length - 1, near + stride)]),
      Home: () => owner.point(places[0]),
      End: () => owner.point(places.at(-1)),
      "+": () => owner.zoomTo([Math.max(low, here - half), Math.min(high, here + half)]),
      Escape: () => (owner.point(null), owner.zoomTo(null)),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  resize() {
    const width = this.plotted.clientWidth;
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }
}

// ---- charts side by side: they share their axis, their zoom, the place of the cursor and the colours of the page

// the language of the page, which the kernel speaks too unless the user wants another one
function spoken() {
  return document.documentElement.lang || navigator.language || "";
}

// a view that is drawn anew when its words change
function redrawn(model, draw) {
  let view = draw();
  const again = () => {
    view.remove();
    view = draw();
  };
  model.on("change:texts", again);
  return () => {
    model.off("change:texts", again);
    view.remove();
  };
}

class Board {
  // who extends it has `root`, `charts`, `end()` of the axis, its `unitName()` and `legends()`
  constructor() {
    this.zoom = this.place = null;
    this.inks = {};
  }

  span() {
    return this.zoom ?? [0, this.end()];
  }

  ink(key) {
    return this.inks[key];
  }

  zoomTo(range) {
    const [low, high] = range ?? [0, 0];
    if (range && high - low < this.end() / 1e4) return;
    this.zoom = range;
    this.reset.hidden = !range;
    for (const chart of this.charts) chart.plot?.setData(chart.data);
  }

  point(place, from) {
    this.place = place;
    for (const chart of this.charts) if (chart !== from) chart.follow(place);
    this.legends();
  }

  // the colours of the page, which may change at any time
  theme() {
    const style = getComputedStyle(this.root);
    const [r, g, b] = style.backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    const theme = 0.2126 * r + 0.7152 * g + 0.0722 * b < 128 ? "dark" : "light";
    if (this.root.dataset.theme !== theme) this.root.dataset.theme = theme;
    const inks = Object.fromEntries(this.inkNames.map((key) => [key, style.getPropertyValue(`--tonb-${key}`).trim()]));
    if (this.inkNames.every((key) => inks[key] === this.inks[key])) return;
    this.inks = inks;
    for (const chart of this.charts) chart.plot?.redraw(false);
  }

  watchTheme() {
    this.sizes = new ResizeObserver(() => {
      this.theme();
      for (const chart of this.charts) chart.resize();
    });
    for (const chart of this.charts) this.sizes.observe(chart.plotted);
    // the colour of an unseen property follows the theme by a transition of no length, whatever it was that switched the theme
    this.root.addEventListener("transitionrun", () => this.theme());
    this.root.addEventListener("transitionend", () => this.theme());
  }

  leave() {
    this.sizes.disconnect();
    for (const chart of this.charts) chart.plot?.destroy();
    this.root.remove();
  }

  where(places) {
    const place = places.findLast((x) => x != null) ?? this.place;
    return `${this.unitName()} ${Number(place.toFixed(this.unit() === 1 ? 0 : 2))}`;
  }
}

// ---- whether the kernel behind a widget is still the one that it was made by

class Lifeline {
  constructor(model, root, lost) {
    this.model = model;
    this.root = root;
    this.lost = lost; // called once
    this.look = () => this.check();
    this.kernel = model.widget_manager?.kernel; // in JupyterLab and Notebook; elsewhere the class below has to tell
    this.kernel?.statusChanged?.connect?.(this.look); // some states are over before anybody looks
    model.on("comm_live_update", this.look);
  }

  // whether it is gone: nothing that is clicked would arrive
  check() {
    if (this.gone) return true;
    const kernel = this.model.widget_manager?.kernel;
    this.kernel ??= kernel;
    this.gone = kernel !== this.kernel || GONE.includes(kernel?.status)
      || this.root.closest(".jupyter-widgets-disconnected") !== null;
    if (this.gone) this.lost();
    return this.gone;
  }

  leave() {
    this.kernel?.statusChanged?.disconnect?.(this.look);
    this.model.off("comm_live_update", this.look);
  }
}
