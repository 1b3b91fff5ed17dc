// The table of runs: it asks the kernel what is new, draws it, and sends back what is clicked; the chart stands above in the same module.
// Nothing is kept here that the kernel could not send again, but which runs are chosen.

const INKS = 8; // runs that are compared at most: colours that one can tell apart
const OFTEN = 1000, SELDOM = 5000; // milliseconds between two questions, while something trains and otherwise
const PATIENCE = 15000; // milliseconds after which a question counts as lost
const AT_WORK = ["waiting", "training", "validating", "paused"];

function size(bytes) {
  const [unit, name] = bytes < 1e6 ? [1e3, "kB"] : bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${Number((bytes / unit).toPrecision(2))} ${name}`;
}

// what the kernel told, for all views of a model
function makeStore(model) {
  const store = { version: 0, rows: new Map(), order: [], figures: [], said: "", folder: "", offers: [], curves: {}, views: new Set() };
  store.take = (text) => {
    if (!text) return;
    const news = JSON.parse(text);
    store.answered = true;
    if (news.since > store.version) return; // the answer to another page, which had more: this one asks for itself
    for (const row of news.rows) store.rows.set(row.name, row);
    if (news.order) {
      store.order = news.order;
      for (const name of store.rows.keys()) if (!news.order.includes(name)) store.rows.delete(name);
    }
    store.version = Math.max(store.version, news.version);
    store.figures = news.figures ?? store.figures;
    for (const key of ["said", "folder", "offers"]) store[key] = news[key];
    for (const [name, { mark, unit, monitor, shares, lines }] of Object.entries(news.curves)) {
      const curves = Object.fromEntries(Object.entries(lines).map(([line, [stride, x, y]]) => [line, { stride, x, y }]));
      store.curves[name] = { mark, unit, monitor, shares, lines: curves };
    }
    store.views.forEach((view) => view());
  };
  model.on("change:whole", () => store.take(model.get("whole")));
  model.on("msg:custom", (content) => store.take(content?.news));
  store.take(model.get("whole"));
  return store;
}

class Runs extends Board {
  inkNames = [...Array.from({ length: INKS }, (_, i) => `r${i + 1}`), "soft", "grid", "c2"];

  constructor(store, model, el) {
    super();
    this.store = store;
    this.model = model;
    this.texts = JSON.parse(model.get("texts"));
    this.chosen = new Map(); // name -> colour, in the order in which they were chosen
    this.lines = new Map(); // name -> parts of its row
    this.comparing = false;
    this.curve = null; // that is drawn
    this.asked = 0;
    this.build();
    el.append(this.root);
    this.line = new Lifeline(model, this.root, () => this.show());
    this.watchTheme();
    this.view = () => this.show();
    store.views.add(this.view);
    this.clock = setInterval(() => this.tick(), 250);
    this.show();
  }

  // -- parts

  build() {
    const { texts } = this;
    const button = (name) => {
      const made = make("button", `tonb-button tonb-${name}`, { type: "button", title: texts[`${name}_tip`] }, texts[name]);
      return made;
    };
    this.counted = make("span", "tonb-step", { role: "status", "aria-live": "polite" });
    this.buttons = Object.fromEntries(["compare", "attach", "resume", "stop", "delete", "close"].map((name) => [name, button(name)]));
    this.controls = make("div", "tonb-controls", { role: "toolbar", "aria-label": texts.runs }, ...Object.values(this.buttons));
    this.say = make("div", "tonb-say", { role: "alert", hidden: "" });
    this.asking = make("span", "tonb-note-text");
    this.yes = make("button", "tonb-button tonb-yes", { type: "button" }, texts.yes);
    this.no = make("button", "tonb-button tonb-no", { type: "button" }, texts.no);
    this.question = make("div", "tonb-note tonb-question", { role: "alertdialog", hidden: "", "data-level": "warning" },
      this.asking, make("span", "tonb-answers", {}, this.no, this.yes));
    this.figures = Array.from({ length: 5 }, () => {
      const [value, label] = [make("b", "tonb-value"), make("span", "tonb-label")];
      return { value, label, root: make("div", "tonb-figure", {}, value, make("small", "", {}, label)) };
    });
    this.summary = make("div", "tonb-figures", {}, ...this.figures.map((figure) => figure.root));
    this.body = make("tbody");
    const heads = ["", texts.name, texts.state, texts.done, texts.best_head, texts.time, texts.changed];
    this.table = make("table", "tonb-table", {},
      make("thead", "", {}, make("tr", "", {}, ...heads.map((head) => make("th", "", { scope: "col" }, head)))), this.body);
    this.none = make("div", "tonb-none", {}, texts.none);
    this.scroll = make("div", "tonb-scroll", {}, this.table);
    this.choice = make("select", "tonb-metric", { "aria-label": texts.drawn });
    this.reset = make("button", "tonb-button tonb-reset", { type: "button", hidden: "" }, texts.reset);
    this.chart = new Chart(this, "tonb-compared", this.choice);
    this.chart.root.append(this.reset);
    this.charts = [this.chart];
    this.key = make("div", "tonb-keys");
    this.picture = make("div", "tonb-picture", { hidden: "" }, this.chart.root, this.key);
    this.code = make("code", "tonb-path");
    this.root = make("div", "tonb-panel tonb-runs tex2jax_ignore mathjax_ignore", { role: "group", "aria-label": texts.group,
      "data-lm-suppress-shortcuts": "true" },
      make("div", "tonb-head", {}, make("b", "tonb-name", {}, texts.runs), this.counted, this.controls), make("div", "tonb-rule"),
      this.say, this.summary, this.none, this.scroll,
      this.question, this.picture, make("div", "tonb-foot", {}, this.code));
    this.listen();
  }

  listen() {
    const { compare, attach, resume, stop, close } = this.buttons;
    compare.addEventListener("click", () => {
      this.comparing = !this.comparing;
      this.ask();
      this.show();
    });
    for (const [name, node] of Object.entries({ attach, resume, stop })) node.addEventListener("click", () => this.act(name));
    close.addEventListener("click", () => this.act("close"));
    this.buttons.delete.addEventListener("click", () => this.wonder());
    this.yes.addEventListener("click", () => { this.act("delete"); this.settle(); });
    this.no.addEventListener("click", () => this.settle());
    this.question.addEventListener("keydown", (event) => { if (event.key === "Escape") this.settle(); });
    this.choice.addEventListener("change", () => { this.curve = this.choice.value; this.zoomTo(null); this.draw(); });
    this.reset.addEventListener("click", () => { this.zoomTo(null); this.chart.plotted.focus(); });
  }

  remove() {
    this.store.views.delete(this.view);
    clearInterval(this.clock);
    cancelAnimationFrame(this.frame);
    this.line.leave();
    this.leave();
  }

  // -- what is asked and clicked

  get rows() {
    return this.store.order.map((name) => this.store.rows.get(name)).filter(Boolean);
  }

  get picked() {
    return [...this.chosen.keys()].map((name) => this.store.rows.get(name)).filter(Boolean);
  }

  tick() {
    if (this.line.check() || document.hidden) return;
    const busy = this.rows.some((row) => AT_WORK.includes(row.state));
    const waited = Date.now() - this.asked;
    // the next question waits for the answer: a kernel that is busy would find a heap of them
    if (waited > PATIENCE || (this.store.answered && waited > (busy ? OFTEN : SELDOM))) this.ask();
  }

  ask(more = {}) {
    const drawn = this.comparing ? this.drawn().map((name) => [name, this.store.curves[name]?.mark ?? -1]) : [];
    this.asked = Date.now();
    this.store.answered = false;
    this.model.send({ since: this.store.version, curves: Object.fromEntries(drawn), language: spoken(), ...more });
  }

  act(what) {
    this.ask({ do: what, names: this.picked.map((row) => row.name) });
  }

  wonder() {
    const { picked, texts } = this;
    const what = picked.length === 1 ? picked[0].name : fill(texts.these, { n: picked.length });
    put(this.asking, fill(texts.question, { what, size: size(picked.reduce((sum, row) => sum + row.bytes, 0)) }));
    this.question.hidden = false;
    this.no.focus(); // what is safe comes first
  }

  settle() {
    const inside = this.question.contains(document.activeElement);
    this.question.hidden = true;
    if (inside) this.buttons.delete.focus();
  }

  choose(name, on) {
    if (!on) this.chosen.delete(name);
    else {
      const taken = new Set(this.chosen.values());
      const free = Array.from({ length: INKS }, (_, i) => `r${i + 1}`).find((ink) => !taken.has(ink));
      this.chosen.set(name, free ?? null);
    }
    this.question.hidden = true;
    if (this.comparing && on) this.ask();
    this.show();
  }

  // -- what is shown

  show() {
    const { store, texts } = this;
    const lost = this.line?.gone;
    for (const name of this.chosen.keys()) if (!store.rows.has(name)) this.chosen.delete(name);
    const { size: chosen } = this.chosen;
    put(this.counted, lost ? texts.lost : chosen ? fill(texts.chosen, { n: chosen }) : store.order.length ? texts.hint : "");
    this.summary.hidden = !store.order.length;
    store.figures.forEach(([value, label], i) => {
      put(this.figures[i].value, value);
      put(this.figures[i].label, label);
    });
    this.showRows();
    this.none.hidden = store.order.length > 0;
    this.scroll.hidden = !store.order.length;
    this.showButtons(lost);
    const said = lost ? texts.gone : store.said;
    put(this.say, said);
    this.say.hidden = !said;
    put(this.code, store.folder);
    this.picture.hidden = !(this.comparing && this.chosen.size);
    if (!this.picture.hidden) {
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.draw());
    }
    this.root.dataset.version = store.version;
  }

  showButtons(lost) {
    const { picked, texts, buttons } = this;
    const one = picked.length === 1, some = picked.length > 0;
    const allowed = {
      compare: some || this.comparing,
      attach: one,
      resume: one && picked[0].resumable,
      stop: some && picked.some((row) => row.alive && AT_WORK.includes(row.state)),
      delete: some && !picked.some((row) => row.alive),
      close: true,
    };
    for (const [name, node] of Object.entries(buttons)) {
      node.hidden = name !== "compare" && !this.store.offers.includes(name);
      node.disabled = lost || !allowed[name];
      node.title = texts[`${name}_tip`];
    }
    if (one && picked[0].state === "finished") buttons.resume.title = `${picked[0].name} ${texts.resume_done.replace("NAME", picked[0].name)}`;
    if (some && picked.some((row) => row.alive)) buttons.delete.title = texts.writing;
    buttons.compare.setAttribute("aria-pressed", String(this.comparing));
  }

  showRows() {
    for (const [name, line] of this.lines) if (!this.store.rows.has(name)) line.root.remove(), this.lines.delete(name);
    let before = null;
    for (const row of this.rows) {
      const line = this.lines.get(row.name) ?? this.makeRow(row.name);
      if (line.told !== row) this.fillRow(line, row);
      const ink = this.chosen.get(row.name);
      line.box.checked = this.chosen.has(row.name);
      line.root.classList.toggle("tonb-chosen", line.box.checked);
      line.dot.dataset.ink = ink && this.comparing ? ink : "";
      const next = before ? before.nextSibling : this.body.firstChild;
      if (next !== line.root) this.body.insertBefore(line.root, next);
      before = line.root;
    }
  }

  makeRow(name) {
    const cell = (kind, ...children) => make("td", kind, {}, ...children);
    const line = {
      box: make("input", "tonb-pick", { type: "checkbox", "aria-label": fill(this.texts.choose, { name }) }),
      dot: make("i", "tonb-dot"), name: make("b", "tonb-run-name", { title: name }, name), state: make("span", "tonb-state"),
      done: make("span"), bar: make("i", "tonb-fill"), best: make("b"), which: make("small"), time: make("span"), changed: make("span"),
    };
    line.root = make("tr", "", { "data-name": name }, cell("tonb-cell-pick", line.box, line.dot), cell("tonb-cell-name", line.name),
      cell("", line.state), cell("tonb-cell-done", line.done, make("span", "tonb-bar", {}, line.bar)),
      cell("tonb-cell-best", line.best, line.which), cell("tonb-cell-time", line.time), cell("tonb-cell-changed", line.changed));
    line.box.addEventListener("change", () => this.choose(name, line.box.checked));
    line.root.addEventListener("click", (event) => {
      if (event.target === line.box || getSelection()?.toString()) return; // a text that was marked is not a click
      this.choose(name, !this.chosen.has(name));
    });
    this.lines.set(name, line);
    return line;
  }

  fillRow(line, row) {
    const { texts } = this;
    line.told = row;
    line.root.dataset.state = row.state;
    line.state.dataset.state = row.state;
    put(line.state, texts[row.state] ?? row.state);
    line.state.title = row.why;
    put(line.done, `${row.done[0]}/${row.done[1] ?? "–"}`);
    line.bar.style.width = `${(row.fraction ?? 0) * 100}%`;
    put(line.best, row.best ? row.best[0] : "–");
    put(line.which, row.best ? fill(texts.at_epoch, { name: row.best[1], epoch: row.best[2] }) : "");
    put(line.time, row.time);
    put(line.changed, row.changed);
    line.changed.title = row.changed;
  }

  // -- the curves of the chosen runs

  drawn() {
    return [...this.chosen].filter(([, ink]) => ink).map(([name]) => name);
  }

  held() {
    return this.drawn().filter((name) => this.store.curves[name]);
  }

  unit() {
    const all = this.held().map((name) => this.store.curves[name].unit);
    return all.length && all.every((unit) => unit > 1) ? 0 : 1; // 1: the axis counts steps
  }

  unitName() {
    return this.texts[this.unit() === 1 ? "axis_step" : "axis_epoch"];
  }

  places(name, line) {
    const unit = this.unit() === 1 ? 1 : this.store.curves[name].unit;
    return line.x.map((x) => x / unit);
  }

  end() {
    const ends = this.shown?.map(({ x }) => x.at(-1)) ?? [];
    return Math.max(...ends, 1e-9) || 1;
  }

  names() {
    const found = new Set(this.held().flatMap((name) => Object.keys(this.store.curves[name].lines)));
    return [...found];
  }

  draw() {
    const { store, texts } = this;
    this.theme();
    const names = this.names();
    if (!names.includes(this.curve)) {
      const wanted = [...this.held().map((name) => store.curves[name].monitor), "valid loss", "train loss"];
      this.curve = wanted.find((name) => names.includes(name)) ?? names[0] ?? null;
    }
    if (this.listed !== names.join("\n")) {
      this.listed = names.join("\n");
      this.choice.replaceChildren(...names.map((name) => make("option", "", { value: name }, titled(texts[name] ?? name))));
    }
    this.choice.value = this.curve;
    this.choice.hidden = !names.length;
    const having = this.held().filter((name) => store.curves[name].lines[this.curve]);
    this.shown = having.map((name) => {
      const line = store.curves[name].lines[this.curve];
      return { name, ink: this.chosen.get(name), x: this.places(name, line), y: this.curve === "train loss" ? smooth(line) : line.y };
    });
    this.chart.share = having.some((name) => store.curves[name].shares.includes(this.curve));
    this.chart.root.dataset.lines = this.shown.length;
    this.chart.plotted.hidden = !this.shown.length;
    if (this.shown.length)
      this.chart.draw(this.shown.map(({ ink }) => ({ colour: ink })), uPlot.join(this.shown.map(({ x, y }) => [x, y])));
    const told = this.shown.map(({ name, y }) => fill(texts.from_to, { name, first: this.value(y[0]), last: this.value(y.at(-1)) }));
    this.chart.plotted.setAttribute("aria-label", `${this.curve ?? ""}: ${told.join(", ")}. ${texts.keys}`);
    this.legends();
  }

  value(y) {
    return y == null ? "–" : written(y, this.chart.share);
  }

  legends() {
    const { chart, place, texts } = this;
    const reading = place !== null && chart.plot?.data[0].length ? chart.reading() : null;
    const note = this.chosen.size > INKS ? texts.most : this.shown?.length || !this.store.answered ? "" : texts.nothing_drawn;
    chart.hint.replaceChildren(reading ? this.where(reading.places) : note);
    this.key.replaceChildren(...(this.shown ?? []).map(({ name, ink, y }, i) =>
      make("span", "tonb-key", {}, make("i", "tonb-dot", { "data-ink": ink }), name, " ",
        make("b", "", {}, this.value(reading ? reading.values[i] : y.findLast((value) => value != null))))));
  }
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store ??= makeStore(model);
    },
    render({ model, el }) {
      return redrawn(model, () => new Runs((store ??= makeStore(model)), model, el));
    },
  };
};
