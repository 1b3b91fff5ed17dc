// The form of all options: sections by what one wants to do, a search over all of them, and the line that starts the same training.
// What is typed is shown at once, and told to the kernel with each keystroke: the kernel checks it, and knows it when the page is loaded again.

const PAGE = Math.random().toString(36).slice(2); // this page, among others that show the same form

// what a field shows: what was typed here until the kernel has taken it in
function shownText({ ui, rows }, name) {
  const held = ui.typed.get(name), row = rows[name];
  if (!held) return row.text;
  const taken = row.token === held.token || (row.token !== held.before && !row.token.startsWith(PAGE));
  if (taken) ui.typed.delete(name);
  return taken ? row.text : held.text;
}

function setText({ ui, rows, send, refresh }, name, text, done) {
  const token = `${PAGE}-${(ui.count = (ui.count ?? 0) + 1)}`;
  ui.typed.set(name, { text, token, before: rows[name].token });
  send({ set: [[name, text, token, done]] });
  refresh();
}

function putBack({ ui, send, refresh }, names) {
  for (const name of names.length ? names : [...ui.typed.keys()]) ui.typed.delete(name);
  send({ put_back: names });
  refresh();
}

// ---- what is shown of all fields

const searched = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

// whether a field has all words, and what has those that it does not show; null where a word is missing
function lookUp(fact, title, words, texts) {
  const has = (text) => (word) => new RegExp(patternOf(word), "i").test(text), seen = [fact.label, fact.help, fact.flag, fact.values, title].join("\n");
  const hidden = words.filter((word) => !has(seen)(word));
  const values = fact.choices.filter((each) => hidden.some(has(each))), also = [];
  for (const word of hidden) {
    if (values.some((each) => has(each)(word))) continue;
    const other = fact.also.find((text) => has(text)(word));
    if (other === undefined) return null;
    also.push(other);
  }
  return [values.length && fact.kind !== "buttons" ? fill(texts.value_found, { values: values.join(", ") }) : "",
    ...new Set(also.map((text) => fill(texts.found_as, { text })))].filter(Boolean).join(" · ");
}

// [[title, [[name, where it was found]]]]: the sections that have something to show
function filtered({ ui, face, rows, texts }) {
  const words = searched(ui.query);
  const inside = ([, title, names]) => names.filter((name) => !ui.only || rows[name].changed)
    .map((name) => [name, lookUp(face.fields[name], title, words, texts)]).filter(([, found]) => found !== null);
  return face.sections.map((section) => [section[1], inside(section), section[0]]).filter(([, names]) => names.length);
}

// a field that changes nothing is left out, unless its value was changed
const counting = ({ rows }, names) => names.filter((name) => !rows[name].idle || rows[name].changed);

function Fields({ shared, names, words }) {
  const { face, rows, live, texts } = shared;
  return html`<div class="tonb-fields">${names.map(([name, found]) => html`<${OptionField} key=${name} ...${{ name, fact: face.fields[name], row: rows[name], text: shownText(shared, name), words, found, live, texts }}
    set=${(text, done) => setText(shared, name, text, done)} putBack=${() => putBack(shared, [name])} />`)}</div>`;
}

// ---- parts

function FormControls(shared) {
  const { ui, face, rows, texts, live, refresh, board, count } = shared;
  const key = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // it starts nothing: it goes to what was found
    board.root.querySelector(".tonb-option :is(input, select)")?.focus();
  };
  return html`<div class="tonb-controls">
    <input type="search" class="tonb-lr tonb-search-box" placeholder=${texts.search} aria-label=${texts.search} title=${texts.search_tip} autocomplete="off" spellcheck="false" value=${ui.query}
      onInput=${(event) => refresh((ui.query = event.target.value))} onKeyDown=${key} />
    <${Button} name="only" aria-pressed=${String(ui.only)} disabled=${!count && !ui.only} onClick=${() => refresh((ui.only = !ui.only))}>${texts.only_changed}<//>
    <${Button} name="reset-all" title=${texts.reset_all_tip} disabled=${!live || !count} onClick=${() => putBack(shared, [])}>${texts.reset_all}<//></div>`;
}

