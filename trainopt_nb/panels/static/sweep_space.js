// What a sweep searches: parallel coordinates to select trials, ranges to move, and values to try.

const AXES = { side: 52, top: 40, bottom: 22, tall: 190, apart: 88 }; // pixels; the last: between two axes, at least
const FOLD = 6; // ranges that are shown before the others are unfolded

// an axis travels as [name, type, low, high, log, labels]
function axisOf([name, type, low, high, log, labels]) {
  const to = log ? Math.log : Number, back = log ? Math.exp : Number;
  const place = (value) => (high > low ? (to(value) - to(low)) / (to(high) - to(low)) : 0.5);
  if (type !== "choice") return { name, type, low, high, log, place, write: compact, at: (p) => rounded(back(to(low) + p * (to(high) - to(low))), type, p, low, high) };
  return { name, type, labels, place: (value) => (labels.indexOf(value) < 0 ? null : labels.length > 1 ? labels.indexOf(value) / (labels.length - 1) : 0.5), write: spelled };
}

// a value of three digits, and the very ends where they are meant
function rounded(value, type, place, low, high) {
  if (place <= 0) return low;
  if (place >= 1) return high;
  return type === "int" ? Math.round(value) : Number(value.toPrecision(3));
}

// a number that can be typed again, with so many digits
const entered = (value, digits = 6) => {
  const short = Number(value.toPrecision(digits));
  return short !== 0 && (Math.abs(short) < 1e-3 || Math.abs(short) >= 1e6) ? short.toExponential().replace("e+", "e") : String(short);
};

function spelled(value) {
  return typeof value === "number" ? compact(Number(value.toPrecision(3))) : value === null ? "None" : String(value);
}

function valuesText(row, axes) {
  const known = axes.map(([name]) => name).filter((name) => name in row.values);
  return known.map((name) => `${name} ${spelled(row.values[name])}`).join(", ");
}

// ---- parallel coordinates

// the axes with those of the objectives behind them, better above
function columns({ face, order }) {
  const dimensions = face.axes.map((axis) => ({ ...axisOf(axis), of: (row) => row.values[axis[0]] }));
  const results = face.objectives.map(([name, way, share, unit], which) => {
    const front = order.filter((row) => face.front.includes(row.number)).map((row) => valueOf(row, which)), inner = fence(measured(order, which), way, share);
    const [low, high] = [Math.min(inner[0], ...front), Math.max(inner[1], ...front)]; // no trial of the front lies beyond the fence
    const place = (value) => (value === null ? null : Math.min(1, Math.max(0, (value - low) / (high - low))));
    return { name, result: which, low: way === "max" ? low : high, high: way === "max" ? high : low, write: (value) => withUnit(written(value, share), unit),
      place: (value) => (value === null || way === "max" ? place(value) : 1 - place(value)), of: (row) => valueOf(row, which) };
  });
  return [...dimensions, ...results];
}

function brushed(ui, all, placed) {
  const live = [...ui.brushes].map(([name, range]) => [all.findIndex((axis) => axis.name === name), range]).filter(([at]) => at >= 0);
  return live.length ? placed.filter(({ at }) => live.every(([i, [low, high]]) => at[i] != null && at[i] >= low - 1e-9 && at[i] <= high + 1e-9)) : null;
}

// the best tenth, as a brush on the axis of the first objective
function bestTenth(all, placed) {
  const i = all.findIndex((axis) => axis.result === 0);
  const found = placed.filter(({ row, at }) => row.state === "done" && at[i] != null).map(({ at }) => at[i]).sort((a, b) => b - a);
  return found.length ? [all[i].name, [found[Math.min(found.length - 1, Math.max(2, Math.ceil(found.length / 10)) - 1)], 1]] : null;
}

