// The charts of a training: losses, metrics side by side, the learning rate. What the reader chooses here stays in the page.

const MOST = 6; // metrics that are drawn, as in pictures.py
const RATE = "learning rate"; // name of its curve, as in train_panel.py
const AGAIN = 2000; // milliseconds after which the closer points of a range that still grows are asked for again
const NEAR = 0.012; // share of the axis within which a place is under the cursor

// ask for the closer points of what is zoomed in on, where the curves of the page are thinned
function askCloser({ store, board, curves, send }, unit) {
  const thinned = Object.values(curves).filter((curve) => curve.stride > 1 && curve.x.length);
  if (!board.zoom || !thinned.length) return;
  const [from, to] = board.zoom.map((place) => place * unit), room = (to - from) / 20;
  const newest = Math.max(...thinned.map((curve) => curve.x.at(-1)));
  const key = `${from} ${to} ${Math.min(newest, to)}`;
  if (store.asked?.key === key || (store.asked?.range === `${from} ${to}` && Date.now() - store.asked.at < AGAIN)) return;
  store.asked = { key, range: `${from} ${to}`, at: Date.now() };
  send({ piece: [from - room, to + room] });
}

// the curve of a name, with closer points where the reader looks closer
function seen({ store, board, curves }, name) {
  const curve = curves[name] ?? EMPTY;
  return board.zoom ? pieced(curve, store.piece?.curves[name]) : curve;
}

// what the reader chose for a chart, and what follows from its curves
function viewOf({ ui, curves, refresh, texts, board }, name, names, unit) {
  const view = ((ui.views ??= {})[name] ??= { log: null, auto: false, all: false });
  const held = names.map((each) => curves[each]).filter((curve) => curve?.y.length);
  const can = positive(held);
  view.auto = isLog(held, view.auto);
  const log = can && (view.log ?? view.auto), span = board.span().map((place) => place * unit);
  const fences = held.map((curve) => fenceOf(curve, log));
  const count = held.reduce((sum, curve, i) => sum + outliers(curve, fences[i], span), 0);
  const turn = (values) => () => refresh(Object.assign(view, values));
  return {
    log,
    fence: (curve) => (view.all || !held.includes(curve) ? ANYWHERE : fenceOf(curve, log)),
    scale: html`<${Button} name="scale" aria-pressed=${String(log)} disabled=${!can} title=${can ? texts.log_tip : texts.log_off}
      onClick=${turn({ log: !log })}>${texts.log}<//>`,
    over: count > 0 && html`<${Button} name="beyond" aria-pressed=${String(view.all)} onClick=${turn({ all: !view.all })}
      title=${fill(view.all ? texts.within_tip : texts.beyond_tip, { n: count })}>${view.all ? texts.within : fill(texts.beyond, { n: count })}<//>`,
  };
}

function Smoothing({ ui, texts, refresh }) {
  const slide = (event) => refresh((ui.smooth = Number(event.target.value)));
  return html`<label class="tonb-smooth" title=${texts.smoothing_tip}><span>${texts.smoothing}</span><input type="range" min="0" max="0.99" step="0.01"
    aria-label=${texts.smoothing} value=${ui.smooth} onInput=${slide} /><b class="tonb-smooth-value">${ui.smooth.toFixed(2)}</b></label>`;
}

function lossChart(shared, unit) {
  const { ui, face, curves, texts, board } = shared;
  const names = ["train loss", "valid loss"], view = viewOf(shared, "loss", names, unit);
  const [train, valid] = names.map((name) => seen(shared, name)), [fence, other] = names.map((name) => view.fence(curves[name]));
  const lines = [
    { curve: train, color: "c1", faint: true, quiet: true, name: "train loss", fence },
    { curve: smoothed(train, ui.smooth, fence), color: "c1", label: texts.train, tone: "tonb-train" },
    { curve: valid, color: "c2", label: texts.valid, tone: "tonb-valid", name: "valid loss", fence: other },
  ];
  return html`<${Chart} key="loss" board=${board} name="tonb-loss" title=${texts.loss} lines=${lines} log=${view.log} note=${face.lowest ?? ""}
    over=${view.over} tools=${html`<${Smoothing} ...${shared} />${view.scale}`} />`;
}

