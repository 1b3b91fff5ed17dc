// The rows of the table of runs: heads that sort, groups by task, a row for each run and what is opened below it.

const FIRST = 20, THEN = 60, FURTHER = 120; // rows that are drawn at once, those soon after, and how many more each time that the end is reached
const SOON = 100; // milliseconds

// ---- heads

// one click sorts, the best or the smallest first; the second turns the order round, and the third goes back to the newest first
function nextSort(sort, key) {
  return sort === key ? `-${key}` : sort === `-${key}` ? "" : key;
}

function SortHead({ name, title, kind, shared }) {
  const { face: { view, shown }, texts, gone } = shared, here = view.sort.replace(/^-/, "") === name;
  const way = here ? (shown.falls ? "descending" : "ascending") : "none";
  return html`<th scope="col" class=${`tonb-head-${kind}`} aria-sort=${way}><button type="button" class="tonb-sort" disabled=${gone}
    title=${fill(texts.sort_by, { name: title })} onClick=${() => look(shared, { sort: nextSort(view.sort, name) })}>${title}<span class="tonb-way"
    aria-hidden="true">${here ? (shown.falls ? "▾" : "▴") : ""}</span></button></th>`;
}

// a metric that stands under `best` in all runs which have it is no column of its own
function columnsOf({ face }) {
  const runs = face.shown.groups.flatMap(({ names }) => names.map((name) => face.rows[name])).filter(Boolean);
  return face.shown.columns.filter(([key, , kind]) => kind === "option" || runs.some((row) => row.metrics[key] && row.monitor !== key));
}

function Heads(shared) {
  const { texts, columns } = shared;
  const fixed = [["name", texts.name], ["state", texts.state], ["done", texts.done], ["best", texts.best_head]];
  const head = ([name, title], kind = name) => html`<${SortHead} key=${name} ...${{ name, title, kind, shared }} />`;
  return html`<thead><tr><th scope="col" class="tonb-head-pick"><span class="tonb-unseen">${texts.pick_head}</span></th>${fixed.map((each) => head(each))}
    ${columns.filter(([, , kind]) => kind === "metric").map((each) => head(each, "metric"))}${head(["time", texts.time])}
    <th scope="col" class="tonb-head-changed">${texts.changed}</th>${columns.filter(([, , kind]) => kind === "option").map((each) => head(each, "option"))}</tr></thead>`;
}

// ---- a run

function Name({ row, texts, open, unfold }) {
  const label = fill(open ? texts.shut : texts.open, { name: row.name });
  const fold = html`<button type="button" class="tonb-unfold" aria-expanded=${String(open)} aria-label=${label} title=${label} onClick=${unfold}>${open ? "▾" : "▸"}</button>`;
  if (row.parent) return html`<td class="tonb-cell-name">${row.run && fold}<span class="tonb-run-name">${fill(texts.trial_name, { n: row.number })}</span></td>`;
  return html`<td class="tonb-cell-name">${fold}<b class="tonb-run-name" title=${row.name}>${row.name}</b>
    ${row.tags.length > 0 && html`<span class="tonb-tags">${row.tags.map((tag) => html`<span class="tonb-tag" key=${tag}>${tag}</span>`)}</span>`}
    ${row.note && html`<small class="tonb-written" title=${row.note}>${row.note}</small>`}</td>`;
}

function StateCell({ row, texts }) {
  return html`<td class="tonb-cell-state"><span class="tonb-state" data-state=${row.state} title=${[row.why, row.damage].filter(Boolean).join("; ")}>${
    texts[row.state] ?? row.state}${row.damage && " ⚠"}</span>${row.why && html`<small class="tonb-why" title=${row.why}>${row.why}</small>`}</td>`;
}

function Best({ row, texts, best }) {
  const [value, name, epoch] = row.best ?? ["–", "", 0];
  return html`<td class="tonb-cell-best"><b>${value}</b>${best && html`<span class="tonb-tag tonb-top">${texts.best_run}</span>`}<small>${
    name ? fill(texts[`at_${row.unit || "epoch"}`] ?? "{name}", { name, epoch }) : ""}</small></td>`;
}

