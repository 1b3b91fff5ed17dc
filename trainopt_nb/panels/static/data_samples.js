// Samples in the data panel: a grid of images or sounds, rows of a table, texts; some of them are selected, and changed together.

// what is shown, so that a selection ends with it
const choiceOf = ({ part, problem, label, change }) => JSON.stringify([part, problem, label, change]);

function pick(shared, rows, on) {
  const { ui, refresh } = shared;
  for (const row of rows) on ? ui.picked.add(row) : ui.picked.delete(row);
  refresh();
}

// ---- one sample

function Caption({ sample, texts }) {
  const { label, now, better, sure, state } = sample;
  const to = now ?? better;
  return html`<span class="tonb-caption" title=${fill(texts.row, { n: sample.row })}><span class=${classes(to !== undefined && "tonb-was")}>${label}</span>${
    to !== undefined && html`<span class=${now === undefined ? "tonb-better" : "tonb-now"}> → ${to}${sure != null && html`<small> ${sure.toFixed(2)}</small>`}</span>`}${
    state && now === undefined && html`<small class="tonb-done"> ${texts[state]}</small>`}</span>`;
}

function Pick({ shared, sample }) {
  return html`<input type="checkbox" class="tonb-pick" aria-label=${fill(shared.texts.pick, { n: sample.row })} checked=${shared.ui.picked.has(sample.row)}
    disabled=${!shared.live} onChange=${(event) => pick(shared, [sample.row], event.target.checked)} />`;
}

// a click on a sample selects it, but one on its controls, or the end of a marked text, does not
function toggles(shared, sample) {
  return (event) => {
    if (!shared.editable || event.target.closest("input, button, audio") || getSelection()?.toString()) return;
    pick(shared, [sample.row], !shared.ui.picked.has(sample.row));
  };
}

function tile(shared, sample, extra) {
  return { key: sample.row, "data-row": sample.row, "data-state": sample.state, onClick: toggles(shared, sample),
    class: classes("tonb-sample", extra, shared.ui.picked.has(sample.row) && "tonb-chosen", (sample.better ?? sample.now) !== undefined && "tonb-flag") };
}

function Images({ shared, samples }) {
  return html`<div class="tonb-grid-images">${samples.map((sample) => html`<div ...${tile(shared, sample, "tonb-image")}>
    <img alt="" src=${sample.url} draggable="false" />${shared.editable && html`<${Pick} ...${{ shared, sample }} />`}<${Caption} sample=${sample} texts=${shared.texts} /></div>`)}</div>`;
}

// what the colors of masks stand for: [name, color]
function Legend({ rows }) {
  return rows?.length > 0 && html`<div class="tonb-masks">${rows.map(([name, color]) => html`<span key=${name}><i style=${{ background: color }}></i>${name}</span>`)}</div>`;
}

// ---- sounds: the kernel sends one when it is asked for

function stopSound(ui) {
  ui.audio?.pause();
  ui.playing = ui.heard = null;
}

function play(shared, row) {
  const { part } = shared.face.page;
  playNamed(shared, `${part}/${row}`, { play: row, part });
}

// `message` asks the kernel for the sound
function playNamed(shared, name, message) {
  const { ui, send, refresh } = shared, again = ui.playing === name;
  stopSound(ui);
  if (again) return refresh();
  ui.playing = name;
  if (ui.sounds.has(name)) begin(shared, name);
  else send(message);
  refresh();
}

function begin({ ui, refresh }, name) {
  const audio = ui.audio;
  audio.src = ui.sounds.get(name);
  ui.heard = name;
  audio.ontimeupdate = audio.onplaying = () => refresh();
  audio.onended = () => refresh(stopSound(ui));
  audio.play().catch(() => refresh(stopSound(ui)));
}

// take the sound that the kernel sent, and play it if it is still wanted
function takeSound(shared) {
  const { ui, face } = shared;
  if (!face.sound || !ui.audio) return;
  const [part, row, url] = face.sound, name = `${part}/${row}`;
  ui.sounds.set(name, url);
  if (ui.playing === name && ui.heard !== name) begin(shared, name);
}