function metricChart(shared, unit, place) {
  const { ui, face, curves, texts, board, refresh } = shared, { metrics, best } = face;
  const name = ui.metrics[place], share = face.shares.includes(name), left = metrics.filter((each) => !ui.metrics.includes(each));
  const view = viewOf(shared, name, [name], unit), curve = curves[name];
  const line = { curve: seen(shared, name ?? ""), color: "c2", tone: "tonb-valid", name, fence: share ? ANYWHERE : view.fence(curve) };
  const choose = (chosen) => {
    const held = ui.metrics.indexOf(chosen);
    if (held >= 0) ui.metrics[held] = name; // the two change places
    ui.metrics[place] = chosen;
    refresh();
  };
  const marked = best && best.name === name;
  const add = place === ui.metrics.length - 1 && left.length > 0 && ui.metrics.length < MOST;
  const tools = html`${!share && view.scale}${ui.metrics.length > 1 && html`<${Button} name="remove" title=${texts.remove_chart}
      aria-label=${texts.remove_chart} onClick=${() => refresh(ui.metrics.splice(place, 1))}>×<//>`}
    ${add && html`<${Button} name="add" title=${texts.add_chart} aria-label=${texts.add_chart} onClick=${() => refresh(ui.metrics.push(left[0]))}>+<//>`}`;
  const title = html`<${Choice} names=${metrics} chosen=${name} label=${texts.drawn} choose=${choose} />`;
  return html`<${Chart} key=${`metric ${place}`} board=${board} name="tonb-other" title=${title} said=${name} lines=${name ? [line] : []} share=${share}
    log=${!share && view.log} best=${marked ? [best.step / unit, best.value] : null} note=${marked ? best.text : ""} tools=${tools} over=${!share && view.over} />`;
}

function rateChart(shared, unit) {
  const { face, texts, board } = shared, curve = seen(shared, RATE), [base, factor] = face.base, { length } = curve.x;
  const held = length && face.step > curve.x[length - 1]; // the last rate holds until now
  const line = held ? { ...curve, x: [...curve.x, face.step], y: [...curve.y, curve.y[length - 1]], mean: undefined } : curve;
  const marks = face.by_hand.map(([step]) => step / unit);
  const [from, to] = board.span();
  const told = () => {
    const under = face.by_hand.filter((_, i) => Math.abs(marks[i] - board.place) < NEAR * (to - from)).at(-1);
    return under && html`<span class="tonb-key tonb-valid">${fill(texts.lr_set, { lr: under[1], before: under[2] || "–" })}</span>`;
  };
  const note = base && factor && factor !== "1" ? `${face.lr} = ${fill(texts.lr_is, { base, factor })}` : face.lr;
  return html`<${Chart} key="rate" board=${board} name="tonb-rate" title=${texts.lr_title} lines=${[{ curve: line, color: "c1", tone: "tonb-train", name: texts.lr_long }]}
    marks=${marks} note=${note} more=${told} tools />`;
}

function Pictures(shared) {
  const { ui, face, board } = shared, { metrics, axis: [unit, end] } = face;
  const begun = face.state !== "waiting"; // the charts keep their place before the run begins
  ui.smooth ??= SMOOTH;
  ui.metrics = (ui.metrics ?? []).filter((name) => metrics.includes(name));
  if (!ui.metrics.length) ui.metrics = metrics.slice(0, 1);
  board.axis = { unit, end };
  askCloser(shared, unit);
  const places = ui.metrics.length || !begun ? Math.max(1, ui.metrics.length) : 0;
  return html`<${Charts} board=${board} axis=${{ unit, end }} hidden=${!begun}>
    ${[lossChart(shared, unit), ...Array.from({ length: places }, (_, place) => metricChart(shared, unit, place)), rateChart(shared, unit)]}<//>`;
}
