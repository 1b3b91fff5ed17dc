// The row about what a run uses of its machine, and where the time of its steps goes.

function Usage({ face, texts }) {
  return html`<div class="tonb-usage" hidden=${!face.usage}><b class="tonb-title">${texts.usage}</b><span class="tonb-usage-text">${face.usage}</span></div>`;
}
