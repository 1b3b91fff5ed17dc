"A panel that another package adds: a short Python file, a short script, and what the page shows of it"

import importlib
import sys

import pytest
from helpers import Wire

from trainopt_nb.panels.base import PANELS

PULSE_PY = """
from pathlib import Path

from trainopt_nb.events.curves import Curve
from trainopt_nb.panels.base import PANELS, Panel


@PANELS.register("pulse")
class Pulse(Panel):
    "Counts beats"

    script = Path(__file__).with_suffix(".js").read_text()

    def __init__(self):
        self.beats = Curve()
        super().__init__()

    def facts(self):
        return {"live": True, "state": "training", "name": "pulse", "figures": [[str(len(self.beats.x)), "beats"]]}

    def curves(self):
        return {"beat": self.beats}
"""
PULSE_JS = """
export default panel(({ face, curves, texts, board }) => html`<${Frame} label="Pulse">
  <${Head} state=${face.state} name=${face.name} texts=${texts} />
  <${Figures} figures=${face.figures} />
  <${Charts} board=${board} single><${Chart} board=${board} title="Beats"
    lines=${[{ curve: curves.beat ?? EMPTY, color: "c1", name: "beat" }]} /><//>
  <${Foot}><span>a foot</span><//><//>`);
"""
SHOW = """
async ({ esm, css, state }) => {
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  const handlers = {};
  const model = { get: (key) => state[key], on: (name, call) => { handlers[name] = call; }, off() {}, send(content) { (window.sent ??= []).push(content); } };
  window.tell = (content) => handlers["msg:custom"](content);
  const widget = (await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })))).default();
  await widget.initialize({ model });
  await widget.render({ model, el: document.body });
}
"""


@pytest.fixture
def pulse(tmp_path, monkeypatch):
    "A panel from a package of its own"
    (tmp_path / "pulse_panel.py").write_text(PULSE_PY)
    (tmp_path / "pulse_panel.js").write_text(PULSE_JS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("pulse_panel")
    panel = PANELS["pulse"]()
    panel.widget.comm = Wire()
    yield panel
    panel.widget.close()
    PANELS.remove("pulse")
    sys.modules.pop("pulse_panel")


def test_a_new_panel_answers_with_facts_curves_and_a_static_card(pulse):
    pulse.beats.add(1, 0.5)
    assert pulse.update() and not pulse.update()
    (news,) = pulse.widget.comm.news()
    assert news["curves"] == {"beat": [1, 0, [1], [0.5]]} and news["face"] == {"figures": [["1", "beats"]]}
    assert pulse._repr_mimebundle_()[0]["text/plain"].startswith("training  pulse\n1 beats\n")


def test_another_version_of_the_protocol_is_answered_with_ours(pulse):
    content = {"protocol": 99, "ready": 0}
    pulse.widget.comm.click(content)
    assert pulse.widget.comm.news() == [{"protocol": 1}]


@pytest.mark.browser
def test_a_new_panel_is_drawn_in_a_page(pulse, plain):
    for i in range(5):
        pulse.beats.add(i, i % 2)
    pulse.update()
    state = pulse.widget.get_state()
    page = plain.blank()
    shown = {key: state[key] for key in ("whole", "texts")}
    page.evaluate(SHOW, {"esm": state["_esm"], "css": state["_css"], "state": shown})
    page.locator(".tonb-chart canvas").wait_for()
    assert (
        page.get_by_role("status").inner_text() == "training"
        and page.locator(".tonb-name").inner_text() == "pulse"
    )
    assert " ".join(page.locator(".tonb-figure").inner_text().split()) == "5 beats"
    assert page.locator(".tonb-chart").get_attribute("data-points") == "5"
    assert page.locator(".tonb-foot").inner_text() == "a foot"
    page.evaluate("""() => tell({ news: '{"protocol": 99}' })""")
    assert page.get_by_role("alert").inner_text() == pulse.texts["outdated"] and not plain.errors
    assert {content["protocol"] for content in page.evaluate("() => sent")} == {1}
