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

// ---- what stands for the samples of a row, by the kind of data

// one picture holds all samples of a row, side by side
function Strip({ shared, row }) {
  const { labels } = shared.face.preview, count = labels.length;
  return html`<span class="tonb-strip" style=${{ "--columns": count }}>${labels.map((label, i) => html`<i key=${i} title=${label} style=${{ backgroundImage: `url(${row.url})`, aspectRatio: row.shape?.join(" / "),
    backgroundSize: `${100 * count}% 100%`, backgroundPosition: `${count > 1 ? (100 * i) / (count - 1) : 0}% 0` }}></i>`)}</span>`;
}

function Waves({ shared, row, name, first }) {
  const { ui, face: { preview }, texts, live } = shared;
  return html`<span class="tonb-previewed-waves">${row.waves.map((heights, i) => {
    const key = `preview/${preview.made}/${name}/${i}`, on = ui.playing === key, title = { original: texts.original, policy: texts.policy }[name] ?? name;
    return html`<span key=${i} class="tonb-previewed-wave">${first && preview.labels[i] && html`<small class="tonb-soft">${preview.labels[i]}</small>`}<span class="tonb-sound-line"><button type="button" class="tonb-button tonb-play" disabled=${!live} aria-pressed=${String(on)}
      aria-label=${fill(on ? texts.stop_preview : texts.play_preview, { n: i + 1, name: title })} onClick=${() => playNamed(shared, key, { play: i, part: "preview", row: name })}>${on ? "■" : "▶"}</button><${Wave} heights=${heights} done=${playedShare(ui, key)} /></span></span>`;
  })}</span>`;
}

const MARKS = { "+": "ins", "-": "del" };

function Words({ shared, row }) {
  const { labels } = shared.face.preview;
  return html`<span class="tonb-previewed-texts">${row.texts.map((pieces, i) => html`<span key=${i} class="tonb-previewed-text" title=${labels[i]}>${pieces.map(([text, mark]) => (mark ? html`<${MARKS[mark]}>${text}<//>${" "}` : `${text} `))}</span>`)}</span>`;
}

function Rows({ shared, row, first }) {
  const { face: { preview }, texts } = shared, { labels, heads } = preview, named = labels.some(Boolean);
  return html`<span class="tonb-previewed-rows" style=${{ "--columns": heads.length, "--label": named ? "minmax(0, 1fr)" : "0" }}>${first && html`<span class="tonb-soft">${named && texts.class_head}</span>${heads.map((head) => html`<b key=${head} class="tonb-soft" title=${head}>${head}</b>`)}`}
    ${row.cells.map((cells, i) => html`<span class="tonb-soft" title=${labels[i]}>${labels[i]}</span>${cells.map(([value, mark]) => html`<span class=${classes("tonb-number", mark && "tonb-changed-cell")} title=${value}>${value || texts.missing}</span>`)}`)}</span>`;
}

const PREVIEWS = { images: Strip, spectrograms: Strip, sounds: Waves, texts: Words, tables: Rows };

function Previewed({ shared, name, first }) {
  const row = shared.rows[name], View = PREVIEWS[shared.face.preview.kind];
  if (!row) return html`<span class="tonb-none"></span>`;
  return row.said ? html`<span class="tonb-none tonb-refused">${row.said}</span>` : html`<${View} ...${{ shared, row, name, first }} />`;
}

// ---- the grid

function Operations(shared) {
  const { face: { preview }, texts, live } = shared, steps = stepsOf(shared), on = new Set(steps.map(([name]) => name));
  const turn = ([name, , , usual]) => change(shared, on.has(name) ? steps.filter(([each]) => each !== name) : [...steps, [name, usual]]);
  return html`<div class="tonb-operations"><span class="tonb-soft">${texts.operations}</span>${preview.known.map((op) => html`<button type="button" key=${op[0]} class="tonb-chip" title=${op[4]}
    aria-pressed=${String(on.has(op[0]))} aria-label=${fill(texts.add, { name: op[0] })} disabled=${!live} onClick=${() => turn(op)}>${op[0]}</button>`)}<span class="tonb-grow"></span>
    <button type="button" class="tonb-button tonb-small tonb-again" title=${texts.again_tip} disabled=${!live} onClick=${() => shared.send({ do: "again" })}>${texts.again}</button></div>`;
}

// what a reader must know to take the grid for what it is
function previewNotes({ face: { preview, rate }, texts }) {
  const { kind, fitted, more } = preview;
  return [kind === "tables" && fitted ? texts.preview_fitted : "", kind === "texts" ? texts.preview_texts : "", kind === "sounds" && rate ? fill(rate[1] ? texts.rate_guessed : texts.rate, { rate: rate[0] }) : "",
    more > 0 ? fill(texts.more_columns, { n: more }) : ""].filter(Boolean).join(" ");
}

function Preview(shared) {
  const { face: { preview }, texts } = shared;
  if (preview.why) return html`<div class="tonb-none">${preview.why}</div>`;
  if (preview.waits) return html`<div class="tonb-none">${texts.preview_waits}</div>`;
  settle(shared);
  const steps = stepsOf(shared), factor = factorOf(shared), known = Object.fromEntries(preview.known.map((op) => [op[0], op]));
  const move = (i) => (strength) => change(shared, steps.map((step, k) => (k === i ? [step[0], strength] : step)));
  const notes = previewNotes(shared), line = (name, first) => html`<${Previewed} ...${{ shared, name, first }} />`;
  return html`<div class="tonb-preview" data-turn=${preview.turn} data-kind=${preview.kind}><${Operations} ...${shared} />
    <div class="tonb-strips">
      <span class="tonb-strip-name"><b>${texts.original}</b></span>${line("original", true)}
      ${steps.map(([name, strength], i) => html`<span class="tonb-strip-name" key=${name} data-operation=${name}><b>${name}</b>
        <${Slider} ...${{ shared, name, value: strength, low: known[name][1], high: known[name][2], tip: known[name][4], move: move(i) }} /></span>${line(name)}`)}
      ${steps.length > 0 && html`<span class="tonb-strip-name" data-operation="policy"><b>${texts.policy}</b>
        <${Slider} ...${{ shared, name: texts.factor, value: factor, low: 0, high: 2, tip: texts.factor, move: (value) => change(shared, steps, value) }} /></span>${line(steps.length > 1 ? "policy" : steps[0][0])}`}
    </div>
    <${Legend} rows=${preview.legend} />${notes && html`<div class="tonb-none">${notes}</div>`}
    <div class="tonb-flags"><code>${preview.flags}</code><${Copy} text=${preview.flags} texts=${texts} /></div></div>`;
}
