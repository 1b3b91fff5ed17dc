// The panel of a compression: it shows what the kernel sends of its candidates, and sends back what is clicked.

// ---- what happens now, or happened last

function Now({ ui, face, rows, texts, refresh }) {
  const { working, notes } = face, first = notes.length < 2 && rows[0];
  const [level, said] = working ? ["info", `${working[0]}: ${working[1]}`] : face.notice ? ["info", face.notice] : first ? ["info", texts.hint] : (notes.at(-1) ?? ["info", texts.begins]);
  const earlier = working || face.notice || first ? notes : notes.slice(0, -1), open = ui.told && earlier.length > 0;
  return html`<div class="tonb-now" data-level=${level} data-working=${String(Boolean(working))}><span class="tonb-now-text" title=${said}>${said}</span><span class="tonb-unseen" role="status">${working ? "" : said}</span>
    <${Link} name="told" aria-expanded=${String(open)} style=${{ visibility: earlier.length ? "" : "hidden" }} onClick=${() => refresh((ui.told = !open))}>${open ? texts.less : fill(texts.more, { n: earlier.length })}<//></div>
    <ul class="tonb-earlier" hidden=${!open}>${open && [...earlier].reverse().map(([kind, text]) => html`<li data-level=${kind}>${text}</li>`)}</ul>`;
}

// ---- the chosen candidate

const usable = (shared, row) => blocked(shared) || (row.kept ? "" : fill(shared.texts.off_refused, { why: row.reason }));

function Acts(shared) {
  const { ui, face, texts, row, refresh, waits, choose } = shared, off = usable(shared, row), name = `use-${row.number}`;
  const open = () => {
    ui.exporting = row.number;
    ui.tab = "candidate";
    choose(row.number);
  };
  return html`<span class="tonb-acts">${row.number === face.taken ? html`<span class="tonb-origin">${texts.in_use}</span>` : html`<${Act} name="use tonb-small" waits=${waits === name} why=${off} tip=${texts.use_tip} onClick=${() => request(shared, name, { command: "take", number: row.number })}>${texts.use}<//>`}
    <${Act} name="export tonb-small" why=${off} tip=${texts.export_tip} aria-expanded=${String(ui.exporting === row.number)} onClick=${open}>${texts.export}<//></span>`;
}

function CandidateCard(shared) {
  const { ui, face, rows, texts } = shared, row = rows[ui.candidate] ?? rows[face.taken] ?? rows[0];
  if (!row) return html`<div class="tonb-empty">${texts.begins}</div>`;
  if (ui.exporting === row.number && row.kept) return html`<${ExportForm} key=${row.number} ...${shared} row=${row} />`;
  const start = startOf(shared), mine = ui.candidate === row.number && row.kept;
  const where = !mine ? "" : start === row ? texts.starts_here : fill(texts.starts_from, { name: called(start, texts), engine: row.engine });
  const steps = row.steps.length ? row.steps.join(" → ") : texts.original;
  return html`<div class="tonb-card" role="group" aria-label=${called(row, texts)}><div class="tonb-card-head"><b class="tonb-card-name" title=${steps}>${steps}</b><small>${row.engine}</small></div>
    <dl class="tonb-card-figures">${figuresOf(row, face, texts).map(([name, value, more, tip]) => html`<div key=${name} title=${tip}><dt>${name}</dt><dd>${value} ${more && html`<b>${more}</b>`}</dd></div>`)}</dl>
    <p class=${classes("tonb-card-said", !row.kept && "tonb-bad")}>${[row.number && row.reason, ...row.notes].filter(Boolean).join(". ").replaceAll("..", ".")}</p>
    ${face.exported.filter(({ number }) => number === row.number).map((each) => html`<p class="tonb-card-said" key=${each.whole}><b>${texts.exported}</b> <span title=${each.whole}>${fill(texts.exported_to, each)}</span></p>`)}
    <div class="tonb-card-acts"><${Acts} ...${shared} row=${row} />${row.steps.length > 0 && html`<${Copy} text=${row.steps.join(", ")} texts=${texts} words=${texts.copy_recipe} />`}<small>${where}</small></div></div>`;
}

// ---- what each layer costs

