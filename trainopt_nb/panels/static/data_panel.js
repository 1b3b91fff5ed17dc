// The data panel: problems, samples, classes, the preview of augmentation, and the changes that were made.

const LINES = 12; // of the code that are shown
const TABS = ["problems", "samples", "classes", "features", "augment", "loading", "changes"];

function DataControls(shared) {
  const { face, texts, live, send, gone } = shared, { search, changes, undone, offers } = face;
  const running = search.state === "running", does = (name) => () => send({ do: name });
  return html`<div class="tonb-controls" role="toolbar" aria-label=${texts.group}>
    <${Button} name="undo" title=${texts.undo_tip} disabled=${!live || !changes.length} onClick=${does("undo")}>${texts.undo}<//>
    <${Button} name="redo" title=${texts.redo_tip} disabled=${!live || !undone} onClick=${does("redo")}>${texts.redo}<//>
    <${Button} name="close" title=${texts.close_tip} hidden=${!offers.includes("close")} disabled=${gone} onClick=${does("close")}>${texts.close}<//>
    ${running ? html`<${Button} name="search-stop" disabled=${!live} onClick=${does("stop")}>${texts.search_stop}<//>`
      : html`<${Button} name="search" title=${texts[search.refusal] ?? texts.search_tip} disabled=${!live || Boolean(search.refusal)} onClick=${does("search")}>${
        search.state === "done" ? texts.search_again : texts.search}<//>`}</div>`;
}

function searchWords({ search }, texts) {
  if (search.state === "running") {
    if (!search.step) return texts.search_begins;
    const [done, folds, epochs, seconds] = search.step;
    return fill(texts.searching, { done, folds, epochs, seconds });
  }
  return { done: search.found ? fill(texts.search_done, { n: search.found }) : texts.search_clean, stopped: texts.search_stopped,
    failed: fill(texts.search_failed, { why: search.said }) }[search.state] ?? "";
}

// ---- problems

function Problem(shared) {
  const { ui, row, face, texts, live, send, show, refresh } = shared, here = face.page.problem === row.key;
  const settle = (more = {}) => () => send({ do: "settle", problem: row.key, ...more });
  const how = ui.fills.get(row.key) ?? row.fills[0]?.[0], value = ui.values.get(row.key) ?? row.value;
  const act = row.act !== "impute" ? {} : how === "constant" ? { value } : { how };
  const fills = () => html`<select class="tonb-to tonb-fill-how" aria-label=${fill(texts.impute_how, { name: row.title })} disabled=${!live} value=${how} onChange=${(event) => refresh(ui.fills.set(row.key, event.target.value))}>${
    [...row.fills, ["constant", ""]].map(([name, what]) => html`<option key=${name} value=${name} selected=${name === how}>${texts[`fill_${name}`]} ${what}</option>`)}</select>`;
  const tip = fill(texts.apply_tip, { n: row.left });
  const look = (event) => !event.target.closest("button, input") && row.left && show({ problem: row.key });
  return html`<tr class=${classes(here && "tonb-chosen", row.count && !row.left && "tonb-settled")} data-problem=${row.key} onClick=${look}>
    <td class="tonb-cell-count"><span class=${classes("tonb-tag", !row.count ? "tonb-dim" : row.left ? `tonb-${row.sure}` : "tonb-dim")}>${row.count ? row.left.toLocaleString("en") : "–"}</span></td>
    <td class="tonb-cell-problem"><b>${row.title}</b>${row.part === "valid" && html` <small class="tonb-soft">${texts.in_valid}</small>`}<div class="tonb-soft">${row.text}${row.effect && ` ${row.effect}`}</div></td>
    <td class="tonb-cell-sure"><span>${texts[row.sure]}</span><div class="tonb-soft">${row.how}</div></td>
    <td class="tonb-cell-acts"><span class="tonb-acts">${row.left > 0 && html`<button type="button" class="tonb-button tonb-small tonb-look" disabled=${!live} aria-pressed=${String(here)}
        onClick=${() => show({ problem: row.key })}>${texts.look}</button>`}
      ${row.act === "impute" && fills()}${row.act === "impute" && how === "constant" && html`<input class="tonb-lr tonb-entry" aria-label=${fill(texts.impute_value, { name: row.title })} disabled=${!live} value=${value}
        onInput=${(event) => refresh(ui.values.set(row.key, event.target.value))} />`}
      ${row.act && html`<button type="button" class="tonb-button tonb-small tonb-settle" title=${tip} disabled=${!live} onClick=${settle(act)}>${texts[`act_${row.act}`]}</button>`}
      ${["relabel", "impute"].includes(row.act) && html`<button type="button" class="tonb-button tonb-small tonb-settle-drop" title=${tip} disabled=${!live}
        onClick=${settle({ how: "drop" })}>${texts.act_drop}</button>`}${row.count > 0 && !row.left && html`<span class="tonb-soft">${texts.settled}</span>`}</span></td></tr>`;
}

function Problems(shared) {
  const { face, texts } = shared, { problems, clear, page, search } = face;
  const found = problems.find((row) => row.key === page.problem);
  const words = [clear.length ? fill(texts.clear, { names: clear.join(", ") }) : "",
    search.state || search.refusal === "no_classes" || problems.some((row) => row.kind === "labels") ? "" : texts.unsearched];
  return html`${problems.length > 0 && html`<${Table}>${problems.map((row) => html`<${Problem} key=${row.key} ...${shared} row=${row} />`)}<//>`}
    <div class="tonb-none tonb-clear">${words.filter(Boolean).join(" ")}</div>
    ${found?.count > 0 && html`<${Samples} shared=${shared} title=${html`<b class="tonb-title">${found.title}</b>`} />`}`;
}

// ---- samples, classes, changes

function Browse(shared) {
  const { face, texts, live, show } = shared, { page, classes: counts } = face, valid = counts.some(([, , n]) => n !== null) || face.has_valid;
  const select = (name, value, options, to) => html`<select class="tonb-to" aria-label=${texts[name]} disabled=${!live} onChange=${(event) => show(to(event.target.value))}>${
    options.map(([key, word]) => html`<option key=${key} value=${key} selected=${key === value}>${word}</option>`)}</select>`;
  const parts = select("of_part", page.part, [["train", texts.train], ["valid", texts.valid]], (part) => ({ part, label: page.label }));
  const labels = select("of_class", page.label ?? "", [["", texts.all_classes], ...counts.map(([label]) => [label, label])],
    (label) => ({ part: page.part, ...(label === "" ? {} : { label }) }));
  return html`<${Samples} shared=${shared} title=${html`<span class="tonb-filters">${valid && parts}${counts.length > 0 && labels}</span>`} />`;
}

function Bars(shared) {
  const { face: { classes: counts, more_classes: more }, texts, live, show, ui, refresh } = shared;
  const most = Math.max(1, ...counts.flatMap(([, train, valid]) => [train, valid ?? 0])), valid = counts.some(([, , n]) => n !== null);
  const open = (label) => () => {
    refresh((ui.tab = "samples"));
    show({ part: "train", label });
  };
  const bar = (n, name) => html`<span class=${`tonb-class-bar tonb-of-${name}`}><i style=${{ width: `${(100 * n) / most}%` }}></i><span>${n.toLocaleString("en")}</span></span>`;
  return html`<div class="tonb-classes"><div class="tonb-legend"><span class="tonb-train">■ ${texts.bars_train}</span>${valid && html`<span class="tonb-valid">■ ${texts.bars_valid}</span>`}</div>
    ${counts.map(([label, train, held]) => html`<button type="button" key=${label} class="tonb-class" data-label=${label} disabled=${!live} onClick=${open(label)}>
    <span class="tonb-class-name" title=${label}>${label}</span><span class="tonb-class-bars">${bar(train, "train")}${held !== null && bar(held, "valid")}</span></button>`)}
    ${more > 0 && html`<div class="tonb-soft">${fill(texts.more_classes, { n: more })}</div>`}</div>`;
}

function Features({ face: { features }, texts }) {
  if (!features || features.why) return html`<div class="tonb-none">${features ? features.why : texts.features_waits}</div>`;
  const heads = ["column", "taken", "how", "made", "option"].map((name) => texts[`features_head_${name}`]);
  return html`<div class="tonb-features"><${Table} heads=${heads}>${features.rows.map(([name, taken, how, made, option]) => html`<tr key=${name} class=${classes("tonb-feature-row", made === 0 && "tonb-settled")}><td class="tonb-feature-name"><b title=${name}>${name}</b></td><td class="tonb-feature-taken">${taken}</td>
      <td class="tonb-feature-how tonb-soft">${how}</td><td class="tonb-number tonb-feature-made">${made ?? "–"}</td><td class="tonb-feature-option"><code>${option}</code></td></tr>`)}<//>
    <div class="tonb-none">${[features.more ? fill(texts.features_more, { n: features.more }) : "", features.said].filter(Boolean).join(" ")}</div></div>`;
}

// ---- loading

// one step of training: what it waits, and what it computes
function StepBar({ bar, bar_words: words, texts }) {
  const whole = bar[0] + bar[1] || 1;
  return html`<div class="tonb-step-bar"><div class="tonb-step-parts">${["wait", "step"].map((name, i) => html`<i key=${name} class=${`tonb-of-${name}`} style=${{ width: `${(100 * bar[i]) / whole}%` }}></i>`)}</div>
    <div class="tonb-legend">${["wait", "step"].map((name, i) => html`<span key=${name}><b class=${`tonb-key-${name}`}>■</b> ${texts[`loading_${name}`]} <span class="tonb-number">${words[i]}</span></span>`)}</div></div>`;
}

function Loading({ face: { loading }, texts, live, send }) {
  const { state, said, rows, bar } = loading, running = state === "running";
  const heads = ["way", "rate", "batch", "gain", "option"].map((name) => texts[`loading_head_${name}`]);
  return html`<div class="tonb-loading" data-loading=${state}><div class="tonb-samples-head"><span class="tonb-loading-said" role="status">${said || texts.loading_idle}</span>
      ${running ? html`<button type="button" class="tonb-button tonb-small" disabled=${!live} onClick=${() => send({ do: "measure-stop" })}>${texts.search_stop}</button>`
        : html`<button type="button" class="tonb-button tonb-small tonb-measure" title=${texts.loading_tip} disabled=${!live} onClick=${() => send({ do: "measure" })}>${rows.length ? texts.loading_again : texts.loading_measure}</button>`}</div>
    ${bar && html`<${StepBar} ...${loading} texts=${texts} />`}
    ${rows.length > 0 && html`<${Table} heads=${heads}>${rows.map(([way, rate, batch, gain, option, best]) => html`<tr key=${way} class=${classes(best && "tonb-best")}><td>${best ? html`<b>${way}</b>` : way}</td>
      <td class="tonb-number">${rate}</td><td class="tonb-number">${batch}</td><td class="tonb-number">${gain}</td><td>${option && html`<span class="tonb-option"><code>${option}</code>${best && html`<${Copy} text=${option} texts=${texts} />`}</span>`}</td></tr>`)}<//>`}</div>`;
}

// put code into a new cell below the one that shows the panel; false where the page does not let a panel do that
function insertCell({ store, face }, source) {
  const notebook = store.model.widget_manager?.context?.model?.sharedModel; // of JupyterLab and Notebook
  const at = [...(notebook?.cells ?? [])].findIndex((cell) => face.home && cell.id === face.home);
  if (at < 0) return false;
  notebook.insertCell(at + 1, { cell_type: "code", source, metadata: {}, outputs: [], execution_count: null });
  return true;
}

function Changes(shared) {
  const { ui, face, texts, live, send, show, refresh } = shared, { changes, cell, page, offers, name } = face, lines = cell.split("\n");
  const code = useRef(null), byHand = ui.inserted === false && ui.insertedOf === cell;
  useLayoutEffect(() => {
    if (byHand && code.current) getSelection().selectAllChildren(code.current); // so that one key copies it
  }, [byHand]);
  if (!changes.length) return html`<div class="tonb-none">${texts.no_changes}</div>`;
  const long = !byHand && (lines.length > LINES || cell.length > 1500);
  const insert = () => refresh((ui.inserted = insertCell(shared, cell)), (ui.insertedOf = cell));
  const told = ui.insertedOf === cell ? (ui.inserted ? fill(texts.inserted, { name }) : texts.not_inserted) : "";
  return html`<${Table}>${changes.map(([words, why], i) => html`<tr key=${i} class=${classes("tonb-change-row", page.change === i && "tonb-chosen")}><td>${words}</td><td class="tonb-soft tonb-why">${why}</td>
      <td class="tonb-cell-acts"><button type="button" class="tonb-button tonb-small" disabled=${!live} onClick=${() => show({ change: i })}>${texts.look}</button></td></tr>`)}<//>
    ${page.change !== null && html`<${Samples} shared=${shared} title=${html`<b class="tonb-title">${changes[page.change]?.[0]}</b>`} />`}
    <div class="tonb-code"><div class="tonb-samples-head"><b class="tonb-title">${texts.code}</b><span class="tonb-soft" hidden=${!long}>${texts.code_long}</span><span class="tonb-grow"></span><${Copy} text=${cell} texts=${texts} />
      <button type="button" class="tonb-button tonb-small tonb-insert" title=${texts.insert_tip} onClick=${insert}>${texts.insert}</button>
      <button type="button" class="tonb-button tonb-small tonb-use" hidden=${!offers.includes("use")} disabled=${!live} title=${fill(texts.use_tip, { name })} onClick=${() => send({ do: "use" })}>${fill(texts.use, { name })}</button></div>
      <div class="tonb-none tonb-inserted" role="status" hidden=${!told}>${told}</div>
      <pre ref=${code} class=${classes(byHand && "tonb-whole")}>${byHand ? cell : lines.slice(0, LINES).map((line) => (line.length > 300 ? `${line.slice(0, 300)}…` : line)).join("\n")}${!byHand && lines.length > LINES ? "\n…" : ""}</pre></div>`;
}

const TAB_VIEWS = { problems: Problems, samples: Browse, classes: Bars, features: Features, augment: Preview, loading: Loading, changes: Changes };

export default panel((shared) => {
  const { ui, store, face, texts, gone, send, refresh } = shared;
  if (!face) return null;
  ui.picked ??= new Set();
  ui.values ??= new Map();
  ui.fills ??= new Map();
  ui.sounds ??= new Map();
  ui.tab ??= "problems";
  const show = (choice) => send({ show: Object.fromEntries(Object.entries(choice).filter(([key, value]) => ["part", "problem", "label", "change", "page"].includes(key) && value != null)) });
  const all = { ...shared, show }, count = face.changes.length;
  takeSound(all);
  const titles = TABS.filter((name) => (name !== "classes" || face.classes.length) && (name !== "features" || face.kind === "table") && (name !== "augment" || face.preview.why !== "none"));
  const tabs = titles.map((name) => [name, texts[`tab_${name}`] + (name === "changes" && count ? ` (${count})` : "")]);
  const choose = (name) => {
    ui.tab = name;
    send({ tab: name });
    if (name === "samples" && (face.page.problem !== null || face.page.change !== null)) show({ part: "train" });
    if (name === "problems" && face.page.problem === null && face.problems.some((row) => row.left)) show({ problem: face.problems.find((row) => row.left).key });
    refresh();
  };
  const { step, state } = face.search, said = searchWords(face, texts), View = TAB_VIEWS[ui.tab];
  return html`<${Frame} name="tonb-data" label=${texts.group} data=${{ version: store.seq, search: state, changes: count }}>
    <${Head} name=${face.name} step=${gone ? texts.lost : face.headline} texts=${texts}><${DataControls} ...${all} /><//>
    ${state === "running" ? html`<${Bar} fraction=${step ? step[0] / step[1] : 0} label=${said} />` : html`<div class="tonb-rule"></div>`}
    <${Say} text=${gone ? texts.gone : face.said} />
    <div class="tonb-note tonb-searched" role="status" data-level=${state === "failed" ? "error" : "info"} hidden=${!said}>${said}</div>
    <div class="tonb-note tonb-told" role="status" hidden=${!face.told}>${face.told}</div>
    <${Figures} figures=${face.figures} />
    <${Tabs} tabs=${tabs} chosen=${ui.tab} choose=${choose} /><${View} ...${all} />
    ${face.kind === "sound" && html`<audio class="tonb-audio" ref=${(node) => { ui.audio = node ?? ui.audio; }}></audio>`}
    <${Foot}><span>${count === 0 ? texts.foot_none : count === 1 ? texts.foot_one : fill(texts.foot_changed, { n: count })}</span><//><//>`;
});
