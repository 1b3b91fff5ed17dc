// The selected runs beside each other: their curves in one chart, and the values in which they differ.

function Picture(shared) {
  const { ui, store, curves, texts, board } = shared;
  const held = inked(ui).filter((name) => curves[name]);
  const names = [...new Set(held.flatMap((name) => Object.keys(curves[name].lines)))];
  if (!names.includes(ui.curve)) {
    const wanted = [...held.map((name) => curves[name].monitor), "valid loss", "train loss"];
    ui.curve = wanted.find((name) => names.includes(name)) ?? names[0] ?? null;
  }
  const having = held.filter((name) => curves[name].lines[ui.curve]);
  const epochs = held.length > 0 && held.every((name) => curves[name].unit > 1); // else the axis counts steps
  const lines = having.map((name) => {
    const curve = curves[name].lines[ui.curve];
    return { name, color: ui.chosen.get(name), unit: epochs ? curves[name].unit : 1, curve: ui.curve === "train loss" ? smoothed(curve) : curve };
  });
  const share = having.some((name) => curves[name].shares.includes(ui.curve));
  const end = Math.max(...lines.map(({ curve, unit }) => curve.x.at(-1) / unit), 1e-9);
  const note = ui.chosen.size > INKS.length ? texts.most : lines.length || !store.answered ? "" : texts.nothing_drawn;
  const pick = (event) => {
    ui.curve = event.target.value;
    board.zoomTo(null);
  };
  const title = html`<select class="tonb-metric" aria-label=${texts.drawn} hidden=${!names.length} value=${ui.curve} onChange=${pick}>${names.map((name) =>
    html`<option key=${name} value=${name} selected=${name === ui.curve}>${titled(texts[name] ?? name)}</option>`)}</select>`;
  const keys = (reading) => html`<div class="tonb-keys">${lines.map(({ name, color, curve }, i) => html`<span class="tonb-key" key=${name}>
    <i class="tonb-dot" data-ink=${color}></i>${titleOf(shared, rowOf(shared, name))}${" "}<b>${written(reading ? reading.values[i] : curve.y.findLast((value) => value != null), share)}</b></span>`)}</div>`;
  board.axis = { unit: epochs ? 0 : 1, end };
  return html`<div class="tonb-picture"><${Chart} board=${board} name="tonb-compared" title=${title} said=${ui.curve ?? ""} lines=${lines}
    share=${share} note=${note} legend=${false} below=${keys} empty=${!lines.length} /></div>`;
}

const SECTIONS = ["results", "options", "task", "place"];

function Values(shared) {
  const { ui, store, texts, refresh } = shared, found = store.compared;
  const names = inked(ui);
  if (names.length < 2) return html`<div class="tonb-values tonb-hint">${texts.two}</div>`;
  if (!found || found.names.join() !== names.join()) return null;
  const rows = found.rows.filter(([, , , differs]) => differs || ui.equal);
  const section = (name) => {
    const own = rows.filter(([of]) => of === name);
    return own.length > 0 && html`<tbody key=${name}><tr class="tonb-section"><th scope="rowgroup" colspan=${names.length + 1}>${texts[`section ${name}`]}</th></tr>
      ${own.map(([, label, values, differs]) => html`<tr key=${label} class=${differs ? "" : "tonb-equal"}><th scope="row">${label}</th>${values.map((value) => html`<td title=${value}>${value}</td>`)}</tr>`)}</tbody>`;
  };
  return html`<div class="tonb-values"><label class="tonb-equal-too"><input type="checkbox" checked=${Boolean(ui.equal)} onChange=${(event) => refresh((ui.equal = event.target.checked))} />
    ${texts.show_equal}</label><div class="tonb-scroll" tabindex="0" role="region" aria-label=${texts.compared}><table class="tonb-beside"><thead><tr><td></td>${names.map((name) => html`<th scope="col" key=${name} title=${name}><i class="tonb-dot" data-ink=${ui.chosen.get(name)}></i>${
    titleOf(shared, rowOf(shared, name))}</th>`)}</tr></thead>${SECTIONS.map(section)}</table></div>${!rows.length && html`<div class="tonb-hint">${texts.all_equal}</div>`}</div>`;
}