function Row({ row, chosen, ink, texts, choose, open, unfold, columns, usual, best }) {
  const fixed = row.parent && !row.run; // a trial of numbers has no run that could be shown
  const pick = (event) => {
    if (fixed || event.target.closest("input, button") || getSelection()?.toString()) return; // a text that was marked is not a click
    choose(!chosen);
  };
  const cell = ([key, , kind]) => html`<td key=${key} class=${`tonb-cell-${kind}`}><span>${kind === "metric" ? row.metrics[key] ?? "–" : row.parent ? "" : row.options[key] ?? usual[key] ?? "–"}</span></td>`;
  return html`<tr class=${classes(chosen && "tonb-chosen", row.parent && "tonb-inner", row.first && "tonb-first", best && "tonb-best-run")} data-name=${row.name} data-state=${row.state} onClick=${pick}>
    <td class="tonb-cell-pick">${!fixed && html`<input type="checkbox" class="tonb-pick" aria-label=${fill(texts.choose, { name: titleOf({ texts }, row) })} checked=${chosen}
      onChange=${(event) => choose(event.target.checked)} /><i class="tonb-dot" data-ink=${ink}></i>`}</td>
    <${Name} ...${{ row, texts, open, unfold }} /><${StateCell} ...${{ row, texts }} />
    <td class="tonb-cell-done"><span>${`${row.done[0]}/${row.done[1] ?? "–"}${row.unit && ` ${texts[`${row.unit}s`] ?? ""}`}`}</span><span class="tonb-bar"><i class="tonb-fill"
      style=${{ width: `${(row.fraction ?? 0) * 100}%` }}></i></span></td>
    <${Best} ...${{ row, texts, best }} />
    ${columns.filter(([, , kind]) => kind === "metric").map(cell)}
    <td class="tonb-cell-time"><span>${row.time}</span></td>
    <td class="tonb-cell-changed"><span title=${row.changed}>${row.changed}</span></td>
    ${columns.filter(([, , kind]) => kind === "option").map(cell)}</tr>`;
}

// ---- what is opened: the whole reason, options, and a note and tags that can be changed

function Own({ row, details, shared }) {
  const { texts, gone } = shared, note = useRef(), tags = useRef(), [done, tell] = useState(false);
  const save = (event) => {
    event.preventDefault();
    ask(shared, { do: "annotate", names: [row.name], note: note.current.value, tags: wordsOf(tags.current.value) });
    tell(true);
    setTimeout(() => tell(false), 2000);
  };
  return html`<form class="tonb-own" onSubmit=${save} onKeyDown=${(event) => entered(event, save)}>
    <label>${texts.note}<textarea class="tonb-note-of" rows="2" ref=${note} defaultValue=${details.note}></textarea></label>
    <label>${texts.tags}<input class="tonb-tags-of" ref=${tags} placeholder=${texts.tags_hint} defaultValue=${details.tags.join(" ")} /></label>
    <button type="submit" class="tonb-button tonb-small tonb-save" disabled=${gone}>${done ? texts.saved : texts.save}</button></form>`;
}

