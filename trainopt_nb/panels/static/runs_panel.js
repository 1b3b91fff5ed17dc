// The table of runs: it asks the kernel what is new, shows it, and sends back what is clicked.
// Nothing is kept here that the kernel could not send again, but which runs are chosen.

const INKS = Array.from({ length: 8 }, (_, i) => `r${i + 1}`); // colors that one can tell apart: as many runs are compared
const OFTEN = 1000, SELDOM = 5000; // milliseconds between two questions, while something trains and otherwise
const PATIENCE = 15000; // milliseconds after which a question counts as lost
const AT_WORK = ["waiting", "training", "validating", "paused"];
const BUTTONS = ["compare", "label", "attach", "resume", "stop", "delete", "export", "close"];
const TYPED = 200; // milliseconds after the last key until a search is asked for

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
  const { order, shown } = store.face ?? {}, { said, told, folder, offers, figures, view } = news;
  store.face = { live: true, rows, order: news.order ?? order ?? [], figures, said, told, folder, offers, view, shown: news.shown ?? shown, size: news.size };
  store.details = { ...store.details, ...news.details };
  store.compared = news.compared ?? store.compared;
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

// JupyterLab takes the Enter key of a cell for itself, so that a form does not see it
const entered = (event, save) => event.key === "Enter" && event.target.tagName === "INPUT" && !event.isComposing && save(event);
const wordsOf = (text) => text.split(/[\s,]+/).filter(Boolean);

const titleOf = ({ texts }, row) => (row.parent ? fill(texts.trial_of, { n: row.number, name: row.parent }) : row.name);

// ---- what is asked and clicked

function ask({ ui, store }, more = {}) {
  const drawn = ui.comparing ? inked(ui).map((name) => [name, store.curves[name]?.mark ?? -1]) : [];
  const trials = [...ui.unfolded].map((name) => [name, store.trials?.[name]?.mark ?? -1]);
  const open = [...ui.unfolded].map((name) => [name, store.details?.[name]?.mark ?? -1]);
  const compare = ui.comparing ? { names: inked(ui), mark: store.compared?.mark } : null;
  ui.asked = Date.now();
  store.answered = false;
  store.send({ since: Math.max(store.seq, 0), number: store.face?.view.number ?? -1, curves: Object.fromEntries(drawn), trials: Object.fromEntries(trials),
    open: Object.fromEntries(open), compare, ...more });
}

// the next question waits for the answer: a kernel that is busy would find a heap of them
function tick({ ui, store, line }) {
  if (line.gone || document.hidden) return;
  const busy = Object.values(store.face?.rows ?? {}).some((row) => AT_WORK.includes(row.state));
  const waited = Date.now() - (ui.asked ?? 0);
  if (waited > PATIENCE || (store.answered && waited > (busy ? OFTEN : SELDOM))) ask({ ui, store });
}

// what the page wants to see: a search, an order
function look(shared, view) {
  shared.ui.most = FIRST;
  ask(shared, { view });
}

