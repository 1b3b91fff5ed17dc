// The looks at a run that has ended, in the place of its controls: what they show stands below the panel.

function Looks({ ui, face, texts, gone, send, refresh }) {
  const looks = face.looks ?? [], from = face.looked;
  if (!looks.length) return null;
  if (ui.look && (gone || ui.look.from !== from)) ui.look = null;
  const press = (name) => () => {
    ui.lookLost = gone;
    if (!gone) {
      send({ look: name });
      ui.look = { name, from };
    }
    refresh();
  };
  const said = ui.lookLost ? fill(texts.look_lost, { name: face.name }) : ui.look ? texts.looking : "";
  return html`<div class="tonb-controls tonb-looks" role="group" aria-label=${texts.looks} title=${texts.looks}>
    <span class="tonb-look-text" role="status">${said}</span>${looks.map((name) => html`<${Button} key=${name} name=${name}
      waits=${ui.look?.name === name} disabled=${Boolean(ui.look)} onClick=${press(name)}>${texts[name]}<//>`)}</div>`;
}
