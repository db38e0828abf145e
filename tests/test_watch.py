"""Warnings of a collapsed class and of a rising entropy, and none without a reason."""

import json
import math
import random
from io import StringIO

import pytest
import torch
from rich.console import Console

from segue.demo.demo import warnings_of
from segue.models.segmenter import Output
from segue.running.run import run
from segue.runtime.processes import World
from segue.storage.whole import read_rows
from segue.training.monitor import ENTROPY, SHARE, Watch, said_of_target
from segue.training.step import Prediction
from segue.training.tracker import WARNINGS, Tracker

NAME = "local-alignment-demo"


def warned(rows):
    watch = Watch()
    return [(row["iteration"], text) for row in rows for text in watch.look(row)]


def shares(*seen, name="bus"):
    return [{"iteration": 10 * i, f"{SHARE}{name}": one} for i, one in enumerate(seen, 1)]


def entropies(*values):
    return [{"iteration": i, ENTROPY: value} for i, value in enumerate(values, 1)]


def test_a_class_that_is_gone_for_good_is_told_once():
    rows = shares(*[0.1] * 30, *[0.0] * 30)
    (told,) = warned(rows)
    assert told == (
        350,
        "bus is predicted nowhere on the target after iteration 300 (before: at 30 of 30 looks)",
    )


def test_it_is_told_again_when_it_comes_back_and_goes():
    rows = shares(*[0.1] * 30, *[0.0] * 30, *[0.1] * 30, *[0.0] * 30)
    assert len(warned(rows)) == 2


def test_a_rare_class_is_missed_later():
    rare = [0.1 if i % 10 == 0 else 0.0 for i in range(200)]
    when = [iteration for iteration, _ in warned(shares(*rare, *[0.0] * 300))]
    assert len(when) == 1
    assert when[0] > 3000


def test_a_class_never_or_hardly_ever_predicted_is_not_missed():
    assert warned(shares(*[0.0] * 1000)) == []
    assert warned(shares(*[0.2] * 5, *[0.0] * 1000)) == [], "what an untrained network says"


@pytest.mark.parametrize("often", [0.05, 0.3, 0.9])
def test_chance_alone_warns_of_nothing(often):
    rng = random.Random(0)
    assert warned(shares(*(float(rng.random() < often) for _ in range(5000)))) == []


def test_a_rising_entropy_is_told_once():
    falling = [0.8 * 0.97**i for i in range(100)]
    rising = [0.05 + 0.01 * i for i in range(60)]
    (told,) = warned(entropies(*falling, *rising))
    assert "the entropy of predictions on the target rises: 0." in told[1]
    assert warned(entropies(*falling)) == []


def test_shares_and_entropy_of_logits():
    logits = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    told = said_of_target(Prediction(Output({"main": logits}, {}), None, (5, 7)), "abc")
    assert sum(float(told[f"{SHARE}{name}"]) for name in "abc") == pytest.approx(1)
    best = logits.argmax(1)
    for index, name in enumerate("abc"):
        wanted = float((best == index).double().mean())
        assert float(told[f"{SHARE}{name}"]) == pytest.approx(wanted)
    p = logits.double().softmax(1)
    wanted = float(-(p * p.log()).sum(1).mean() / math.log(3))
    assert float(told[ENTROPY]) == pytest.approx(wanted, rel=1e-6)


def test_shares_stand_in_the_metrics_of_a_run(tiny_recipe, tmp_path):
    run(tiny_recipe(NAME), tmp_path)
    for row in read_rows(tmp_path / "train/metrics.jsonl"):
        parts = [value for name, value in row.items() if name.startswith(SHARE)]
        assert len(parts) == 19
        assert sum(parts) == pytest.approx(1)
        assert 0 < row[ENTROPY] <= 1


def test_a_run_whose_target_is_not_predicted_says_nothing_of_it(tiny_recipe, tmp_path):
    run(tiny_recipe("source-only-demo"), tmp_path)
    for row in read_rows(tmp_path / "train/metrics.jsonl"):
        assert not any(name.startswith("target/") for name in row)


def tracker(folder):
    return Tracker(folder, iterations=60, every=1, world=World())


def numbers(iteration):
    return {f"{SHARE}bus": torch.tensor(float(iteration < 30))}


def test_a_resumed_run_warns_as_one_that_was_not_interrupted(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder, pieces in ((whole, [(0, 60)]), (parted, [(0, 32), (31, 45), (40, 60)])):
        folder.mkdir()
        for first, stop in pieces:
            one = tracker(folder)
            one.begin(first)
            for iteration in range(first, stop):
                one.note(iteration, numbers(iteration))
            one.close()
    text = (whole / WARNINGS).read_text()
    assert text == (parted / WARNINGS).read_text()
    assert json.loads(text)["warning"].startswith("bus is predicted nowhere on the target")


def test_it_is_shown_where_people_read(tmp_path):
    said = Console(file=StringIO(), width=40)
    one = Tracker(tmp_path, iterations=60, every=1, world=World(), console=said)
    one.begin(0)
    for iteration in range(60):
        one.note(iteration, numbers(iteration) | {ENTROPY: torch.tensor(iteration / 60)})
    one.close()
    lines = said.file.getvalue().splitlines()
    assert (
        sum(line.startswith("bus is predicted nowhere on the target after") for line in lines) == 1
    )
    assert (
        sum(line.startswith("the entropy of predictions on the target rises") for line in lines)
        == 1
    )


def test_a_report_shows_what_was_warned_of(tiny_recipe, tmp_path):
    run(tiny_recipe("source-only-demo"), tmp_path)
    assert warnings_of(tmp_path) == []
    (tmp_path / "train" / WARNINGS).write_text('{"iteration": 7, "warning": "no bus"}\n')
    assert warnings_of(tmp_path) == ["train, iteration 7: no bus"]
