// The controls of a compression: steps with their forms, the search, and what ends and undoes.

const ORDER = ["prune", "quantize", "lowrank", "sparsify", "distill"]; // of the buttons; others follow
const stepTitle = (name, texts) => texts[`step_${name}`] ?? titled(name);

// why nothing new can be started, empty where it can
function blocked({ face, gone, live, rows, texts }) {
  if (gone) return texts.off_gone;
  if (!live) return texts.off_ended;
  if (face.working) return fill(texts.off_working, { step: face.working[0] });
  return rows[0] ? "" : texts.off_measuring;
}

// a button that stays in the order of the keyboard and says why it is off
function Act({ why, tip, onClick, children, ...rest }) {
  return html`<${Button} title=${why || tip} aria-disabled=${why ? "true" : undefined} onClick=${why ? undefined : onClick} ...${rest}>${children}<//>`;
}

// the candidate that the next step starts from: the chosen one, or the nearest before it that a step can change
function startOf({ ui, face, rows }) {
  let row = rows[ui.candidate]?.kept ? rows[ui.candidate] : rows[face.taken];
  while (row && !(row.module && row.kept)) row = rows[row.parent];
  return row ?? rows[0];
}

// send a command, and let its button wait until something happens; a second click waits too, unless the first has had no effect for long
function request({ ui, face, send, refresh }, name, message) {
  if (ui.pending && Date.now() - ui.pending.since < SLOW) return;
  const mark = (now) => JSON.stringify([Boolean(now.working), now.taken, now.refusals, now.notes.length, now.notes.at(-1)]), before = mark(face);
  ui.refused = "";
  ui.asked = face.refusals;
  send(message);
  click(ui, name, (now) => !now.live || mark(now) !== before);
  refresh();
}

function startNumber(shared, number = startOf(shared)?.number) {
  return number === undefined || number === shared.face.taken ? null : number;
}

// ---- head

function EndControls(shared) {
  const { face, texts, live, gone, waits } = shared, off = blocked(shared);
  const does = (name, why, tip, command) => html`<${Act} name=${`${name} tonb-quiet`} waits=${waits === name} why=${why} tip=${tip} onClick=${() => request(shared, name, { command })}>${texts[name]}<//>`;
  const ended = gone ? texts.off_gone : live ? "" : texts.off_ended;
  return html`<div class="tonb-controls" role="toolbar" aria-label=${texts.group} hidden=${!face.controls}>
    ${does("undo", off || (face.undo.length ? "" : texts.off_undo), texts.undo_tip, "undo")}
    ${does("stop", ended || (face.working ? "" : texts.off_stop), texts.stop_tip, "stop")}
    ${does("done", ended, texts.done_tip, "finish")}</div>`;
}

// ---- steps

function StepButtons(shared) {
  const { ui, face, texts, refresh, waits } = shared, why = blocked(shared), start = startOf(shared);
  const place = ({ name }) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  const turn = (name) => () => refresh((ui.form = ui.form === name ? null : name));
  const one = ({ name, help, text }) => {
    const title = stepTitle(name, texts), tip = fill(texts.run_tip, { text, help, start: start ? called(start, texts) : texts.original });
    return html`<span class="tonb-split" key=${name} data-step=${name}><${Act} name=${`step tonb-${name}`} waits=${waits === name} why=${why} tip=${tip}
      onClick=${() => request(shared, name, { command: "step", step: name, values: {}, start: startNumber(shared) })}>${title}<//><${Act} name="options" why=${why} tip=${fill(texts.with_options, { name: title })}
      aria-label=${fill(texts.options_of, { name: title })} aria-expanded=${String(ui.form === name)} onClick=${turn(name)}>…<//></span>`;
  };
  return html`<div class="tonb-steps" role="toolbar" aria-label=${texts.group} hidden=${!face.controls}>${[...face.forms].sort((a, b) => place(a) - place(b)).map(one)}
    <${Act} name="recipe" why=${why} tip=${texts.recipe_title} aria-expanded=${String(ui.form === "recipe")} onClick=${turn("recipe")}>${texts.recipe}…<//><${Find} ...${shared} why=${why} /></div>`;
}

