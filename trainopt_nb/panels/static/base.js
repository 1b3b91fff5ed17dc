// What the panels share: the messages between page and kernel, and the parts that a panel is put together from.
// uPlot, Preact with htm and `kept.js` stand above in the same module, the charts and the panel itself below.
// Every text enters the page as a text node, and nothing is kept here that the kernel could not send again.

const { html, render, useLayoutEffect, useRef, useState } = preact;
const PROTOCOL = 1; // version of the messages, as in protocol.py
const GONE = ["restarting", "autorestarting", "terminating", "dead"]; // states of a kernel that has lost its widgets
const BRIEF = 1000; // milliseconds for which a validation has to last before the panel names it
const SLOW = 4000; // milliseconds after which the panel explains why a click has had no effect

// ---- texts

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

// the language of the page, which the kernel speaks too unless the user has chosen another one
function spoken() {
  return document.documentElement.lang || navigator.language || "";
}

// ---- the store: what the kernel sent, one for each model, whatever the number of views

class Store {
  // `merge(store, news)` takes a message in; it returns false where the page must ask for the whole state
  constructor(model, merge) {
    Object.assign(this, { model, merge, views: new Set(), seq: -1, face: null, curves: {}, rows: {}, skew: 0, asking: 0 });
    model.on("change:whole", () => this.take(model.get("whole"), true));
    model.on("change:texts", () => this.read());
    model.on("msg:custom", (content) => this.take(content?.news, false));
    this.read();
    this.take(model.get("whole"), true);
    this.send({ ready: this.seq }); // messages sent while this module was loading are lost: the kernel compares the numbers
  }

  read() {
    this.texts = JSON.parse(this.model.get("texts"));
    this.tell();
  }

  tell() {
    this.views.forEach((view) => view());
  }

  take(text, whole) {
    if (!text) return;
    const news = JSON.parse(text);
    this.foreign = (news.protocol ?? PROTOCOL) !== PROTOCOL; // the kernel and this page are of different versions
    if (!this.foreign) {
      if (news.now) this.skew = Date.now() / 1000 - news.now;
      this.behind = this.merge(this, news, whole) === false;
      if (this.behind) this.ask();
    }
    this.tell();
  }

  send(message) {
    this.model.send({ protocol: PROTOCOL, language: spoken(), ...message });
  }

  // ask for the whole state, once a second until it comes
  ask() {
    if (this.asking) return;
    this.send({ ready: this.seq });
    this.asking = setTimeout(() => {
      this.asking = 0;
      if (this.behind) this.ask();
    }, 1000);
  }
}

// the usual messages: facts that changed, points that were added to curves, and rows of a table that changed
function mergeFacts(store, { seq, face, curves, rows = {}, piece }, whole) {
  if (piece) return void (store.piece = piece); // closer points of a range that was asked for
  if (!whole && seq <= store.seq) return true;
  if (!whole && seq !== store.seq + 1) return false; // a message was lost
  store.seq = seq;
  store.face = whole ? face : { ...store.face, ...face };
  const held = whole ? {} : { ...store.curves };
  for (const [name, [stride, start, x, y, mean]] of Object.entries(curves)) {
    const old = held[name] ?? { x: [], y: [] };
    const grown = (before, after) => after && (before ?? []).slice(0, start).concat(after);
    held[name] = { stride, x: grown(old.x, x), y: grown(old.y, y), mean: grown(old.mean, mean) };
    if (!start) store.piece = store.asked = null; // the points have changed
  }
  store.curves = held;
  store.rows = whole ? rows : { ...store.rows, ...rows };
  for (const [key, row] of Object.entries(rows)) if (row === null) delete store.rows[key];
}

// ---- the lifeline: whether the kernel behind a widget is still the one that made it

class Lifeline {
  constructor(model, el, lost) {
    Object.assign(this, { model, el, lost, gone: false }); // `lost` is called once
    this.look = () => this.check();
    this.kernel = model.widget_manager?.kernel; // in JupyterLab and Notebook; elsewhere the class below says it
    this.kernel?.statusChanged?.connect?.(this.look); // some states end before a clock looks
    model.on("comm_live_update", this.look);
  }

  // whether the kernel is gone, so that no click arrives
  check() {
    if (this.gone) return true;
    const kernel = this.model.widget_manager?.kernel;
    this.kernel ??= kernel;
    this.gone = kernel !== this.kernel || GONE.includes(kernel?.status)
      || this.el.closest(".jupyter-widgets-disconnected") !== null;
    if (this.gone) this.lost();
    return this.gone;
  }

  leave() {
    this.kernel?.statusChanged?.disconnect?.(this.look);
    this.model.off("comm_live_update", this.look);
  }
}

