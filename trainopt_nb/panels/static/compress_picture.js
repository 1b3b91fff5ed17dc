// The picture of a compression: latency against the metric, a dot for each candidate, its area the bytes to ship.

const FRONT = 256; // height of the picture, pixels
const DOT = { most: 13, least: 3.5 }; // radius in pixels; the most is the largest candidate's
const MANIFOLD = 5; // how many times the fastest fits into the slowest where the scale becomes logarithmic
const SHORT = 26; // letters of a label
const ROUND = [1, 1.5, 2, 3, 5, 7, 10]; // where a logarithmic scale may end, times a power of ten

const called = (row, texts) => row.label || texts.original;

// ---- scales

// kept candidates and the floor set the scale; a refused one far off stands at its edge
function metricRange({ order, face }) {
  const of = (rows) => rows.map((row) => row.metric).filter((value) => value !== null);
  const firm = [...of(order.filter((row) => row.kept)), ...(face.floor ? [face.floor[0]] : [])];
  if (!firm.length) return [0, 1];
  let low = Math.min(...firm), high = Math.max(...firm);
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) * 0.02, high + (Math.abs(high) || 1) * 0.02];
  const reach = 1.5 * (high - low), near = of(order).filter((value) => value > low - reach && value < high + reach);
  [low, high] = [Math.min(low, ...near), Math.max(high, ...near)];
  const margin = 0.1 * (high - low), step = stepOf(high - low + 2 * margin, 4) / 2; // whole steps, so that the scale stays
  return [Math.floor((low - margin) / step) * step, Math.ceil((high + margin) / step) * step];
}

function rounded125(value, up) {
  const unit = 10 ** Math.floor(Math.log10(value)), within = value / unit;
  return unit * (up ? ROUND.find((n) => n >= within * 0.999) : ROUND.findLast((n) => n <= within * 1.001));
}

function latencyScale({ ui }, values, width) {
  const low = Math.min(...values), high = Math.max(...values);
  ui.log ||= high / low > MANIFOLD; // it stays logarithmic
  if (!values.length || !(high > 0)) return { range: [0, 1], numbers: [] };
  if (!ui.log) return { range: [0, stepOf(high * 1.12, 5) * Math.ceil((high * 1.12) / stepOf(high * 1.12, 5))] };
  const range = [rounded125(low / 1.2, false), rounded125(high * 1.2, true)];
  const decades = Math.log10(range[1] / range[0]) * 150 > width ? [1, 3] : [1, 2, 5], numbers = [];
  for (let unit = 10 ** Math.floor(Math.log10(range[0])); unit <= range[1]; unit *= 10)
    numbers.push(...decades.map((n) => n * unit).filter((each) => each >= range[0] * 0.999 && each <= range[1] * 1.001));
  return { range, numbers, log: true };
}

// ---- labels

let pen; // measures texts
function widthOf(text, weight = 400) {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = `${weight} 11px ${FONT}`;
  return pen.measureText(text).width;
}

const apart = (a, b) => a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];

// where the labels stand: none covers a dot, the floor's or another one; the points come in the order of their weight
function placed(points, width, bottom, held, { face, texts }) {
  const blocks = [...held, ...points.map(({ x, y, r }) => [x - r, y - r, x + r, y + r])], found = new Map();
  for (const { row, x, y, r } of points) {
    const text = shortened(called(row, texts), SHORT), used = row.number === face.taken, wide = widthOf(text, used ? 600 : 400) + 3, away = r + (used ? 7 : 4);
    const inside = (left) => Math.max(SPARE.left, Math.min(width - 3 - wide, left)), beside = [x + away, x - away - wide];
    const spots = [...beside.map((left) => [left, y - 7]), ...[-r - 16, r + 2, -r - 27, r + 13].flatMap((down) => [x - wide / 2, x - 4, x + 4 - wide].map((left) => [inside(left), y + down]))];
    for (const [left, top] of spots) {
      const box = [left, top, left + wide, top + 14];
      if (left < SPARE.left || box[2] > width - 2 || top < 0 || box[3] > bottom || !blocks.every((each) => apart(each, box))) continue;
      found.set(row.number, { text, x: left + 1 - x, y: top + 11 - y });
      blocks.push(box);
      break;
    }
  }
  return found;
}

