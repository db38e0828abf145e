import base64
import io
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segue.errors import SegueError
from segue.figures.figure import OKABE_ITO
from segue.label_space import CITYSCAPES
from segue.report import iou_table as tables
from segue.report.blocks import Bar, Bars, Charts, Gallery, Grid, Matrix, Section, Source, Words
from segue.report.curves import chart
from segue.report.iou_table import Cell, Reported, Row, Table, iou_table
from segue.report.page import Headline, Panel, write_page
from segue.report.pictures import data_uri

CLASSES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
]
TEMPLATES = Path(tables.__file__).parent / "templates"
DASH = "\N{EN DASH}"
NAN = math.nan
EVIL = "<script>alert('x')</script>"
VOID = {"meta", "link", "img", "input", "br", "path"}


def a_row(name: str, seeds: int, start: float = 0.4) -> Row:
    iou = {c: [start + 0.01 * i + 0.02 * s for s in range(seeds)] for i, c in enumerate(CLASSES)}
    return Row(name, iou, [statistics.fmean(iou[c][s] for c in CLASSES) for s in range(seeds)])


def nineteen(methods: int, seeds: int) -> Table:
    names = ["source only", "local alignment", "global alignment", "input crops"][:methods]
    rows = [a_row(name, seeds, 0.4 + 0.05 * i) for i, name in enumerate(names)]
    return iou_table(rows, protocol="19", classes=CLASSES)


def printed(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table.to_rich(width))
    return console.file.getvalue().splitlines()


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def photograph():
    return np.random.default_rng(0).integers(0, 256, (256, 512, 3)).astype(np.uint8)


def a_panel(name: str, photograph: np.ndarray) -> Panel:
    label = np.zeros((256, 512, 3), np.uint8)
    label[128:] = (128, 64, 128)
    predictions = {"source only": label, "local alignment": label[::-1]}
    return Panel(name, {"image": photograph, "ground truth": label, **predictions})


def a_page(path, panels=(), table=None, **changes) -> str:
    given = {
        "title": "Two worlds",
        "lead": "What was learnt.",
        "table": table or nineteen(2, 3),
        "panels": panels,
        "legend": [("road", (128, 64, 128))],
        "facts": {"seeds": "0, 1, 2"},
        "curves": {"source only": [(0.0, 2.0), (100.0, 1.0)]},
    }
    write_page(path, **(given | changes))
    return path.read_text(encoding="utf-8")


def test_cells_are_means_with_sample_standard_deviation_and_paired_differences():
    before = Row("before", {"road": [0.5, 0.6]}, [0.5, 0.6])
    after = Row("after", {"road": [0.52, 0.66]}, [0.4, 0.5])
    table = iou_table([before, after], protocol="13", classes=["road"])
    assert [column.title for column in table.columns] == ["before", "after", "difference"]
    assert [c.text for c in table.lines[0].cells] == ["55.0 ± 7.1", "59.0 ± 9.9", "+4.0 ± 2.8"]
    assert table.average.name == "mIoU (protocol 13)"
    assert table.average.cells[2].text == "\N{MINUS SIGN}10.0 ± 0.0"


def test_one_seed_has_no_spread():
    assert [cell.text for cell in nineteen(2, 1).lines[0].cells] == ["40.0", "45.0", "+5.0"]
    assert "deviation" not in nineteen(2, 1).caption


@pytest.mark.parametrize(
    ("mean", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (-0.06, "\N{MINUS SIGN}0.1"), (0.06, "+0.1")]
)
def test_a_difference_that_rounds_to_zero_has_no_sign_and_no_colour(mean, text):
    cell = Cell(mean, signed=True)
    assert cell.text == text
    assert bool(cell.sign) == (text != "0.0")


def test_nan_is_a_dash_with_a_footnote():
    iou = {"road": [0.5, 0.5], "train": [NAN, NAN], "bus": [0.2, NAN]}
    row = Row("a", iou, [0.5, 0.5])
    table = iou_table([row, row], protocol="3", classes=list(iou))
    assert [cell.text for cell in table.lines[1].cells] == [DASH] * 3
    assert [cell.text for cell in table.lines[2].cells] == ["20.0*", "20.0*", "0.0*"]
    assert len(table.notes) == 2
    shown = (table.to_markdown(), "\n".join(printed(table)), table.to_html(), table.to_latex())
    for text in shown[:3]:
        assert f"{DASH} absent from labels and predictions" in text
    assert not any("nan" in text.lower() for text in shown)