// the sections, as a list of tabs, or as a field to choose from where there is little room
function Sections(shared) {
  const { ui, face, rows, texts, filter, go, id } = shared;
  const shown = ([key, , names]) => (filter ? filter.find(([, , each]) => each === key)?.[1].length ?? 0 : names.filter((name) => rows[name].changed).length);
  const wrong = ([, , names]) => names.some((name) => rows[name].error), open = ([key]) => !filter && key === ui.section;
  const move = (event) => {
    const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key], last = face.sections.length - 1;
    const here = face.sections.findIndex(([key]) => key === (event.target.dataset.section ?? ui.section));
    const next = step ? (here + step + last + 1) % (last + 1) : { Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    go(face.sections[next][0]);
    event.currentTarget.children[next].focus();
  };
  const first = filter ? face.sections[0][0] : ui.section;
  return html`<div class="tonb-sections" role="tablist" aria-orientation="vertical" aria-label=${texts.sections} onKeyDown=${move}>${face.sections.map((section) => html`<button type="button" role="tab" key=${section[0]} id=${`${id}-${section[0]}`}
      class="tonb-section" data-section=${section[0]} aria-selected=${String(open(section))} aria-controls=${`${id}-fields`} tabindex=${section[0] === first ? 0 : -1} data-none=${String(Boolean(filter) && !shown(section))} onClick=${() => go(section[0])}>
      <span>${section[1]}</span>${wrong(section) && html`<i class="tonb-wrong-mark" role="img" aria-label=${texts.wrong_mark}>!</i>`}${shown(section) > 0 && html`<b class="tonb-count">${shown(section)}</b>`}</button>`)}</div>
    <select class="tonb-lr tonb-section-list" aria-label=${texts.sections} value=${filter ? "" : ui.section} onChange=${(event) => go(event.target.value)}>${filter && html`<option value="" selected disabled>${texts.sections}</option>`}
      ${face.sections.map((section) => html`<option key=${section[0]} value=${section[0]} selected=${open(section)}>${section[1]}${shown(section) ? ` (${shown(section)})` : ""}${wrong(section) ? " !" : ""}</option>`)}</select>`;
}

function Found(shared) {
  const { ui, filter, texts, words } = shared, n = filter.reduce((sum, [, names]) => sum + names.length, 0);
  const said = n ? fill(n === 1 ? texts.found_one : texts.found_many, { n }) : words.length ? fill(texts.none_found, { query: ui.query.trim() }) : texts.none_changed;
  return html`<p class="tonb-said" role="status">${said}</p>
    ${filter.map(([title, names, key]) => html`<section key=${key} class="tonb-part" aria-label=${title}><h4 class="tonb-part-title"><${Marked} text=${title} words=${words} /></h4><${Fields} shared=${shared} names=${names} words=${words} /></section>`)}`;
}

function Line({ face, texts }) {
  return html`<div class="tonb-line-row"><div class="tonb-lines" title=${texts.line_tip}><code class="tonb-line">${face.line.split(/( )/).map((word) => (word === " " ? word : html`<span>${word}</span>`))}</code></div><${Copy} text=${face.line} texts=${texts} aria-label=${`${texts.copy}: ${texts.line}`} /></div>
    ${face.cell.length > 0 && html`<div class="tonb-line-row"><div class="tonb-lines"><span class="tonb-unit">${texts.cell_changed}</span><code class="tonb-line">${face.cell.join("\n")}</code></div><${Copy} text=${face.cell.join("\n")} texts=${texts} aria-label=${`${texts.copy}: ${texts.cell_changed}`} /></div>`}
    <div class="tonb-said" hidden=${!face.unsaid}>${face.unsaid}</div>`;
}

// what is wrong, and the way to each field
function Wrong({ face, rows, texts, go, refused }) {
  return html`<div class="tonb-say tonb-wrong" role="alert" hidden=${!refused.length && !face.said}>${refused.length > 0 && html`<span>${fill(refused.length === 1 ? texts.wrong_one : texts.wrong_many, { n: refused.length })} </span>`}
    ${refused.map(([section, name], i) => html`${i > 0 && ", "}<button type="button" class="tonb-more" key=${name} onClick=${() => go(section, name)}>${face.fields[name].label}</button>`)}${face.said}</div>`;
}