function Find(shared) {
  const { ui, face, texts, live, refresh, waits, why } = shared, held = (ui.find ??= { minutes: "2", aim: face.aims[0] });
  const go = () => {
    const minutes = typed(held.minutes), [least, most] = face.minutes;
    if (!(minutes >= least && minutes <= most)) return refresh((ui.refused = fill(texts.minutes_refused, { least, most, found: held.minutes.trim() || texts.nothing })));
    request(shared, "find", { command: "find", minutes, aim: held.aim });
  };
  const key = (event) => event.key === "Enter" && !why && go();
  return html`<span class="tonb-find-row"><label class="tonb-field">${texts.within}<input class="tonb-lr tonb-minutes" type="text" inputmode="decimal" autocomplete="off" aria-label=${texts.minutes_long}
    disabled=${!live} value=${held.minutes} onInput=${(event) => refresh((held.minutes = event.target.value))} onKeyDown=${key} />${texts.minutes}</label>
    <select class="tonb-lr tonb-aim" aria-label=${texts.aim} disabled=${!live} value=${held.aim} onChange=${(event) => refresh((held.aim = event.target.value))}>${face.aims.map((aim) => html`<option key=${aim} value=${aim} selected=${aim === held.aim}>${texts[`aim_${aim}`]}</option>`)}</select>
    <${Act} name="find" waits=${waits === "find"} why=${why} tip=${fill(texts.find_tip, { n: held.minutes })} onClick=${go}>${texts.find}<//></span>`;
}

// ---- forms, made from the options that a step declares

function Field({ field, value, set, texts, id }) {
  const { name, kind, help, low, high, unit, choices, suggested } = field, word = texts[`option_${name}`] ?? name.replaceAll("_", " ");
  const change = (event) => set(event.target.value), box = { class: "tonb-lr", autocomplete: "off", value, onInput: change };
  const control = kind === "slider" ? html`<span class="tonb-strength"><input type="range" class="tonb-range" aria-label=${word} min=${low} max=${high} step="0.01" value=${value} onInput=${change} /><input type="text" inputmode="decimal" aria-label=${word} ...${box} class="tonb-lr tonb-amount" /></span>`
    : kind === "choice" ? html`<select class="tonb-lr" value=${value} onChange=${change}>${choices.map((each) => html`<option key=${each} value=${each} selected=${each === value}>${each}</option>`)}</select>`
    : kind === "bool" ? html`<span class="tonb-check"><input type="checkbox" class="tonb-pick" checked=${value === "yes"} onChange=${(event) => set(event.target.checked ? "yes" : "no")} />${texts.yes}</span>`
    : html`<input type="text" inputmode=${kind === "int" || kind === "float" ? "decimal" : undefined} list=${suggested.length ? id : undefined} ...${box} />${suggested.length > 0 && html`<datalist id=${id}>${suggested.map((each) => html`<option key=${each} value=${each}></option>`)}</datalist>`}`;
  return html`<label class="tonb-try-field" data-option=${name} title=${help}><span>${word}${unit && kind !== "slider" && name !== unit ? html` <small>${unit}</small>` : ""}</span>${control}</label>`;
}

let forms = 0; // so that no two lists of suggestions share an id

// where a step can start
function Start({ from, set, rows, texts }) {
  const able = Object.values(rows).filter((row) => row.module && row.kept).sort((a, b) => a.number - b.number);
  return html`<label class="tonb-try-field"><span>${texts.start}</span><select class="tonb-lr" value=${from} onChange=${(event) => set(Number(event.target.value))}>${able.map((row) => html`<option key=${row.number} value=${row.number} selected=${row.number === from}>${row.number ? `${row.number}: ${called(row, texts)}` : texts.original}</option>`)}</select></label>`;
}

