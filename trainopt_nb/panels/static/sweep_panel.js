// The panel of a sweep: it shows what the kernel sends of its trials, and sends back what is clicked.

const MANY = 60; // rows of the table before the others are asked for
const LEFT = ["done", "pruned", "failed", "stopped", "lost"]; // states of a trial that ended; a lost one comes again
const CUT = ["pruned", "stopped"]; // of those whose training can go on

// ---- controls

// the field of the workers: `ui.workers` holds what is typed, then `from`, the number shown when it was sent
function Workers({ ui, face, texts, live, send, refresh }) {
  if (!live || (ui.workers?.from !== undefined && ui.workers.from !== face.workers)) ui.workers = null;
  if (!live || ui.asked === face.workers) ui.asked = null; // the last number that was sent has arrived
  const commit = () => {
    if (!ui.workers || ui.workers.from !== undefined) return;
    const text = ui.workers.text.trim(), value = /^\d+$/.test(text) ? Number(text) : NaN, now = ui.asked ?? face.workers;
    ui.refused = value >= 1 && value <= 1024 ? "" : fill(texts.workers_refused, { found: text || texts.nothing });
    if (ui.refused || value === now) ui.workers = null;
    else {
      [ui.workers.from, ui.asked] = [face.workers, value];
      send({ command: "workers", value });
    }
    refresh();
  };
  const type = (event) => refresh((ui.workers = { text: event.target.value }));
  const key = (event) => {
    if (event.key === "Enter") commit();
    if (event.key === "Escape") refresh((ui.workers = null));
  };
  return html`<label class="tonb-field">${texts.workers}<input class="tonb-lr tonb-workers" type="text" inputmode="numeric" autocomplete="off" aria-label=${texts.workers_long}
    disabled=${!live} value=${ui.workers ? ui.workers.text : face.workers || ""} onInput=${type} onChange=${commit} onKeyDown=${key} /></label>`;
}

function Controls(shared) {
  const { ui, face, texts, live, send, refresh, waits } = shared, paused = face.state === "paused";
  const press = (name, command, done) => ({ name, waits: waits === name, disabled: !live, onClick: () => {
    send({ command });
    click(ui, name, done);
    refresh();
  } });
  const seen = (shown) => ({ visibility: shown ? "" : "hidden" }); // both words keep their place
  const turn = () => refresh((ui.trying = !ui.trying));
  return html`<div class="tonb-controls" hidden=${!face.controls}><${Workers} ...${shared} />
    <${Button} ...${press("pause", paused ? "resume" : "pause", (now) => (now.state === "paused") !== paused)}>
      <span style=${seen(!paused)}>${texts.pause}</span><span style=${seen(paused)}>${texts.resume}</span><//>
    <${Button} name="try" disabled=${!live || !face.axes.length} aria-expanded=${String(Boolean(ui.trying))} onClick=${turn}>${texts.try}<//>
    <${Button} ...${press("stop", "stop", (now) => !now.live)}>${texts.stop}<//></div>`;
}

// ---- the table of trials

// what a column is sorted by; the first click puts the best, the newest or the largest first
function sortable({ face }) {
  const results = face.objectives.map(([name, way, , unit], which) => [`value${which}`, unitName([name, way, null, unit]), (row) => valueOf(row, which), way === "min" ? 1 : -1]);
  const texts = (name, of, first) => [name, null, of, first];
  return [texts("trial", (row) => row.number, -1), texts("state", (row) => LEFT.indexOf(row.state), 1), ...results, texts("epochs", (row) => row.epochs, -1), texts("time", (row) => row.seconds, -1)];
}

function sorted(shared) {
  const { ui, order } = shared, columns = sortable(shared);
  const [key, , of, first] = columns.find(([key]) => key === ui.sort?.key) ?? columns.find(([key]) => key === "value0") ?? columns[0];
  const way = first * (ui.sort?.turned ? -1 : 1);
  return [...order].sort((a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === null || y === null) return x === y ? b.number - a.number : x === null ? 1 : -1;
    return (x - y) * way || (key.startsWith("value") ? a.number - b.number : b.number - a.number);
  });
}