function Costs(shared) {
  const { face: { costs, costs_of, share, metric, controls }, texts, waits } = shared, outputs = costs_of === "outputs";
  if (!costs.length) return html`<div class="tonb-empty">${texts.costs_later} ${controls && html`<${Act} name="layers tonb-small" waits=${waits === "layers"} why=${blocked(shared)} tip=${texts.layers_tip} onClick=${() => request(shared, "layers", { command: "layers" })}>${texts.layers}<//>`}</div>`;
  const most = Math.max(1e-12, ...costs.map(([, cost]) => cost));
  const text = (cost) => (outputs ? `${(cost * 100).toFixed(2)}%` : share ? (cost * 100).toFixed(2) : compact(cost));
  return html`<small class="tonb-costs-head">${outputs ? texts.costs_outputs : `${fill(texts.costs_head, { metric: metric.replaceAll("_", " ") })}${share ? `, ${texts.points}` : ""}`}</small><div class="tonb-bars" role="list">${costs.map(([name, cost, float]) => html`<div class=${classes("tonb-bar-row", float && "tonb-float")} role="listitem" key=${name}>
    <span class="tonb-bar-name" title=${name}>${name}</span><span class="tonb-bar-line"><i style=${{ width: `${Math.max(0, (cost / most) * 100)}%` }}></i></span><span class="tonb-bar-share">${text(cost)}</span><small>${float ? texts.kept_float : ""}</small></div>`)}</div>`;
}

function Side(shared) {
  const { ui, texts, refresh } = shared, tabs = [["candidate", texts.tab_candidate], ["costs", texts.tab_costs]];
  return html`<div class="tonb-side"><${Tabs} tabs=${tabs} chosen=${ui.tab} choose=${(name) => refresh((ui.tab = name))} /><div class="tonb-side-body" tabindex="-1">${ui.tab === "costs" ? html`<${Costs} ...${shared} />` : html`<${CandidateCard} ...${shared} />`}</div></div>`;
}

// ---- the table of candidates

// a column: its key, its title, what it is sorted by, and which way first
function columnsOf({ face, texts }) {
  const better = face.mode === "max" ? -1 : 1;
  return [["number", texts.number, (row) => row.number, 1], ["candidate", texts.candidate, null, 1], ...face.sizes.map((size) => [`batch${size}`, fill(texts.batch_n, { n: size }), (row) => row.speedup[size], -1]),
    ["size", texts.size, (row) => row.bytes, 1], ["metric", face.metric.replaceAll("_", " "), (row) => row.metric, better], ["seconds", texts.seconds, (row) => row.cost, 1], ["verdict", texts.verdict, null, 1]];
}

// unless a column is chosen: the original, then the fastest, then what was refused
function arranged(shared) {
  const { ui, order, face } = shared, found = ui.sort && columnsOf(shared).find(([key]) => key === ui.sort.key), size = face.served[0] ?? face.sizes[0];
  const rank = (row) => (row.number === 0 ? 0 : row.kept ? 1 : 2);
  if (!found) return [...order].sort((a, b) => rank(a) - rank(b) || (b.speedup[size] ?? 0) - (a.speedup[size] ?? 0) || a.number - b.number);
  const [, , of, first] = found, way = first * (ui.sort.turned ? -1 : 1);
  return [...order].sort((a, b) => (of(a) == null) - (of(b) == null) || (of(a) - of(b)) * way || a.number - b.number);
}

function Heads(shared) {
  const { ui, texts, refresh } = shared, turn = (key) => () => refresh((ui.sort = { key, turned: ui.sort?.key === key ? !ui.sort.turned : false }));
  return html`<thead><tr>${columnsOf(shared).map(([key, word, of, first]) => {
    const on = ui.sort?.key === key, up = (first > 0) !== Boolean(ui.sort?.turned), number = of && key !== "number";
    return html`<th scope="col" key=${key} data-column=${key} class=${number ? "tonb-number" : ""} aria-sort=${on ? (up ? "ascending" : "descending") : undefined}>${of ? html`<button type="button" class="tonb-sort" title=${fill(texts.sort, { name: word })} onClick=${turn(key)}>${number && html`<i>${on ? (up ? "▴" : "▾") : ""}</i>`}${word}${!number && html`<i>${on ? (up ? "▴" : "▾") : ""}</i>`}</button>` : word}</th>`;
  })}<th scope="col"></th></tr></thead>`;
}