function Axis({ axis, x, range, ui, refresh, apart }) {
  const { top, bottom, tall } = AXES, down = tall - bottom, y = (place) => down - place * (down - top);
  const place = (event) => Math.min(1, Math.max(0, (down - (event.clientY - event.currentTarget.ownerSVGElement.getBoundingClientRect().top)) / (down - top)));
  const press = (event) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    ui.brushing = { name: axis.name, from: place(event) };
    event.preventDefault();
  };
  const move = (event) => {
    if (ui.brushing?.name !== axis.name) return;
    const here = place(event), { from } = ui.brushing;
    if (Math.abs(here - from) * (down - top) >= 4) ui.brushes.set(axis.name, [Math.min(from, here), Math.max(from, here)]);
    else ui.brushes.delete(axis.name);
    refresh();
  };
  const leave = () => void (ui.brushing = null);
  const brush = ui.brushes.get(axis.name), choice = axis.type === "choice";
  const [low, high] = !choice && range ? range.map(axis.place) : [0, 1];
  return html`<g class="tonb-axis" data-axis=${axis.name}><text class="tonb-axis-name" x=${x} y="13" text-anchor="middle"><title>${axis.name}</title>${shortened(axis.name, Math.floor(apart / 7.5))}</text>
    <line class="tonb-axis-line" x1=${x} x2=${x} y1=${top} y2=${down} />${!choice && range && (low > 0.001 || high < 0.999) && html`<line class="tonb-axis-range" x1=${x} x2=${x} y1=${y(low)} y2=${y(high)} />`}
    ${choice ? axis.labels.map((label, i) => html`<text class=${classes("tonb-tick tonb-halo", range && !range[i] && "tonb-off")} key=${i} x=${x + 6} y=${y(axis.place(label)) + 4}>${shortened(spelled(label), Math.floor(apart / 9))}</text>`)
      : html`<text class="tonb-tick" x=${x} y=${top - 9} text-anchor="middle">${axis.write(axis.high)}</text><text class="tonb-tick" x=${x} y=${tall - 6} text-anchor="middle">${axis.write(axis.low)}</text>`}
    ${brush && html`<rect class="tonb-brush" x=${x - 7} width="14" y=${y(brush[1])} height=${Math.max(3, y(brush[0]) - y(brush[1]))} />`}
    <rect class="tonb-hit" x=${x - 14} width="28" y=${top - 6} height=${down - top + 12} onPointerDown=${press} onPointerMove=${move} onPointerUp=${leave} /></g>`;
}

function Parallel(shared) {
  const { ui, face, texts, order, live, send, refresh } = shared, [node, wide] = useWidth();
  const all = columns(shared), { side, top, bottom, tall, apart } = AXES, down = tall - bottom;
  const width = Math.max(wide, 2 * side + apart * (all.length - 1)), x = (i) => (all.length > 1 ? side + (i * (width - 2 * side)) / (all.length - 1) : width / 2);
  const placed = order.filter((row) => row.state === "done" || row.state === "pruned").map((row) => ({ row, at: all.map((axis) => {
    const value = axis.of(row);
    return value == null ? null : axis.place(value);
  }) }));
  const path = ({ at }) => at.map((place, i) => (place == null ? "" : `${i && at[i - 1] != null ? "L" : "M"}${x(i).toFixed(1)},${(down - place * (down - top)).toFixed(1)}`)).join("");
  const chosen = brushed(ui, all, placed), held = new Set((chosen ?? []).map(({ row }) => row.number));
  const mine = ui.hover ?? ui.trial, one = (number) => placed.filter(({ row }) => row.number === number).map(path).join("");
  const narrow = () => {
    send({ command: "narrow_to", trials: [...held] });
    ui.brushes.clear();
    refresh();
  };
  const tenth = () => refresh(ui.brushes.set(...bestTenth(all, placed)));
  const clear = () => refresh(ui.brushes.clear());
  const can = live && Object.keys(face.ranges).length > 0;
  const legend = chosen ? html`<span>${fill(texts.brushed, { n: held.size, all: placed.length })}</span>${can && html`<${Link} name="narrow-to" disabled=${!held.size} onClick=${narrow}>${texts.narrow_to}<//>`}<${Link} name="clear" onClick=${clear}>${texts.clear}<//>`
    : html`<span>${texts.brush}</span>${bestTenth(all, placed) && html`<${Link} name="tenth" onClick=${tenth}>${texts.choose_best}<//>`}`;
  return html`<div class="tonb-chart tonb-parallel" data-chosen=${chosen ? held.size : ""}><div class="tonb-chart-head"><span class="tonb-legend">${legend}</span></div>
    <div class="tonb-svg tonb-wide" ref=${node}><svg width=${width} height=${tall} role="img" aria-label=${fill(texts.alt_values, { n: placed.length })}>
      <path class=${classes("tonb-lines", chosen && "tonb-back")} d=${placed.filter(({ row }) => !held.has(row.number)).map(path).join("")} />
      <path class="tonb-lines tonb-chosen-lines" d=${(chosen ?? []).map(path).join("")} /><path class="tonb-lines tonb-of-best" d=${one(face.best)} /><path class="tonb-lines tonb-on" d=${one(mine)} />
      ${all.map((axis, i) => html`<${Axis} key=${axis.name} axis=${axis} x=${x(i)} apart=${all.length > 1 ? x(1) - x(0) : width} range=${axis.result === undefined ? face.ranges[axis.name] : null} ...${shared} />`)}</svg></div></div>`;
}

// ---- ranges