def test_what_a_paper_reports_stands_beside_ours(tmp_path):
    """In a column of its own, which is no method: nothing is compared with it."""
    before = Row("before", {"road": [0.5], "car": [0.2], "bus": [NAN]}, [0.35])
    reported = Reported({"road": 89.72, "bus": 51.4}, mean=46.98)
    after = Row("after", {"road": [0.6], "car": [0.1], "bus": [0.3]}, [0.333], reported)
    table = iou_table([before, after], protocol="3", classes=["road", "car", "bus"])
    titles = ["before", "paper, after", "after", "difference"]
    assert [column.title for column in table.columns] == titles
    assert [cell.text for cell in table.lines[0].cells] == ["50.0", "89.7", "60.0", "+10.0"]
    assert [cell.text for cell in table.lines[1].cells] == ["20.0", DASH, "10.0", "\u221210.0"]
    assert [cell.text for cell in table.average.cells] == ["35.0", "47.0", "33.3", "\u22121.7"]
    told = "paper: as reported, of its own data, hardware and code"
    assert told in table.words
    assert f"{DASH} absent from labels and predictions, or not reported" in table.words
    head = "| class | before | paper, after | after | difference |"
    assert table.to_markdown().splitlines()[0] == head
    text = a_page(tmp_path / "page.html", table=table)
    assert text.count("<strong>") == 2, "what a paper reports is no headline"
    assert 'data-value="89.7200"' in text, "it is sorted like any column"
    alone = iou_table([after], protocol="3", classes=["road"])
    assert [column.title for column in alone.columns] == ["paper", "after"]


@pytest.mark.parametrize("methods", [1, 2, 3, 4])
def test_a_papers_numbers_leave_the_terminal_before_ours_do(methods):
    rows = [a_row(f"method {i}", 3, 0.4 + 0.05 * i) for i in range(methods)]
    reported = Reported(dict.fromkeys(CLASSES, 40.0), mean=40.0)
    rows[-1] = Row(rows[-1].name, rows[-1].iou, rows[-1].miou, reported)
    lines = printed(iou_table(rows, protocol="19", classes=CLASSES))
    assert max(map(len, lines)) <= 80
    (road,) = [line for line in lines if line.startswith("road")]
    assert len(re.findall(r"\d+\.\d ± \d+\.\d", road)) == [1, 3, 5, 4][methods - 1]
    shown = any("paper" in line for line in lines)
    assert shown == any("as reported" in line for line in lines) == (methods < 4)


def test_no_footnote_without_need():
    assert nineteen(2, 3).notes == ()


def test_nothing_or_unequal_seeds_cannot_be_compared():
    with pytest.raises(SegueError, match="no results"):
        iou_table([], protocol="19", classes=CLASSES)
    with pytest.raises(SegueError, match="b: 2 seeds against 3"):
        iou_table([a_row("a", 3), a_row("b", 2)], protocol="19", classes=CLASSES)


@pytest.mark.parametrize("methods", [1, 2, 3, 4])
def test_the_terminal_table_fits_80_columns(methods):
    lines = printed(nineteen(methods, 3))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    for name in CLASSES:
        (line,) = [line for line in lines if line.startswith(name)]
        assert len(re.findall(r"\d+\.\d ± \d+\.\d", line)) == [1, 3, 5, 4][methods - 1]
    assert any("mIoU" in line for line in lines)
    assert any("Difference from source only" in line for line in lines) == (methods in (2, 3))


def test_terminal_markup_in_names_is_text():
    row = Row("[red]a[/red]", {"[b]": [0.5]}, [0.5])
    text = "\n".join(printed(iou_table([row], protocol="1", classes=["[b]"])))
    assert "[red]a[/red]" in text
    assert "[b]" in text


def test_markdown_is_one_well_formed_table():
    row = Row("a|b", {"<i>": [0.5], "x_y": [0.1]}, [0.3])
    lines = iou_table([row, row], protocol="2", classes=["<i>", "x_y"]).to_markdown().splitlines()
    rows = lines[: lines.index("")]
    assert len(rows) == 2 + 2 + 1
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {5}
    assert rows[0] == r"| class | a\|b | a\|b | difference |"
    assert rows[1] == "| :-- | --: | --: | --: |"
    assert rows[-1].startswith("| **mIoU (protocol 2)** | **30.0** |")


def test_latex_escapes_and_has_one_cell_per_column():
    row = Row("50% & more", {"x_y": [0.5, 0.6]}, [0.5, 0.6])
    text = iou_table([row], protocol="1", classes=["x_y"]).to_latex()
    assert r"class & 50\% \& more \\" in text
    assert r"x\_y & 55.0 $\pm$ 7.1 \\" in text


