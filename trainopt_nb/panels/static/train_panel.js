// The training panel: it shows what the kernel sends of a run, and sends back what is clicked.

const MANY = 10; // times the current learning rate above which a new one is questioned
const PARTS = ["data", "forward", "backward", "others", "rest"]; // what the seconds of a device go into

// ---- what is clicked

function setRate({ ui, face, send }, value) {
  ui.lr.from = face.lr; // what was typed stays until the kernel sends another value
  send({ command: "lr", value });
}

// a rate that would explode is questioned before it is taken
function RateQuestion({ ui, face, texts, send, refresh }) {
  const asked = ui.lr?.asked;
  if (!asked) return null;
  const times = Number((asked / Number(face.lr)).toPrecision(2)).toLocaleString("en", { maximumFractionDigits: 1 });
  const take = () => {
    ui.lr.asked = null;
    setRate({ ui, face, send }, asked);
    refresh();
  };
  return html`<div class="tonb-say tonb-question" role="alert"><span>${fill(texts.lr_asked, { lr: compact(asked), now: face.lr, times })}</span>
    <span class="tonb-answers"><${Button} name="take" onClick=${take}>${texts.lr_take}<//><${Button} name="leave"
      onClick=${() => refresh((ui.lr = null))}>${texts.lr_leave}<//></span></div>`;
}

// the field of the learning rate: `ui.lr` holds what is typed, `asked` while a high one is questioned, then `from`, the value shown when
// it was sent
function Rate({ ui, face, texts, live, send, refresh }) {
  const own = live && ui.lr && (ui.lr.from === undefined || ui.lr.from === face.lr);
  if (!own) ui.lr = null;
  const commit = () => {
    if (!ui.lr || ui.lr.from !== undefined || ui.lr.asked) return;
    const text = ui.lr.text.trim();
    const value = /^\+?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
    if (value > MANY * Number(face.lr) && Number.isFinite(value)) ui.lr.asked = value;
    else if (value > 0 && Number.isFinite(value)) setRate({ ui, face, send }, value);
    else ui.lr.refused = fill(texts.lr_refused, { found: text || texts.nothing });
    refresh();
  };
  const type = (event) => {
    ui.lr = { text: event.target.value };
    refresh();
  };
  const key = (event) => {
    if (event.key === "Enter") commit();
    if (event.key === "Escape") refresh((ui.lr = null));
  };
  return html`<label class="tonb-field">${texts.lr}<input class="tonb-lr" type="text" inputmode="decimal" autocomplete="off"
    spellcheck=${false} aria-label=${texts.lr_long} aria-invalid=${ui.lr?.refused ? "true" : undefined} disabled=${!live}
    value=${ui.lr ? ui.lr.text : face.lr} onInput=${type} onChange=${commit} onKeyDown=${key} /></label>`;
}

function Controls(panel) {
  const { ui, face, texts, live, send, refresh, waits } = panel;
  const paused = face.state === "paused", from = face.saved?.time;
  const press = (name, command, done) => ({ name, waits: waits === name, disabled: !live, onClick: () => {
    send({ command });
    click(ui, name, done);
    refresh();
  } });
  const seen = (shown) => ({ visibility: shown ? "" : "hidden" }); // both words keep their place
  return html`<div class="tonb-controls" hidden=${!face.controls}><${Rate} ...${panel} />
    <${Button} data-paused=${paused} ...${press("pause", paused ? "resume" : "pause", (now) => (now.state === "paused") !== paused)}>
      <span style=${seen(!paused)}>${texts.pause}</span><span style=${seen(paused)}>${texts.resume}</span><//>
    <${Button} ...${press("save", "save", (now) => now.saved?.time !== from)}>${texts.save}<//>
    <${Button} ...${press("stop", "stop", (now) => !now.live)}>${texts.stop}<//></div>`;
}

// ---- what is shown

