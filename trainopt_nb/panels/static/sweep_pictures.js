// The pictures of a sweep; their frame and scales are in pictures.js.

// ---- scales

// the part of a scale that is drawn: trials far worse than most stand at its edge
function fence(values, way, share) {
  if (!values.length) return [0, 1];
  const sorted = [...values].sort((a, b) => a - b), middle = sorted[sorted.length >> 1];
  let low = sorted[0], high = sorted.at(-1);
  if (way === "max") low = Math.max(low, high - 3 * (high - middle || high - low));
  else high = Math.min(high, low + 3 * (middle - low || high - low));
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
  const step = stepOf(high - low, 4) / 2; // whole steps, so that the scale stays while a sweep goes on
  [low, high] = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
  return share ? [Math.max(0, low), Math.min(1, high)] : [low, high];
}

// where an axis of trials ends that are not all there yet: 1, 2 or 5 times a power of ten, or what is planned
function room(count, planned) {
  const end = stepOf(Math.max(count * 1.02, 20), 1);
  return planned && planned >= count && planned <= end * 1.25 ? planned : end;
}

// ---- rows

const valueOf = (row, which = 0) => (row.result ? row.result[which] : which ? null : row.reports.at(-1)?.[1]) ?? null;
// the values of an objective that its scale is made for: of trials that were not ended early, where there are some
function measured(rows, which = 0) {
  const of = (some) => some.map((row) => valueOf(row, which)).filter((value) => value !== null), done = of(rows.filter((row) => row.state === "done"));
  return done.length >= 5 ? done : of(rows);
}

const arrows = (points, down) => points.map(({ x, y }) => `M${(x - 3).toFixed(1)},${(down ? y - 2 : y + 2).toFixed(1)}h6l-3,${down ? 4.5 : -4.5}z`).join("");
// what follows the pointer and the arrow keys in a picture whose dots are trials
function pointing({ ui, refresh, choose }, points) {
  const at = (row) => refresh((ui.hover = row?.number ?? null));
  return {
    onPointerMove: (event) => at(nearestTo(event, points)?.row),
    onPointerLeave: () => at(null),
    onClick: (event) => {
      const found = nearestTo(event, points);
      if (found) choose(found.row.number);
    },
    onKeyDown: (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move || !points.length) return;
      event.preventDefault();
      const here = points.findIndex(({ row }) => row.number === ui.trial);
      choose(points[here < 0 ? points.length - 1 : Math.min(points.length - 1, Math.max(0, here + move))].row.number, true);
    },
  };
}

function reading({ ui, rows, face, texts }) {
  const row = rows[ui.hover];
  if (!row) return null;
  const value = face.objectives.map(([, , share, unit], i) => withUnit(written(valueOf(row, i), share), unit)).join(", ");
  return html`<span class="tonb-key">${fill(texts.read_trial, { n: row.number, value })}</span>`;
}

const marks = ({ ui, face }, points) => {
  const one = (number) => points.filter(({ row }) => row.number === number);
  return html`<path class="tonb-mark-best" d=${dots(one(face.best), 3.6)} /><path class="tonb-mark-on" d=${dots(one(ui.hover ?? ui.trial), 5.5)} />`;
};

// ---- best value over trials

function BestValue(shared) {
  const { face, texts, order } = shared, [node, width] = useWidth(), [, way, share] = face.objectives[0] ?? ["", "max", false];
  const shown = order.filter((row) => valueOf(row) !== null && row.state !== "failed" && row.state !== "lost");
  const x = { range: [0, room((order.at(-1)?.number ?? 0) + 1, face.planned)], write: compact, name: texts.trial };
  const y = { range: fence(measured(shown), way, share), write: (value) => ticked(value, share) };
  const sx = linear(x.range, SPARE.left, width - SPARE.right), sy = linear(y.range, TALL - SPARE.bottom, SPARE.top);
  const points = shown.map((row) => ({ row, x: sx(row.number), y: sy(valueOf(row)) }));
  const off = ({ row }) => (way === "max" ? valueOf(row) < y.range[0] : valueOf(row) > y.range[1]); // an arrow at the edge stands for it
  const kind = (...states) => points.filter((point) => states.includes(point.row.state) && !off(point));
  let best = null, path = "";
  for (const { row, x: at } of points) {
    const value = row.state === "done" && row.origin !== "repeat" ? valueOf(row) : null;
    if (value === null || (best !== null && (way === "max" ? value <= best : value >= best))) continue;
    path += best === null ? `M${at},${sy(value)}` : `H${at}V${sy(value)}`;
    best = value;
  }
  if (path && points.length) path += `H${points.at(-1).x}`;
  const legend = reading(shared) ?? html`<span class="tonb-key"><span class="tonb-train">●</span> ${texts.trial_dot}</span><span class="tonb-key"><span class="tonb-train">○</span> ${texts.pruned_dot}</span><span class="tonb-key tonb-valid">${texts.best_line}</span>`;
  const said = fill(texts.alt_best, { name: face.objectives[0]?.[0] ?? "", n: shown.length, value: written(best, share), trial: face.best ?? "–" });
  return html`<${Picture} name="tonb-best" title=${texts.best_value} legend=${legend} said=${said} width=${width} node=${node} x=${x} y=${y} ...${pointing(shared, points)}>${() => html`
    <path class="tonb-dots" d=${dots(kind("done", "stopped"), 2.6)} /><path class="tonb-dots tonb-hollow" d=${dots(kind("pruned"), 2.6)} />
    <path class="tonb-dots tonb-faint" d=${dots(kind("training"), 2.6)} /><path class="tonb-dots tonb-faint" d=${arrows(points.filter(off), way === "max")} />
    <path class="tonb-best-line" d=${path} />${marks(shared, points)}`}<//>`;
}