def test_the_page_is_well_formed_and_loads_nothing(tmp_path, photograph):
    text = a_page(tmp_path / "new" / "page.html", [a_panel("scene", photograph)])
    page = Page(text)
    assert "://" not in re.sub(r'src="data:[^"]*"', "", text)
    assert not re.search(r"@import|url\(", text)
    assert all(link["href"].startswith("data:") for link in page.all("link"))
    assert all("src" not in script for script in page.all("script"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_the_page_can_be_read_and_worked_without_seeing_it(tmp_path, photograph):
    page = Page(a_page(tmp_path / "page.html", [a_panel("scene", photograph)]))
    images = [image for image in page.all("img") if "src" in image]
    assert [image["alt"] for image in images] == [
        "scene: image",
        "scene: ground truth",
        "scene: source only",
        "scene: local alignment",
    ]
    (slider,) = page.all("input")
    assert slider["type"] == "range"
    assert slider["aria-label"] == "scene: share of source only shown over local alignment"
    heads = [head for head in page.all("th") if head["scope"] == "col"]
    assert len(heads) == len([b for b in page.all("button") if not b.keys() - {"type"}]) == 4
    assert [b["data-copy"][:8] for b in page.all("button") if "data-copy" in b] == [
        "| class ", "% IoU in"
    ]  # fmt: skip
    assert all(head["aria-sort"] == "none" for head in heads)


def test_every_text_is_escaped(tmp_path, photograph):
    row = Row(EVIL, {EVIL: [0.5, 0.6]}, [0.5, 0.6])
    text = a_page(
        tmp_path / "page.html",
        [Panel(EVIL, {EVIL: photograph, EVIL + "2": photograph})],
        iou_table([row, row], protocol=EVIL, classes=[EVIL]),
        title=EVIL,
        lead=EVIL,
        legend=[(EVIL, (1, 2, 3))],
        facts={EVIL: EVIL},
        curves={EVIL: [(0.0, 1.0), (1.0, 2.0)]},
        curve_axes=(EVIL, EVIL),
        notes=[EVIL],
        rule=EVIL,
        sections=[evil_section()],
    )
    assert EVIL not in text
    assert len(Page(text).all("script")) == 1
    assert text.count("&lt;script&gt;") > 40


def evil_section() -> Section:
    picture = Source.of(EVIL, np.zeros((2, 4, 3), np.uint8))
    drawn = chart({EVIL: [(0, 1), (1, 2)]}, axes=(EVIL, EVIL))
    blocks = [
        Grid(EVIL, (EVIL, EVIL), (((EVIL,), (EVIL, EVIL)),)),
        Matrix(EVIL, ((EVIL, (1, 2, 3)),), np.ones((1, 1))),
        Bars(EVIL, (EVIL,), ((EVIL, (1, 2, 3), (Bar(0.5, 0.5),)),)),
        Gallery(EVIL, ((EVIL, (picture,)),)),
        Charts(((EVIL, drawn), (EVIL, drawn))),
        Words(EVIL, (EVIL,)),
    ]
    return Section("evil", EVIL, EVIL, blocks)


@pytest.mark.slow
def test_twenty_panels_stay_under_fifteen_megabytes(tmp_path):
    """Of the size that pages show them at, as grainy and as ragged as a camera and a network."""
    rng = np.random.default_rng(0)

    def blown_up(small, how):
        return Image.fromarray(small.astype(np.uint8)).resize((1024, 512), how)

    def scene() -> dict[str, np.ndarray]:
        coarse = blown_up(rng.integers(0, 256, (64, 128, 3)), Image.Resampling.BICUBIC)
        image = np.clip(np.asarray(coarse) + rng.normal(0, 6, (512, 1024, 1)), 0, 255)
        labels = [
            colour(np.asarray(blown_up(rng.integers(0, 19, (64, 128)), Image.Resampling.NEAREST)))
            for _ in range(3)
        ]
        names = ("ground truth", "before", "after")
        return {"image": image.astype(np.uint8), **dict(zip(names, labels, strict=True))}

    colour = CITYSCAPES.colour
    a_page(tmp_path / "page.html", [Panel(f"scene {i}", scene()) for i in range(20)])
    assert 2e6 < (tmp_path / "page.html").stat().st_size < 15e6


def test_shares_of_a_matrix_are_read_on_their_colours():
    shares = np.array([[0.996, 0.004], [np.nan, np.nan]])
    rows = Matrix("a", (("road", (1, 2, 3)), ("sky", (3, 2, 1))), shares).rows
    assert [cell and cell.text for cell in rows[0]] == ["100", ".4"]
    assert rows[1] == [None, None]
    assert rows[0][1].told == "0.4 % of road is predicted as sky"
    edges = (0.0004, 0.0006, 0.0094, 0.0096, 0.0099, 0.0149)
    told = [Matrix("a", (("road", (1, 2, 3)),), np.array([[one]])).rows[0][0].text for one in edges]
    assert told == ["", ".1", ".9", "1", "1", "1"]
    for share in np.logspace(-5, 0, 60):
        ((cell,),) = Matrix("a", (("road", (1, 2, 3)),), np.array([[share]])).rows
        assert contrast(cell.ground, cell.ink) > 4.5


def contrast(*colours: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    dark, bright = sorted(luminance(colour) for colour in colours)
    return (bright + 0.05) / (dark + 0.05)


# Machado, Oliveira and Fernandes (2009), full strength, of linear RGB.
SEEN_BY = {
    "all cones": np.eye(3),
    "no long": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
    "no middle": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no short": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def series_of(scheme: str) -> tuple[list[str], str]:
    """The colours of curves and the ground on which they are drawn."""
    css = (TEMPLATES / "page.css").read_text().split("prefers-color-scheme: dark")
    part = css[scheme == "dark"]
    return re.findall(r"--series-\d: (#\w{6})", part), re.search(r"--card: (#\w{6})", part)[1]


@pytest.mark.parametrize("seen", SEEN_BY)
@pytest.mark.parametrize("palette", ["light", "dark", "figures"])
def test_colours_of_series_are_told_apart_by_the_colour_blind(palette, seen):
    colours, ground = (OKABE_ITO, "#ffffff") if palette == "figures" else series_of(palette)
    assert len(colours) >= 6
    rgb = np.array([[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen_so = np.clip(linear @ np.array(SEEN_BY[seen]).T, 0, 1).astype(np.float32)
    lab = cv2.cvtColor(seen_so[None], cv2.COLOR_LRGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 15
    if palette != "figures":  # whose last, of eight, is faint on paper
        assert min(contrast(one, ground) for one in colours) > 3


def test_curves_keep_their_colour_where_another_is_absent():
    drawn = chart({"a": [], "b": [(0, 1), (1, 2)]}, axes=("x", "y"))
    assert [(series.name, series.place) for series in drawn.series] == [("b", 1)]


def test_a_page_without_labels_has_no_table(tmp_path):
    headlines = [Headline("before", "0.302"), Headline("after", "0.179")]
    path = tmp_path / "page.html"
    write_page(path, title="t", lead="l", table=None, panels=(), legend=(), facts={},
               headlines=headlines, measure="mean entropy")  # fmt: skip
    page = Page(path.read_text())
    assert page.all("table") == []
    assert "0.179" in path.read_text()


def test_a_page_needs_neither_panels_nor_curves(tmp_path):
    page = Page(a_page(tmp_path / "page.html", legend=[], facts={}, curves=None))
    assert page.all("img") == page.all("article") == page.all("svg") == []
    assert len(page.all("table")) == 1


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    blocked = tmp_path / "folder"
    (blocked / "page.html").mkdir(parents=True)
    with pytest.raises(SegueError, match="page not written"):
        a_page(blocked / "page.html")
    assert [p.name for p in blocked.iterdir()] == ["page.html"]


@pytest.mark.parametrize("colours", [1, 2, 19, 256])
def test_label_pictures_come_back_exactly(colours):
    rng = np.random.default_rng(colours)
    palette = rng.integers(0, 256, (colours, 3)).astype(np.uint8)
    label = palette[rng.integers(0, colours, (20, 31))]
    head, data = data_uri(label).split(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), label)
    assert head == "data:image/png;base64"


def test_photographs_become_webp(photograph):
    assert data_uri(photograph).startswith("data:image/webp;base64,")


def test_curves_leave_out_what_is_not_finite_and_thin_what_is_long():
    drawn = chart({"a": [(0, 1), (1, NAN), (2, 3)], "b": [(0, 1)]}, axes=("x", "y"))
    assert [series.name for series in drawn.series] == ["a"]
    assert drawn.series[0].path == "M0 1000L1000 0"
    assert chart({"b": [(0, 1)]}, axes=("x", "y")) is None
    long = chart({"a": [(x, 1.0) for x in range(1000)]}, axes=("x", "y"))
    assert long.series[0].path.count("L") < 160
    assert "mean of 7" in long.note


def test_small_and_large_values_get_readable_ticks():
    drawn = chart({"a": [(0, 0.001), (90_000, 0.004)]}, axes=("iteration", "loss"))
    assert [tick.text for tick in drawn.x_ticks] == ["0", "20,000", "40,000", "60,000", "80,000"]
    assert [t.text for t in drawn.y_ticks][:2] == ["0.001", "0.002"]
    assert all(0 <= tick.at <= 100 for tick in (*drawn.x_ticks, *drawn.y_ticks))
