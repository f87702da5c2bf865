"""The label page in a real Chromium, as annotators use it."""

import os
import re
import shutil

import pytest
from huggingface_hub import HfApi
from local_hub import ALICE
from local_page import PASSWORDS, running, serving, unlabeled

from trl_real import LabelQueue
from trl_real.label_page.accounts import Accounts
from trl_real.label_page.label_saver import LabelSaver
from trl_real.label_page.server import create_app
from trl_real.labeling.label_log import read_log


CHROMIUM = os.environ.get("TRL_REAL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# The time from a key to the frame that shows the next pair.
WATCH = """() => {
  window.seen = new Promise((resolve) => {
    let pressed = null;
    document.addEventListener("keydown", (event) => (pressed ??= event.timeStamp), { capture: true });
    new MutationObserver(() => requestAnimationFrame(() => resolve(performance.now() - pressed))).observe(
      document.getElementById("prompt"), { childList: true });
  });
}"""


@pytest.fixture(scope="module")
def browser():
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "needs Playwright: `pip install playwright`"
    if CHROMIUM is None:
        missing = "needs Chromium: `apt-get install chromium`, or its path in TRL_REAL_CHROMIUM"
    if missing is not None:
        if os.environ.get("TRL_REAL_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        # The page is on this machine, and a site on the internet shows it in a frame only where Chromium does not mind.
        arguments = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "labels.jsonl"


@pytest.fixture
def port(log):
    with running(LabelQueue(unlabeled(12), log)) as port:
        yield port


@pytest.fixture
def look(browser):
    """Opens a page, and in the end checks that nothing went wrong in it and nothing was asked of others."""
    contexts, wrong = [], []

    def look(port, path="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(here) or wrong.append(request.url))
        here = f"http://127.0.0.1:{port}/"
        page.goto(here + path)
        return page

    yield look
    for context in contexts:
        context.close()
    assert wrong == []


def labels(log):
    return [line["label"] for line in read_log(log)]


def shown(page):
    """The prompt, and what is on the left and on the right."""
    return [page.locator(f"#{part}").inner_text() for part in ("prompt", "first", "second")]


def wait_for(page, status):
    page.locator("#status", has_text=status).wait_for()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["1", "ArrowLeft"], "Saved: A is better."),
        (["2", "ArrowRight"], "Saved: B is better."),
        (["0", "t"], "Saved: tie."),
        (["s", "S"], "Saved: skipped."),
    ],
)
def test_a_key_decides_and_shows_the_next_pair(look, port, log, keys, said):
    page = look(port)
    page.locator("#task").wait_for()
    for n, key in enumerate(keys, 1):
        prompt, first, _ = shown(page)
        page.keyboard.press(key)
        page.locator("#mine", has_text=f"{n} by you").wait_for()
        wait_for(page, said)
        assert shown(page)[0] != prompt
        line = list(read_log(log))[-1]
        side = {"A": line["shown_first"], "B": "ba"["ab".index(line["shown_first"])], "t": "tie", "s": None}
        assert line["label"] == side[said.removeprefix("Saved: ")[0]]
        assert line["shown_first"] == {"one": "a", "two": "b"}[first.split()[0]]
        assert 0 < line["seconds"] < 60


def test_undo_by_both_keys_and_the_button(look, port, log):
    page = look(port)
    page.locator("#task").wait_for()
    before = [shown(page)]
    for key in ("1", "0", "2"):
        page.keyboard.press(key)
        page.locator("#mine", has_text=f"{len(before)} by you").wait_for()
        before.append(shown(page))
    for n, undo in enumerate(
        (lambda: page.keyboard.press("u"), lambda: page.keyboard.press("Backspace"), page.locator("#undo").click)
    ):
        undo()
        page.locator("#mine", has_text=f"{2 - n} by you").wait_for()
        assert shown(page) == before[2 - n]
    page.keyboard.press("u")
    wait_for(page, "There is nothing to undo.")
    assert labels(log)[3:] == [None] * 3


def test_buttons_do_what_keys_do(look, port, log):
    page = look(port)
    for n, name in enumerate(("A is better", "Tie", "B is better", "Skip"), 1):
        page.get_by_role("button", name=name).click()
        page.locator("#mine", has_text=f"{n} by you").wait_for()
    assert labels(log)[1] == "tie"
    assert labels(log)[3] is None