function Devices({ devices, texts }) {
  const row = ([name, shares, [speed, memory, cores], slow]) => {
    const told = PARTS.map((part, i) => `${texts[part]} ${Math.round(shares[i] * 100)}%`).join(", ");
    return html`<tr key=${name}><td><span class="tonb-device-name">${name}</span>${slow && html`<b class="tonb-slow">${texts.slowest}</b>`}</td>
      <td class="tonb-cell-shares"><div class="tonb-shares" role="img" aria-label=${told} title=${told}>${PARTS.map((part, i) =>
        html`<i data-part=${part} style=${{ width: `${shares[i] * 100}%` }}></i>`)}</div></td>
      <td>${`${speed} ${texts.samples_second}`}</td><td>${memory}</td><td>${`${cores} ${texts.cores}`}</td></tr>`;
  };
  return html`<div class="tonb-devices" hidden=${!devices.length}><div class="tonb-device-head"><b class="tonb-title">${texts.devices}</b>
    ${PARTS.map((part) => html`<span class="tonb-part-key" data-part=${part}>${texts[part]}</span>`)}</div>
    <${Table}>${devices.map(row)}<//></div>`;
}

// one line that unfolds; it is unfolded from the start where something is less than certain
function Assumed({ rows, texts }) {
  const doubts = rows.filter(([, , , certain]) => !certain).length;
  const [turned, turn] = useState(false);
  const open = (doubts > 0) !== turned;
  return html`<div class="tonb-assumed" hidden=${!rows.length}><div class="tonb-assumed-head"><b class="tonb-title">${texts.assumptions}</b>
    ${doubts > 0 && html`<span class="tonb-doubt">${fill(texts.doubtful, { n: doubts })}</span>`}
    <span class="tonb-assumed-line">${open ? "" : rows.map(([, text]) => text).join(" · ")}</span>
    <button type="button" class="tonb-more" aria-expanded=${String(open)} onClick=${() => turn(!turned)}>${open ? texts.hide : texts.show}</button></div>
    <table class="tonb-assumed-rows" hidden=${!open}><tbody>${rows.map(([topic, text, option, certain]) => html`<tr key=${topic}><th scope="row">${topic}</th>
      <td>${!certain && html`<b class="tonb-doubt">? </b>`}${text}</td><td><code>${option}</code></td></tr>`)}</tbody></table></div>`;
}

function saved({ face, texts, live, store }) {
  if (!face.saved) return "";
  if (!live) return fill(texts.saved, { step: face.saved.step });
  return fill(texts.saved_ago, { time: spent(Math.max(0, Date.now() / 1000 - store.skew - face.saved.time)) });
}

export default panel((shared) => {
  const { ui, face, texts, live, gone } = shared;
  if (!face) return null;
  const lost = face.live && gone, { name: waits, slow } = pending(ui, face, live);
  if (!live) ui.lr = null;
  return html`<${Frame} label=${texts.group} data=${{ state: face.state, step: face.step }}>
    <${Head} state=${lost ? "lost" : face.state} name=${face.name} step=${headline(shared)} texts=${texts}>
      <${face.looks?.length ? Looks : Controls} ...${shared} waits=${waits} /><//>
    <${Bar} fraction=${face.fraction} label=${texts.progress} />
    <${Say} text=${lost ? texts.gone : ui.lr?.refused || (slow && texts.slow) || ""} />
    <${RateQuestion} ...${shared} />
    <${Figures} figures=${face.figures} />
    <${Pictures} ...${shared} />
    <${FoundRows} ...${shared} />
    <${Usage} ...${shared} waits=${waits} />
    <${Devices} devices=${face.devices} texts=${texts} />
    <${Tuned} tuned=${face.tuned} texts=${texts} />
    <${Assumed} rows=${face.assumed} texts=${texts} />
    <${Note} notes=${face.notes} texts=${texts} />
    <${Foot}><span class="tonb-run" hidden=${!face.run_path}>${texts.run} <code class="tonb-path" title=${face.run_path}>${face.short_path}</code></span>
      <span class="tonb-machine">${face.machine}</span><span class="tonb-place">${face.place}</span><span class="tonb-saved">${saved(shared)}</span><//><//>`;
});
