// The fields of a form: a control for each declared option, its help, what is wrong with it, and the way back to its default.

let fields = 0; // so that no two fields of a page share an id

// a pattern for a word that is searched for: "rate" is not found within "separated"
const patternOf = (word) => (/^[a-z]{3,}$/.test(word) ? "(?<![a-z])" : "") + word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

// a text in which what was searched for is marked
function Marked({ text, words }) {
  if (!words.length || !text) return text;
  const parts = text.split(new RegExp(`(${words.map(patternOf).join("|")})`, "gi"));
  return parts.map((part, i) => (i % 2 ? html`<mark>${part}</mark>` : part));
}

// one more or less, within the limits; null where the text is no whole number
function nudged(text, by, [low, high]) {
  if (!/^\s*-?\d+\s*$/.test(text)) return null;
  return String(Math.min(high ?? Infinity, Math.max(low ?? -Infinity, Number(text) + by)));
}

function Entry({ fact, text, set, shared: attributes, id, texts }) {
  const key = (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key], next = by && fact.whole && nudged(text, by * (event.shiftKey ? 10 : 1), fact.whole);
    if (next == null || next === false) return;
    event.preventDefault();
    set(next, true);
  };
  return html`<span class="tonb-entry-row"><input ...${attributes} class="tonb-lr tonb-entry" type="text" autocomplete="off" spellcheck="false" inputmode=${fact.kind === "number" ? "decimal" : undefined}
      list=${fact.choices.length ? `${id}-list` : undefined} placeholder=${fact.usual || (fact.kind === "number" ? texts.none : "")} value=${text} onKeyDown=${key}
      onInput=${(event) => set(event.target.value, false)} onChange=${(event) => set(event.target.value, true)} />
    ${fact.unit && html`<span class="tonb-unit">${fact.unit}</span>`}</span>
    ${fact.choices.length > 0 && html`<datalist id=${`${id}-list`}>${fact.choices.map((each) => html`<option key=${each} value=${each}></option>`)}</datalist>`}`;
}

function Control({ fact, text, set, shared: attributes, id, texts }) {
  const { kind, choices } = fact;
  if (kind === "object") return html`<span class="tonb-fixed">${fill(texts.from_python, { name: fact.object })}</span>`;
  if (kind === "function") return html`<span class="tonb-fixed">${fill(texts.python_only, { flag: fact.flag })}</span>`;
  if (kind === "switch") return html`<label class="tonb-switch"><input ...${attributes} type="checkbox" class="tonb-pick" checked=${text === "on"}
    onChange=${(event) => set(event.target.checked ? "on" : "off", true)} /><span>${text === "on" ? texts.on : texts.off}</span></label>`;
  if (kind === "list") return html`<select ...${attributes} class="tonb-lr tonb-entry" value=${text} onChange=${(event) => set(event.target.value, true)}>
    ${choices.map((each) => html`<option key=${each} value=${each} selected=${each === text}>${each}</option>`)}</select>`;
  if (kind !== "buttons") return html`<${Entry} ...${{ fact, text, set, shared: attributes, id, texts }} />`;
  return html`<span class="tonb-segments" role="radiogroup" aria-labelledby=${`${id}-label`} aria-describedby=${attributes["aria-describedby"]}>
    ${choices.map((each, i) => html`<label key=${each} class="tonb-segment"><input type="radio" name=${id} id=${i ? undefined : id} value=${each} checked=${each === text} disabled=${attributes.disabled}
      onChange=${() => set(each, true)} /><span>${each}</span></label>`)}</span>`;
}

// `found` says where a search found what the field does not show
function OptionField({ name, fact, row, text, words, found, live, texts, set, putBack }) {
  const [id] = useState(() => `tonb-field-${++fields}`), { kind } = fact, typed = !["object", "function"].includes(kind);
  const help = fact.help + (fact.values && ` (${fact.values})`), mark = (shown) => html`<${Marked} text=${shown} words=${words} />`;
  const attributes = { id, disabled: !live, "aria-describedby": classes(row.error && `${id}-error`, `${id}-help`), ...(row.error ? { "aria-invalid": "true" } : {}) };
  const Name = typed && kind !== "buttons" ? "label" : "span", value = kind === "switch" ? texts[fact.usual] : fact.usual, back = value ? fill(texts.reset_to, { value }) : texts.reset;
  return html`<div class="tonb-option" data-name=${name} data-changed=${String(row.changed)} data-idle=${String(Boolean(row.idle))}>
    <div class="tonb-option-head"><${Name} id=${`${id}-label`} class="tonb-option-label" for=${Name === "label" ? id : undefined}>${mark(fact.label)}<//>
      ${row.changed && typed ? html`<button type="button" class="tonb-more tonb-put-back" disabled=${!live} title=${fill(texts.reset_tip, { label: fact.label, value: value || texts.empty })}
        aria-label=${`${back}: ${fact.label}`} onClick=${putBack}>${back}</button>`
        : html`<code class="tonb-flag">${mark(fact.flag)}</code>`}</div>
    <${Control} ...${{ fact, text, set, shared: attributes, id, texts }} />
    ${row.error && html`<p class="tonb-option-error" id=${`${id}-error`}>${row.error}</p>`}
    <p class="tonb-option-help" id=${`${id}-help`}>${mark(help)}${row.idle && html` <span class="tonb-idle">${words.length && !row.changed ? fact.counts : row.idle}</span>`}</p>
    ${found && html`<p class="tonb-option-help tonb-found">${found}</p>`}</div>`;
}
