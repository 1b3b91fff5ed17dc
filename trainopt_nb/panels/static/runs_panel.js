// The table of runs: it asks the kernel what is new, shows it, and sends back what is clicked.
// Nothing is kept here that the kernel could not send again, but which runs are chosen.

const INKS = Array.from({ length: 8 }, (_, i) => `r${i + 1}`); // colours that one can tell apart: as many runs are compared
const OFTEN = 1000, SELDOM = 5000; // milliseconds between two questions, while something trains and otherwise
const PATIENCE = 15000; // milliseconds after which a question counts as lost
const AT_WORK = ["waiting", "training", "validating", "paused"];
const BUTTONS = ["compare", "attach", "resume", "stop", "delete", "close"];

function size(bytes) {
  const [unit, name] = bytes < 1e6 ? [1e3, "kB"] : bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${Number((bytes / unit).toPrecision(2))} ${name}`;
}

// an answer holds the rows that changed since the version that was asked with, and curves of the runs that are compared
function mergeRows(store, news) {
  store.answered = true;
  if (news.since > Math.max(store.seq, 0)) return true; // the answer to another page, which had more: this one asks for itself
  const rows = { ...store.face?.rows };
  for (const row of news.rows) rows[row.name] = row;
  if (news.order) for (const name of Object.keys(rows)) if (!news.order.includes(name)) delete rows[name];
  const { order, figures } = store.face ?? {}, { said, folder, offers } = news;
  store.face = { live: true, rows, order: news.order ?? order ?? [], figures: news.figures ?? figures ?? [], said, folder, offers };
  store.seq = Math.max(store.seq, news.version);
  store.curves = { ...store.curves };
  for (const [name, { lines, ...known }] of Object.entries(news.curves)) {
    const curves = Object.entries(lines).map(([line, [stride, x, y]]) => [line, { stride, x, y }]);
    store.curves[name] = { ...known, lines: Object.fromEntries(curves) };
  }
  store.trials = { ...store.trials, ...news.trials };
}

// the rows of the trials of a sweep, where it is unfolded
const trialsOf = ({ ui, store }, name) => (ui.unfolded.has(name) ? store.trials?.[name] : null) ?? { rows: [], more: 0 };

// the row of a run, or of a trial that is shown
function rowOf(shared, name) {
  const parent = name.split("/")[0];
  return shared.face.rows[name] ?? (shared.face.rows[parent] && trialsOf(shared, parent).rows.find((row) => row.name === name));
}

const titleOf = ({ texts }, row) => (row.parent ? fill(texts.trial_of, { n: row.number, name: row.parent }) : row.name);

// ---- what is asked and clicked

function ask({ ui, store }, more = {}) {
  const drawn = ui.comparing ? inked(ui).map((name) => [name, store.curves[name]?.mark ?? -1]) : [];
  const trials = [...ui.unfolded].map((name) => [name, store.trials?.[name]?.mark ?? -1]);
  ui.asked = Date.now();
  store.answered = false;
  store.send({ since: Math.max(store.seq, 0), curves: Object.fromEntries(drawn), trials: Object.fromEntries(trials), ...more });
}

// the next question waits for the answer: a kernel that is busy would find a heap of them
function tick({ ui, store, line }) {
  if (line.gone || document.hidden) return;
  const busy = Object.values(store.face?.rows ?? {}).some((row) => AT_WORK.includes(row.state));
  const waited = Date.now() - (ui.asked ?? 0);
  if (waited > PATIENCE || (store.answered && waited > (busy ? OFTEN : SELDOM))) ask({ ui, store });
}

function choose(shared, name, on) {
  const { ui, refresh } = shared, taken = new Set(ui.chosen.values());
  if (!on) ui.chosen.delete(name);
  else ui.chosen.set(name, INKS.find((ink) => !taken.has(ink)) ?? null);
  ui.question = false;
  if (ui.comparing && on) ask(shared);
  refresh();
}

function unfold(shared, name) {
  const { ui, refresh } = shared;
  if (!ui.unfolded.delete(name)) {
    ui.unfolded.add(name);
    ask(shared);
  }
  refresh();
}

// names of the chosen runs that have a colour
function inked(ui) {
  return [...ui.chosen].filter(([, ink]) => ink).map(([name]) => name);
}

function Toolbar(shared) {
  const { ui, texts, gone, refresh, picked, face: { offers } } = shared;
  const one = picked.length === 1, some = picked.length > 0, written = picked.some((row) => row.alive), parts = picked.some((row) => row.parent);
  const allowed = {
    compare: some || ui.comparing,
    attach: one,
    resume: one && picked[0].resumable,
    stop: picked.some((row) => row.alive && AT_WORK.includes(row.state)),
    delete: some && !written && !parts,
    close: true,
  };
  const titles = {
    resume: one && picked[0].state === "finished" && `${picked[0].name} ${texts.resume_done.replace("NAME", picked[0].name)}`,
    delete: (written && texts.writing) || (parts && texts.delete_trial),
  };
  const does = {
    compare: () => (ui.comparing = !ui.comparing, ask(shared), refresh()),
    delete: () => refresh((ui.question = true)),
  };
  const act = (name) => does[name] ?? (() => ask(shared, { do: name, names: picked.map((row) => row.name) }));
  return html`<div class="tonb-controls" role="toolbar" aria-label=${texts.runs}>${BUTTONS.map((name) => html`<${Button} key=${name} name=${name}
    title=${titles[name] || texts[`${name}_tip`]} hidden=${name !== "compare" && !offers.includes(name)} disabled=${gone || !allowed[name]}
    aria-pressed=${name === "compare" ? String(Boolean(ui.comparing)) : undefined} onClick=${act(name)}>${texts[name]}<//>`)}</div>`;
}

function Question(shared) {
  const { ui, texts, picked, refresh, board } = shared, no = useRef();
  useLayoutEffect(() => no.current.focus(), []); // what is safe comes first
  const settle = () => {
    refresh((ui.question = false));
    board.root.querySelector(".tonb-delete").focus();
  };
  const remove = () => {
    ask(shared, { do: "delete", names: picked.map((row) => row.name) });
    settle();
  };
  const what = picked.length === 1 ? picked[0].name : fill(texts.these, { n: picked.length });
  const bytes = size(picked.reduce((sum, row) => sum + row.bytes, 0));
  return html`<div class="tonb-note tonb-question" role="alertdialog" data-level="warning" onKeyDown=${(event) => event.key === "Escape" && settle()}>
    <span class="tonb-note-text">${fill(texts.question, { what, size: bytes })}</span><span class="tonb-answers">
    <button type="button" class="tonb-button tonb-no" onClick=${settle} ref=${no}>${texts.no}</button>
    <button type="button" class="tonb-button tonb-yes" onClick=${remove}>${texts.yes}</button></span></div>`;
}

// ---- rows

function Name({ row, texts, open, unfold }) {
  if (row.parent) return html`<td class="tonb-cell-name"><span class="tonb-run-name">${fill(texts.trial_name, { n: row.number })}</span></td>`;
  const label = fill(open ? texts.fold : texts.unfold, { name: row.name });
  return html`<td class="tonb-cell-name">${row.unit === "trial" && html`<button type="button" class="tonb-unfold" aria-expanded=${String(open)} aria-label=${label} title=${label}
    onClick=${unfold}>${open ? "▾" : "▸"}</button>`}<b class="tonb-run-name" title=${row.name}>${row.name}</b></td>`;
}

function Row({ row, chosen, ink, texts, choose, open, unfold }) {
  const fixed = row.parent && !row.run; // a trial of numbers has no run that could be shown
  const pick = (event) => {
    if (fixed || event.target.closest("input, button") || getSelection()?.toString()) return; // a text that was marked is not a click
    choose(!chosen);
  };
  return html`<tr class=${classes(chosen && "tonb-chosen", row.parent && "tonb-inner", row.first && "tonb-first")} data-name=${row.name} data-state=${row.state} onClick=${pick}>
    <td class="tonb-cell-pick">${!fixed && html`<input type="checkbox" class="tonb-pick" aria-label=${fill(texts.choose, { name: titleOf({ texts }, row) })} checked=${chosen}
      onChange=${(event) => choose(event.target.checked)} /><i class="tonb-dot" data-ink=${ink}></i>`}</td>
    <${Name} ...${{ row, texts, open, unfold }} />
    <td><span class="tonb-state" data-state=${row.state} title=${[row.why, row.damage].filter(Boolean).join("; ")}>${texts[row.state] ?? row.state}${row.damage && " ⚠"}</span></td>
    <td class="tonb-cell-done"><span>${`${row.done[0]}/${row.done[1] ?? "–"}${row.unit && ` ${texts[`${row.unit}s`] ?? ""}`}`}</span><span class="tonb-bar"><i class="tonb-fill"
      style=${{ width: `${(row.fraction ?? 0) * 100}%` }}></i></span></td>
    <td class="tonb-cell-best"><b>${row.best ? row.best[0] : "–"}</b><small>${
      row.best && row.best[1] ? fill(texts[`at_${row.unit || "epoch"}`] ?? "{name}", { name: row.best[1], epoch: row.best[2] }) : ""}</small>${
      row.others && html`<small class="tonb-others" title=${row.others}>${row.others}</small>`}</td>
    <td class="tonb-cell-time"><span>${row.time}</span></td>
    <td class="tonb-cell-changed"><span title=${row.changed}>${row.changed}</span></td></tr>`;
}

// a row whose run did not change keeps its node, which Preact then skips
function rows(shared) {
  const { ui, face, texts } = shared, before = ui.rows ?? new Map();
  const shown = face.order.filter((name) => face.rows[name]).flatMap((name) => {
    const { rows: trials, more } = trialsOf(shared, name);
    return [face.rows[name], ...trials, ...(more ? [{ name: `${name}/`, parent: name, more }] : [])];
  });
  ui.rows = new Map(shown.map((row) => {
    const { name } = row, chosen = ui.chosen.has(name), ink = (ui.comparing && ui.chosen.get(name)) || "", open = ui.unfolded.has(name);
    const held = before.get(name), seen = [row, chosen, ink, texts, open];
    if (held && seen.every((each, i) => each === held.seen[i])) return [name, held];
    const does = { choose: (on) => choose(shared, name, on), unfold: () => unfold(shared, name) };
    const node = row.more ? html`<tr key=${name} class="tonb-inner tonb-rest"><td></td><td colspan="6">${fill(texts.more_trials, { n: row.more })}</td></tr>`
      : html`<${Row} key=${name} ...${{ row, chosen, ink, texts, open, ...does }} />`;
    return [name, { seen, node }];
  }));
  return [...ui.rows.values()].map((held) => held.node);
}

// ---- the curves of the chosen runs

function Picture(shared) {
  const { ui, store, curves, texts, board } = shared;
  const held = inked(ui).filter((name) => curves[name]);
  const names = [...new Set(held.flatMap((name) => Object.keys(curves[name].lines)))];
  if (!names.includes(ui.curve)) {
    const wanted = [...held.map((name) => curves[name].monitor), "valid loss", "train loss"];
    ui.curve = wanted.find((name) => names.includes(name)) ?? names[0] ?? null;
  }
  const having = held.filter((name) => curves[name].lines[ui.curve]);
  const epochs = held.length > 0 && held.every((name) => curves[name].unit > 1); // else the axis counts steps
  const lines = having.map((name) => {
    const curve = curves[name].lines[ui.curve];
    return { name, colour: ui.chosen.get(name), unit: epochs ? curves[name].unit : 1, curve: ui.curve === "train loss" ? smoothed(curve) : curve };
  });
  const share = having.some((name) => curves[name].shares.includes(ui.curve));
  const end = Math.max(...lines.map(({ curve, unit }) => curve.x.at(-1) / unit), 1e-9);
  const note = ui.chosen.size > INKS.length ? texts.most : lines.length || !store.answered ? "" : texts.nothing_drawn;
  const pick = (event) => {
    ui.curve = event.target.value;
    board.zoomTo(null);
  };
  const title = html`<select class="tonb-metric" aria-label=${texts.drawn} hidden=${!names.length} value=${ui.curve} onChange=${pick}>${names.map((name) =>
    html`<option key=${name} value=${name} selected=${name === ui.curve}>${titled(texts[name] ?? name)}</option>`)}</select>`;
  const keys = (reading) => html`<div class="tonb-keys">${lines.map(({ name, colour, curve }, i) => html`<span class="tonb-key" key=${name}>
    <i class="tonb-dot" data-ink=${colour}></i>${titleOf(shared, rowOf(shared, name))}${" "}<b>${written(reading ? reading.values[i] : curve.y.findLast((value) => value != null), share)}</b></span>`)}</div>`;
  board.axis = { unit: epochs ? 0 : 1, end };
  return html`<div class="tonb-picture"><${Chart} board=${board} name="tonb-compared" title=${title} said=${ui.curve ?? ""} lines=${lines}
    share=${share} note=${note} legend=${false} below=${keys} empty=${!lines.length} /></div>`;
}

export default panel((shared) => {
  const { ui, store, face, texts, gone } = shared;
  if (!face) return null;
  ui.chosen ??= new Map(); // name -> colour, in the order in which they were chosen
  ui.unfolded ??= new Set(); // names of the sweeps whose trials are shown
  for (const name of ui.chosen.keys()) if (!rowOf(shared, name)) ui.chosen.delete(name);
  const picked = [...ui.chosen.keys()].map((name) => rowOf(shared, name)), { length: count } = face.order, { size: chosen } = ui.chosen;
  const counted = gone ? texts.lost : chosen ? fill(texts.chosen, { n: chosen }) : count ? texts.hint : "";
  return html`<${Frame} name="tonb-runs" label=${texts.group} data=${{ version: store.seq }}>
    <${Head} name=${texts.runs} step=${counted} texts=${texts}><${Toolbar} ...${shared} picked=${picked} /><//><div class="tonb-rule"></div>
    <${Say} text=${gone ? texts.gone : face.said} />
    <${Figures} figures=${face.figures} hidden=${!count} />
    ${count ? html`<${Table} heads=${["", texts.name, texts.state, texts.done, texts.best_head, texts.time, texts.changed]}>${rows(shared)}<//>`
      : html`<div class="tonb-none">${texts.none}</div>`}
    ${ui.question && chosen > 0 && html`<${Question} ...${shared} picked=${picked} />`}
    ${ui.comparing && chosen > 0 && html`<${Picture} ...${shared} />`}
    <${Foot}><code class="tonb-path">${face.folder}</code><//><//>`;
}, { merge: mergeRows, tick, every: 250 });
