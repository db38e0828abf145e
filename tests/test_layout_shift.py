"""The domain guessed from label maps: paper 001, figure 1."""

import csv
import json
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from segue.analysis import ANALYSES
from segue.analysis.label_patches import LabelPatches
from segue.analysis.layout_shift import Curve, measure, save, suggest
from segue.errors import SegueError

SMALL = {
    "num_classes": 3,
    "size": (32, 16),
    "batch_size": 8,
    "runs": 1,
    "lr": 3e-3,
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def two_sided(alike: bool, count: int, seed: int) -> list[np.ndarray]:
    """Class 0 or 1 left and right of a strip of class 2; a patch no wider than it sees one side."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(count):
        left = int(rng.integers(2))
        label = np.full((16, 32), 2, np.uint8)
        label[:, :12] = left
        label[:, 20:] = left if alike else 1 - left
        maps.append(label)
    return maps


def noise(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 3, (count, 16, 32), dtype=np.uint8))


def four_noises(count: int = 20) -> list[list[np.ndarray]]:
    return [noise(count, seed) for seed in range(4)]


def curve(patch: str, fraction: float, *finals: float) -> Curve:
    return Curve(patch, fraction, [1, 2], [[0.5, final] for final in finals])


@pytest.mark.slow
def test_layout_betrays_the_domain_and_small_patches_do_not():
    result = measure(
        two_sided(True, 40, 0),
        two_sided(True, 100, 1),
        two_sided(False, 40, 2),
        two_sided(False, 100, 3),
        patches=(8, "whole"),
        iterations=50,
        every=25,
        **{**SMALL, "batch_size": 16},
    )
    small, whole = result.curves
    assert whole.final_error < 0.05
    assert 0.4 < small.final_error < 0.6
    assert result.suggested is small
    assert (small.fraction, whole.fraction) == (0.5, 1.0)
    assert small.iterations == [25, 50]
    assert result.notes == ()


def test_domains_that_are_alike_have_no_limit():
    result = measure(*four_noises(30), patches=("whole", 8), iterations=5, every=2, **SMALL)
    assert [each.patch for each in result.curves] == ["8", "whole"]
    assert all(each.final_error > 0.2 for each in result.curves)
    assert result.suggested.patch == "whole"
    assert result.curves[0].iterations == [2, 4, 5]
    assert any("no limit was found" in note for note in result.notes)
    assert any("30 validation maps" in note for note in result.notes)


@pytest.mark.parametrize(("mask_void", "low", "high"), [(False, 0.0, 0.1), (True, 0.35, 0.65)])
def test_void_betrays_the_domain_unless_masked(mask_void, low, high):
    maps = four_noises(50)
    for label in (*maps[2], *maps[3]):
        label[8:] = 255
    result = measure(
        *maps, patches=("whole",), iterations=30, every=30, mask_void=mask_void, **SMALL
    )
    assert low <= result.curves[0].final_error <= high


def test_mask_hides_what_either_map_hides():
    own, other = noise(1, 0)[0], noise(1, 1)[0]
    own[0, 3], other[5, 7] = 255, 255
    patches = LabelPatches(3, size=(32, 16), extent=(16, 32), mask_void=True)
    crop = patches.draw([own], [other], [0], np.random.default_rng(0))[0].numpy()
    expected = own.copy()
    expected[5, 7] = 255
    np.testing.assert_array_equal(crop, expected)
    assert own[5, 7] != 255, "the map itself must not change"


def test_crop_is_resized_cropped_and_resized_again():
    label = np.random.default_rng(0).integers(0, 3, (37, 91), dtype=np.uint8)
    label[:5] = 255
    size, side = (32, 16), 10
    resized = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    rng = np.random.default_rng(7)
    top, left = int(rng.integers(16 - side + 1)), int(rng.integers(32 - side + 1))
    cropped = resized[top : top + side, left : left + side]
    again = np.asarray(Image.fromarray(cropped).resize(size, Image.Resampling.NEAREST))

    patches = LabelPatches(3, size, (side, side), mask_void=False)
    crops = patches.draw([label], [label], [0], np.random.default_rng(7))
    np.testing.assert_array_equal(crops[0].numpy(), cropped)
    expected = np.stack([again == number for number in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(patches.encode(crops, "cpu")[0].numpy(), expected)


def test_same_seed_same_curves_and_torch_is_left_alone():
    maps = four_noises()
    arguments = {**SMALL, "patches": (8,), "iterations": 3, "every": 1, "runs": 2}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = measure(*maps, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert measure(*maps, **arguments) == first
    assert measure(*maps, **arguments, seed=1) != first
    assert first.curves[0].errors[0] != first.curves[0].errors[1]


def test_progress_counts_every_iteration():
    calls = []
    measure(
        *four_noises(4),
        patches=(8, 16),
        iterations=2,
        every=2,
        progress=lambda *call: calls.append(call),
        **SMALL,
    )
    assert [call[:2] for call in calls] == [(done, 4) for done in (1, 2, 3, 4)]
    assert calls[0][2] == "patch 8, run 1/1"
    assert calls[3][2].startswith("patch 16, run 1/1, error ")


def test_patch_larger_than_the_map_is_skipped_and_said():
    result = measure(*four_noises(4), patches=(8, 64), iterations=1, every=1, **SMALL)
    assert [each.patch for each in result.curves] == ["8"]
    assert "Patch 64 is skipped: larger than the map of 32x16." in result.notes


def test_smallest_is_suggested_where_all_betray():
    maps = four_noises()
    for label in (*maps[2], *maps[3]):
        label[label == 2] = 0
    result = measure(*maps, patches=(16, 8), iterations=25, every=25, **SMALL)
    assert result.suggested.patch == "8"
    assert any("No patch stays above 20%" in note for note in result.notes)


def test_save_writes_numbers_and_figure(tmp_path):
    result = measure(
        *four_noises(4), patches=(8, "whole"), iterations=4, every=2, **{**SMALL, "runs": 2}
    )
    paths = save(result, tmp_path / "new" / "folder", title="here → there")
    assert [path.name for path in paths] == [
        f"layout_shift.{suffix}" for suffix in ("csv", "json", "png", "svg")
    ]
    with paths[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 2
    last = result.curves[1].errors[1][1]
    assert rows[-1] == {
        "patch": "whole",
        "fraction": "1.0",
        "run": "1",
        "iteration": "4",
        "error": str(last),
    }
    summary = json.loads(paths[1].read_text(encoding="utf-8"))
    assert summary["suggested"]["patch"] == result.suggested.patch
    assert summary["settings"]["patches"] == [8, "whole"]
    assert summary["maps"]["target_train"] == 4
    with Image.open(paths[2]) as picture:
        assert picture.size[0] > 1000
    drawing = paths[3].read_bytes()
    assert drawing.startswith(b"<?xml")
    assert save(result, tmp_path, title="here → there")[3].read_bytes() == drawing


def test_save_says_where_it_cannot_write(tmp_path):
    result = measure(*four_noises(2), patches=(8,), iterations=1, every=1, **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(SegueError, match=r"file: cannot write the results .*; give a folder"):
        save(result, tmp_path / "file")


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        ({"32": 0.5, "256": 0.25, "whole": 0.0}, "256"),
        ({"whole": 0.0, "256": 0.25, "32": 0.5}, "256"),
        ({"32": 0.5, "256": 0.2, "whole": 0.0}, "32"),
        ({"32": 0.1, "256": 0.3, "whole": 0.0}, "256"),
        ({"512": 0.4, "whole": 0.3}, "whole"),
        ({"whole": 0.1, "512": 0.3}, "512"),
        ({"32": 0.1, "whole": 0.0}, None),
        ({}, None),
    ],
)
def test_suggestion(finals, expected):
    fractions = {"32": 0.0625, "256": 0.5, "512": 1.0, "whole": 1.0}
    chosen = suggest([curve(patch, fractions[patch], final) for patch, final in finals.items()])
    assert (chosen and chosen.patch) == expected


def test_suggestion_averages_runs_and_takes_a_threshold():
    curves = [curve("32", 0.0625, 0.4, 0.4), curve("256", 0.5, 0.1, 0.31)]
    assert suggest(curves) is curves[1]
    assert suggest(curves, threshold=0.3) is curves[0]


@pytest.mark.parametrize("empty", range(4))
def test_empty_set(empty):
    maps = four_noises(2)
    maps[empty] = []
    name = ("source_train", "source_validation", "target_train", "target_validation")[empty]
    with pytest.raises(SegueError, match=f"{name}: no label maps; give"):
        measure(*maps, **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patches": (64,)}, "no patch fits a map of 32x16"),
        ({"patches": ()}, "no patch fits"),
        ({"patches": (0,)}, "patch 0 is no size"),
        ({"patches": ("half",)}, "patch 'half' is no size"),
        ({"batch_size": 5}, "batch_size 5 cannot be halved"),
        ({"iterations": 0}, "iterations is below 1"),
        ({"size": (32, 0)}, "size is below 1"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"num_classes": 2}, "neither below 2 nor 255"),
        ({"lr": 1e30, "iterations": 4, "every": 4}, "training diverged by iteration 4; lower"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SegueError, match=message):
        measure(*four_noises(2), **{**SMALL, **settings})


@pytest.mark.parametrize(
    "label", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_bad_map(label):
    with pytest.raises(SegueError, match=r"label map: is .* of shape"):
        measure([label], *four_noises(2)[1:], patches=("whole",), iterations=1, **SMALL)


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_measures_and_draws(name):
    module = import_module(ANALYSES[name])
    assert callable(module.measure)
    assert callable(module.draw)
