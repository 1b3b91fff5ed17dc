// What the doctor found: one line each, whose buttons open the evidence, try the change, write it out, and silence it.

// bars of numbers, or a line where they belong to steps
function Evidence({ picture }) {
  const { title, line, names, lengths, values } = picture;
  const told = names.map((name, i) => `${name} ${values[i]}`).join(", ");
  if (!line) return html`<figure class="tonb-evidence"><figcaption class="tonb-title">${title}</figcaption>
    <div class="tonb-evidence-bars" role="img" aria-label=${told}>${names.map((name, i) => html`<span class="tonb-evidence-name" title=${name}>${name}</span>
      <span class="tonb-evidence-track"><i style=${{ width: `${Math.max(0.5, 100 * lengths[i])}%` }}></i></span><span class="tonb-evidence-value">${values[i]}</span>`)}</div></figure>`;
  const points = lengths.map((y, i) => `${(100 * i) / (lengths.length - 1)},${38 - 36 * y}`).join(" ");
  const top = values[lengths.indexOf(Math.max(...lengths))], low = values[lengths.indexOf(Math.min(...lengths))];
  return html`<figure class="tonb-evidence"><figcaption class="tonb-title">${title}</figcaption><div class="tonb-evidence-line">
    <span class="tonb-evidence-ends"><span>${top}</span><span>${low}</span></span>
    <svg viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label=${told}><polyline points=${points} vector-effect="non-scaling-stroke" /></svg>
    <span></span><span class="tonb-evidence-ends tonb-evidence-steps"><span>${names[0]}</span><span>${names.at(-1)}</span></span></div></figure>`;
}

// both sides of a trial, a dot for each seed
function Sides({ row, texts }) {
  if (!row.sides.length) return null;
  const side = (places, word, kind) => html`<span class="tonb-evidence-name">${word}</span>
    <span class="tonb-side-track" data-side=${kind}>${places.map((place) => html`<i style=${{ left: `${100 * place}%` }}></i>`)}</span>`;
  return html`<figure class="tonb-evidence tonb-sides"><figcaption class="tonb-tried">${row.tried}</figcaption>
    <div class="tonb-side-rows" aria-hidden="true">${side(row.sides[0], texts.side_before, "before")}${side(row.sides[1], texts.side_after, "after")}</div></figure>`;
}

// the change as a line to start with, or as lines of the cell
function Change({ row, texts }) {
  const { line, edit } = row, text = edit ? edit.new : line;
  if (!text) return html`<div class="tonb-found-part">${row.change} ${texts.apply_by_hand}</div>`;
  const words = edit ? (edit.line ? fill(texts.apply_edit, { line: edit.line }) : texts.apply_end) : texts.apply_line;
  return html`<div class="tonb-found-part tonb-change-row"><span>${words}</span>
    <div class="tonb-change-lines">${edit?.old && html`<code class="tonb-code-old">${edit.old}</code>`}<code class="tonb-code-new">${text}</code></div>
    <${Copy} text=${text} texts=${texts} /></div>`;
}

function FoundRow({ row, ui, texts, gone, send, refresh }) {
  const at = (ui.found[row.name] ??= {}), [lost, lose] = useState(false);
  const turn = (part) => () => refresh((at[part] = !at[part]));
  const ask = (finding) => () => {
    lose(gone);
    if (gone) return;
    send({ finding, name: row.name });
    if (finding === "prove") at.asked = { from: row.turn ?? 0 };
    if (finding === "silence") at.silenced = true;
    refresh();
  };
  if (at.asked && (gone || row.trying || (row.turn ?? 0) !== at.asked.from)) at.asked = null;
  if (at.silenced) return null;
  const tries = row.trying || Boolean(at.asked);
  const say = lost ? texts.found_lost : row.said;
  return html`<div class="tonb-found" data-finding=${row.name}>
    <div class="tonb-found-line"><span class="tonb-found-text"><b>${row.sure}</b> ${row.text} <span class="tonb-found-change">${row.change}</span></span>
      <span class="tonb-found-buttons"><button type="button" class="tonb-button tonb-small tonb-show-evidence" aria-expanded=${String(Boolean(at.evidence))} onClick=${turn("evidence")}>${texts.evidence}</button>
        <button type="button" class=${classes("tonb-button tonb-small tonb-prove", tries && "tonb-pending")} hidden=${!(row.actions && row.triable && !row.sides.length)} title=${texts.prove_tip} disabled=${tries} onClick=${ask("prove")}>${texts.prove}</button>
        <button type="button" class="tonb-button tonb-small tonb-apply" aria-expanded=${String(Boolean(at.apply))} onClick=${turn("apply")}>${texts.apply}</button>
        <button type="button" class="tonb-more tonb-silence" hidden=${!row.actions} title=${texts.silence_tip} onClick=${ask("silence")}>${texts.silence}</button></span></div>
    <div class="tonb-found-part tonb-found-said" role="status" hidden=${!(tries || say)}>${tries ? texts.proving : say}</div>
    <${Sides} row=${row} texts=${texts} />
    ${at.apply && html`<${Change} row=${row} texts=${texts} />`}
    ${at.evidence && html`<div class="tonb-found-part tonb-pictures-of">${row.pictures.length ? row.pictures.map((picture) => html`<${Evidence} picture=${picture} />`) : texts.no_evidence}</div>`}</div>`;
}

function FoundRows(shared) {
  const { ui, face } = shared;
  ui.found ??= {};
  return (face.found ?? []).map((row) => html`<${FoundRow} key=${row.name} row=${row} ...${shared} />`);
}
