"""The report page in a browser: nothing goes wrong, and hands, keys and readers can use it."""

import numpy as np
import pytest
from browser import opened

from segue.report.blocks import Bar, Bars, Charts, Gallery, Grid, Matrix, Section, Source, Words
from segue.report.curves import chart
from segue.report.iou_table import Row, iou_table
from segue.report.page import Panel, write_page

CLASSES = ("road", "sky", "car")
COLOURS = ((128, 64, 128), (70, 130, 180), (0, 0, 142))
IOU = {"before": (0.6, 0.9, 0.1), "after": (0.7, 0.8, 0.3)}


def picture(seed: int, colours=2) -> np.ndarray:
    palette = np.random.default_rng(seed).integers(0, 256, (colours, 3))
    return palette[np.arange(64 * 32).reshape(32, 64) * colours // (64 * 32)].astype(np.uint8)


def sections() -> list[Section]:
    drawn = chart({"before": [(0, 2), (9, 1)], "after": [(0, 2), (9, 0.5)]}, axes=("x", "loss"))
    classes = tuple(zip(CLASSES, COLOURS, strict=True))
    shares = np.array([[0.9, 0.1, 0], [0.001, 0.5, 0.499], [0.02, 0.03, 0.95]])
    source = Source.of("image", picture(9))
    bars = [(name, colour, (Bar(0.5, 0.9), Bar(None))) for name, colour in classes]
    return [
        Section("confusion", "Confusion", "Labels down.", [
            Matrix("before", classes, shares), Matrix("after", classes, shares),
        ], abreast=True),
        Section("entropy", "Entropy", "Bright: a guess.", [
            Gallery("", (("scene", (source, source, source)),)),
            Grid("Mean entropy", ("class", "before"), ((("road",), ("0.1",)),)),
        ]),
        Section("labels", "Pseudo-labels", "", [
            Bars("after", ("round 1", "round 2"), (("all", None, (Bar(0.5), Bar(0.6))), *bars)),
        ]),
        Section("curves", "Learning curves", "", [Charts((("loss", drawn), ("other", drawn)))]),
        Section("warnings", "Warnings", "", [Words("after", ("bus is gone",))]),
        Section("made", "How it was made", "", [
            Grid("Data", ("", "before"), ((("data",), ("gta5", "/a" * 60)),), prose=True),
        ]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with all that a page can hold, ten panels among it."""
    rows = [
        Row(name, {c: [v] for c, v in zip(CLASSES, values, strict=True)}, [float(np.mean(values))])
        for name, values in IOU.items()
    ]
    names = ("image", "ground truth", "before", "after")
    panels = [
        Panel(f"scene {i}", {name: picture(4 * i + k) for k, name in enumerate(names)}, "a note")
        for i in range(10)
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(
        path,
        title="before and after",
        lead="Two runs.",
        table=iou_table(rows, protocol="3", classes=CLASSES),
        panels=panels,
        rule="10 of 60 images, drawn at random with seed 0.",
        legend=list(zip(CLASSES, COLOURS, strict=True)),
        facts={"seed": "0"},
        sections=sections(),
        notes=["One seed."],
    )
    return path


@pytest.fixture(scope="module")
def browser():
    """One for all tests of this file."""
    with opened() as whole:
        yield whole


@pytest.fixture
def watched(browser):
    """Its page as if new: no matter what a test before did."""
    browser.page.set_viewport_size({"width": 1280, "height": 800})
    browser.page.emulate_media(media="screen", color_scheme="light")
    for noted in (browser.errors, browser.failed, browser.requests):
        noted.clear()
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_quietly_and_can_be_read_by_all(report, scheme, watched):
    watched.page.emulate_media(color_scheme=scheme)
    watched.open(report)
    assert watched.accessibility() == []
    watched.assert_quiet()
    assert watched.requests == []
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, ground[4:-1].split(","))) < 64) == (scheme == "dark")


def test_the_slider_moves_by_keys_and_by_mouse(report, watched):
    page = watched.page
    watched.open(report)
    slider, stage = page.locator(".stage input").first, page.locator(".stage").first
    at = "e => e.style.getPropertyValue('--at')"
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert (slider.input_value(), stage.evaluate(at)) == ("55", "55%")
    assert slider.get_attribute("aria-valuetext") == "55 per cent"
    page.keyboard.press("Home")
    assert stage.evaluate(at) == "0%"
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 1, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=4)
    page.mouse.up()
    assert abs(int(slider.input_value()) - 75) <= 1
    # What it shows is cut where the handle stands.
    edge = page.locator(".edge").first.bounding_box()
    assert abs(edge["x"] - box["x"] - box["width"] * 0.75) < 0.02 * box["width"]
    watched.assert_quiet()


def test_any_two_pictures_can_be_wiped(report, watched):
    page = watched.page
    watched.open(report)
    panel = page.locator(".panel").nth(1)
    shown = [image.get_attribute("src") for image in panel.locator(".pictures img").all()]
    below, above = panel.locator(".stage img").all()
    assert (above.get_attribute("src"), below.get_attribute("src")) == (shown[2], shown[3])
    page.get_by_label("left").select_option(label="image")
    page.get_by_label("right").focus()
    page.keyboard.press("ArrowUp")
    assert (above.get_attribute("src"), below.get_attribute("src")) == (shown[0], shown[2])
    label = panel.locator("input").get_attribute("aria-label")
    assert label == "scene 1: share of image shown over before"
    assert panel.locator(".wipe p").inner_text().split() == ["image", "before"]


def test_panels_are_turned_by_mouse_and_keys(report, watched):
    page = watched.page
    watched.open(report)

    def seen():
        return [int(e.inner_text().split()[1]) for e in page.locator(".panel h3").all()
                if e.is_visible()]  # fmt: skip

    assert seen() == [0, 1, 2, 3]
    above, below = page.locator(".pager").all()
    above.get_by_text("Next").click()
    assert seen() == [4, 5, 6, 7]
    below.get_by_text("Next").focus()
    page.keyboard.press("Enter")
    assert seen() == [8, 9]
    page.keyboard.press("Enter")
    assert seen() == [8, 9]
    assert above.locator("span").inner_text() == "9 to 10 of 10"
    assert page.evaluate("document.activeElement.textContent") == "Next"
    above.get_by_text("Previous").focus()
    page.keyboard.press(" ")
    assert seen() == [4, 5, 6, 7]


def test_the_table_sorts_by_mouse_and_keys_and_is_copied(report, watched):
    page = watched.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    watched.open(report)

    def order():
        return [row.inner_text() for row in page.locator(".iou tbody th").all()]

    after = page.locator(".iou thead button").nth(2)
    after.click()
    assert order() == ["sky", "road", "car"]
    after.focus()
    page.keyboard.press("Enter")
    assert order() == ["car", "road", "sky"]
    assert page.locator(".iou thead th").nth(2).get_attribute("aria-sort") == "ascending"
    page.keyboard.press(" ")
    assert order() == list(CLASSES)
    for name, begins in (("Markdown", "| class | before |"), ("LaTeX", "% IoU in %")):
        page.get_by_text(f"Copy as {name}").click()
        page.get_by_text("Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()").startswith(begins)
    watched.assert_quiet()


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory):
    """A page of nine runs: a table wider than most screens, more curves than colours."""
    values = {c: [v] for c, v in zip(CLASSES, (0.6, 0.9, 0.1), strict=True)}
    names = [f"local alignment, seed {number}" for number in range(9)]
    curves = {name: [(0, 2), (9, 1 + place / 9)] for place, name in enumerate(names)}
    path = tmp_path_factory.mktemp("page") / "many.html"
    write_page(
        path,
        title="nine runs",
        lead="Nine runs.",
        table=iou_table([Row(n, values, [0.53]) for n in names], protocol="3", classes=CLASSES),
        panels=(),
        legend=list(zip(CLASSES, COLOURS, strict=True)),
        facts={},
        curves=curves,
        curve_axes=("iteration", "loss"),
    )
    return path


def test_classes_stay_in_sight_where_a_table_is_wide(many_runs, watched):
    page = watched.page
    page.set_viewport_size({"width": 700, "height": 700})
    watched.open(many_runs)
    at = "document.querySelector('.iou tbody th').getBoundingClientRect().left"
    before = page.evaluate(at)
    page.evaluate("document.querySelector('.scroll').scrollLeft = 400")
    assert page.evaluate("document.querySelector('.scroll').scrollLeft") == 400
    assert page.evaluate(at) == pytest.approx(before, abs=1)


def test_curves_beyond_the_colours_are_broken(many_runs, watched):
    watched.open(many_runs)
    dashes = "e => getComputedStyle(e).strokeDasharray + ' ' + getComputedStyle(e).color"
    drawn = [line.evaluate(dashes) for line in watched.page.query_selector_all("path.line")]
    assert len(set(drawn)) == len(drawn) == 9


@pytest.mark.parametrize("width", [320, 375, 768])
def test_narrow_screens_do_not_scroll_sideways(report, width, watched):
    watched.page.set_viewport_size({"width": width, "height": 700})
    watched.open(report)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 320:
        assert watched.accessibility() == []


def test_on_paper_all_panels_stand_and_no_tool(report, watched):
    page = watched.page
    page.emulate_media(media="print", color_scheme="dark")
    watched.open(report)
    assert all(panel.is_visible() for panel in page.locator(".panel").all())
    for hidden in (".wipe", ".pager", ".tools", "nav"):
        assert not any(one.is_visible() for one in page.locator(hidden).all())
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 29, 32)"


def test_without_scripts_everything_is_there(report, watched):
    context = watched.page.context.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert all(panel.is_visible() for panel in page.locator(".panel").all())
    assert not any(one.is_visible() for one in page.locator(".tools, .wipe").all())
    assert page.locator(".iou").is_visible()
    context.close()