function CandidateRow(shared) {
  const { row, face, texts, ui, choose } = shared, mine = ui.candidate === row.number, taken = row.number === face.taken;
  const pick = (event) => !event.target.closest("button") && !getSelection()?.toString() && choose(mine ? null : row.number);
  const more = (text) => row.number > 0 && html` <b>${text}</b>`;
  const cell = (key, name, text, extra, tip) => html`<td class="tonb-number" key=${key} data-column=${key} data-name=${name} title=${tip}>${text}${extra}</td>`;
  const figures = figuresOf(row, face, texts), tips = Object.fromEntries(face.sizes.map((size, i) => [size, figures[i][3]]));
  const [figure, interval] = row.figure.split(" ± ");
  return html`<tr class=${classes(mine && "tonb-chosen", taken && "tonb-taken", !row.kept && "tonb-off")} data-candidate=${row.number} data-kept=${String(row.kept)} onClick=${pick}>
    <td data-column="number">${row.number}</td><td class="tonb-cell-steps"><span>${row.steps.length ? row.steps.join(" → ") : texts.original}</span>${row.engine && html` <small>${row.engine}</small>`}${row.number > 0 && html`<small class="tonb-why-below" title=${row.reason}>${row.reason}</small>`}</td>
    ${face.sizes.map((size) => cell(`batch${size}`, fill(texts.batch_n, { n: size }), row.times[size] ?? "–", more(row.faster[size] ?? ""), tips[size]))}
    ${cell("size", texts.size, row.size, more(row.smaller))}${cell("metric", face.metric.replaceAll("_", " "), figure, interval && html` <small>± ${interval}</small>`)}
    ${cell("seconds", texts.seconds, row.cost ? spell(row.cost) : row.seconds ? spell(row.seconds) : "")}
    <td class="tonb-cell-why"><span title=${row.reason}>${row.number ? row.reason : ""}</span></td><td class="tonb-cell-acts"><${Acts} ...${shared} row=${row} />${row.steps.length > 0 && html`<${Copy} text=${row.steps.join(", ")} texts=${texts} words=${texts.copy_recipe} />`}</td></tr>`;
}

function Candidates(shared) {
  return html`<div class="tonb-candidates"><div class="tonb-scroll"><table class="tonb-table"><${Heads} ...${shared} /><tbody>${arranged(shared).map((row) => html`<${CandidateRow} key=${row.number} ...${shared} row=${row} />`)}</tbody></table></div></div>`;
}

// ---- the panel

function CompressFoot({ face, texts }) {
  return html`<${Foot}><span hidden=${!face.run_path}>${texts.run_directory} <code class="tonb-path" title=${face.run_path}>${face.short_path}</code></span><span hidden=${!face.machine}>${fill(texts.measured_on, { machine: face.machine })}</span>
    <span class="tonb-recipe-line" hidden=${!face.recipe}>${texts.recipe}: <code class="tonb-path">${face.recipe}</code> <${Copy} text=${face.recipe} texts=${texts} /> <${Copy} text=${face.code} texts=${texts} words=${texts.copy_code} title=${face.code} /></span><//>`;
}

export default panel((shared) => {
  const { ui, face, rows, texts, live, gone, refresh } = shared;
  if (!face) return null;
  ui.tab ??= "candidate";
  if (ui.seen !== rows) [ui.seen, ui.order] = [rows, Object.values(rows).sort((a, b) => a.number - b.number)];
  if (!rows[ui.candidate]) ui.candidate = null;
  const sent = ui.pending?.name, lost = face.live && gone, { name: waits, slow } = pending(ui, face, live);
  if (sent && !waits && face.refusals === ui.asked) [ui.form, ui.exporting] = [sent === "form" ? null : ui.form, sent === "export" ? null : ui.exporting]; // what was filled in was accepted
  if (!live) ui.form = ui.exporting = null;
  const choose = (number) => {
    if (number !== ui.exporting) ui.exporting = null;
    if (number !== null) ui.tab = "candidate";
    refresh((ui.candidate = number));
  };
  const all = { ...shared, order: ui.order, waits, choose };
  return html`<${Frame} name="tonb-compress" label=${texts.group} data=${{ state: face.state, candidates: ui.order.length }}>
    <${Head} state=${lost ? "lost" : face.state} name=${face.name} step=${face.headline} texts=${texts}><${EndControls} ...${all} /><//>
    <${Bar} fraction=${face.fraction} label=${texts.progress} /><${StepButtons} ...${all} />
    <${Say} text=${lost ? texts.gone : ui.refused || face.said || (slow && texts.slow) || ""} />
    <${Forms} ...${all} /><${Now} ...${all} /><${Figures} figures=${face.figures} />
    <div class="tonb-charts tonb-first"><${Pareto} ...${all} /><${Side} ...${all} /></div><${Candidates} ...${all} /><${CompressFoot} ...${all} /><//>`;
});