def test_nothing_can_be_chosen_before_a_pair_is_shown(look, port, log):
    page = look(port)
    page.route("**/api/task", lambda route: None)  # which has no answer
    page.reload()
    for name in ("A is better", "Tie", "B is better", "Skip"):
        assert page.get_by_role("button", name=name).is_disabled()
    page.unroute("**/api/task")
    page.reload()
    page.get_by_role("button", name="Tie").click()
    wait_for(page, "Saved: tie.")
    assert labels(log) == ["tie"]


def test_a_reload_shows_the_same_pair_the_same_way(look, port):
    page = look(port)
    page.locator("#task").wait_for()
    before = shown(page)
    page.reload()
    page.locator("#task").wait_for()
    assert shown(page) == before


def test_what_is_no_decision_decides_nothing(look, port, log):
    """Keys in a text box, with a modifier, held down or behind the help, and text that is selected."""
    page = look(port)
    page.locator("#task").wait_for()
    page.evaluate("document.querySelector('header').append(document.createElement('input'))")
    page.locator("input").fill("")
    for key in ("1", "t", "s", "u", "h", "ArrowLeft", "Backspace"):
        page.keyboard.press(key)
    assert page.locator("input").input_value() == "1tsh"  # where arrow and Backspace did what they do in text
    page.evaluate("document.querySelector('input').remove()")
    for key in ("Control+1", "Alt+2", "Meta+0", "Escape", "x", "3"):
        page.keyboard.press(key)
    page.keyboard.press("h")
    page.locator("#help").wait_for()
    for key in ("1", "2", "0", "u"):
        page.keyboard.press(key)
    page.keyboard.press("h")
    page.locator("#help").wait_for(state="hidden")
    page.locator("#first p").dblclick(position={"x": 10, "y": 10})
    assert page.evaluate("getSelection().toString()").strip() in ("one", "two")
    page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '1', repeat: true, bubbles: true }))"
    )
    page.keyboard.press("t")
    wait_for(page, "Saved: tie.")
    assert labels(log) == ["tie"]


def test_two_annotators_label_different_pairs_in_their_own_names(look, log):
    with running(LabelQueue(unlabeled(12), log), PASSWORDS) as port:
        pages = {}
        for name, password in PASSWORDS.items():
            page = pages[name] = look(port)
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill("wrong")
            page.keyboard.press("Enter")
            page.get_by_text("The name or the password is wrong.").wait_for()
            page.get_by_label("Password").fill(password)
            page.keyboard.press("Enter")
            page.locator("#task").wait_for()
        assert shown(pages["anna"])[0] != shown(pages["ben"])[0]
        for _ in range(6):
            for page in pages.values():
                page.keyboard.press("1")
                wait_for(page, "Saved")
                page.keyboard.press("h")  # which waits until the page is at rest
                page.keyboard.press("h")
        assert [page.locator("#progress").is_visible() for page in pages.values()] == [True, False]
        pages["ben"].get_by_role("button", name="Sign out").click()
        pages["ben"].get_by_label("Name").wait_for()
    lines = list(read_log(log))
    assert len({line["pair_id"] for line in lines}) == len(lines)
    assert {line["annotator"] for line in lines} == set(PASSWORDS)