// how much of a sound was played
function playedShare({ audio, playing, heard }, name) {
  return playing === name && heard === name && audio.duration ? audio.currentTime / audio.duration : 0;
}

function Wave({ heights, done }) {
  const bars = (from, to) => heights.slice(from, to).map((top, i) => `M${from + i + 0.5} ${(16 - 15 * Math.max(top, 0.03)).toFixed(1)}V${(16 + 15 * Math.max(top, 0.03)).toFixed(1)}`).join("");
  const here = Math.round(done * heights.length);
  return html`<svg class="tonb-wave" viewBox=${`0 0 ${heights.length} 32`} preserveAspectRatio="none" aria-hidden="true"><path class="tonb-wave-done" d=${bars(0, here)} /><path d=${bars(here, heights.length)} /></svg>`;
}

function Sounds({ shared, samples }) {
  const { ui, face, texts, live } = shared;
  return html`<div class="tonb-grid-sounds">${samples.map((sample) => {
    const name = `${face.page.part}/${sample.row}`, on = ui.playing === name, done = playedShare(ui, name);
    return html`<div ...${tile(shared, sample, "tonb-sound")}><div class="tonb-sound-line"><button type="button" class="tonb-button tonb-play" disabled=${!live} aria-pressed=${String(on)}
      aria-label=${fill(on ? texts.stop_sound : texts.play, { n: sample.row })} onClick=${() => play(shared, sample.row)}>${on ? "■" : "▶"}</button><${Wave} heights=${sample.heights} done=${done} /></div>
      <div class="tonb-sound-line">${shared.editable && html`<${Pick} ...${{ shared, sample }} />`}<${Caption} sample=${sample} texts=${texts} /><span class="tonb-soft">${fill(texts.seconds, { n: sample.seconds })}</span></div></div>`;
  })}</div>`;
}

function Texts({ shared, samples }) {
  return html`<div class="tonb-grid-texts">${samples.map((sample) => html`<div ...${tile(shared, sample, "tonb-text")}>${shared.editable && html`<${Pick} ...${{ shared, sample }} />`}
    <span class="tonb-words">${sample.text}</span><${Caption} sample=${sample} texts=${shared.texts} /></div>`)}</div>`;
}

function Cells({ shared, samples }) {
  const { texts, face: { page, problems }, live, show, ui } = shared;
  const gaps = page.heads.map((head) => problems.find((row) => row.kind === "missing" && row.part === page.part && row.column === head && row.count));
  const open = (problem) => () => show({ problem }, (ui.tab = "problems"));
  const gap = (i) => (gaps[i] && gaps[i].key !== page.problem ? html`<button type="button" class="tonb-gap" disabled=${!live} title=${texts.open_missing} onClick=${open(gaps[i].key)}>${texts.missing}</button>` : texts.missing);
  const cell = (value, i, filled) => html`<td class=${classes(value === null && filled[i] === undefined && "tonb-missing")} title=${value}>${
    filled[i] !== undefined ? html`<span class="tonb-now">${filled[i]}</span>` : value ?? gap(i)}</td>`;
  return html`<${Table} heads=${[shared.editable ? "" : null, texts.class_head, ...page.heads].filter((head) => head !== null)}>${samples.map((sample) => html`<tr ...${tile(shared, sample)}>
    ${shared.editable && html`<td class="tonb-cell-pick"><${Pick} ...${{ shared, sample }} /></td>`}
    <td><${Caption} sample=${sample} texts=${texts} /></td>${sample.cells.map((value, i) => cell(value, i, sample.filled))}</tr>`)}<//>`;
}

const VIEWS = { images: Images, sound: Sounds, table: Cells }; // the others are texts

// ---- a page of them