// what is left when the training starts
function Left({ store, face, texts, ui, board }) {
  useLayoutEffect(() => { // the button that had the focus is gone
    if (ui.answered && document.activeElement === document.body) board.root.querySelector(".tonb-copy")?.focus({ preventScroll: true });
  }, []);
  return html`<${Frame} name="tonb-form tonb-form-done" label=${texts.group} data=${{ version: store.seq, state: face.state }}>
    <${Head} state=${face.state} name=${face.name} step=${face.headline} texts=${texts} /><div class="tonb-rule"></div><${Line} face=${face} texts=${texts} /><//>`;
}

let forms = 0;

export default panel((shared) => {
  const { ui, store, board, face, rows, texts, gone, live, send, refresh } = shared;
  if (!face) return null;
  ui.id ??= `tonb-form-${++forms}`;
  ui.typed ??= new Map();
  ui.query ??= "";
  ui.only ??= false;
  if (!face.sections.some(([key]) => key === ui.section)) { // a page that was loaded anew opens where something is wrong
    const wrong = face.sections.find(([, , names]) => names.some((name) => rows[name].error));
    ui.section = (wrong ?? face.sections[0])[0];
  }
  const sectionOf = (name) => face.sections.find(([, , names]) => names.includes(name))?.[0], turn = face.first?.[1] ?? 0;
  const go = (section, name = null) => refresh(Object.assign(ui, { section, focus: name, query: "", only: false }));
  if (turn !== (ui.turn ??= turn)) Object.assign(ui, { turn, starting: false, ...(face.first[0] ? { section: sectionOf(face.first[0]), focus: face.first[0], query: "", only: false } : {}) });
  useLayoutEffect(() => {
    if (!ui.focus) return;
    const field = board.root.querySelector(`.tonb-option[data-name="${ui.focus}"]`);
    ui.focus = null;
    field?.querySelector("input:checked, input, select")?.focus();
  });
  if (face.state !== "waits") return html`<${Left} ...${shared} />`;
  const words = searched(ui.query), filter = words.length || ui.only ? filtered(shared) : null, count = Object.values(rows).filter((row) => row.changed).length;
  const refused = face.sections.flatMap(([key, , names]) => names.filter((name) => rows[name].error).map((name) => [key, name]));
  const all = { ...shared, go, filter, words, count, refused, id: ui.id };
  const start = (event) => {
    event.preventDefault();
    ui.answered = true;
    if (live) send({ do: "start", set: [...ui.typed].map(([name, { text, token }]) => [name, text, token, true]) });
  };
  const key = (event) => {
    // by hand: in JupyterLab the key does not submit a form
    if (event.key === "Enter" && !event.isComposing && !event.defaultPrevented && event.target.matches(".tonb-option input")) return start(event);
    if (event.key !== "Escape" || !(ui.query || ui.only)) return;
    event.stopPropagation();
    event.preventDefault();
    refresh(Object.assign(ui, { query: "", only: false }));
    board.root.querySelector(".tonb-search-box").focus();
  };
  const open = face.sections.find(([name]) => name === ui.section);
  return html`<${Frame} name="tonb-form" label=${texts.group} data=${{ version: store.seq, state: face.state }}><form onSubmit=${start} onKeyDown=${key} novalidate>
    <${Head} name=${face.name} step=${gone ? texts.lost : face.headline} texts=${texts}><${FormControls} ...${all} /><//><div class="tonb-rule"></div><${Say} text=${gone ? texts.gone : ""} />
    <div class="tonb-form-body"><${Sections} ...${all} />
      <div class="tonb-form-main" id=${`${ui.id}-fields`} ...${filter ? {} : { role: "tabpanel", "aria-labelledby": `${ui.id}-${ui.section}` }}>${filter ? html`<${Found} ...${all} />`
        : html`<${Fields} shared=${all} names=${counting(shared, open[2]).map((name) => [name, ""])} words=${[]} />`}</div></div>
    <${Wrong} ...${all} />
    <div class="tonb-form-end"><div class="tonb-form-line">${refused.length === 0 && html`<${Line} face=${face} texts=${texts} />`}</div><span class="tonb-answers"><${Button} name="cancel" disabled=${!live} onClick=${() => send({ do: "cancel" })}>${texts.cancel}<//>
      <button type="submit" class="tonb-button tonb-start" disabled=${!live}>${texts.start}</button></span></div></form><//>`;
});
