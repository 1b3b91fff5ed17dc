"The buttons of a finished training panel show below it what the verbs show, and the saved notebook keeps it"

import pytest
from test_train import panel, training_cell

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def look(lab, name, pattern):
    panel(lab).locator(f".tonb-{name}").click()
    lab.wait_text(1, pattern, 180)


def test_looks_at_a_finished_run_stand_below_the_panel_and_in_the_file(lab):
    heights = []

    def ended():
        state = panel(lab).get_attribute("data-state")
        if state == "training":
            heights.append(panel(lab).bounding_box()["height"])
        return state == "finished"

    lab.open("%load_ext trainopt_nb", training_cell(6))
    lab.run_all()
    lab.wait_for(ended, "the end", 120)
    row = panel(lab).locator(".tonb-looks")
    row.wait_for(timeout=20_000)
    assert abs(panel(lab).bounding_box()["height"] - heights[-1]) < 3, heights  # what stands below stays
    assert [lab.read(button) for button in row.locator("button").all()] == ["Inspect", "Doctor", "Coach"]
    lab.screenshot("looks")
    look(lab, "inspect", "(?i)confusion|most wrong")
    lab.screenshot("looks-inspect")
    look(lab, "doctor", "(?i)fault|healthy|nothing|updates")
    lab.screenshot("looks-doctor")
    look(lab, "coach", "Another process measures")
    lab.wait_text(1, "As it is, accuracy is", 240)
    lab.screenshot("looks-coach")
    lab.save()
    kept = "".join(str(output) for output in lab.saved().cells[1].outputs)
    assert "As it is, accuracy is" in kept and panel(lab).count() == 1
    lab.restart()
    panel(lab).locator(".tonb-inspect").click()
    lab.wait_for(lambda: "%trainopt inspect" in lab.read(row), "the sentence about the lost kernel", 30)