function Header(shared) {
  const { ui, texts, face, refresh } = shared, chosen = ui.sort?.key ?? (face.objectives.length ? "value0" : "trial");
  const turn = (key) => () => refresh((ui.sort = { key, turned: chosen === key ? !ui.sort?.turned : false }));
  return html`<thead><tr>${sortable(shared).map(([key, name, , first]) => {
    const on = chosen === key, up = (first > 0) !== Boolean(ui.sort?.turned), word = name ?? texts[key], number = key.startsWith("value") || key === "time", mark = on ? (up ? "▴" : "▾") : "";
    return html`<th scope="col" key=${key} data-column=${key} class=${number ? "tonb-number" : ""} aria-sort=${on ? (up ? "ascending" : "descending") : undefined}><button type="button" class="tonb-sort"
      title=${fill(texts.sort, { name: word })} onClick=${turn(key)}>${number && html`<i>${mark}</i>`}${word}${!number && html`<i>${mark}</i>`}</button></th>`;
  })}<th scope="col">${texts.values}</th><th scope="col"></th></tr></thead>`;
}

function Row({ row, face, texts, on, best, live, gone, choose, act, stop, takeUp, waits }) {
  const pick = (event) => {
    if (event.target.closest("button") || getSelection()?.toString()) return; // a text that was marked is not a click
    choose(row.number);
  };
  const does = (name, run, tip) => html`<button type="button" class="tonb-button tonb-small" data-do=${name} title=${tip} disabled=${gone} onClick=${run}>${texts[name]}</button>`;
  const told = row.state === "failed" && row.why ? row.why : valuesText(row, face.axes);
  const from = texts[`from_${row.origin}`], ended = LEFT.includes(row.state);
  return html`<tr class=${classes(on && "tonb-chosen", row.state !== "done" && row.state !== "training" && "tonb-off")} data-trial=${row.number} data-state=${row.state} onClick=${pick}>
    <td>${row.number}</td><td><span class="tonb-state" data-state=${row.state === "training" ? "training" : row.state === "failed" ? "failed" : row.state === "done" ? "finished" : "waiting"} title=${row.why}>${texts[`trial_${row.state}`]}</span></td>
    ${face.objectives.map(([name, , share], i) => html`<td class="tonb-number" key=${name}>${best ? html`<b>${written(valueOf(row, i), share)}</b>` : written(valueOf(row, i), share)}</td>`)}
    <td data-column="epochs">${face.epochs ? `${row.epochs}/${face.epochs}` : row.epochs || "–"}</td><td class="tonb-number" data-column="time">${row.seconds ? spell(row.seconds) : ""}</td>
    <td class="tonb-cell-changed"><span title=${[told, row.why].filter(Boolean).join("; ")}>${told}</span>${from && html`<small class="tonb-origin">${from}</small>`}</td>
    <td class="tonb-cell-acts">${face.offers.includes("open") && row.run && does("open", () => act("open", row.number), texts.open_tip)}
      ${face.offers.includes("use") && row.state === "done" && does("use", () => act("use", row.number), texts.use_tip)}
      ${!ended && live && html`<${Button} name="stop-trial tonb-small" waits=${waits === `stop-${row.number}`} title=${texts.stop_trial_tip} onClick=${stop}>${texts.stop_trial}<//>`}
      ${CUT.includes(row.state) && row.run && live && html`<${Button} name="continue-trial tonb-small" waits=${waits === `continue-${row.number}`} title=${texts.continue_trial_tip} onClick=${takeUp}>${texts.continue_trial}<//>`}</td></tr>`;
}

// a row whose trial did not change keeps its node, which Preact then skips
function Trials(shared) {
  const { ui, face, texts, order, live, gone, send, refresh, choose, waits } = shared, before = ui.nodes ?? new Map();
  const all = sorted(shared), shown = ui.all ? all : all.slice(0, MANY);
  const act = (name, trial) => send({ do: name, trial });
  const facts = [texts, live, gone, String(face.offers), String(face.axes), face.epochs, face.objectives.length];
  ui.nodes = new Map(shown.map((row) => {
    const on = ui.trial === row.number, best = row.number === face.best || face.front.includes(row.number), waiting = [`stop-${row.number}`, `continue-${row.number}`].includes(waits);
    const held = before.get(row.number), seen = [row, on, best, waiting, ...facts];
    if (held && seen.every((each, i) => each === held.seen[i])) return [row.number, held];
    const stop = () => {
      send({ command: "stop_trial", value: row.number });
      click(ui, `stop-${row.number}`, () => ui.latest[row.number]?.state !== "training");
      refresh();
    };
    const takeUp = () => {
      const said = String(face.notes), known = order.length;
      send({ command: "continue_trial", value: row.number });
      click(ui, `continue-${row.number}`, (now) => String(now.notes) !== said || ui.order.length > known); // it is queued, or has no checkpoint
      refresh();
    };
    return [row.number, { seen, node: html`<${Row} key=${row.number} ...${{ row, face, texts, on, best, live, gone, choose, act, stop, takeUp, waits }} />` }];
  }));
  const turn = () => refresh((ui.all = !ui.all));
  return html`<div class="tonb-trials"><div class="tonb-scroll"><table class="tonb-table"><${Header} ...${shared} /><tbody>${[...ui.nodes.values()].map(({ node }) => node)}</tbody></table></div>
    ${!order.length && html`<div class="tonb-empty">${texts.none_yet}</div>`}
    ${all.length > MANY && html`<div class="tonb-below"><${Link} name="all" onClick=${turn}>${ui.all ? texts.show_few : fill(texts.show_all, { n: all.length })}<//></div>`}</div>`;
}

// ---- the panel

function Pictures(shared) {
  const { ui, face, texts, refresh } = shared, tabs = [["values", texts.tab_values], ["curves", texts.tab_curves]];
  return html`<div class="tonb-charts tonb-first">${face.objectives.length > 1 ? html`<${Front} ...${shared} />` : html`<${BestValue} ...${shared} />`}<${Importance} ...${shared} /></div>
    <${Tabs} tabs=${tabs} chosen=${ui.tab} choose=${(name) => refresh((ui.tab = name))} />
    ${ui.tab === "curves" ? html`<${Curves} ...${shared} />` : html`<${Parallel} ...${shared} />`}`;
}

// what is best, and what to do with it
function Best({ ui, face, texts, rows, gone, send }) {
  const trial = rows[ui.trial]?.state === "done" ? ui.trial : face.best;
  return html`<div class="tonb-note tonb-best-note" hidden=${!face.best_said}><span class="tonb-note-text">${face.best_said}</span>
    ${face.offers.includes("freeze") && trial != null && html`<${Button} name="freeze" disabled=${gone} onClick=${() => send({ do: "freeze", trial })}>${fill(texts.freeze, { n: trial })}<//>`}</div>`;
}

export default panel((shared) => {
  const { ui, face, rows, texts, live, gone, refresh } = shared;
  if (!face) return null;
  ui.brushes ??= new Map(); // name of an axis -> the part of it that is selected
  ui.ranges ??= new Map(); // name of a dimension -> what was set and not confirmed
  ui.tab ??= "values";
  if (ui.seen !== rows) [ui.seen, ui.latest, ui.order] = [rows, rows, Object.values(rows).sort((a, b) => a.number - b.number)];
  const lost = face.live && gone, { name: waits, slow } = pending(ui, face, live);
  if (!live) ui.trying = false;
  const choose = (number, keep) => refresh((ui.trial = ui.trial === number && !keep ? null : number));
  const all = { ...shared, order: ui.order, waits, choose };
  return html`<${Frame} name="tonb-sweep" label=${texts.group} data=${{ state: face.state, trials: ui.order.length }}>
    <${Head} state=${lost ? "lost" : face.state} name=${face.name} step=${headline(shared)} texts=${texts}><${Controls} ...${all} /><//>
    <${Bar} fraction=${face.fraction} label=${texts.progress} />
    <${Say} text=${lost ? texts.gone : ui.refused || face.said || (slow && texts.slow) || ""} />
    <div class="tonb-note tonb-told" role="status" hidden=${!face.told}><span class="tonb-note-text">${face.told}</span></div>
    ${ui.trying && html`<${TryForm} ...${all} />`}
    <${Figures} figures=${face.figures} />
    <${Pictures} ...${all} /><${Ranges} ...${all} /><${Trials} ...${all} />
    <${Note} notes=${face.notes} texts=${texts} /><${Best} ...${all} />
    <${Foot}><span hidden=${!face.run_path}>${texts.study} <code class="tonb-path" title=${face.run_path}>${face.short_path}</code></span>
      ${face.methods.map(([name, why]) => html`<span key=${name} title=${why}>${name}</span>`)}
      <span hidden=${!face.workers}>${face.workers === 1 ? texts.worker_one : fill(texts.worker_count, { n: face.workers })}</span><//><//>`;
});
