// Numbers as they are written, and charts that stand side by side: they share their axis, their zoom and the place of the cursor.

const HEIGHT = 172; // of a chart, pixels
const GUTTER = 54; // for the numbers of its vertical axis, pixels
const FONT = 'system-ui, -apple-system, "Segoe UI", sans-serif';
const STEPS = Array.from({ length: 13 }, (_, k) => [1, 2, 5].map((n) => Number(`${n}e${k - 3}`))).flat(); // of the horizontal axis
const EMPTY = { stride: 1, x: [], y: [] };

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

// as `figure` in format.py: a metric has as many digits wherever it stands
function written(value, share) {
  if (value == null) return "–";
  return share ? `${(value * 100).toFixed(1)}%` : compact(value);
}

const ticked = (value, share) => (share ? `${Number((value * 100).toFixed(1))}%` : compact(value)); // beside an axis
const withUnit = (text, unit) => (unit && text !== "–" ? `${text} ${unit}` : text);
const unitName = ([name, , , unit]) => (unit ? `${name}, ${unit}` : name);

const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// a number as it is typed; NaN for anything else
const typed = (text) => (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text.trim()) ? Number(text) : NaN);

// a length of time
function spell(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return minutes < 60 ? `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

// ---- curves: {stride, x, y}, where a gap is null

function nearest(values, index) {
  if (index === null || index === undefined) return null;
  for (let away = 0; away < values.length; away++) {
    if (values[index - away] != null) return index - away;
    if (values[index + away] != null) return index + away;
  }
  return null;
}

// lowest and highest value of the lines `rows` between two places, the pieces of line at the edges included, outliers left out
function extent(x, rows, [from, to], fences = []) {
  let low = Infinity, high = -Infinity;
  for (const [row, y] of rows.entries()) {
    const [least, most] = fences[row] ?? ANYWHERE;
    const take = (value) => {
      if (value < least || value > most) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    };
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

// two values so far from each other that the numbers beside the chart differ
function farApart(low, high, share) {
  const least = share ? 0.004 : 0.01 * Math.max(Math.abs(low), Math.abs(high));
  if (low === high || high - low >= least) return [low, high];
  return [(low + high - least) / 2, (low + high + least) / 2];
}

function valueRange(found, share, log) {
  if (!found) return [0, 1];
  const [low, high] = log ? found : farApart(...found, share);
  if (log) {
    const edge = Math.max((high - low) * 0.06, 0.04);
    return [low - edge, high + edge];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const bottom = low >= 0 && low < 0.3 * high ? 0 : low - room;
  return [bottom, share && high <= 1 ? Math.min(high + room, 1.005) : high + room];
}

// ---- what the charts of a panel share

class Board {
  constructor(el, refresh) {
    Object.assign(this, { el, refresh, zoom: null, place: null, plots: new Set(), inks: {}, axis: {}, texts: {} });
    this.seen = () => this.theme();
    this.sizes = new ResizeObserver(() => {
      this.theme();
      for (const plot of this.plots) plot.resize();
    });
  }

  get root() {
    return this.el.querySelector(":scope > .tonb-panel");
  }

  // steps in a unit of the axis, its end in units, its name, and the digits of a place on it
  get unit() {
    return this.axis.unit ?? 1;
  }

  get end() {
    const drawn = () => Math.max(0, ...[...this.plots].map((plot) => plot.data?.[0].at(-1) ?? 0)) || 1;
    return this.axis.end ?? drawn();
  }

  get unitName() {
    return this.axis.name ?? this.texts[this.unit === 1 ? "axis_step" : "axis_epoch"];
  }

  where(places) {
    const place = places.find((x) => x != null) ?? this.place;
    return `${this.unitName} ${Number(place.toFixed(this.axis.digits ?? (this.unit === 1 ? 0 : 2)))}`;
  }

  span() {
    return this.zoom ?? [0, this.end];
  }

  zoomTo(range) {
    if (range && range[1] - range[0] < this.end / 1e4) return;
    this.zoom = range;
    for (const plot of this.plots) plot.again();
    this.refresh();
  }

  point(place, from) {
    this.place = place;
    for (const plot of this.plots) if (plot !== from) plot.follow(place);
    this.refresh();
  }

  // the colors of the page, which may change at any time
  ink(key) {
    return (this.inks[key] ??= getComputedStyle(this.root).getPropertyValue(`--tonb-${key}`).trim());
  }

  theme() {
    const { root } = this;
    if (!root) return;
    const style = getComputedStyle(root);
    const [r, g, b] = style.backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    const theme = 0.2126 * r + 0.7152 * g + 0.0722 * b < 128 ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
    const keys = Object.keys(this.inks), before = this.inks;
    this.inks = {};
    if (keys.some((key) => this.ink(key) !== before[key])) for (const plot of this.plots) plot.uplot?.redraw(false);
  }

  // the color of an unseen property follows the theme by a transition of no length, whatever switched the theme
  watch() {
    for (const event of ["transitionrun", "transitionend"]) this.el.addEventListener(event, this.seen);
  }

  leave() {
    for (const event of ["transitionrun", "transitionend"]) this.el.removeEventListener(event, this.seen);
    this.sizes.disconnect();
  }
}

// ---- one chart

class Plot {
  constructor(board, node) {
    Object.assign(this, { board, node, lines: [], share: false, best: null, log: false, marks: [] });
    board.plots.add(this);
    board.sizes.observe(node);
    this.blur = () => board.point(null);
    this.press = (event) => this.key(event);
    node.addEventListener("keydown", this.press);
    node.addEventListener("blur", this.blur);
  }

  leave() {
    cancelAnimationFrame(this.frame);
    this.board.plots.delete(this);
    this.board.sizes.unobserve(this.node);
    this.node.removeEventListener("blur", this.blur);
    this.uplot?.destroy();
  }

  // draw at the next frame what is not drawn yet; `best` is the [x, y] of the point that is marked, `marks` are other places
  update(lines, share, best, log = false, marks = []) {
    const { unit, axis } = this.board;
    const seen = [unit, axis.end, share, log, best?.[0], best?.[1], ...marks,
      ...lines.flatMap(({ curve, color, fence = ANYWHERE }) => [curve, color, ...fence])];
    if (this.seen?.length === seen.length && seen.every((each, i) => each === this.seen[i])) return;
    Object.assign(this, { seen, lines, share, best, log, marks });
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { lines, board } = this;
    if (!board.root) return;
    const tables = lines.map(({ curve, unit = board.unit }) => [curve.x.map((x) => x / unit), this.log ? curve.y.map((y) => this.high(y)) : curve.y]);
    this.data = tables.length ? uPlot.join(tables) : [[], []];
    this.fences = lines.map(({ fence = ANYWHERE }) => fence.map((edge) => this.high(edge)));
    board.theme();
    const kind = JSON.stringify(lines.map(({ color, faint, quiet }) => [color, faint, quiet]));
    if (!this.uplot || this.kind !== kind) this.build(kind);
    else this.uplot.setData(this.data);
    if (board.place !== null) board.refresh(); // what is read under the cursor
  }

  // how high a value is drawn, and the value of a height: a logarithmic axis is a linear one of logarithms
  high(value) {
    return !this.log || value === null ? value : value > 0 ? Math.log10(value) : value === 0 || value === -Infinity ? -Infinity : null;
  }

  valueAt(height) {
    return this.log && height != null ? 10 ** height : height;
  }

  // lowest and highest of what is in sight; where there are only outliers, they are
  inSight() {
    const [x, ...rows] = this.data, span = this.board.span();
    return extent(x, rows, span, this.fences) ?? extent(x, rows, span);
  }

  again() {
    this.uplot?.setData(this.data);
  }

  build(kind) {
    this.kind = kind;
    this.uplot?.destroy();
    const { board } = this, ink = (key) => () => board.ink(key);
    const axis = { stroke: ink("soft"), font: `11px ${FONT}`, ticks: { show: false }, gap: 6 };
    this.uplot = new uPlot({
      width: Math.max(this.node.clientWidth, 120),
      height: HEIGHT,
      padding: [8, 16, 0, 0], // half of the last number sticks out
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 4 },
        points: { size: 7 },
        dataIdx: (plot, row, index) => (plot.series[row].quiet ? null : nearest(plot.data[row], index)),
        bind: { dblclick: () => () => board.zoomTo(null) },
      },
      scales: {
        x: { time: false, range: () => board.span() },
        y: { range: () => valueRange(this.inSight(), this.share, this.log) },
      },
      axes: [
        { ...axis, size: 24, space: 48, incrs: () => this.places(), grid: { show: false }, values: (_, all) => all.map(compact) },
        { ...axis, size: GUTTER, space: 36, grid: { stroke: ink("grid"), width: 1 }, splits: (...of) => this.heights(...of),
          values: (_, all) => all.map((value) => (this.filled() ? ticked(this.valueAt(value), this.share) : "")) },
      ],
      series: [{}, ...this.series(ink)],
      hooks: { setCursor: [(plot) => this.hovered(plot)], setSelect: [(plot) => this.selected(plot)], draw: [(plot) => this.mark(plot)] },
    }, this.data, this.node);
  }

  series(ink) {
    const single = (plot, row) => plot.data[row].filter((value) => value != null).length === 1;
    return (this.lines.length ? this.lines : [{ color: "c1" }]).map(({ color, faint, quiet }) => ({
      stroke: ink(faint ? `${color}-faint` : color),
      width: faint ? 1 : 1.6,
      points: { show: (plot, row) => !faint && single(plot, row), size: 6, fill: ink(color) },
      quiet,
    }));
  }

  // places of the numbers below: whole epochs and steps, unless the reader looks closer
  places() {
    return this.board.zoom || this.board.end < 2 ? STEPS : STEPS.filter((step) => step >= 1);
  }

  // heights of the numbers at the left
  heights(plot, row, low, high, step) {
    if (this.log) {
      const ticks = logTicks(low, high);
      if (ticks) return ticks;
    }
    const first = Math.ceil(low / step - 1e-9), count = Math.floor(high / step + 1e-9) - first + 1;
    const equal = Array.from({ length: Math.max(0, Math.min(count, 50)) }, (_, k) => Number(((first + k) * step).toPrecision(12)));
    return this.log ? equal.map((height) => Math.log10(Number((10 ** height).toPrecision(2)))) : equal;
  }

  filled() {
    return this.data.slice(1).some((values) => values.length);
  }

  mark(plot) {
    const { ctx, bbox } = plot, { board, best } = this, scale = devicePixelRatio;
    ctx.save();
    ctx.fillStyle = board.ink("soft");
    ctx.font = `${10.5 * scale}px ${FONT}`;
    ctx.textAlign = "right";
    ctx.textBaseline = "top";
    ctx.fillText(board.unitName, bbox.left - 10 * scale, bbox.top + bbox.height + 6 * scale);
    const [low, high] = board.span();
    this.outside(plot, ctx, scale);
    for (const place of this.marks.filter((x) => x >= low && x <= high)) {
      const left = plot.valToPos(place, "x", true);
      ctx.fillStyle = board.ink("c2");
      ctx.fillRect(left - scale / 2, bbox.top, scale, bbox.height);
    }
    if (best && best[0] >= low && best[0] <= high) {
      ctx.fillStyle = board.ink("c2");
      ctx.beginPath();
      ctx.arc(plot.valToPos(best[0], "x", true), plot.valToPos(this.high(best[1]), "y", true), 3.2 * scale, 0, 7);
      ctx.fill();
    }
    ctx.restore();
  }

  // small triangles at the edge where points lie outside
  outside(plot, ctx, scale) {
    const { bbox, scales: { y: { min, max } } } = plot, [x, ...rows] = this.data, [from, to] = this.board.span();
    const size = 3.5 * scale, taken = new Set();
    ctx.fillStyle = this.board.ink("soft");
    for (const [row, values] of rows.entries()) {
      const [low, high] = this.fences[row] ?? ANYWHERE;
      values.forEach((value, i) => {
        if (value == null || x[i] < from || x[i] > to || (value >= low && value <= high) || (value >= min && value <= max)) return;
        const above = value > high, left = Math.round(plot.valToPos(x[i], "x", true)), key = `${above} ${Math.round(left / size)}`;
        if (taken.has(key)) return;
        taken.add(key);
        const edge = above ? bbox.top : bbox.top + bbox.height, base = edge + (above ? size : -size) * 1.6;
        ctx.beginPath();
        ctx.moveTo(left, edge);
        ctx.lineTo(left - size, base);
        ctx.lineTo(left + size, base);
        ctx.fill();
      });
    }
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.board.zoomTo(range);
  }

  hovered(plot) {
    if (this.led) return;
    const { left, idx } = plot.cursor;
    const place = left >= 0 && idx != null ? plot.posToVal(left, "x") : null;
    if (place !== this.board.place) this.board.point(place, this);
  }

  // put the cursor at `x`, or away
  follow(x) {
    if (!this.uplot) return;
    this.led = true;
    this.uplot.setCursor({ left: x === null ? -10 : this.uplot.valToPos(x, "x"), top: x === null ? -10 : 10 });
    this.led = false;
  }

  // what is under the cursor: places and values of the lines that are read, null while nothing is pointed at
  reading() {
    if (this.board.place === null || !this.uplot?.data[0].length) return null;
    const { cursor, series, data } = this.uplot;
    const rows = series.map((line, row) => (row && !line.quiet ? row : 0)).filter(Boolean);
    const at = (row) => cursor.idxs?.[row] ?? cursor.idx;
    return { places: rows.map((row) => data[0][at(row)]), values: rows.map((row) => this.valueAt(data[row][at(row)])) };
  }

  key(event) {
    const { board } = this, [low, high] = board.span();
    const places = this.data?.[0].filter((x) => x >= low && x <= high) ?? [];
    if (!places.length) return;
    const here = board.place ?? places.at(-1);
    const near = places.reduce((best, x, i) => (Math.abs(x - here) < Math.abs(places[best] - here) ? i : best), 0);
    const stride = (event.shiftKey ? 10 : 1) * Math.max(1, Math.round(places.length / 100));
    const half = (high - low) / 4;
    const act = {
      ArrowLeft: () => board.point(places[Math.max(0, near - stride)]),
      ArrowRight: () => board.point(places[Math.min(places.length - 1, near + stride)]),
      Home: () => board.point(places[0]),
      End: () => board.point(places.at(-1)),
      "+": () => board.zoomTo([Math.max(low, here - half), Math.min(high, here + half)]),
      Escape: () => (board.point(null), board.zoomTo(null)),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  resize() {
    const width = this.node.clientWidth;
    if (this.uplot && width > 0 && width !== this.uplot.width) this.uplot.setSize({ width, height: HEIGHT });
  }
}

// ---- parts for a panel

// `axis` holds `unit` (steps), `end` (units), `name` and `digits`; each has a default
function Charts({ board, axis = {}, hidden, children }) {
  board.axis = axis;
  return html`<div class="tonb-charts" data-count=${[children].flat(2).filter(Boolean).length} style=${{ visibility: hidden ? "hidden" : "" }}>${children}</div>`;
}

// a line holds `curve` and `color`; `name` for readers of the screen, `label` and `tone` for the legend; `quiet` is not read; values
// outside its `fence` do not count for the range. With `tools` at the right of the title, the legend has a row of its own
function Chart({ board, name = "", title, said = title, lines, share = false, best = null, log = false, marks, note = "", more, legend, tools, over, below, empty }) {
  const node = useRef(), plot = useRef();
  useLayoutEffect(() => {
    plot.current = new Plot(board, node.current);
    return () => plot.current.leave();
  }, []);
  useLayoutEffect(() => plot.current.update(lines, share, best, log, marks));
  const reading = plot.current?.reading() ?? null, { texts } = board;
  const told = lines.filter((line) => line.name && line.curve.y.length).map(({ name, curve: { y } }) =>
    fill(texts.from_to, { name: texts[name] ?? name, first: written(y[0], share), last: written(y.at(-1), share) }));
  const read = lines.filter((line) => !line.quiet);
  const values = read.map(({ label = "", tone }, i) => (label || reading) && html`<span class=${classes("tonb-key", tone)}>${
    [label, reading && written(reading.values[i], share)].filter(Boolean).join(" ")}</span>`);
  const where = reading ? board.where(reading.places) : note;
  const reset = () => (board.zoomTo(null), node.current.focus());
  const keys = html`<span class="tonb-legend">${legend === false ? where : html`<span class="tonb-key">${where}</span>${values}${reading && more?.(reading)}`}</span>`;
  return html`<div class=${classes("tonb-chart", name, tools && "tonb-tall")} data-points=${lines[0]?.curve.x.length ?? 0} data-lines=${lines.length}
      data-scale=${log ? "log" : "linear"}>
    <div class="tonb-chart-head">${typeof title === "string" ? html`<b class="tonb-title">${title}</b>` : title}
      ${tools ? html`<span class="tonb-tools">${tools}</span>` : keys}</div>${tools && keys}
    <div class="tonb-plot" tabindex="0" role="img" hidden=${empty} ref=${node}
      aria-label=${`${[said, told.join(", ")].filter(Boolean).join(": ")}. ${texts.keys}`}></div>
    <span class="tonb-over">${over}${board.zoom && [...board.plots][0] === plot.current && html`<${Button} name="reset" onClick=${reset}>${texts.reset}<//>`}</span>
    </div>${below?.(reading)}`;
}
