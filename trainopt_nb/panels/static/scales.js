// What a chart makes of its curves before it draws them: smoothed lines, the scale of the vertical axis, what counts as an outlier.
// A curve is {stride, x, y, mean}: a gap in `y` is null, and `mean` is there where a point stands for several steps. As in axes.py and
// scales.py, whose pictures stay in the saved notebook: tests compare the two.

const SMOOTH = 0.8; // weight of the neighbors at first; 0 draws the curve itself
const MEDIAN = 4; // points to either side that a running median takes in
const NOISE = 12; // how many median deviations a point may lie outside of the usual values
const LOG = 50; // highest usual value over the lowest one from which the axis is logarithmic
const CALM = 0.5; // share of it below which a live chart goes back to a linear axis
const ANYWHERE = [-Infinity, Infinity];

const meansOf = (curve) => curve.mean ?? curve.y;

// the weighted sum of the values up to each point, and the sum of their weights
function sums({ stride, x }, values, weight, backward) {
  const kept = new Array(x.length);
  let total = 0, weights = 0, at = null;
  for (let k = 0; k < x.length; k++) {
    const i = backward ? x.length - 1 - k : k;
    const fade = at === null ? 0 : weight ** (Math.abs(x[i] - at) / stride);
    at = x[i];
    total = total * fade + (values[i] ?? 0);
    weights = weights * fade + (values[i] === null ? 0 : 1);
    kept[i] = [total, weights];
  }
  return kept;
}

const lines = new WeakMap();

// the debiased exponential mean over both sides of each point, of the values within [low, high]
function smoothed(curve, weight = SMOOTH, [low, high] = ANYWHERE) {
  const key = `${weight} ${low} ${high}`;
  if (lines.get(curve)?.key === key) return lines.get(curve).line;
  const { stride, x, y } = curve;
  const values = meansOf(curve).map((value) => (value !== null && value >= low && value <= high ? value : null));
  const before = sums(curve, values, weight, false), after = sums(curve, values, weight, true);
  const mean = y.map((value, i) => {
    if (value === null) return null;
    const own = values[i] === null ? 0 : 1, count = before[i][1] + after[i][1] - own;
    return count > 0 ? (before[i][0] + after[i][0] - own * values[i]) / count : value;
  });
  const line = { stride, x, y: mean };
  lines.set(curve, { key, line });
  return line;
}

function median(values) {
  const sorted = Float64Array.from(values).sort(), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

const middles = new WeakMap();

// the running median: it follows a fall and a divergence, and leaves out what happens to a few steps alone
function usual(curve) {
  if (!middles.has(curve)) {
    const values = meansOf(curve).filter((value) => value !== null);
    middles.set(curve, values.map((_, i) => {
      const near = Math.min(MEDIAN, i);
      return median(values.slice(i - near, i + near + 1));
    }));
  }
  return middles.get(curve);
}

const positive = (curves) => curves.every(({ y }) => y.every((value) => value === null || value > 0));

// whether the values ask for a logarithmic axis; `now` keeps one that is drawn from going back and forth
function isLog(curves, now = false) {
  const values = curves.flatMap(usual);
  if (!values.length || !positive(curves)) return false;
  const [low, high] = extremes(values);
  return high >= LOG * (now ? CALM : 1) * low;
}

function extremes(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

const fences = new WeakMap();

// the lowest and the highest value of a curve that is no outlier
function fenceOf(curve, log = false) {
  const known = fences.get(curve) ?? {};
  fences.set(curve, known);
  return (known[log] ??= fenced(curve, log));
}

function fenced(curve, log) {
  const scale = log ? Math.log10 : (value) => value, back = log ? (value) => 10 ** value : (value) => value;
  const middle = usual(curve).map(scale);
  if (middle.length <= MEDIAN) return ANYWHERE;
  const means = meansOf(curve), away = [];
  let at = 0;
  curve.y.forEach((value, i) => {
    if (means[i] === null) return;
    if (value !== null) away.push(Math.abs(scale(value) - middle[at]));
    at++;
  });
  const [low, high] = extremes(middle);
  const reach = Math.max(high - low, NOISE * (away.length ? median(away) : 0), log ? 1 : 0) || Math.abs(high) / 2 || 1;
  return [back(low - reach), back(high + reach)];
}

// how many points between two places lie outside
function outliers({ x, y }, [low, high], [from, to]) {
  return y.reduce((count, value, i) => count + (value !== null && (value < low || value > high) && x[i] >= from && x[i] <= to), 0);
}

const closer = new WeakMap();

// a curve with the closer points of a range in the place of its own
function pieced(curve, piece) {
  if (!piece?.x.length || piece.stride >= curve.stride) return curve;
  if (closer.get(curve)?.piece === piece) return closer.get(curve).whole;
  const first = curve.x.findIndex((x) => x >= piece.x[0]), last = curve.x.findLastIndex((x) => x <= piece.x.at(-1));
  const join = (own, other) => own.slice(0, first < 0 ? own.length : first).concat(other, own.slice(last + 1));
  const whole = { stride: piece.stride, x: join(curve.x, piece.x), y: join(curve.y, piece.y), mean: join(meansOf(curve), meansOf(piece)) };
  closer.set(curve, { piece, whole });
  return whole;
}

// the numbers at a logarithmic axis between two logarithms, as logarithms
function logTicks(low, high) {
  const decades = high - low;
  if (decades < 0.6) return null; // numbers at equal distances serve better
  const steps = decades > 2.5 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5], stride = Math.ceil(decades / 5);
  const ticks = [];
  for (let k = Math.floor(low); k <= high; k++)
    for (const step of steps) {
      const tick = k + Math.log10(step);
      if (k % stride === 0 && tick >= low && tick <= high) ticks.push(tick);
    }
  return ticks;
}