// ---- a panel in the page: `View` is a function from the state to html, called whenever something changes

class Mounted {
  constructor(store, el, View, { every, tick }) {
    Object.assign(this, { store, el, View, ui: {} });
    this.board = new Board(el, () => this.show());
    this.view = () => this.show();
    this.show();
    this.line = new Lifeline(store.model, el, this.view);
    store.views.add(this.view);
    this.clock = setInterval(() => {
      this.line.check();
      tick(this);
    }, every);
    this.board.watch();
    this.show();
  }

  show() {
    if (this.showing) return void (this.again = true);
    this.showing = true;
    const { store, board, ui, View, line } = this;
    const { face, curves, rows, texts } = store;
    const gone = Boolean(line?.gone), live = Boolean(face?.live) && !gone;
    const shared = { store, board, ui, face, curves, rows, texts, gone, live, refresh: this.view, send: (message) => store.send(message) };
    board.texts = texts;
    render(store.foreign ? html`<${Frame}><${Say} text=${texts.outdated} /><//>` : html`<${View} ...${shared} />`, this.el);
    board.theme();
    this.showing = false;
    if (this.again) {
      this.again = false;
      this.show();
    }
  }

  remove() {
    this.store.views.delete(this.view);
    clearInterval(this.clock);
    this.line.leave();
    this.board.leave();
    render(null, this.el);
  }
}

// what a panel's file exports: a factory, so that every model has one store for all its views
// `tick(mounted)` is called every so many milliseconds
function panel(View, { merge = mergeFacts, every = 1000, tick = (mounted) => mounted.show() } = {}) {
  return () => {
    let store;
    return {
      initialize({ model }) {
        store ??= new Store(model, merge);
        keepCard(model);
      },
      render({ model, el }) {
        const mounted = new Mounted((store ??= new Store(model, merge)), el, View, { every, tick });
        return () => mounted.remove();
      },
    };
  };
}

// ---- clicks: a button waits until its command shows an effect

// `done` tells from the state whether the command has had its effect
function click(ui, name, done) {
  ui.pending = { name, done, since: Date.now() };
}

// the name of the button that waits, and whether it has waited too long
function pending(ui, face, live) {
  if (ui.pending && (!live || ui.pending.done(face))) ui.pending = null;
  return { name: ui.pending?.name, slow: Boolean(ui.pending) && Date.now() - ui.pending.since > SLOW };
}

// ---- parts

const classes = (...names) => names.filter(Boolean).join(" ");

// `data-lm-suppress-shortcuts` keeps JupyterLab's one-letter commands out of the panel
function Frame({ name = "", label, data = {}, children }) {
  const attributes = Object.fromEntries(Object.entries(data).map(([key, value]) => [`data-${key}`, value]));
  return html`<div class=${classes("tonb-panel", name, "tex2jax_ignore mathjax_ignore")} role="group" aria-label=${label}
    data-lm-suppress-shortcuts="true" ...${attributes}>${children}</div>`;
}

// a validation that ends at once would make the word flicker: it is named once it lasts
function useSteady(state) {
  const [shown, show] = useState(state);
  const brief = state === "validating" && shown === "training";
  useLayoutEffect(() => {
    const later = setTimeout(() => show(state), brief ? BRIEF : 0);
    return () => clearTimeout(later);
  }, [state]);
  return brief ? shown : state;
}

function State({ state, texts, live }) {
  const shown = useSteady(state);
  return html`<span class="tonb-state" ...${live ? { role: "status", "aria-live": "polite" } : {}} data-state=${shown}
    >${texts[shown] ?? shown}</span>`;
}

// a line breaks between its parts, not within them
const inParts = (text) => String(text ?? "").split(" · ").flatMap((part, i) => [i ? " · " : "", html`<span class="tonb-part">${part}</span>`]);

function Head({ state, name, step, texts, children }) {
  const spoken = state ? {} : { role: "status", "aria-live": "polite" };
  return html`<div class="tonb-head">
    ${state && html`<${State} state=${state} texts=${texts} live />`}
    <b class="tonb-name" title=${name}>${name}</b><span class="tonb-step" ...${spoken}>${inParts(step)}</span>${children}</div>`;
}

function Button({ name, children, waits, ...rest }) {
  return html`<button type="button" class=${classes("tonb-button", `tonb-${name}`, waits && "tonb-pending")} ...${rest}>${children}</button>`;
}

// a button that reads as a word of the text
function Link({ name, children, ...rest }) {
  return html`<button type="button" class=${`tonb-more tonb-${name}`} ...${rest}>${children}</button>`;
}

