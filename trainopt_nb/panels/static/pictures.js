// The frame of a picture that is drawn as SVG, and its scales: colors are CSS variables, and many dots or lines of one kind are one path.

const TALL = 172; // height of a picture, pixels
const SPARE = { left: 46, right: 14, top: 8, bottom: 24 }; // room around it, for the numbers
const NEAR = 26; // pixels within which the pointer finds a dot

// the width of a node, which follows the panel's
function useWidth() {
  const node = useRef(), [width, set] = useState(480);
  useLayoutEffect(() => {
    const measure = () => node.current.clientWidth && set(Math.max(200, Math.floor(node.current.clientWidth)));
    const sizes = new ResizeObserver(measure);
    measure();
    sizes.observe(node.current);
    return () => sizes.disconnect();
  }, []);
  return [node, width];
}

// ---- scales

// neighboring numbers on an axis: 1, 2 or 5 times a power of ten
function stepOf(span, count) {
  const raw = span / count, unit = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].find((n) => n * unit >= raw * 0.999) * unit;
}

function places(low, high, count = 4) {
  const step = stepOf(high - low, count), first = Math.ceil(low / step - 1e-6);
  return Array.from({ length: Math.floor(high / step + 1e-6) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

const straight = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
const logarithmic = ([low, high], from, to) => (value) => straight([Math.log(low), Math.log(high)], from, to)(Math.log(value));
const linear = (range, from, to) => (value) => straight(range, from, to)(Math.min(range[1], Math.max(range[0], value)));

// ---- shapes

const dots = (points, r) => points.map(({ x, y }) => `M${(x - r).toFixed(1)},${y.toFixed(1)}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`).join("");
const line = (points) => points.map(({ x, y }, i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

// ---- the frame of a picture

// `x` and `y` hold {range, write, name}, and maybe {log, numbers}; `children` draws with the two scales, `over` stands above
function Picture({ name, title, legend, said, width, node, x, y, tall = TALL, over, children, ...events }) {
  const right = width - SPARE.right, bottom = tall - SPARE.bottom;
  const sx = (x.log ? logarithmic : linear)(x.range, SPARE.left, right), sy = linear(y.range, bottom, SPARE.top);
  const numbers = x.numbers ?? places(...x.range, Math.max(2, Math.floor(width / 80)));
  return html`<div class=${classes("tonb-chart", name)}><div class="tonb-chart-head">${typeof title === "string" ? html`<b class="tonb-title">${title}</b>` : title}<span class="tonb-legend">${legend}</span></div>
    <div class="tonb-svg" ref=${node}><svg width=${width} height=${tall} role="img" tabindex="0" aria-label=${said} ...${events}>
      ${(y.numbers ?? places(...y.range)).map((at) => html`<g key=${at}><line class="tonb-grid" x1=${SPARE.left} x2=${right} y1=${sy(at)} y2=${sy(at)} />
        <text class="tonb-tick" x=${SPARE.left - 7} y=${sy(at) + 4} text-anchor="end">${y.write(at)}</text></g>`)}
      ${numbers.map((at) => html`<text class="tonb-tick" key=${`x${at}`} x=${sx(at)} y=${tall - 6} text-anchor=${sx(at) > right - 12 ? "end" : "middle"}>${x.write(at)}</text>`)}
      <text class="tonb-tick" x=${SPARE.left - 7} y=${tall - 6} text-anchor="end">${x.name}</text>
      ${children(sx, sy)}</svg>${over}</div></div>`;
}

// the point that is nearest to the pointer
function nearestTo(event, points) {
  const box = event.currentTarget.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let found = null, least = NEAR ** 2;
  for (const point of points) {
    const away = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (away < least) [found, least] = [point, away];
  }
  return found;
}
