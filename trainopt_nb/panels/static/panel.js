// The training panel: it draws what the kernel tells and sends back what is clicked; the chart stands above in the same module.
// Nothing is kept here that the kernel could not send again.

const SLOW = 4000; // milliseconds after which a click without an effect is explained

// ---- what the kernel told: one store a model, whatever the number of views

function makeStore(model) {
  const store = { seq: -1, face: null, curves: {}, skew: 0, heard: 0, views: new Set() };
  let behind = false, asking = 0;

  const tell = (curves) => {
    store.heard = Date.now();
    store.views.forEach((view) => view(curves));
  };
  const ask = () => {
    if (asking) return;
    model.send({ ready: store.seq, language: spoken() });
    asking = setTimeout(() => {
      asking = 0;
      if (behind) ask();
    }, 1000);
  };
  const takeWhole = () => {
    const text = model.get("whole");
    if (!text) return;
    const { seq, now, face, curves } = JSON.parse(text);
    store.seq = seq;
    store.face = face;
    store.skew = Date.now() / 1000 - now;
    store.curves = {};
    for (const [name, [stride, , x, y]] of Object.entries(curves)) store.curves[name] = { stride, x, y };
    behind = false;
    tell(true);
  };
  const takeNews = (content) => {
    if (!content?.news) return;
    const { seq, now, face, curves } = JSON.parse(content.news);
    if (seq <= store.seq) return;
    if (seq !== store.seq + 1) {
      behind = true; // one was lost on the way: only the whole helps
      return ask();
    }
    store.seq = seq;
    store.skew = Date.now() / 1000 - now;
    Object.assign(store.face, face);
    for (const [name, [stride, start, x, y]] of Object.entries(curves)) {
      const curve = (store.curves[name] ??= { stride, x: [], y: [] });
      curve.stride = stride;
      curve.x.splice(start, Infinity, ...x);
      curve.y.splice(start, Infinity, ...y);
    }
    tell(Object.keys(curves).length > 0);
  };
  model.on("change:whole", takeWhole);
  model.on("msg:custom", takeNews);
  takeWhole();
  model.send({ ready: store.seq, language: spoken() }); // what was sent while this module was loading is lost: the kernel compares the numbers
  return store;
}

// ---- the panel

class Panel extends Board {
  inkNames = ["c1", "c2", "c1-faint", "soft", "grid"];

  constructor(store, model, el) {
    super();
    this.store = store;
    this.model = model;
    this.texts = JSON.parse(model.get("texts"));
    this.metric = this.pending = null;
    this.dirty = false;
    this.build();
    el.append(this.root);
    this.line = new Lifeline(model, this.root, () => this.show(false));
    this.watch();
    this.show(true);
  }

  // -- parts