function choose(shared, name, on) {
  const { ui, refresh } = shared, taken = new Set(ui.chosen.values());
  if (!on) ui.chosen.delete(name);
  else ui.chosen.set(name, INKS.find((ink) => !taken.has(ink)) ?? null);
  ui.question = false;
  if (ui.comparing) ask(shared);
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

// names of the chosen runs that have a color
function inked(ui) {
  return [...ui.chosen].filter(([, ink]) => ink).map(([name]) => name);
}

function Toolbar(shared) {
  const { ui, texts, gone, refresh, picked, face: { offers } } = shared;
  const one = picked.length === 1, some = picked.length > 0, written = picked.some((row) => row.alive), parts = picked.some((row) => row.parent);
  const allowed = {
    compare: some || ui.comparing,
    label: some && !parts,
    attach: one,
    resume: one && picked[0].resumable,
    stop: picked.some((row) => row.alive && AT_WORK.includes(row.state)),
    delete: some && !written && !parts,
    export: true,
    close: true,
  };
  const titles = {
    resume: one && picked[0].state === "finished" && `${picked[0].name} ${texts.resume_done.replace("NAME", picked[0].name)}`,
    label: parts && texts.of_sweep,
    delete: (written && texts.writing) || (parts && texts.delete_trial),
  };
  const does = {
    compare: () => (ui.comparing = !ui.comparing, ask(shared), refresh()),
    label: () => refresh((ui.labeling = !ui.labeling)),
    delete: () => (refresh((ui.question = true)), ask(shared, { sizes: picked.map((row) => row.name) })),
    export: () => ask(shared, { do: "export" }),
  };
  const act = (name) => does[name] ?? (() => ask(shared, { do: name, names: picked.map((row) => row.name) }));
  return html`<div class="tonb-controls" role="toolbar" aria-label=${texts.runs}>${BUTTONS.map((name) => html`<${Button} key=${name} name=${name}
    title=${titles[name] || texts[`${name}_tip`]} hidden=${!["compare", "label"].includes(name) && !offers.includes(name)} disabled=${gone || !allowed[name]}
    aria-pressed=${name === "compare" ? String(Boolean(ui.comparing)) : undefined} aria-expanded=${name === "label" ? String(Boolean(ui.labeling)) : undefined} onClick=${act(name)}>${texts[name]}<//>`)}</div>`;
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
  const bytes = size(shared.face.size || 0);
  return html`<div class="tonb-note tonb-question" role="alertdialog" data-level="warning" onKeyDown=${(event) => event.key === "Escape" && settle()}>
    <span class="tonb-note-text">${fill(texts.question, { what, size: bytes })}</span><span class="tonb-answers">
    <button type="button" class="tonb-button tonb-no" onClick=${settle} ref=${no}>${texts.no}</button>
    <button type="button" class="tonb-button tonb-yes" onClick=${remove}>${texts.yes}</button></span></div>`;
}

// tags and a note for all chosen runs at once: a tag that some of them have leaves with a click
function Labels(shared) {
  const { ui, texts, picked, refresh, board, gone } = shared, tags = useRef(), note = useRef();
  useLayoutEffect(() => tags.current.focus(), []);
  const names = picked.map((row) => row.name), had = [...new Set(picked.flatMap((row) => row.tags))];
  const close = () => {
    refresh((ui.labeling = false));
    board.root.querySelector(".tonb-label").focus();
  };
  const save = (event) => {
    event.preventDefault();
    const written = note.current.value.trim();
    ask(shared, { do: "annotate", names, add: wordsOf(tags.current.value), ...(written && { note: written }) });
    close();
  };
  const leave = (tag) => {
    ask(shared, { do: "annotate", names, remove: [tag] });
    tags.current.focus();
  };
  return html`<form class="tonb-own tonb-labels" onSubmit=${save} onKeyDown=${(event) => (event.key === "Escape" ? close() : entered(event, save))}>
    <label>${texts.add_tags}<input class="tonb-tags-of" ref=${tags} placeholder=${texts.tags_hint} /></label>
    <label>${texts.note}<input class="tonb-note-of" ref=${note} placeholder=${texts.note_hint} /></label>
    <span class="tonb-answers"><button type="button" class="tonb-button" onClick=${close}>${texts.no}</button>
    <button type="submit" class="tonb-button tonb-save" disabled=${gone}>${names.length === 1 ? texts.save : fill(texts.save_all, { n: names.length })}</button></span>
    ${had.length > 0 && html`<span class="tonb-tags">${had.map((tag) => html`<button type="button" class="tonb-tag" key=${tag} disabled=${gone} title=${fill(texts.untag, { tag })}
      aria-label=${fill(texts.untag, { tag })} onClick=${() => leave(tag)}>${tag} ×</button>`)}</span>`}</form>`;
}

// ---- the search

function Search(shared) {
  const { ui, face: { view, shown }, texts, gone } = shared, box = useRef();
  const search = (query) => {
    clearTimeout(ui.typing);
    ui.typing = setTimeout(() => look(shared, { query }), TYPED);
  };
  useLayoutEffect(() => {
    if (document.activeElement !== box.current && box.current.value !== view.query) box.current.value = view.query;
  });
  const [count, all] = shown.count;
  return html`<div class="tonb-search"><input type="search" class="tonb-query" ref=${box} disabled=${gone} aria-label=${texts.search} placeholder=${texts.search_hint} spellcheck="false"
    aria-invalid=${view.said ? "true" : undefined} defaultValue=${view.query} onInput=${(event) => search(event.target.value)} /><span class="tonb-count" role="status">${
    count === all && !view.query ? "" : fill(texts.counted, { shown: count, total: all })}</span><${Say} text=${view.said} /></div>`;
}

// one sentence about what was done
function Told({ text }) {
  return html`<div class="tonb-told" role="status" hidden=${!text}>${text}</div>`;
}

export default panel((shared) => {
  const { ui, store, face, texts, gone } = shared;
  if (!face) return null;
  ui.chosen ??= new Map(); // name -> color, in the order in which they were chosen
  ui.unfolded ??= new Set(); // names of the sweeps whose trials are shown
  for (const name of ui.chosen.keys()) if (!rowOf(shared, name)) ui.chosen.delete(name);
  const picked = [...ui.chosen.keys()].map((name) => rowOf(shared, name)), { length: count } = face.order, { size: chosen } = ui.chosen;
  const counted = gone ? texts.lost : chosen ? fill(texts.chosen, { n: chosen }) : count ? texts.hint : "";
  return html`<${Frame} name="tonb-runs" label=${texts.group} data=${{ version: store.seq }}>
    <${Head} name=${texts.runs} step=${counted} texts=${texts}><${Toolbar} ...${shared} picked=${picked} /><//><div class="tonb-rule"></div>
    <${Say} text=${gone ? texts.gone : face.said} />
    <${Figures} figures=${face.figures} hidden=${!count} />
    <${Told} text=${face.told} />
    ${count > 0 && html`<${Search} ...${shared} />`}
    ${count ? (face.shown.count[0] ? html`<${Runs} ...${shared} />` : html`<div class="tonb-none">${texts.no_match}</div>`) : html`<div class="tonb-none">${texts.none}</div>`}
    ${ui.question && chosen > 0 && html`<${Question} ...${shared} picked=${picked} />`}
    ${ui.labeling && chosen > 0 && !picked.some((row) => row.parent) && html`<${Labels} ...${shared} picked=${picked} />`}
    ${ui.comparing && chosen > 0 && html`<${Picture} ...${shared} /><${Values} ...${shared} />`}
    <${Foot}><span>${texts.folder} <code class="tonb-path">${face.folder}</code></span><//><//>`;
}, { merge: mergeRows, tick, every: 250 });
