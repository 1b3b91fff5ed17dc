// What a notebook file holds in the place of a panel: a card without a script, which needs neither this kernel nor this package.
// A page that writes the file itself (JupyterLab, Notebook) stores the newest card in place of the widget. The page goes on showing the
// widget, and puts it back where the file is opened again beside the same kernel. Other pages learn nothing of this.

const WIDGET = "application/vnd.jupyter.widget-view+json";

// the document of a widget and its notebook; null where the file is written elsewhere
function documentOf(model) {
  const context = model.widget_manager?.context, notebook = context?.model;
  return notebook?.cells && notebook.toJSON && !notebook.collaborative ? { context, notebook } : null;
}

// id of the widget that an output shows, or that it showed when its card was stored
const shownBy = ({ data, metadata }) => data?.[WIDGET]?.model_id ?? metadata?.trainopt?.view;

// an output as the file holds it
function asStored(output, cards) {
  const id = shownBy(output), card = cards.get(id);
  return card ? { ...output, data: card, metadata: { ...output.metadata, trainopt: { view: id } } } : output;
}

// the cards of a notebook by the id of their widget: all panels of the notebook share them
function cardsOf(notebook) {
  if (notebook.tonbCards) return notebook.tonbCards;
  const cards = new Map(), write = notebook.toJSON;
  notebook.toJSON = function () {
    const file = write.call(this);
    const cells = file.cells.map((cell) => (cell.outputs ? { ...cell, outputs: cell.outputs.map((output) => asStored(output, cards)) } : cell));
    return { ...file, cells };
  };
  return (notebook.tonbCards = cards);
}

// show the widget again where the file has its card
async function bringBack({ context, notebook }, id) {
  await context.ready;
  const { dirty } = notebook;
  for (const { outputs } of notebook.cells) {
    for (let i = 0; i < (outputs?.length ?? 0); i++) {
      const output = outputs.get(i);
      if (output.metadata?.trainopt?.view !== id || output.data[WIDGET]) continue;
      const data = { ...output.data, [WIDGET]: { version_major: 2, version_minor: 0, model_id: id } };
      outputs.set(i, { ...output.toJSON(), data });
    }
  }
  notebook.dirty = dirty; // nothing was changed that the file would hold
}

// keep the card of a widget for the file, and tell the kernel so: it then leaves the panel where it is when all is over
function keepCard(model) {
  const place = documentOf(model);
  if (!place) return;
  const cards = cardsOf(place.notebook);
  const take = () => {
    const { id, data } = JSON.parse(model.get("kept"));
    if (id) cards.set(id, data);
    return id;
  };
  model.on("change:kept", take);
  const id = take();
  if (id) bringBack(place, id); // a panel without a card was never stored
  model.send({ keeps: true });
}