  build() {
    const { texts } = this;
    const button = (name, label) => make("button", `tonb-button ${name}`, { type: "button" }, label);
    this.state = make("span", "tonb-state", { role: "status", "aria-live": "polite" });
    this.name = make("b", "tonb-name");
    this.step = make("span", "tonb-step");
    this.lr = make("input", "tonb-lr", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false",
      "aria-label": texts.lr_long });
    this.pause = button("tonb-pause", "");
    this.words = [texts.pause, texts.resume].map((word) => make("span", "", {}, word)); // both keep their place
    this.pause.append(...this.words);
    this.save = button("tonb-save", texts.save);
    this.stop = button("tonb-stop", texts.stop);
    this.controls = make("div", "tonb-controls", {},
      make("label", "tonb-field", {}, texts.lr, this.lr), this.pause, this.save, this.stop);
    this.done = make("i", "tonb-fill");
    this.bar = make("div", "tonb-bar", { role: "progressbar", "aria-label": texts.progress, "aria-valuemin": "0",
      "aria-valuemax": "100" }, this.done);
    this.say = make("div", "tonb-say", { role: "alert", hidden: "" });
    this.figures = Array.from({ length: 5 }, () => {
      const [value, label, change] = [make("b", "tonb-value"), make("span", "tonb-label"), make("span", "tonb-change")];
      return { value, label, change, root: make("div", "tonb-figure", {}, value, make("small", "", {}, label, " ", change)) };
    });
    this.choice = make("select", "tonb-metric", { "aria-label": texts.drawn });
    this.only = make("b", "tonb-title");
    this.reset = button("tonb-reset", texts.reset);
    this.reset.hidden = true;
    this.loss = new Chart(this, "tonb-loss", make("b", "tonb-title", {}, texts.loss));
    this.loss.root.append(this.reset);
    this.other = new Chart(this, "tonb-other", make("span", "", {}, this.only, this.choice));
    this.charts = [this.loss, this.other];
    this.pictures = make("div", "tonb-charts", {}, this.loss.root, this.other.root);
    this.parts = ["data", "forward", "backward", "others", "rest"];
    this.rows = make("tbody");
    this.devices = make("div", "tonb-devices", { hidden: "" },
      make("div", "tonb-device-head", {}, make("b", "tonb-title", {}, texts.devices),
        ...this.parts.map((part) => make("span", "tonb-part-key", { "data-part": part }, texts[part]))),
      make("div", "tonb-scroll", {}, make("table", "tonb-table", {}, this.rows)));
    this.noteText = make("span", "tonb-note-text");
    this.noteLevel = make("b", "tonb-note-level");
    this.more = make("button", "tonb-more", { type: "button", "aria-expanded": "false" });
    this.note = make("div", "tonb-note", {}, make("span", "tonb-note-line", {}, this.noteLevel, this.noteText), this.more);
    this.earlier = make("ul", "tonb-earlier", { hidden: "" });
    this.foot = ["run", "machine", "place", "saved"].map((name) => make("span", `tonb-${name}`));
    this.code = make("code", "tonb-path");
    this.foot[0].append(`${texts.run} `, this.code);
    this.root = make("div", "tonb-panel tex2jax_ignore mathjax_ignore", { role: "group", "aria-label": texts.group,
      "data-lm-suppress-shortcuts": "true" }, // JupyterLab's one-letter commands keep out
      make("div", "tonb-head", {}, this.state, this.name, this.step, this.controls), this.bar, this.say,
      make("div", "tonb-figures", {}, ...this.figures.map((figure) => figure.root)), this.pictures, this.devices, this.note, this.earlier,
      make("div", "tonb-foot", {}, ...this.foot));
  }

  watch() {
    const { texts } = this;
    this.pause.addEventListener("click", () => {
      const command = this.face.state === "paused" ? "resume" : "pause";
      const from = this.face.state;
      this.send({ command }, this.pause, () => (from === "paused") !== (this.face.state === "paused"));
    });
    this.save.addEventListener("click", () => {
      const from = this.face.saved?.time;
      this.send({ command: "save" }, this.save, () => this.face.saved?.time !== from);
    });
    this.stop.addEventListener("click", () => this.send({ command: "stop" }, this.stop, () => !this.face.live));
    this.lr.addEventListener("input", () => { this.dirty = true; this.complain(""); });
    this.lr.addEventListener("change", () => this.commit());
    this.lr.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.commit();
      if (event.key === "Escape") this.restore();
    });
    this.choice.addEventListener("change", () => { this.metric = this.choice.value; this.drawOther(); });
    this.reset.addEventListener("click", () => { this.zoomTo(null); this.loss.plotted.focus(); });
    this.more.addEventListener("click", () => {
      this.earlier.hidden = !this.earlier.hidden;
      this.more.setAttribute("aria-expanded", String(!this.earlier.hidden));
    });
    this.watchTheme();
    this.clock = setInterval(() => this.tick(), 1000);
    this.view = (curves) => this.show(curves);
    this.store.views.add(this.view);
  }

  remove() {
    this.store.views.delete(this.view);
    clearInterval(this.clock);
    clearTimeout(this.later);
    cancelAnimationFrame(this.frame);
    this.line.leave();
    this.leave();
  }

  // -- what is clicked

  send(message, button, done) {
    this.model.send(message);
    if (!button) return;
    this.settle();
    button.classList.add("tonb-pending");
    this.pending = { button, done, since: Date.now() };
  }

  settle() {
    this.pending?.button.classList.remove("tonb-pending");
    if (this.pending?.told) this.complain("");
    this.pending = null;
  }

  commit() {
    if (!this.dirty) return;
    const text = this.lr.value.trim();
    const value = /^\+?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
    if (!(value > 0 && Number.isFinite(value))) {
      this.lr.setAttribute("aria-invalid", "true");
      return this.complain(fill(this.texts.lr_refused, { found: text || this.texts.nothing }));
    }
    this.dirty = false;
    this.sent = this.face.lr; // shown until the kernel tells another one
    this.send({ command: "lr", value });
  }

  restore() {
    this.dirty = false;
    this.sent = null;
    this.complain("");
    this.lr.value = this.face.lr;
  }

  complain(text) {
    if (!text) this.lr.removeAttribute("aria-invalid");
    put(this.say, text);
    this.say.hidden = !text;
  }

  tick() {
    this.ago();
    this.line.check();
    if (this.pending && !this.pending.told && Date.now() - this.pending.since > SLOW) {
      this.pending.told = true;
      this.complain(this.texts.slow);
    }
  }

  // -- what is shown

  get face() {
    return this.store.face;
  }

  // whether a click reaches somebody who trains
  get live() {
    return this.face.live && !this.line.gone;
  }

  show(curves) {
    const { face } = this;
    if (!face) return;
    this.root.dataset.state = face.state;
    this.root.dataset.step = face.step;
    this.showState();
    put(this.name, face.name);
    this.name.title = face.name;
    put(this.step, face.headline);
    this.controls.hidden = !face.controls;
    for (const control of [this.lr, this.pause, this.save, this.stop]) control.disabled = !this.live;
    this.words.forEach((word, i) => { word.style.visibility = (face.state === "paused") === (i === 1) ? "" : "hidden"; });
    if (this.sent != null && this.sent !== face.lr) this.sent = null;
    const editing = this.dirty || this.sent != null;
    if (!editing && this.lr.value !== face.lr) this.lr.value = face.lr;
    if (!this.live && this.dirty) this.restore();
    this.done.style.width = `${(face.fraction ?? 0) * 100}%`;
    if (face.fraction === null) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", String(Math.floor(face.fraction * 100)));
    face.figures.forEach(([value, label, change, better], i) => {
      const figure = this.figures[i];
      put(figure.value, value);
      put(figure.label, label);
      put(figure.change, change);
      figure.change.classList.toggle("tonb-better", better);
    });
    this.showNotes();
    this.showDevices();
    put(this.code, face.short_path);
    this.code.title = face.run_path;
    this.foot[0].hidden = !face.run_path;
    put(this.foot[1], face.machine);
    put(this.foot[2], face.place);
    this.ago();
    if (this.pending?.done()) this.settle();
    if (!this.live) this.settle();
    if (face.live && !this.live) this.complain(this.texts.gone);
    if (curves) this.draw();
  }

  showState() {
    // a validation that is over in no time would make the word flicker: it is named once it lasts
    const state = this.face.live && !this.live ? "lost" : this.face.state;
    clearTimeout(this.later);
    if (state === "validating" && this.state.dataset.state === "training")
      this.later = setTimeout(() => this.nameState(this.face.state), 1000);
    else this.nameState(state);
  }

  nameState(state) {
    this.state.dataset.state = state;
    put(this.state, this.texts[state] ?? state);
  }

  showNotes() {
    const { notes } = this.face;
    this.note.hidden = !notes.length;
    if (this.noted === notes) return;
    this.noted = notes;
    const [level, text] = notes.at(-1) ?? ["info", ""];
    this.note.dataset.level = level;
    put(this.noteLevel, level === "info" ? "" : `${this.texts[level] ?? level} `);
    put(this.noteText, text);
    this.more.hidden = notes.length < 2;
    if (notes.length < 2) this.earlier.hidden = true;
    put(this.more, fill(this.texts.more, { n: notes.length - 1 }));
    this.earlier.replaceChildren(...notes.slice(0, -1).reverse().map(([kind, line]) =>
      make("li", "", { "data-level": kind }, kind === "info" ? "" : make("b", "", {}, `${this.texts[kind] ?? kind} `), line)));
  }

  showDevices() {
    const { devices } = this.face;
    if (this.compared === devices) return;
    this.compared = devices;
    this.devices.hidden = !devices.length;
    const { texts } = this, cell = (name, text) => make("td", name, {}, text);
    this.rows.replaceChildren(...devices.map(([name, shares, [speed, memory, cores], slow]) => {
      const told = this.parts.map((part, i) => `${texts[part]} ${Math.round(shares[i] * 100)}%`).join(", ");
      const bar = make("div", "tonb-shares", { role: "img", "aria-label": told, title: told },
        ...this.parts.map((part) => make("i", "", { "data-part": part })));
      shares.forEach((share, i) => { bar.children[i].style.width = `${share * 100}%`; });
      return make("tr", "", {}, make("td", "", {}, make("span", "tonb-device-name", {}, name), slow ? make("b", "tonb-slow", {}, texts.slowest) : ""),
        make("td", "tonb-cell-shares", {}, bar), cell("", `${speed} ${texts.samples_second}`), cell("", memory), cell("", `${cores} ${texts.cores}`));
    }));
  }

  ago() {
    const { face, texts } = this;
    if (!face) return;
    const seconds = face.saved ? Math.max(0, Date.now() / 1000 - this.store.skew - face.saved.time) : 0;
    const [n, unit] = seconds < 60 ? [seconds, "s"] : seconds < 5400 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
    const when = this.live ? fill(texts.saved_ago, { time: `${Math.floor(n)} ${unit}` })
      : fill(texts.saved, { step: face.saved?.step });
    put(this.foot[3], face.saved ? when : "");
  }

  // -- charts

  end() {
    return this.face.axis[1];
  }

  begun() {
    return this.face.state !== "waiting";
  }

  unit() {
    return this.face.axis[0];
  }

  unitName() {
    return this.texts[this.unit() === 1 ? "axis_step" : "axis_epoch"];
  }

  draw() {
    const points = this.store.curves["train loss"]?.x.length ?? 0;
    this.loss.root.dataset.points = points;
    const names = this.face.metrics;
    const single = this.begun() && !names.length;
    this.other.root.hidden = single;
    this.pictures.style.visibility = this.begun() ? "" : "hidden"; // they keep their place before anything is known
    this.pictures.classList.toggle("tonb-single", single);
    if (!names.includes(this.metric)) this.metric = names[0] ?? null;
    this.other.root.dataset.points = this.store.curves[this.metric]?.x.length ?? 0;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => { this.theme(); this.drawLoss(); this.drawOther(); });
  }

  units(curve) {
    return curve.x.map((x) => x / this.face.axis[0]);
  }

  drawLoss() {
    const none = { stride: 1, x: [], y: [] };
    const train = this.store.curves["train loss"] ?? none, valid = this.store.curves["valid loss"] ?? none;
    const series = [{ colour: "c1", faint: true, quiet: true }, { colour: "c1" }, { colour: "c2" }];
    this.loss.draw(series, uPlot.join([[this.units(train), train.y, smooth(train)], [this.units(valid), valid.y]]));
    this.describe(this.loss, this.texts.loss, [["train loss", train, false], ["valid loss", valid, false]]);
    this.legends();
  }

  drawOther() {
    const names = this.face.metrics;
    if (!names.length) return;
    if (this.listed !== names.join("\n")) {
      this.listed = names.join("\n");
      this.choice.replaceChildren(...names.map((name) => make("option", "", { value: name }, titled(name))));
    }
    this.choice.value = this.metric;
    this.choice.hidden = names.length < 2;
    this.only.hidden = names.length > 1;
    put(this.only, titled(this.metric));
    const curve = this.store.curves[this.metric] ?? { x: [], y: [] };
    const { best } = this.face;
    this.other.share = this.face.shares.includes(this.metric);
    this.other.best = best && best.name === this.metric ? [best.step / this.face.axis[0], best.value] : null;
    this.other.root.dataset.points = curve.x.length;
    this.other.draw([{ colour: "c2" }], [this.units(curve), curve.y]);
    this.describe(this.other, this.metric, [[this.metric, curve, this.other.share]]);
    this.legends();
  }

  describe(chart, title, lines) {
    const parts = lines.filter(([, curve]) => curve.y.length).map(([name, { y }, share]) =>
      fill(this.texts.from_to, { name: this.texts[name] ?? name, first: y[0] === null ? "–" : written(y[0], share),
        last: y.at(-1) === null ? "–" : written(y.at(-1), share) }));
    chart.plotted.setAttribute("aria-label", `${[title, parts.join(", ")].filter(Boolean).join(": ")}. ${this.texts.keys}`);
  }

  legends() {
    const { texts, place } = this;
    const key = (name, text) => make("span", `tonb-key ${name}`, {}, text);
    const show = (value, share) => (value == null ? "–" : written(value, share));
    const at = (chart) => (place !== null && chart.plot?.data[0].length ? chart.reading() : null);
    const loss = at(this.loss), other = at(this.other);
    this.loss.hint.replaceChildren(key("", loss ? this.where([loss.places[0]]) : this.face.lowest ?? ""),
      key("tonb-train", texts.train + (loss ? ` ${show(loss.values[0])}` : "")),
      key("tonb-valid", texts.valid + (loss ? ` ${show(loss.values[1])}` : "")));
    const best = this.face.best?.name === this.metric ? this.face.best.text : "";
    this.other.hint.replaceChildren(...(other
      ? [key("", this.where(other.places)), key("tonb-valid", show(other.values[0], this.other.share))] : [key("", best)]));
  }
}

// ---- a factory, so that every model has a store of its own that all its views share

export default () => {
  let store;
  return {
    initialize({ model }) {
      store ??= makeStore(model);
    },
    render({ model, el }) {
      return redrawn(model, () => new Panel((store ??= makeStore(model)), model, el));
    },
  };
};