function Pager({ shared }) {
  const { face: { page }, texts, live, show } = shared;
  const turn = (by) => show({ ...page, page: page.page + by });
  return html`<span class="tonb-pager" hidden=${page.pages < 2}><button type="button" class="tonb-button tonb-small tonb-previous" aria-label=${texts.previous} disabled=${!live || page.page < 1}
    onClick=${() => turn(-1)}>‹</button><span>${fill(texts.page, { page: page.page + 1, pages: page.pages })}</span><button type="button" class="tonb-button tonb-small tonb-next"
    aria-label=${texts.next} disabled=${!live || page.page + 1 >= page.pages} onClick=${() => turn(1)}>›</button></span>`;
}

// what becomes of the selected samples
function Actions({ shared }) {
  const { ui, face, texts, live, send, refresh } = shared, rows = [...ui.picked];
  const some = face.page.samples.some((sample) => sample.better !== undefined);
  const act = (name, more = {}) => () => {
    send({ do: name, rows, ...more });
    refresh(ui.picked.clear());
  };
  const labels = face.classes.map(([label]) => label), chosen = labels.includes(ui.label) || (some && ui.label === "") ? ui.label : some ? "" : labels[0];
  const relabel = chosen === "" ? {} : { label: chosen };
  return html`<div class="tonb-actions" role="toolbar"><span class="tonb-count">${fill(texts.picked, { n: rows.length })}</span>
    <button type="button" class="tonb-button tonb-small tonb-drop" disabled=${!live} onClick=${act("drop")}>${texts.drop}</button>
    <span class="tonb-relabel" hidden=${!labels.length}><button type="button" class="tonb-button tonb-small" disabled=${!live} onClick=${act("relabel", relabel)}>${texts.relabel}</button><select class="tonb-to" aria-label=${texts.relabel_to} value=${chosen}
      onChange=${(event) => refresh((ui.label = event.target.value))}>${some && html`<option value="" selected=${chosen === ""}>${texts.suggested}</option>`}${labels.map((label) => html`<option key=${label} value=${label} selected=${label === chosen}>${label}</option>`)}</select></span>
    <button type="button" class="tonb-button tonb-small tonb-keep" title=${texts.keep_tip} disabled=${!live} onClick=${act("keep")}>${texts.keep}</button>
    <button type="button" class="tonb-more" onClick=${() => refresh(ui.picked.clear())}>${texts.clear_picked}</button></div>`;
}

function Samples({ shared, title }) {
  const { ui, face: { page, rate }, texts, live } = shared;
  if (ui.choice !== choiceOf(page)) {
    ui.choice = choiceOf(page);
    ui.picked.clear();
  }
  const View = VIEWS[page.kind] ?? Texts, here = page.samples.map((sample) => sample.row), whole = here.length > 0 && here.every((row) => ui.picked.has(row));
  const editable = page.part === "train" && live, inner = { ...shared, editable };
  return html`<div class="tonb-samples" data-page=${page.page} data-total=${page.total}>
    <div class="tonb-samples-head">${title}<span class="tonb-soft">${page.total === 1 ? texts.shown_one : fill(texts.shown_n, { n: page.total.toLocaleString("en") })}</span>
      <label class="tonb-pick-page" hidden=${!editable || !here.length}><input type="checkbox" class="tonb-pick" checked=${whole} onChange=${(event) => pick(shared, here, event.target.checked)} />${texts.pick_page}</label>
      <span class="tonb-soft" hidden=${page.part === "train"}>${texts.only_train}</span><span class="tonb-grow"></span><${Pager} shared=${shared} /></div>
    ${here.length ? html`<${View} shared=${inner} samples=${page.samples} />` : html`<div class="tonb-none">${texts.none_left}</div>`}
    <${Legend} rows=${page.legend} />
    ${page.kind === "table" && page.columns > page.heads.length && html`<div class="tonb-none">${fill(texts.more_columns, { n: page.columns - page.heads.length })}</div>`}
    ${page.kind === "sound" && html`<div class="tonb-none">${fill(rate[1] ? texts.rate_guessed : texts.rate, { rate: rate[0] })}</div>`}
    ${ui.picked.size > 0 && editable && html`<${Actions} shared=${shared} />`}</div>`;
}