def test_the_end_is_said_and_can_be_taken_back(look, log):
    with running(LabelQueue(unlabeled(2), log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        for n in (1, 2):
            page.keyboard.press("2")
            page.locator("#mine", has_text=f"{n} by you").wait_for()
        page.get_by_role("heading", name="All pairs are done").wait_for()
        assert page.get_by_role("button", name="Tie").is_disabled()
        page.keyboard.press("1")
        page.keyboard.press("u")
        page.locator("#task").wait_for()
        assert len(labels(log)) == 3


def test_who_waits_for_others_sees_when_they_are_done(look, log):
    queue = LabelQueue(unlabeled(1), log)
    with running(queue) as port:
        task = queue.next_task("ben")
        page = look(port)
        page.get_by_role("heading", name="Nothing for you right now").wait_for()
        queue.record("ben", task.pair_id, "a")
        page.get_by_role("heading", name="All pairs are done").wait_for()


def test_a_server_that_is_gone_is_told_and_nothing_is_lost(look, log):
    pairs = unlabeled(12)
    with running(LabelQueue(pairs, log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        before = shown(page)
    page.keyboard.press("1")
    page.get_by_text("The server does not answer. Your last decision was not saved.").wait_for()
    assert shown(page) == before
    with running(LabelQueue(pairs, log), port=port):
        page.keyboard.press("t")
        wait_for(page, "Saved: tie.")
    assert labels(log) == ["tie"]


def test_a_pair_that_has_changed_is_shown_again_with_the_reason(look, log):
    pairs = unlabeled(12)
    queue = LabelQueue(pairs, log)
    task = queue.next_task("anna")
    with running(queue) as port:
        page = look(port)
        page.locator("#task").wait_for()
    others = (LabelQueue(pairs, log, seed=seed) for seed in range(1, 99))
    turned = next(other for other in others if other.task("anna", task.pair_id).shown_first != task.shown_first)
    with running(turned, port=port):
        with page.expect_response("**/api/task"):
            page.keyboard.press("1")
        page.wait_for_timeout(300)  # until it is shown
        page.get_by_text("Your decision was not saved. Look at the pair again.").wait_for()
    assert labels(log) == []


def test_a_log_that_cannot_be_written_is_told(look, log, monkeypatch):
    queue = LabelQueue(unlabeled(12), log)
    with running(queue) as port:
        page = look(port)
        page.locator("#task").wait_for()
        before = shown(page)
        with monkeypatch.context() as full:
            full.setattr(
                queue, "record", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            )
            page.keyboard.press("1")
            page.get_by_role("alert").get_by_text("not saved: No space left on device").wait_for()
        assert shown(page) == before
        page.keyboard.press("1")
        wait_for(page, "Saved")


HOSTILE = """
# Title <script>alert("script")</script>

<img src="https://example.com/a.png" onerror="alert('img')">
![pixel](https://example.com/b.png) [link](javascript:alert('link')) <svg onload="alert('svg')">

| a | <iframe src="https://example.com"></iframe> |
|-|-|
| `<b>` | </div></section><style>* {{ display: none }}</style> |
{}
"""


def test_hostile_text_is_shown_and_does_nothing(look, log):
    with running(LabelQueue(unlabeled(1, prompt=HOSTILE, response_a=HOSTILE), log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        assert '<script>alert("script")</script>' in shown(page)[0]
        assert "[image: pixel]" in shown(page)[0]
        assert page.locator(".pane script, .pane img, .pane svg, .pane iframe, .pane style").count() == 0
        page.get_by_role("button", name="Raw text").click()
        assert "![pixel](https://example.com/b.png)" in shown(page)[0]
        assert page.locator("#prompt table").count() == 0
        page.keyboard.press("1")
        page.get_by_role("heading", name="All pairs are done").wait_for()


def test_a_response_of_5_mb_is_cut_until_it_is_asked_for(look, log):
    with running(LabelQueue(unlabeled(1, response_a="word " * 1_000_000), log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        more = page.get_by_role("button", name="Show all 5,000,000 characters")
        more.click()
        more.wait_for(state="hidden")
        long = page.locator(".pair .raw")
        assert len(long.text_content()) == 5_000_000
        page.keyboard.press("t")
        page.get_by_role("heading", name="All pairs are done").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_everything_is_within_reach(look, log, width, scheme):
    """On wide and narrow screens nothing is cut off, long texts scroll on their own, and the buttons stay in sight."""
    long = "\n\n".join(["A long text with `code`. " * 20] * 30) + "\n\n```\n" + "x" * 300 + "\n```\n" + "y" * 300
    with running(LabelQueue(unlabeled(3, prompt=long, response_a=long, response_b=long), log), PASSWORDS) as port:
        page = look(port, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORDS["anna"])
        page.keyboard.press("Enter")
        page.locator("#task").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= 800
        for pane in page.locator(".pane").all():
            assert pane.evaluate(
                "pane => pane.scrollHeight > pane.clientHeight && pane.scrollWidth <= pane.clientWidth"
            )
        assert contrasts(page) == []
        page.goto(f"http://127.0.0.1:{port}/progress")
        page.get_by_role("heading", name="Too early to tell").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert contrasts(page) == []


CONTRAST = """() => {
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    while (element) {
      const color = getComputedStyle(element).backgroundColor;
      if (rgb(color)[3] !== 0) return color;
      element = element.parentElement;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((element) => {
      const [a, b] = [getComputedStyle(element).color, behind(element)].map(light);
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 60)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


def contrasts(page):
    """Texts that stand out less from what is behind them than WCAG's AA asks for."""
    return page.evaluate(CONTRAST)


def test_keyboard_and_screen_reader_reach_everything(look, port, log):
    page = look(port)
    page.locator("#task").wait_for()
    tree = page.locator("body").aria_snapshot()
    for name in (
        'region "Prompt"',
        'region "Response A"',
        'region "Response B"',
        'group "Which response is better?"',
        'button "A is better"',
        'button "Tie"',
        'button "B is better"',
        'button "Undo"',
        'button "Skip"',
        'button "Help"',
        'button "Raw text"',
        'progressbar "0 of 12 pairs"',
        "status",
    ):
        assert re.search(rf"^\s*- {re.escape(name)}", tree, re.M), f"{name}\n{tree}"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-labelledby')")
        )
    for name in ("raw", "ask-help", "prompt-name", "first-name", "second-name", "choose-first", "choose-tie", "undo"):
        assert name in reached
    page.locator("#choose-tie").focus()
    page.keyboard.press("Enter")
    wait_for(page, "Saved: tie.")
    assert page.evaluate("document.activeElement.id") == "choose-tie"  # where the annotator was
    assert labels(log) == ["tie"]


def test_messages_are_turns(look, log):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    pairs = unlabeled(1).remove_columns("prompt").add_column("prompt", [messages])
    with running(LabelQueue(pairs, log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        assert page.locator("#prompt .turn h3").all_inner_texts() == ["system", "user"]
        assert page.locator("#first .turn h3").count() == 0


def test_the_next_pair_is_there_at_once(look, log):
    text = "Some **Markdown** with `code` and a list:\n\n- one\n- two\n\n" * 40  # 2,400 characters a response
    with running(LabelQueue(unlabeled(30, response_a=text + "{}", response_b=text + "- {}"), log)) as port:
        page = look(port)
        page.locator("#task").wait_for()
        milliseconds = []
        for n in range(1, 21):
            page.wait_for_timeout(100)  # an annotator reads longer, while the server prepares the next pair
            page.evaluate(WATCH)
            page.keyboard.press("1")
            milliseconds.append(page.evaluate("window.seen"))
            page.locator("#mine", has_text=f"{n} by you").wait_for()
        print("milliseconds from the key to the next pair:", sorted(map(round, milliseconds)))
        assert min(milliseconds) < 100  # the others may be disturbed by what else runs on this machine


def test_in_a_space_the_hub_shows_the_page_in_a_frame(browser, log, hub, monkeypatch):
    """With a session that lasts, although the frame is on another site, and with the number of decisions that are saved."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr("trl_real.label_page.label_saver.EVERY", 1000.0)
    HfApi().create_repo("alice/labels", repo_type="dataset", private=True)
    queue, context = LabelQueue(unlabeled(2), log), browser.new_context()
    with (
        LabelSaver(log, "alice/labels") as saver,
        serving(create_app(queue, Accounts(PASSWORDS), "", saver)) as port,
    ):
        html = f'<iframe src="http://127.0.0.1:{port}/" width="1200" height="800"></iframe>'
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.route("https://huggingface.co/**", lambda route: route.fulfill(content_type="text/html", body=html))
        page.goto("https://huggingface.co/spaces/alice/label")
        frame = page.frame_locator("iframe")
        frame.get_by_label("Name").fill("anna")
        frame.get_by_label("Password").fill(PASSWORDS["anna"])
        frame.get_by_role("button", name="Sign in").click()
        frame.get_by_role("button", name="Tie").click()
        frame.get_by_text("Recorded: tie.").wait_for()
        frame.get_by_text("Saved 0 of 1", exact=True).wait_for()
        saver.trigger().result()
        frame.get_by_text("Saved 1 of 1", exact=True).wait_for()
        context.close()