// ---- two objectives

function Front(shared) {
  const { face, texts, order } = shared, [node, width] = useWidth(), [first, second] = face.objectives;
  const shown = order.filter((row) => valueOf(row, 0) !== null && valueOf(row, 1) !== null);
  // no trial of the front lies beyond the fence
  const scale = ([, way, share], which) => {
    const range = fence(measured(shown, which), way, share), front = shown.filter((row) => face.front.includes(row.number)).map((row) => valueOf(row, which));
    return { range: [Math.min(range[0], ...front), Math.max(range[1], ...front)], write: (value) => ticked(value, share), name: "" };
  };
  const x = scale(second, 1), y = scale(first, 0);
  const sx = linear(x.range, SPARE.left, width - SPARE.right), sy = linear(y.range, TALL - SPARE.bottom, SPARE.top);
  const points = shown.map((row) => ({ row, x: sx(valueOf(row, 1)), y: sy(valueOf(row, 0)) }));
  const best = points.filter(({ row }) => face.front.includes(row.number)).sort((a, b) => a.x - b.x);
  const others = points.filter(({ row }) => !face.front.includes(row.number));
  const legend = reading(shared) ?? html`<span class="tonb-key">● ${texts.trial_dot}</span><span class="tonb-key tonb-valid">● ${texts.front_line}</span>`;
  const said = fill(texts.alt_front, { x: second[0], y: first[0], n: shown.length, front: best.length });
  return html`<${Picture} name="tonb-front" title=${`${titled(first[0])} / ${unitName(second)}`} legend=${legend} said=${said} width=${width} node=${node} x=${x} y=${y}
    ...${pointing(shared, points)}>${() => html`<path class="tonb-dots tonb-faint" d=${dots(others, 2.6)} /><path class="tonb-best-line tonb-dashed" d=${line(best)} />
    <path class="tonb-mark-best" d=${dots(best, 3.6)} />${marks({ ...shared, face: { ...face, best: null } }, points)}`}<//>`;
}

// ---- importance

function Importance({ face: { importance }, texts, order }) {
  const few = order.filter((row) => row.result).length < 20, top = importance[0]?.[1] ?? 1;
  return html`<div class="tonb-chart tonb-matter"><div class="tonb-chart-head"><b class="tonb-title">${texts.matter}</b></div>
    ${importance.length ? html`<div class="tonb-bars" role="list">${importance.slice(0, 7).map(([name, share]) => html`<div class="tonb-bar-row" role="listitem" key=${name}>
      <span class="tonb-bar-name" title=${name}>${name}</span><span class="tonb-bar-line"><i style=${{ width: `${(share / top) * 100}%` }}></i></span><span class="tonb-bar-share">${share.toFixed(2)}</span></div>`)}</div>`
      : html`<div class="tonb-empty">${few ? texts.matter_later : texts.matter_few}</div>`}</div>`;
}

// ---- curves of all trials

function Curves(shared) {
  const { ui, face, texts, order } = shared, [node, width] = useWidth(), [, way, share] = face.objectives[0] ?? ["", "max", false];
  const shown = order.filter((row) => row.reports.some(([, value]) => value !== null));
  const end = Math.max(face.epochs ?? 0, ...shown.map((row) => row.reports.at(-1)[0]), 1);
  const x = { range: [0, end], write: compact, name: face.epochs ? texts.axis_epoch : texts.axis_step };
  const y = { range: fence(measured(shown), way, share), write: (value) => ticked(value, share) };
  const sx = linear(x.range, SPARE.left, width - SPARE.right), sy = straight(y.range, TALL - SPARE.bottom, SPARE.top);
  const drawn = shown.map((row) => ({ row, points: row.reports.filter(([, value]) => value !== null).map(([step, value]) => ({ row, x: sx(step), y: sy(value) })) }));
  const paths = (test) => drawn.filter(({ row }) => test(row)).map(({ points }) => (points.length > 1 ? line(points) : dots(points, 1.5))).join("");
  const mine = ui.hover ?? ui.trial;
  const legend = reading(shared) ?? html`<span class="tonb-key tonb-valid">${texts.best_key}</span><span class="tonb-key tonb-train">${texts.trial_training}</span>`;
  return html`<${Picture} name="tonb-curves" title="" legend=${legend} said=${texts.tab_curves} width=${width} node=${node} x=${x} y=${y}
    ...${pointing(shared, drawn.flatMap(({ points }) => points))}>${() => html`<svg x="0" y=${SPARE.top - 2} width=${width} height=${TALL - SPARE.bottom - SPARE.top + 4} viewBox=${`0 ${SPARE.top - 2} ${width} ${TALL - SPARE.bottom - SPARE.top + 4}`}>
    <path class="tonb-lines" d=${paths((row) => row.state !== "training")} /><path class="tonb-lines tonb-live" d=${paths((row) => row.state === "training")} />
    <path class="tonb-lines tonb-of-best" d=${paths((row) => row.number === face.best)} /><path class="tonb-lines tonb-on" d=${paths((row) => row.number === mine)} /></svg>
    ${!shown.length && html`<text class="tonb-tick" x=${width / 2} y=${TALL / 2} text-anchor="middle">${texts.no_curves}</text>`}`}<//>`;
}