// ---- figures that follow the pointer

function figuresOf(row, face, texts) {
  const times = face.sizes.map((size) => [fill(texts.batch_n, { n: size }), row.times[size] ?? "–", row.number ? (row.faster[size] ?? "") : "",
    row.fastest[size] ? fill(texts.p10, { measured: row.measured[size], time: row.fastest[size], spread: `${Math.round((row.spread[size] ?? 0) * 50)}%` }) : ""]);
  const known = [[texts.parameters, row.parameters], [texts.macs, row.macs], [texts.memory, row.memory]].filter(([, value]) => value && value !== "–");
  return [...times, [texts.size, row.size, row.number ? row.smaller : "", ""], [titled(face.metric), row.figure, row.change[0], ""], ...known.map(([name, value]) => [name, value, "", ""])];
}

function Tip({ point, width, face, texts }) {
  const { row, x, y, r } = point, left = x < width / 2;
  const place = { [left ? "left" : "right"]: `${(left ? x : width - x) + r + 8}px`, top: `${Math.max(0, Math.min(FRONT - 214, y - 40))}px` };
  return html`<div class="tonb-tip" aria-hidden="true" style=${place}><b>${called(row, texts)}</b>${figuresOf(row, face, texts).map(([name, value, more]) => html`<span class="tonb-tip-line" key=${name}><span>${name}</span><span>${value} ${more && html`<b>${more}</b>`}</span></span>`)}
    ${!row.kept && html`<span class="tonb-tip-why">${row.reason}</span>`}</div>`;
}

// ---- the picture

// kept candidates that no other one beats, from the fastest
function frontOf(points, mode) {
  const better = (a, b) => (mode === "max" ? a > b : a < b), found = [];
  for (const point of points.filter(({ row }) => row.kept).sort((a, b) => a.time - b.time || (better(a.row.metric, b.row.metric) ? -1 : 1)))
    if (!found.length || better(point.row.metric, found.at(-1).row.metric)) found.push(point);
  return found;
}

function Spot({ point, label, kind }) {
  const { x, y, r, off } = point;
  return html`<g class=${classes("tonb-spot", kind)} data-candidate=${point.row.number} style=${{ transform: `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)` }}>
    ${off ? html`<path class="tonb-spot-dot" d=${off > 0 ? "M-5,-6h10l-5,8z" : "M-5,6h10l-5,-8z"} />` : html`<circle class="tonb-spot-ring" r=${r + 3} /><circle class="tonb-spot-dot" r=${r} />`}
    ${label && html`<text class="tonb-tick tonb-halo" x=${label.x} y=${label.y}>${label.text}</text>`}</g>`;
}

