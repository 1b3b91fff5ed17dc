// The row about what a run uses of its machine and where the time of its steps goes, and the table of the steps that were profiled.

function Usage({ ui, face, texts, live, send, refresh, waits }) {
  const [open, turn] = useState(true);
  const { usage, profile } = face;
  const press = () => {
    send({ command: "profile" });
    click(ui, "profile", (now) => now.profile?.first !== profile?.first);
    refresh();
  };
  return html`<div class="tonb-usage" hidden=${!(usage || profile || live)}><b class="tonb-title">${texts.usage}</b>
    <span class="tonb-usage-text">${usage}</span>
    <button type="button" class="tonb-more tonb-profile" hidden=${!live} disabled=${waits === "profile"} onClick=${press}>${texts.profile}</button></div>
    ${profile && html`<div class="tonb-profiled"><div class="tonb-assumed-head"><span class="tonb-assumed-line">${fill(texts.profiled, profile)}</span>
      <button type="button" class="tonb-more" aria-expanded=${String(open)} onClick=${() => turn(!open)}>${open ? texts.hide : texts.show}</button></div>
      <div hidden=${!open}><${Table} heads=${[texts.operation, texts.calls, texts.time_alone, texts.share]}>${profile.rows.map(([name, calls, time, share]) =>
        html`<tr key=${name}><td><code class="tonb-path">${name}</code></td><td>${calls}</td><td>${time}</td><td>${share}</td></tr>`)}<//>
      ${profile.path && html`<div class="tonb-assumed-line">${fill(texts.trace, profile)}</div>`}</div></div>`}`;
}

// What was tried before the run to make it faster, and the flags that settle it: of all, of one setting, or of none.
function Tuned({ tuned, texts }) {
  const [open, turn] = useState(false), [flags, choose] = useState(null);
  if (!tuned) return null;
  const pick = (words, given) => html`<button type="button" class="tonb-button tonb-small" aria-pressed=${String(flags === given)}
    onClick=${() => choose(flags === given ? null : given)}>${words}</button>`;
  return html`<div class="tonb-profiled tonb-tuned"><div class="tonb-assumed-head"><b class="tonb-title">${tuned.title}</b>
    <span class="tonb-assumed-line">${tuned.summary}</span>
    <button type="button" class="tonb-more" aria-expanded=${String(open)} onClick=${() => turn(!open)}>${open ? texts.hide : texts.show}</button></div>
    <div hidden=${!open}><${Table} heads=${tuned.heads}>${tuned.rows.map((row, i) =>
      html`<tr key=${i}>${row.map((text, j) => html`<td key=${j}>${tuned.taken[i] ? html`<b>${text}</b>` : text}</td>`)}</tr>`)}<//>
      <div class="tonb-tuned-apply"><span>${texts.apply}</span>${tuned.choices.map(([words, given]) => pick(words, given))}</div>
      ${flags !== null && html`<div class="tonb-tuned-line" role="status"><span>${flags ? texts.tuned_in_place : texts.tuned_leave}</span>
        ${flags && html`<code class="tonb-path">${flags}</code> <${Copy} text=${flags} texts=${texts} />`}</div>`}</div></div>`;
}