// whether a text reached the clipboard, which a page that is not secure may not write to by the newer way
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
    area.style.cssText = "position: fixed; opacity: 0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// a button that copies a text; where that is not possible the text can still be marked
function Copy({ text, texts, words = texts.copy, ...rest }) {
  const [done, tell] = useState(false);
  const copy = async () => {
    if (!(await copied(text))) return;
    tell(true);
    setTimeout(() => tell(false), 2000);
  };
  return html`<button type="button" class="tonb-button tonb-small tonb-copy" onClick=${copy} ...${rest}>${done ? texts.copied : words}</button>`;
}

function Bar({ fraction, label }) {
  return html`<div class="tonb-bar" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${fraction == null ? undefined : String(Math.floor(fraction * 100))}><i class="tonb-fill"
    style=${{ width: `${(fraction ?? 0) * 100}%` }}></i></div>`;
}

// seconds in the unit that suits them
function spent(seconds) {
  const [n, unit] = seconds < 60 ? [seconds, "s"] : seconds < 5400 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
  return `${Math.floor(n)} ${unit}`;
}

// how far a run is, or what it does before its first step; the kernel may be too busy with that to count the seconds
function headline({ face, live, store }) {
  if (!face.preparing || !live) return face.headline;
  const [text, since] = face.preparing, seconds = Math.floor(Date.now() / 1000 - store.skew - since);
  return seconds > 0 ? `${text} · ${spent(seconds)}` : text;
}

// one sentence about what went wrong
function Say({ text }) {
  return html`<div class="tonb-say" role="alert" hidden=${!text}>${text}</div>`;
}

// `figures` holds [value, label, change, whether the change is a good one, a longer text for the pointer]
function Figures({ figures, hidden }) {
  return html`<div class="tonb-figures" hidden=${hidden}>${figures.map(([value, label, change, better, tip]) => html`<div class="tonb-figure" title=${tip}>
    <b class="tonb-value">${value}</b><small><span class="tonb-label">${label}</span>${" "}
    <span class=${classes("tonb-change", better && "tonb-better")}>${change}</span></small></div>`)}</div>`;
}

// a list to choose from, a plain title where there is nothing to choose
function Choice({ names, chosen, label, choose, words = {} }) {
  const named = (name) => titled(words[name] ?? name);
  return html`<span><b class="tonb-title" hidden=${names.length > 1}>${names.length ? named(chosen) : ""}</b>
    <select class="tonb-metric" aria-label=${label} hidden=${names.length < 2} value=${chosen} onChange=${(event) => choose(event.target.value)}>
    ${names.map((name) => html`<option key=${name} value=${name} selected=${name === chosen}>${named(name)}</option>`)}</select></span>`;
}

function Table({ heads, children }) {
  return html`<div class="tonb-scroll"><table class="tonb-table">
    ${heads && html`<thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead>`}
    <tbody>${children}</tbody></table></div>`;
}

// `tabs` holds [name, title]; the arrow keys go from one to the next
function Tabs({ tabs, chosen, choose }) {
  const move = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const here = tabs.findIndex(([name]) => name === chosen), next = (here + step + tabs.length) % tabs.length;
    choose(tabs[next][0]);
    event.currentTarget.children[next].focus();
  };
  return html`<div class="tonb-tabs" role="tablist" onKeyDown=${move}>${tabs.map(([name, title]) => html`<button type="button" role="tab"
    class="tonb-tab" aria-selected=${String(name === chosen)} tabindex=${name === chosen ? 0 : -1}
    onClick=${() => choose(name)}>${title}</button>`)}</div>`;
}

// the newest note, and the earlier ones on request; `notes` holds [level, text], the oldest first
function Note({ notes, texts }) {
  const [open, turn] = useState(false);
  const word = (level) => (level === "info" ? "" : `${texts[level] ?? level} `);
  const [level, text] = notes.at(-1) ?? ["info", ""];
  const many = notes.length > 1;
  return html`<div class="tonb-note" data-level=${level} hidden=${!notes.length}><span class="tonb-note-line"><b class="tonb-note-level"
    >${word(level)}</b><span class="tonb-note-text">${text}</span></span><button type="button" class="tonb-more"
    aria-expanded=${String(open && many)} hidden=${!many} onClick=${() => turn(!open)}>${fill(texts.more ?? "", { n: notes.length - 1 })}</button></div>
    <ul class="tonb-earlier" hidden=${!(open && many)}>${notes.slice(0, -1).reverse().map(([kind, line]) => html`<li data-level=${kind}
    >${kind === "info" ? "" : html`<b>${word(kind)}</b>`}${line}</li>`)}</ul>`;
}

function Foot({ children }) {
  return html`<div class="tonb-foot">${children}</div>`;
}
