// The preview of augmentation in the data panel: the same samples in each row, and a slider for each strength.

const FINE = 50; // steps of a slider, at least; each is a power of ten

const stepsOf = ({ ui, face }) => ui.steps ?? face.preview.steps;
const factorOf = ({ ui, face }) => ui.factor ?? face.preview.factor;

// one message at a time: what was moved meanwhile follows when the answer is here
function ask(shared) {
  const { ui, face, send } = shared;
  if (ui.asked && ui.asked !== face.preview.turn) return void (ui.due = true);
  ui.asked = (ui.asked ?? 0) + 1 + (face.preview.turn ?? 0);
  ui.due = false;
  send({ policy: stepsOf(shared), factor: factorOf(shared), turn: ui.asked });
}

function settle(shared) {
  const { ui, face } = shared;
  if (!ui.asked || ui.asked !== face.preview.turn) return;
  if (ui.due) return ask(shared);
  if (!ui.held) ui.steps = ui.factor = null; // what the kernel has is what was moved
}

function change(shared, steps, factor = factorOf(shared)) {
  [shared.ui.steps, shared.ui.factor] = [steps, factor];
  ask(shared);
  shared.refresh();
}

function Slider({ shared, name, value, low, high, tip, move }) {
  const { ui, texts, live, refresh } = shared, step = 10 ** Math.floor(Math.log10((high - low) / FINE));
  const hold = (on) => () => refresh((ui.held = on), on || settle(shared));
  return html`<span class="tonb-strength" title=${tip}><input type="range" class="tonb-range" min=${low} max=${high} step=${step} value=${value} disabled=${!live} aria-label=${fill(texts.strength, { name })}
    data-name=${name} onPointerdown=${hold(true)} onPointerup=${hold(false)} onInput=${(event) => move(Number(Number(event.target.value).toPrecision(4)))} /><output>${compact(value)}</output></span>`;
}

// one picture holds all samples of a row, side by side
function Strip({ row, count, labels }) {
  if (!row) return null;
  if (row.said) return html`<span class="tonb-none">${row.said}</span>`;
  return html`<span class="tonb-strip">${labels.map((label, i) => html`<i key=${i} title=${label} style=${{ backgroundImage: `url(${row.url})`,
    backgroundSize: `${100 * count}% 100%`, backgroundPosition: `${count > 1 ? (100 * i) / (count - 1) : 0}% 0` }}></i>`)}</span>`;
}

function Operations(shared) {
  const { face: { preview }, texts, live } = shared, steps = stepsOf(shared), on = new Set(steps.map(([name]) => name));
  const turn = ([name, , , usual]) => change(shared, on.has(name) ? steps.filter(([each]) => each !== name) : [...steps, [name, usual]]);
  return html`<div class="tonb-operations"><span class="tonb-soft">${texts.operations}</span>${preview.known.map((op) => html`<button type="button" key=${op[0]} class="tonb-chip" title=${op[4]}
    aria-pressed=${String(on.has(op[0]))} aria-label=${fill(texts.add, { name: op[0] })} disabled=${!live} onClick=${() => turn(op)}>${op[0]}</button>`)}<span class="tonb-grow"></span>
    <button type="button" class="tonb-button tonb-small tonb-again" title=${texts.again_tip} disabled=${!live} onClick=${() => shared.send({ do: "again" })}>${texts.again}</button></div>`;
}

function Preview(shared) {
  const { face: { preview }, rows, texts } = shared;
  if (preview.why) return html`<div class="tonb-none">${preview.why}</div>`;
  settle(shared);
  const steps = stepsOf(shared), factor = factorOf(shared), known = Object.fromEntries(preview.known.map((op) => [op[0], op]));
  const move = (i) => (strength) => change(shared, steps.map((step, k) => (k === i ? [step[0], strength] : step)));
  const strip = (name) => html`<${Strip} row=${rows[name]} count=${preview.count} labels=${preview.labels} />`;
  return html`<div class="tonb-preview" data-turn=${preview.turn}><${Operations} ...${shared} />
    <div class="tonb-strips">
      <span class="tonb-strip-name"><b>${texts.original}</b></span>${strip("original")}
      ${steps.map(([name, strength], i) => html`<span class="tonb-strip-name" key=${name} data-operation=${name}><b>${name}</b>
        <${Slider} ...${{ shared, name, value: strength, low: known[name][1], high: known[name][2], tip: known[name][4], move: move(i) }} /></span>${strip(name)}`)}
      ${steps.length > 0 && html`<span class="tonb-strip-name" data-operation="policy"><b>${texts.policy}</b>
        <${Slider} ...${{ shared, name: texts.factor, value: factor, low: 0, high: 2, tip: texts.factor, move: (value) => change(shared, steps, value) }} /></span>${strip(steps.length > 1 ? "policy" : steps[0][0])}`}
    </div>
    <div class="tonb-flags"><code>${preview.flags}</code><${Copy} text=${preview.flags} texts=${texts} /></div></div>`;
}

// a button that copies a text; where the page has no clipboard the text can still be marked
function Copy({ text, texts }) {
  const [done, tell] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => {
    tell(true);
    setTimeout(() => tell(false), 2000);
  }, () => {});
  return html`<button type="button" class="tonb-button tonb-small tonb-copy" onClick=${copy}>${done ? texts.copied : texts.copy}</button>`;
}