function FormFrame({ title, close, go, off, texts, run = texts.run, children }) {
  const node = useRef();
  useLayoutEffect(() => node.current.querySelector("input, select")?.focus(), []);
  return html`<form class="tonb-try-form" ref=${node} aria-label=${title} onSubmit=${(event) => (event.preventDefault(), off || go())} onKeyDown=${(event) => event.key === "Escape" && close()}><b class="tonb-title">${title}</b>
    <div class="tonb-try-fields">${children}</div><span class="tonb-answers"><button type="button" class="tonb-button" onClick=${close}>${texts.cancel}</button><button type="submit" class="tonb-button tonb-go" title=${off || undefined} aria-disabled=${off ? "true" : undefined}>${run}</button></span></form>`;
}

function StepForm(shared) {
  const { ui, face, texts, rows, refresh, form } = shared, [id] = useState(() => `tonb-suggested-${++forms}`);
  const [held, hold] = useState(() => Object.fromEntries(form.fields.map(({ name, value }) => [name, String(value)]))), [from, begin] = useState(startOf(shared)?.number ?? 0);
  const go = () => request(shared, "form", { command: "step", step: form.name, values: held, start: startNumber(shared, from) });
  return html`<${FormFrame} title=${`${stepTitle(form.name, texts)}: ${form.help}`} close=${() => refresh((ui.form = null))} go=${go} off=${blocked(shared)} texts=${texts}>
    ${form.fields.map((field) => html`<${Field} key=${field.name} field=${field} value=${held[field.name]} set=${(value) => hold({ ...held, [field.name]: value })} texts=${texts} id=${`${id}-${field.name}`} />`)}
    <${Start} from=${from} set=${begin} rows=${rows} texts=${texts} /><//>`;
}

function RecipeForm(shared) {
  const { ui, face, texts, rows, refresh } = shared, [text, write] = useState(face.recipe || "prune 0.5, quantize int8"), [from, begin] = useState(0);
  const go = () => request(shared, "form", { command: "recipe", text, start: startNumber(shared, from) });
  return html`<${FormFrame} title=${texts.recipe_title} close=${() => refresh((ui.form = null))} go=${go} off=${blocked(shared)} texts=${texts}>
    <label class="tonb-try-field tonb-long"><span>${texts.recipe_text}</span><input class="tonb-lr" type="text" autocomplete="off" spellcheck="false" value=${text} onInput=${(event) => write(event.target.value)} /></label><${Start} from=${from} set=${begin} rows=${rows} texts=${texts} /><//>`;
}

// a form closes when its step begins; where it was refused it stays as it was filled in
function Forms(shared) {
  const { ui, face } = shared, form = face.forms.find(({ name }) => name === ui.form);
  return form ? html`<${StepForm} key=${form.name} ...${shared} form=${form} />` : ui.form === "recipe" && html`<${RecipeForm} key="recipe" ...${shared} />`;
}

function ExportForm(shared) {
  const { ui, face, texts, row, refresh } = shared, formats = row.module ? face.formats : face.formats.slice(0, 1);
  const [form, take] = useState(formats[0]), [own, write] = useState(null), close = () => refresh((ui.exporting = null));
  const taken = (path) => face.exported.some(({ path: known, whole }) => known === path || whole === path), base = `${face.folder}-${row.number}${form === "auto" ? "" : `-${form.replaceAll(/[ .]/g, "-")}`}`;
  let path = base;
  for (let n = 2; taken(path); n++) path = `${base}-${n}`;
  const go = () => request(shared, "export", { command: "export", number: row.number, form, path: own ?? path });
  return html`<${FormFrame} title=${fill(texts.export_title, { name: called(row, texts) })} close=${close} go=${go} off=${blocked(shared)} texts=${texts} run=${texts.export.replace("…", "")}>
    <label class="tonb-try-field"><span>${texts.form}</span><select class="tonb-lr" value=${form} onChange=${(event) => take(event.target.value)}>${formats.map((each) => html`<option key=${each} value=${each} selected=${each === form}>${each === "auto" ? texts.form_auto : each}</option>`)}</select></label>
    <label class="tonb-try-field tonb-long"><span>${texts.folder}</span><input class="tonb-lr" type="text" autocomplete="off" spellcheck="false" value=${own ?? path} onInput=${(event) => write(event.target.value)} /></label>
    ${!row.module && html`<small class="tonb-try-field tonb-long">${fill(texts.form_only, { engine: row.engine })}</small>`}<//>`;
}