function Pareto(shared) {
  const { ui, face, texts, order, refresh, choose } = shared, [node, width] = useWidth();
  const size = face.sizes.includes(ui.size) ? ui.size : (face.served[0] ?? face.sizes[0] ?? "1");
  const beside = (row) => row.beside[size];
  const shown = order.filter((row) => beside(row) > 0 && row.metric !== null);
  const x = { ...latencyScale(shared, shown.map((row) => beside(row) * 1000), width), write: compact, name: "ms" };
  const y = { range: metricRange(shared), write: (value) => ticked(value, face.share), name: "" };
  const sx = (x.log ? logarithmic : linear)(x.range, SPARE.left, width - SPARE.right);
  x.numbers &&= x.numbers.filter((each) => sx(each) > SPARE.left + 16); // the name of the axis stands there
  y.numbers = places(...y.range).filter((at) => !face.share || at <= 1.0001);
  const bottom = FRONT - SPARE.bottom, sy = linear(y.range, bottom, SPARE.top);
  const largest = Math.max(1, ...shown.map((row) => row.bytes));
  const points = shown.map((row) => {
    const off = row.metric < y.range[0] ? 1 : row.metric > y.range[1] ? -1 : 0;
    return { row, off, time: beside(row), x: sx(beside(row) * 1000), y: sy(row.metric) - 7 * off, r: off ? 6 : Math.max(DOT.least, DOT.most * Math.sqrt(row.bytes / largest)) };
  });
  const front = frontOf(points, face.mode), first = new Set(front.map(({ row }) => row.number)), mine = ui.candidate ?? null;
  const weight = ({ row }) => (row.number === face.taken ? 0 : row.number === mine ? 1 : row.number === 0 ? 2 : first.has(row.number) ? 3 : row.kept ? 4 : 5);
  const floor = face.floor && { text: fill(texts.floor, { value: face.floor[1] }), y: sy(face.floor[0]) };
  const floorWide = floor ? widthOf(floor.text) + 4 : 0, held = floor ? [[SPARE.left, floor.y - 1, width, floor.y + 1], [width - SPARE.right - floorWide, floor.y - 16, width, floor.y]] : [];
  const labels = placed([...points].sort((a, b) => weight(a) - weight(b)), width, bottom, held, shared);
  const near = points.find(({ row }) => row.number === ui.hover);
  const kind = ({ row }) => classes(!row.kept && "tonb-refused", row.number === face.taken && "tonb-in-use", row.number === mine && "tonb-mine", row.number === ui.hover && "tonb-near");
  const at = (row) => ui.hover !== (row?.number ?? null) && refresh((ui.hover = row?.number ?? null));
  const keys = (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key], line = [...points].sort((a, b) => a.time - b.time);
    if (event.key === "Escape" && mine !== null) choose(null);
    if (!move || !line.length) return;
    event.preventDefault();
    const here = line.findIndex(({ row }) => row.number === (mine ?? face.taken));
    choose(line[Math.min(line.length - 1, Math.max(0, here + (mine === null ? 0 : move)))].row.number);
  };
  const words = Object.fromEntries(face.sizes.map((each) => [each, fill(texts.latency_at, { n: each })]));
  const title = html`<span class="tonb-front-title"><${Choice} names=${face.sizes} chosen=${size} words=${words} label=${texts.batch_shown} choose=${(name) => refresh((ui.size = name))} />${" "}<span>${fill(texts.against, { metric: face.metric.replaceAll("_", " ") })}</span></span>`;
  const legend = html`<span>${texts.key_size}</span><span class="tonb-key-refused">● ${texts.key_refused}</span><span class="tonb-key-used">◯ ${texts.key_used}</span>`;
  const said = fill(texts.alt_front, { metric: titled(face.metric), n: size, count: points.length, front: front.length });
  return html`<${Picture} name="tonb-front" title=${title} legend=${legend} said=${said} width=${width} node=${node} x=${x} y=${y} tall=${FRONT} over=${near && html`<${Tip} ...${{ point: near, width, face, texts }} />`}
    onPointerMove=${(event) => at(nearestTo(event, points)?.row)} onPointerLeave=${() => at(null)} onClick=${(event) => choose(nearestTo(event, points)?.row.number ?? null)} onKeyDown=${keys}>${() => html`
    ${floor && html`<g><title>${face.floor[2]}</title><line class="tonb-floor" x1=${SPARE.left} x2=${width - SPARE.right} y1=${floor.y} y2=${floor.y} /><text class="tonb-floor-text" x=${width - SPARE.right} y=${floor.y - 5} text-anchor="end">${floor.text}</text></g>`}
    <path class="tonb-front-line" d=${line(front)} />
    ${[...points].sort((a, b) => weight(b) - weight(a) || b.r - a.r).map((point) => html`<${Spot} key=${point.row.number} point=${point} label=${labels.get(point.row.number)} kind=${kind(point)} />`)}`}<//>`;
}
