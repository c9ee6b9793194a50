"""Pages as people open them: in a real browser, without network, by mouse and by keyboard."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Page, opened
from PIL import Image

from common.pages.review import read_review

DRAWN = "JSON.parse(document.getElementById('over').dataset.drawn)"
IS_READY = """new Promise((done) => {
  const isDrawn = () => document.getElementById('over').dataset.drawn;
  const look = () => isDrawn() ? done(true) : setTimeout(look, 5);
  look();
})"""
PIXELS = "document.getElementById('over').toDataURL()"


@pytest.fixture
def page(browser: Browser, pages: Path) -> Iterator[Page]:
    with opened(browser, pages / "chestx.html") as one:
        assert one.run(IS_READY)
        yield one


def set_to(page: Page, name: str, value: object) -> None:
    """Set a control as a hand would: its value, and the event that tells of it."""
    page.run(
        f"""(() => {{
          const control = document.getElementById('controls').elements.{name};
          const value = {json.dumps(value)};
          if (typeof value === 'boolean') control.checked = value; else control.value = value;
          const one = control.length ? control[0] : control;
          one.dispatchEvent(new Event('input', {{bubbles: true}}));
        }})()"""
    )


def choose(page: Page, finding: int, layer: str | None = None) -> None:
    page.run(f"document.querySelector('input[name=finding][value=\"{finding}\"]').click()")
    if layer is not None:
        page.run(
            f"""(() => {{
              const select = document.querySelector('select[data-finding="{finding}"]');
              select.value = '{layer}';
              select.dispatchEvent(new Event('input', {{bubbles: true}}));
            }})()"""
        )


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_a_page_loads_whole_and_asks_for_nothing(browser: Browser, pages: Path, task: str) -> None:
    path = pages / f"{task}.html"
    with opened(browser, path) as page:
        assert page.run(IS_READY)
        asked = [one["request"]["url"] for one in page.events("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert page.events("Log.entryAdded") == []
        assert page.events("Runtime.exceptionThrown") == []
        assert page.run("document.getElementById('over').width") == 512


def test_the_policy_stops_what_would_reach_out(page: Page) -> None:
    stopped = """new Promise((done) => {
      document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));
      const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';
    })"""
    assert page.run(stopped) == "img-src"
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert page.run(refused) == "refused"
    violated = [one["entry"]["text"] for one in page.events("Log.entryAdded")]
    assert any("Content Security Policy" in text for text in violated)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("opacity", 20),
        ("side", "against"),
        ("outline", False),
        ("roi", False),
        ("smooth", False),
    ],
)
def test_every_control_changes_what_is_drawn(page: Page, name: str, value: object) -> None:
    before = page.run(PIXELS)
    set_to(page, name, value)
    assert page.run(DRAWN)[name] == (value / 100 if isinstance(value, int) and value > 1 else value)
    assert page.run(PIXELS) != before


def test_another_map_is_drawn_and_its_own_legend_shown(page: Page) -> None:
    own = page.run(PIXELS)
    choose(page, 0, "method:1")
    assert page.run(PIXELS) != own
    legend = "[...document.querySelectorAll('figcaption .panel')].filter(p => !p.hidden)"
    shown = page.run(f"{legend}.map(p => p.textContent)")
    assert len(shown) == 1
    assert shown[0].startswith("Grad-CAM.")
    assert page.run("document.querySelector('[name=side]').disabled")  # shares have no other side
    assert "Grad-CAM" in page.run("document.getElementById('over').getAttribute('aria-label')")


def test_another_finding_shows_its_own_map_and_numbers(page: Page) -> None:
    first = page.run(PIXELS)
    choose(page, 1)
    assert page.run(PIXELS) != first
    shown = "[...document.querySelectorAll('.panel')].filter(p => !p.hidden)"
    assert page.run(f"[...new Set({shown}.map(p => p.dataset.finding))]") == ["1"]


def test_a_signs_map_is_drawn_by_its_button(page: Page) -> None:
    before = page.run(PIXELS)
    page.run("document.querySelector('button[data-show=\"concept:1\"]').click()")
    assert page.run(DRAWN)["layer"] == "concept:1"
    assert page.run(PIXELS) != before
    assert page.run("document.getElementById('reviewed-map').textContent") == "The model's own map"


def test_beside_the_picture_stands_the_picture_alone(page: Page) -> None:
    assert page.run("document.getElementById('beside').hidden")
    wide = "document.getElementById('over').clientWidth"
    alone = page.run(wide)
    set_to(page, "place", "beside")
    assert page.run(wide) > 0.9 * alone  # the pair has the whole width
    assert not page.run("document.getElementById('beside').hidden")
    set_to(page, "opacity", 0)
    set_to(page, "outline", False)
    set_to(page, "roi", False)
    # With nothing laid over it, what is drawn is the picture.
    assert page.run(f"{PIXELS} === document.getElementById('beside').toDataURL()")


def test_the_canvas_holds_the_maps_strongest_place_where_the_json_has_it(
    page: Page, pages: Path
) -> None:
    set_to(page, "outline", False)
    set_to(page, "roi", False)
    set_to(page, "smooth", False)
    set_to(page, "opacity", 100)
    document = json.loads((pages / "chestx.json").read_text(encoding="utf-8"))
    grid = document["findings"][0]["methods"][0]["map"]
    values = np.array(grid["values"]).reshape(grid["rows"], grid["columns"])
    row, column = np.unravel_index(values.argmax(), values.shape)
    cell = 512 // grid["rows"]
    x, y = column * cell + cell // 2, row * cell + cell // 2
    colour = page.run(
        f"[...document.getElementById('over').getContext('2d').getImageData({x},{y},1,1).data]"
    )
    assert colour[:3] == [0xFD, 0xE7, 0x25]  # viridis at its end, fully covering


def test_the_still_picture_is_what_the_canvas_draws(page: Page) -> None:
    set_to(page, "outline", False)
    set_to(page, "roi", False)
    # Their sizes differ: held against each other in squares of 16 pixels of the picture.
    drawn, still = (
        page.run(
            f"""((image) => {{
              const canvas = document.createElement('canvas');
              canvas.width = canvas.height = 16;
              const context = canvas.getContext('2d');
              context.imageSmoothingQuality = 'high';
              context.drawImage(image, 0, 0, 16, 16);
              return [...context.getImageData(0, 0, 16, 16).data];
            }})(document.getElementById('{name}'))"""
        )
        for name in ("over", "still")
    )
    bare = page.run("document.getElementById('still').src === document.images[1].src")
    assert not bare
    assert np.abs(np.array(drawn) - np.array(still)).max() <= 4


def test_everything_can_be_reached_and_changed_by_keyboard(page: Page) -> None:
    focusable = "a[href], button, input, select, textarea, summary"
    wanted = set(
        page.run(
            f"[...document.querySelectorAll('{focusable}')].filter(e => e.checkVisibility() && "
            "!e.disabled && (e.type !== 'radio' || e.checked || e.form.id === 'review-form'))"
            ".map((e, i) => (e.dataset.seen = i, e.type === 'radio' ? e.name : String(i)))"
        )
    )
    reached = set()
    rings = set()
    for _ in range(len(wanted) + 30):
        page.press("Tab")
        at = page.run(
            "(e => e.dataset.seen && [e.type === 'radio' ? e.name : e.dataset.seen, "
            "getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        if at:
            reached.add(at[0])
            rings.add(at[1])
    assert wanted <= reached
    assert rings == {"solid"}  # the focus is always seen
    page.run("document.getElementById('opacity').focus()")
    page.press("ArrowRight")
    assert page.run(DRAWN)["opacity"] == pytest.approx(0.65)
    page.run("document.querySelector('input[name=finding]:checked').focus()")
    page.press("ArrowDown")
    assert page.run(DRAWN)["finding"] == 1


def test_every_control_has_a_name_for_those_who_cannot_see_it(page: Page) -> None:
    page.ask("Accessibility.enable")
    tree = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "radio", "checkbox", "slider", "combobox", "textbox", "spinbutton", "img"}
    controls = [
        node
        for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in roles
    ]
    assert len(controls) > 15
    nameless = [node for node in controls if not node.get("name", {}).get("value", "").strip()]
    assert nameless == []


def test_a_review_is_saved_as_the_file_that_is_read_again(
    browser: Browser, pages: Path, tmp_path: Path
) -> None:
    with opened(browser, pages / "chestx.html", downloads=tmp_path) as page:
        page.run(IS_READY)
        choose(page, 0, "method:1")
        page.run(
            """(() => {
              const answers = document.getElementById('review-form').elements;
              answers.region.value = 'partly';
              answers.rationale.value = 'cannot tell';
              answers.confidence_before.value = '40';
              answers.confidence_after.value = '75';
              answers.reader.value = 'r-07';
              answers.remark.value = 'an <old> scar';
              document.querySelector('#review-form button').click();
            })()"""
        )
        saved = page.run("document.getElementById('saved').textContent")
        while (done := browser.wait_for("Browser.downloadProgress"))["state"] == "inProgress":
            pass
        assert done["state"] == "completed"
    (path,) = tmp_path.iterdir()
    assert path.name in saved
    review = read_review(path)
    document = json.loads((pages / "chestx.json").read_text(encoding="utf-8"))
    assert review.item == (
        document["picture"]["sha256"],
        document["model"]["weights_sha256"],
        "chestx",
        "Effusion",
        "grad-cam",
    )
    assert (review.region, review.rationale) == ("partly", "cannot tell")
    assert (review.confidence_before, review.confidence_after) == (40, 75)
    assert (review.reader, review.remark) == ("r-07", "an <old> scar")
    assert review.explained_at == document["made_at"]


def test_an_unfinished_review_is_not_saved(page: Page) -> None:
    page.run("document.querySelector('#review-form button').click()")
    assert page.run("document.getElementById('saved').textContent") == ""
    assert page.run("document.querySelectorAll('#review-form :invalid').length") >= 5


def test_a_link_to_a_hidden_number_shows_it(page: Page) -> None:
    target = page.run("[...document.querySelectorAll('.panel[hidden] [id^=at]')].map(e => e.id)[0]")
    page.run(
        f"new Promise(done => {{ addEventListener('hashchange', () => setTimeout(done)); "
        f"location.hash = '{target}'; }})"
    )
    assert page.run(f"document.getElementById('{target}').closest('.panel[hidden]')") is None
    assert page.run(f"document.getElementById('{target}').checkVisibility()")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_page_is_wider_than_its_window(page: Page, width: int) -> None:
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_a_printed_page_has_two_sheets_no_controls_and_the_shown_map(page: Page) -> None:
    choose(page, 0, "method:1")
    page.ask("Emulation.setEmulatedMedia", media="print")
    seen = "e => e && e.checkVisibility()"
    for gone in ("#controls", ".review", "summary", "button", "input"):
        assert not page.run(f"[...document.querySelectorAll('{gone}')].some({seen})"), gone
    assert page.run(f"({seen})(document.getElementById('over'))")
    sheets = len(re.findall(rb"/Type /Page\b", page.pdf()))
    assert 1 <= sheets <= 2


def test_without_scripts_a_page_still_tells_everything(browser: Browser, pages: Path) -> None:
    with opened(browser, pages / "chestx.html", has_script=False) as page:
        picture = Image.open(io.BytesIO(page.screenshot()))
        assert picture.width == 1280
        root = page.ask("DOM.getDocument", depth=-1)["root"]["nodeId"]
        names = page.ask("DOM.querySelectorAll", nodeId=root, selector="#still, .panel, #controls")
        drawn = []
        for node in names["nodeIds"]:
            styles = page.ask("DOM.describeNode", nodeId=node)["node"]["attributes"]
            attributes = dict(zip(styles[::2], styles[1::2], strict=True))
            try:
                page.ask("DOM.getBoxModel", nodeId=node)
                drawn.append((attributes.get("id") or attributes["data-finding"], True))
            except AssertionError:  # the protocol's answer for what takes no place on the page
                drawn.append((attributes.get("id") or attributes["data-finding"], False))
        assert ("still", True) in drawn
        assert ("controls", False) in drawn
        assert {"0", "1", "2"} <= {name for name, is_there in drawn if is_there}