// what was sent stays until the kernel sends another range
function ownRange({ ui, face }, name) {
  const held = ui.ranges.get(name), now = face.ranges[name];
  const refused = held?.sent && String(face.notes) !== held.notes; // the kernel says why
  if (held && (refused || String(held.from) !== String(now) || (held.sent && Date.now() - held.sent > 3 * SLOW))) ui.ranges.delete(name);
  return ui.ranges.get(name)?.ends ?? now;
}

function sendRange({ ui, face, send, refresh, texts }, axis, ends, text) {
  const [low, high] = ends, now = face.ranges[axis.name];
  const fits = Number.isFinite(low) && Number.isFinite(high) && low < high && (!axis.log || low > 0);
  ui.refused = fits ? "" : fill(texts.range_refused, { name: axis.name, positive: axis.log ? texts.positive : "", found: text === "" ? texts.nothing : (text ?? `${low}, ${high}`) });
  if (fits && String(ends) !== String(now)) {
    ui.ranges.set(axis.name, { ends, from: now, sent: Date.now(), notes: String(face.notes) });
    send({ command: "range", name: axis.name, low, high });
  } else ui.ranges.delete(axis.name);
  refresh();
}

function Range(shared) {
  const { ui, axis, texts, live, refresh, face } = shared, [low, high] = ownRange(shared, axis.name), track = useRef();
  const set = (which, value) => {
    const ends = which ? [low, value] : [value, high];
    if (ends[0] < ends[1]) ui.ranges.set(axis.name, { ends, from: face.ranges[axis.name] });
    refresh();
  };
  const at = (event) => {
    const box = track.current.getBoundingClientRect();
    return axis.at(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
  };
  const handle = (which) => ({
    onPointerDown: (event) => {
      event.currentTarget.setPointerCapture(event.pointerId);
      ui.moving = which;
    },
    onPointerMove: (event) => event.currentTarget.hasPointerCapture(event.pointerId) && set(which, at(event)),
    onPointerUp: () => ui.ranges.has(axis.name) && sendRange(shared, axis, ui.ranges.get(axis.name).ends),
    onKeyDown: (event) => {
      const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const value = which ? high : low;
      set(which, axis.type === "int" && !axis.log ? Math.min(axis.high, Math.max(axis.low, value + move)) : axis.at(Math.min(1, Math.max(0, axis.place(value) + move * 0.02))));
    },
    onKeyUp: (event) => event.key.startsWith("Arrow") && ui.ranges.has(axis.name) && sendRange(shared, axis, ui.ranges.get(axis.name).ends),
  });
  const [from, to] = [low, high].map((value) => Math.min(1, Math.max(0, axis.place(value))));
  const knob = (which, value, place) => html`<span class="tonb-knob" role="slider" tabindex=${live ? 0 : -1} aria-label=${fill(which ? texts.to : texts.from, { name: axis.name })}
    aria-valuemin=${axis.low} aria-valuemax=${axis.high} aria-valuenow=${value} aria-disabled=${String(!live)} style=${{ left: `${place * 100}%` }} ...${live ? handle(which) : {}}></span>`;
  // what is typed stays until it is confirmed, however often the page is drawn meanwhile
  const field = (which, value) => {
    const key = `${axis.name} ${which}`, held = ui.typed?.key === key ? ui.typed.text : null;
    const commit = () => {
      if (ui.typed?.key !== key) return;
      const text = ui.typed.text, found = typed(text);
      ui.typed = null;
      sendRange(shared, axis, which ? [low, found] : [found, high], text);
    };
    const press = (event) => {
      if (event.key === "Enter") commit();
      if (event.key === "Escape") refresh((ui.typed = null));
    };
    return html`<input class="tonb-end" type="text" inputmode="decimal" autocomplete="off" disabled=${!live} aria-label=${fill(which ? texts.to : texts.from, { name: axis.name })} title=${entered(value)}
      value=${held ?? entered(value, 3)} onInput=${(event) => refresh((ui.typed = { key, text: event.target.value }))} onChange=${commit} onKeyDown=${press} />`;
  };
  return html`<span class="tonb-dimension" data-name=${axis.name}><span class="tonb-dimension-name" title=${axis.name}>${axis.name}</span>
    <span class="tonb-track" ref=${track}><i style=${{ left: `${from * 100}%`, right: `${(1 - to) * 100}%` }}></i>${knob(0, low, from)}${knob(1, high, to)}</span>
    <span class="tonb-ends">${field(0, low)}–${field(1, high)}</span></span>`;
}

function Chips(shared) {
  const { ui, axis, live, send, face, texts, refresh } = shared, on = ownRange(shared, axis.name);
  const turn = (i) => {
    const ends = on.map((each, k) => (k === i ? !each : each)), kept = ends.flatMap((each, k) => (each ? [k] : []));
    ui.refused = kept.length ? "" : texts.last_choice;
    if (kept.length) {
      ui.ranges.set(axis.name, { ends, from: face.ranges[axis.name], sent: Date.now(), notes: String(face.notes) });
      send({ command: "choices", name: axis.name, kept });
    }
    refresh();
  };
  return html`<span class="tonb-dimension" data-name=${axis.name}><span class="tonb-dimension-name" title=${axis.name}>${axis.name}</span><span class="tonb-chips">${axis.labels.map((label, i) => html`<button
    type="button" class="tonb-chip" key=${i} aria-pressed=${String(Boolean(on[i]))} disabled=${!live} onClick=${() => turn(i)}>${shortened(spelled(label), 24)}</button>`)}</span></span>`;
}

function Ranges(shared) {
  const { ui, face, texts, refresh } = shared;
  const known = face.axes.filter(([name]) => name in face.ranges).map(axisOf), more = known.length - FOLD;
  const shown = ui.unfolded || more < 2 ? known : known.slice(0, FOLD);
  const turn = () => refresh((ui.unfolded = !ui.unfolded));
  return html`<div class="tonb-ranges" hidden=${!known.length}><div class="tonb-chart-head tonb-ranges-head"><b class="tonb-title">${texts.ranges}</b><span class="tonb-legend">${face.controls && face.live ? texts.ranges_hint : ""}</span></div>${shown.map((axis) => html`<${axis.type === "choice" ? Chips : Range} key=${axis.name} ...${shared} axis=${axis} />`)}
    ${more > 1 && html`<${Link} name="fold" onClick=${turn}>${ui.unfolded ? texts.fewer_ranges : fill(texts.more_ranges, { n: more })}<//>`}</div>`;
}

// ---- values to try

function TryForm(shared) {
  const { ui, face, texts, rows, send, refresh } = shared, first = useRef();
  const axes = face.axes.map(axisOf), from = rows[ui.trial ?? face.best]?.values ?? {};
  const [held, hold] = useState(() => Object.fromEntries(axes.map(({ name, type, labels }) => [name, !(name in from) ? "" : type === "choice" ? String(labels.indexOf(from[name])) : entered(from[name])])));
  useLayoutEffect(() => first.current?.querySelector("input, select")?.focus(), []);
  const close = () => refresh((ui.trying = false));
  const set = (name) => (event) => hold({ ...held, [name]: event.target.value });
  const go = (event) => {
    event.preventDefault();
    const values = {};
    for (const { name, type, low, high } of axes) {
      const text = held[name].trim(), [least, most] = type === "choice" ? [] : (face.ranges[name] ?? [low, high]);
      if (!text) continue;
      const value = type === "choice" ? Number(text) : typed(text);
      if (type !== "choice" && !(value >= least && value <= most && (type !== "int" || Number.isInteger(value))))
        return refresh((ui.refused = fill(texts.try_refused, { name, kind: type === "int" ? texts.a_whole : texts.a_number, low: entered(least), high: entered(most), found: text })));
      values[name] = value;
    }
    ui.refused = "";
    if (Object.keys(values).length) send({ command: "try", values });
    close();
  };
  const offered = ({ name, labels }) => labels.map((label, i) => [label, i]).filter(([, i]) => face.ranges[name]?.[i] ?? true);
  const field = (axis) => (axis.type === "choice"
    ? html`<select class="tonb-lr" value=${held[axis.name]} onChange=${set(axis.name)}><option value="">${texts.try_empty}</option>${offered(axis).map(([label, i]) => html`<option key=${i} value=${String(i)} selected=${held[axis.name] === String(i)}>${spelled(label)}</option>`)}</select>`
    : html`<input class="tonb-lr" type="text" inputmode="decimal" autocomplete="off" placeholder=${texts.try_empty} value=${held[axis.name]} onInput=${set(axis.name)} />`);
  return html`<form class="tonb-try-form" ref=${first} aria-label=${texts.try_title} onSubmit=${go} onKeyDown=${(event) => event.key === "Escape" && close()}><b class="tonb-title">${texts.try_title}</b>
    <div class="tonb-try-fields">${axes.map((axis) => html`<label class="tonb-try-field" key=${axis.name}><span title=${axis.name}>${axis.name}</span>${field(axis)}</label>`)}</div>
    <span class="tonb-answers"><button type="button" class="tonb-button" onClick=${close}>${texts.cancel}</button><button type="submit" class="tonb-button tonb-go">${texts.try_send}</button></span></form>`;
}
