"The panels speak the language of the page, in a real JupyterLab"

import pytest

pytestmark = pytest.mark.browser

TASK = """from sklearn.datasets import load_digits
from torch import nn

images, digits = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train_data, valid_data = (images[:1400], digits[:1400]), (images[1400:], digits[1400:])
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))"""
LONG = f"%%trainopt fit --epochs 100000 --name digits --runs language\n{TASK}"
QUIET = "import os\nfor name in ('TRAINOPT_LANGUAGE', 'LANGUAGE', 'LC_ALL', 'LC_MESSAGES', 'LANG'): os.environ.pop(name, None)\n"
LOAD = f"{QUIET}%load_ext trainopt_nb"


@pytest.fixture
def speak(lab):
    "A function that does what JupyterLab does when its language is changed; the page speaks as before afterwards"
    spoken = []

    def change(code):
        spoken.append(lab.page.evaluate("document.documentElement.lang"))
        lab.page.evaluate("code => { document.documentElement.lang = code }", code)

    yield change
    if spoken:
        change(spoken[0])


def test_a_chinese_page_has_a_chinese_panel_and_card(lab, speak):
    lab.open(LOAD, LONG)
    speak("zh-CN")
    lab.run_all()
    panel = lab.page.locator(".tonb-panel").first
    panel.get_by_text("训练中").wait_for(timeout=60_000)
    for word in ("暂停", "保存", "停止"):
        assert panel.get_by_role("button", name=word).is_enabled()
    lab.wait_for(lambda: "验证损失" in lab.read(panel) and "轮" in lab.read(panel), "figures in Chinese")
    lab.wait_for(lambda: int(panel.get_attribute("data-step") or 0) > 50, "50 steps")
    lab.screenshot("panel-chinese")
    panel.get_by_role("button", name="暂停").click()
    panel.get_by_text("已暂停").wait_for()
    panel.get_by_role("button", name="停止").click()
    lab.wait_done(1)
    lab.wait_for(lambda: "已停止" in lab.text(1) and "第" in lab.text(1), "a card in Chinese")
    assert "stopped by" not in lab.text(1).split("\n")[0]
    lab.output(1).scroll_into_view_if_needed()
    lab.screenshot("card-chinese")
    assert not lab.errors


def test_an_english_page_has_an_english_panel_whatever_the_system_speaks(lab):
    lab.open(f"{QUIET}os.environ['LANG'] = 'zh_CN.UTF-8'\n%load_ext trainopt_nb", LONG)
    lab.run_all()
    panel = lab.page.locator(".tonb-panel").first
    panel.get_by_role("button", name="Stop").wait_for(timeout=60_000)
    lab.wait_for(lambda: "valid loss" in lab.read(panel), "figures in English")
    panel.get_by_role("button", name="Stop").click()
    lab.wait_done(1)
    assert "停" not in lab.text(1)


def test_the_users_word_counts_more_than_the_pages(lab):
    lab.open(f"{QUIET}os.environ['TRAINOPT_LANGUAGE'] = 'zh'\n%load_ext trainopt_nb", LONG)
    lab.run_all()
    panel = lab.page.locator(".tonb-panel").first
    panel.get_by_role("button", name="停止").click(timeout=60_000)
    lab.wait_done(1)


def test_table_and_form_speak_it_too(lab, speak):
    fit = f"%%trainopt fit --epochs 2 --name digits --runs table\n{TASK}"
    lab.open(LOAD, fit, fit, "%trainopt runs --runs table", f"%%trainopt form\n{TASK}")
    speak("zh-CN")
    for i in range(4):  # the form waits: the kernel learns the language from a view that is there
        lab.run(i)
        lab.wait_done(i)
    table = lab.page.locator(".tonb-runs")
    table.get_by_role("button", name="比较").wait_for(timeout=60_000)
    lab.wait_for(lambda: "已完成" in lab.read(table) and "运行总数" in lab.read(table), "rows in Chinese")
    for box in table.locator("tbody input[type=checkbox]").all()[:2]:
        box.click()
    table.get_by_role("button", name="比较").click()
    table.locator(".tonb-compared canvas").wait_for()
    table.scroll_into_view_if_needed()
    lab.screenshot("runs-chinese")
    lab.run(4)
    form = lab.output(4).locator(".tonb-form")
    form.get_by_text("开始训练").wait_for(timeout=60_000)
    form.get_by_label("学习率", exact=True).fill("fast")
    form.get_by_role("button", name="开始训练").click()
    form.get_by_text("学习率的取值应为：1e-12 到 1000 之间的数（您输入的是“fast”）。").wait_for()
    form.scroll_into_view_if_needed()
    lab.screenshot("form-chinese")
    form.get_by_role("button", name="取消").click()
    form.get_by_text("已取消").wait_for()
    assert not lab.errors