function Details({ row, details, shared, span }) {
  const { texts } = shared;
  const list = (pairs) => html`<dl>${pairs.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
  return html`<tr class="tonb-details" data-of=${row.name}><td colspan=${span}><div class="tonb-opened">
    ${details.reason && html`<p class="tonb-reason"><b>${texts.reason}</b> ${details.reason}</p>`}
    ${details.owned ? html`<${Own} key=${row.name} ...${{ row, details, shared }} />` : html`<p>${texts.of_sweep}</p>`}
    ${list(details.facts)}${details.options.length > 0 && html`<b>${texts.options}</b>${list(details.options)}`}</div></td></tr>`;
}

// ---- groups and rows

function GroupHead({ group, folded, turn, span, texts }) {
  const label = folded ? texts.unfold_group : texts.fold_group;
  return html`<tr class="tonb-group"><th scope="rowgroup" colspan=${span}><div class="tonb-group-line"><button type="button" class="tonb-unfold" aria-expanded=${String(!folded)}
    aria-label=${`${label}: ${group.label}`} title=${label} onClick=${turn}>${folded ? "▸" : "▾"}</button><span class="tonb-group-name">${group.label}</span><span class="tonb-group-facts">${
    fill(group.names.length === 1 ? texts.group_runs_one : texts.group_runs, { n: group.names.length })}${group.best && ` · ${fill(texts.group_best, { name: group.best, value: group.said })}`}</span></div></th></tr>`;
}

// a row whose run did not change keeps its node, which Preact then skips
function runNodes(shared, names, best, left) {
  const { ui, face, store, texts, columns, span } = shared, made = [];
  for (const name of names) {
    if (made.length >= left) break;
    if (!face.rows[name]) continue;
    const { rows: trials, more } = trialsOf(shared, name);
    for (const row of [face.rows[name], ...trials]) {
      const key = row.name, chosen = ui.chosen.has(key), ink = (ui.comparing && ui.chosen.get(key)) || "", open = ui.unfolded.has(key);
      const details = open ? store.details?.[key] : null, seen = [row, chosen, ink, texts, open, columns, key === best, details, shared.gone];
      let held = ui.rows.get(key);
      if (!held || seen.some((each, i) => each !== held.seen[i])) {
        const does = { choose: (on) => choose(shared, key, on), unfold: () => unfold(shared, key) };
        const node = html`<${Row} key=${key} ...${{ row, chosen, ink, texts, open, columns, usual: face.shown.usual, best: key === best, ...does }} />`;
        held = { seen, nodes: details ? [node, html`<${Details} key=${`${key}/details`} ...${{ row, details, shared, span }} />`] : [node] };
      }
      ui.drawn.set(key, held);
      made.push(...held.nodes);
    }
    if (more) made.push(html`<tr key=${`${name}/`} class="tonb-inner tonb-rest"><td></td><td colspan=${span - 1}>${fill(texts.more_trials, { n: more })}</td></tr>`);
  }
  return made;
}

function Runs(shared) {
  const { ui, face, texts, refresh } = shared, { groups } = face.shown;
  const scroll = useRef();
  ui.rows ??= new Map();
  ui.folded ??= new Set();
  ui.drawn = new Map();
  ui.most ??= FIRST;
  const key = groups.map((group) => group.label).join("\n"), columns = ui.columns?.shown === face.shown && ui.columns.rows === key ? ui.columns.found : columnsOf(shared);
  ui.columns = { shown: face.shown, rows: key, found: columns };
  Object.assign(shared, { columns, span: 7 + columns.length });
  let left = ui.most;
  const bodies = groups.map((group) => {
    const folded = ui.folded.has(group.label), rows = folded ? [] : runNodes(shared, group.names, group.best, left);
    left -= rows.length;
    const turn = () => refresh(ui.folded.delete(group.label) || ui.folded.add(group.label));
    return html`<tbody key=${group.label}>${groups.length > 1 && html`<${GroupHead} ...${{ group, folded, turn, span: shared.span, texts }} />`}${rows}</tbody>`;
  });
  ui.rows = ui.drawn;
  const some = left <= 0 && ui.most < THEN; // there are more, which need not be waited for: they are below what one sees
  useLayoutEffect(() => {
    if (!some) return;
    const due = setTimeout(() => refresh((ui.most = Math.max(ui.most, THEN))), SOON);
    return () => clearTimeout(due);
  }, [some, face.view.number]);
  const further = () => {
    const { scrollTop, clientHeight, scrollHeight } = scroll.current;
    if (left <= 0 && scrollTop + 2 * clientHeight > scrollHeight) refresh((ui.most += FURTHER));
  };
  return html`<div class="tonb-scroll" ref=${scroll} onScroll=${further} tabindex="0" role="region" aria-label=${texts.group}><table class="tonb-table" aria-rowcount=${face.shown.count[0] + 1}><${Heads} ...${shared} />${bodies}</table></div>`;
}
