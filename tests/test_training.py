"""What the loop promises: nothing poisoned, nothing held too long, nothing lost."""

import copy
import gc
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from soak import same
from torch import nn

from segue.batch import Batch
from segue.errors import SegueError
from segue.inference.model import FILE, read
from segue.label_space import CITYSCAPES
from segue.models.segmenter import Segmenter
from segue.recipe import build as assembly
from segue.running.run import run
from segue.runtime.processes import World
from segue.stages import train
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.training import loop as training
from segue.training.networks import Network, Networks
from segue.training.phases import Weighted, usual_phases
from segue.training.state import Training
from segue.training.tracker import WARNINGS, Tracker

NAME = "local-alignment-demo"
SMALL = "stages.train.networks.discriminator.widths=[8, 8, 8, 8]"


@pytest.fixture
def loop(tiny_recipe, tmp_path, monkeypatch):
    """(changes to `Training` and settings) -> runs the train stage; returns its `Training`."""

    def start(*more, change=lambda training: None, name=NAME):
        kept = []
        original = training.train

        def changed(one, *args, **kwargs):
            kept.append(one)
            change(one)
            original(one, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(train, "train", changed)
            run(tiny_recipe(name, *more), tmp_path)
        return kept[0]

    return start


def spoiling(at, spoil):
    """A change of `Training` whose draw is spoilt at one iteration."""

    def change(one):
        draw = one.draw

        def spoilt(first, stop):
            for iteration, micro_batches in enumerate(draw(first, stop), first):
                yield spoil(micro_batches) if iteration == at else micro_batches

        one.draw = spoilt
        change.training = one

    return change


def not_a_number(micro_batches):
    """The last micro batch's target holds a NaN."""
    last = micro_batches[-1]
    image = last["target"].image.clone()
    image[0, 0, 0, 0] = math.nan
    return [*micro_batches[:-1], {**last, "target": replace(last["target"], image=image)}]


class TestNonFinite:
    """A loss or gradient that is no number stops the run before it does harm."""

    def test_names_iteration_term_and_files(self, loop):
        change = spoiling(3, not_a_number)
        with pytest.raises(SegueError) as caught:
            loop("stages.train.iterations=5", SMALL, change=change)
        said = str(caught.value)
        assert said.startswith(
            "iteration 3: loss alignment is nan, loss alignment/tell_apart is nan"
        )
        drawn = next(iter(change.training.draw(3, 4)))[0]
        for name in (*drawn["source"].names, *drawn["target"].names):
            assert name in said
        assert "the gradient of segmenter is nan" in said
        assert "segmentation" not in said
        assert "\n" not in said

    def test_names_only_the_micro_batch_that_did_it(self, loop):
        change = spoiling(1, not_a_number)
        with pytest.raises(SegueError, match="iteration 1: loss alignment is nan") as caught:
            loop("stages.train.iterations=3", "stages.train.accumulate=2", change=change)
        innocent, guilty = next(iter(change.training.draw(1, 2)))
        told = [name in str(caught.value) for name in guilty["target"].names]
        assert all(told)
        spared = set(innocent["target"].names) - set(guilty["target"].names)
        assert spared
        assert not any(name in str(caught.value) for name in spared)

    def test_leaves_weights_and_the_last_checkpoint_whole(self, loop, tmp_path, tiny_recipe):
        settings = ("stages.train.iterations=5", "stages.train.checkpoint_every=2", SMALL)
        change = spoiling(3, not_a_number)
        with pytest.raises(SegueError):
            loop(*settings, change=change)
        for name, module in change.training.networks.items():
            for key, parameter in module.named_parameters():
                assert torch.isfinite(parameter).all(), f"{name}.{key}"
        saved = checkpoint.found(tmp_path / "train/checkpoints")
        assert [number for number, _ in saved] == [2]
        for state in checkpoint.load(saved[0][1])["networks"].values():
            assert all(torch.isfinite(value).all() for value in state["module"].values())
        assert not (tmp_path / "train" / FILE).exists()
        run(tiny_recipe(NAME, *settings), tmp_path)
        rows = read_rows(tmp_path / "train/metrics.jsonl")
        assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(math.isfinite(value) for row in rows for value in row.values())

    def test_a_gradient_may_be_infinite_where_the_loss_is_not(self, tmp_path):
        weight = nn.Parameter(torch.zeros(1))
        module = nn.Module()
        module.register_parameter("weight", weight)
        groups = [{"params": [weight], "lr": 0.1, "base_lr": 0.1}]
        table = Networks({"root": Network(module, torch.optim.SGD(groups, lr=0.1))})
        term = Term(lambda step: step.network("root").weight.sqrt().sum(), ("source",), ("root",))
        batches = [{"source": Batch(torch.zeros(1, 3, 4, 4), names=("a.png",))}]
        one = Training(
            table,
            usual_phases([Weighted("root", term)], {}),
            1,
            lambda *_: (one for one in [batches]),
        )
        tracker = Tracker(tmp_path, iterations=1, every=1, world=World())
        with pytest.raises(
            SegueError,
            match=r"iteration 0: every loss is finite, the gradient of root is inf: a\.png",
        ):
            training.train(one, tracker, tmp_path / "checkpoints", checkpoint_every=1)
        assert weight.item() == 0


SKIP = ("stages.train.iterations=6", "stages.train.on_non_finite=skip", SMALL)


class TestLeftOut:
    """`on_non_finite: skip` goes on without the iteration, and without a trace of it."""

    def test_it_is_counted_and_told(self, loop, tmp_path):
        one = loop(*SKIP, change=spoiling(2, not_a_number))
        rows = read_rows(tmp_path / "train/metrics.jsonl")
        assert [row["skipped"] for row in rows] == [0, 0, 1, 0, 0, 0]
        assert rows[2].keys() == {"iteration", "skipped"}
        assert all(math.isfinite(value) for row in rows for value in row.values())
        (row,) = read_rows(tmp_path / "train" / WARNINGS)
        assert row["iteration"] == 3
        assert row["warning"].startswith("left out: iteration 2: loss alignment is nan")
        for name, module in one.networks.items():
            for key, value in module.state_dict().items():
                assert value.isfinite().all(), f"{name}.{key}"

    def test_nothing_of_it_stays(self, loop, tiny_recipe):
        """Weights, running statistics and optimisers are as they were before it."""
        states = []

        def change(one):
            spoiling(2, not_a_number)(one)
            draw = one.draw

            def watched(first, stop):
                for micro_batches in draw(first, stop):
                    states.append(copy.deepcopy(one.state_dict()))
                    yield micro_batches

            one.draw = watched

        tracking = "stages.train.networks.segmenter.batch_norm=tracking"
        loop(*SKIP, tracking, change=change)
        before, after, later = states[2], states[3], states[4]
        assert after.pop("skipped_in_a_row") == 1
        assert before.pop("skipped_in_a_row") == later.pop("skipped_in_a_row") == 0
        assert same(before, after)
        assert not same(after, later)

    def test_too_many_in_a_row_stop(self, loop, monkeypatch):
        monkeypatch.setattr("segue.training.guard.MOST", 2)

        def change(one):
            for iteration in (1, 2, 3):
                spoiling(iteration, not_a_number)(one)

        with pytest.raises(SegueError, match="iteration 3: loss alignment is nan"):
            loop(*SKIP, change=change)

    def test_it_may_be_set_after_a_stop(self, loop, tmp_path):
        settings = ("stages.train.iterations=6", "stages.train.checkpoint_every=2", SMALL)
        with pytest.raises(SegueError, match="iteration 3: loss alignment is nan"):
            loop(*settings, change=spoiling(3, not_a_number))
        loop(*settings, "stages.train.on_non_finite=skip", change=spoiling(3, not_a_number))
        skipped = [row.get("skipped") for row in read_rows(tmp_path / "train/metrics.jsonl")]
        assert skipped == [None, None, 0, 1, 0, 0]

    def test_weights_that_are_not_finite_are_never_saved(self, loop, tmp_path):
        settings = ("stages.train.iterations=4", "stages.train.checkpoint_every=2", SMALL)
        with pytest.raises(SegueError, match="iteration 4: weights of discriminator are not fin"):
            loop(*settings, change=lambda one: poison_after(one, 3))
        assert [one for one, _ in checkpoint.found(tmp_path / "train/checkpoints")] == [2]


class Poison:
    """A follower that spoils a weight after one iteration."""

    def __init__(self, networks, at):
        self.networks, self.at = networks, at

    def after(self, steps):
        if steps[0].iteration == self.at:
            parameter = next(self.networks["discriminator"].parameters())
            parameter.data.flatten()[0] = math.inf

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def poison_after(one, at):
    one.followers = {"poison": Poison(one.networks, at)}


class TestPrecision:
    def test_bfloat16_runs_and_stays_close(self, tiny_recipe, tmp_path):
        rows = {}
        for precision in ("float32", "bfloat16"):
            settings = ("stages.train.iterations=4", SMALL, f"precision={precision}")
            run(tiny_recipe(NAME, *settings), tmp_path / precision)
            rows[precision] = read_rows(tmp_path / precision / "train/metrics.jsonl")
            path = checkpoint.path_of(tmp_path / precision / "train/checkpoints", 4)
            for state in checkpoint.load(path)["networks"].values():
                kinds = {v.dtype for v in state["module"].values() if v.is_floating_point()}
                assert kinds == {torch.float32}, "weights themselves stay float32"
        assert rows["float32"] != rows["bfloat16"]
        for exact, rounded in zip(rows["float32"], rows["bfloat16"], strict=True):
            for name in (name for name in exact if name.startswith("loss/")):
                assert rounded[name] == pytest.approx(exact[name], rel=0.05), name


class TestMemory:
    """Which graphs live when."""

    def test_the_source_s_graph_is_gone_before_the_target_runs(self, loop):
        alive, at_start = [], []

        def change(one):
            segmenter = one.networks["segmenter"]

            def before(*_):
                gc.collect()
                at_start.append(sum(node() is not None for node in alive))

            def after(module, args, output):
                # A logits tensor with a graph keeps all activations below it.
                alive.append(weakref.ref(output.logits["main"]))

            segmenter.register_forward_pre_hook(before)
            segmenter.register_forward_hook(after)

        loop("stages.train.iterations=2", SMALL, change=change)
        assert len(alive) == 4, "each domain is run once an iteration, for both networks"
        assert at_start == [0, 0, 0, 0]

    def test_each_network_gets_gradients_from_its_own_terms_alone(self, loop):
        seen = []
        original = training.backward

        def watched(one, objective, step, *, share):
            others = {
                name: [p.grad for p in network.trainable()]
                for name, network in one.networks.table.items()
                if name not in objective.trains
            }
            kept = copy.deepcopy(others)
            original(one, objective, step, share=share)
            for name, network in one.networks.table.items():
                grads = [p.grad for p in network.trainable()]
                if name in objective.trains:
                    assert all(p.requires_grad for p in network.trainable())
                    assert any(grad is not None for grad in grads), name
                    continue
                assert not any(p.requires_grad for p in network.trainable()), name
                for grad, before in zip(grads, kept[name], strict=True):
                    assert (grad is None) == (before is None)
                    assert grad is None or torch.equal(grad, before), name
            seen.append(objective.trains)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "backward", watched)
            one = loop("stages.train.iterations=2", SMALL)
        assert seen == [("segmenter",), ("discriminator",)] * 2
        left = [p.grad for network in one.networks.table.values() for p in network.trainable()]
        assert left == [None] * len(left), "nothing is carried into the next iteration"

    def test_a_frozen_network_gets_none(self, loop):
        teacher = "stages.train.networks.teacher={kind: deeplab_v2, backbone: test_resnet}"
        one = loop("stages.train.iterations=2", SMALL, teacher)
        assert one.networks.table["teacher"].optimiser is None
        for parameter in one.networks["teacher"].parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad

    def test_fixed_batch_norms_stay_fixed(self, tiny_recipe, loop):
        fixed = "stages.train.networks.segmenter.batch_norm=running"
        one = loop("stages.train.iterations=2", SMALL, fixed)
        chosen = tiny_recipe(NAME, SMALL, fixed)
        fresh = assembly.networks(chosen, "train", chosen.stages["train"])["segmenter"]
        now, norms = one.networks["segmenter"], 0
        for (name, layer), (_, new) in zip(now.named_modules(), fresh.named_modules(), strict=True):
            if isinstance(layer, nn.BatchNorm2d):
                norms += 1
                for key, value in layer.state_dict().items():
                    assert torch.equal(value, new.state_dict()[key]), f"{name}.{key}"
        assert norms > 3


class TestAccumulation:
    def test_micro_batches_give_the_gradient_of_the_joint_batch(self, tiny_recipe):
        gradients = {}
        for batch, parts in ((2, 1), (1, 2)):
            fixed = "stages.train.networks.segmenter.batch_norm=running"
            split = (f"stages.train.batch_size={batch}", f"stages.train.accumulate={parts}")
            chosen = tiny_recipe(NAME, SMALL, fixed, *split)
            gradients[parts] = gradient(chosen)
        for name, joint in gradients[1].items():
            assert sum(bool(wanted.any()) for wanted in joint) > len(joint) / 2, name
            for mine, wanted in zip(gradients[2][name], joint, strict=True):
                torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-7)


def gradient(chosen):
    """The gradients of the first iteration, by network."""
    stage = chosen.stages["train"]
    networks = assembly.networks(chosen, "train", stage)
    terms = assembly.terms(stage.terms, where="")
    roles = assembly.readings(chosen, stage, Path())
    batches = next(
        train.batches(
            roles, batch_size=stage.batch_size, seed=0, start=0, stop=1,
            accumulate=stage.accumulate, workers=0,
        )
    )  # fmt: skip
    phases = usual_phases(terms, {})
    one = Training(networks, phases, 1, lambda *_: iter(()))
    networks.train()
    steps = training.begin(one, 0, batches)
    for step in steps:
        for objective in phases[0].objectives:
            training.backward(one, objective, step, share=1 / len(steps))
    return {
        name: [p.grad for p in network.trainable() if p.grad is not None]
        for name, network in networks.table.items()
    }


class Term:
    """A term from a function."""

    def __init__(self, function, views, trains):
        self.function, self.views, self.trains = function, views, trains

    def __call__(self, step):
        return self.function(step)


class TestWhatIsWritten:
    def test_metrics_hold_no_times_and_repeat_to_the_byte(self, tiny_recipe, tmp_path):
        settings = ("stages.train.iterations=4", "stages.train.log_every=2", SMALL)
        first, second = (run(tiny_recipe(NAME, *settings), tmp_path / name) for name in "ab")
        metrics = (first / "train/metrics.jsonl").read_bytes()
        assert metrics == (second / "train/metrics.jsonl").read_bytes()
        for line in metrics.splitlines():
            assert sorted(json.loads(line)) == [
                "accuracy/discriminator",
                "gradient_norm/discriminator",
                "gradient_norm/segmenter",
                "iteration",
                "loss/alignment",
                "loss/alignment/tell_apart",
                "loss/segmentation",
                "pull/alignment",
                "pull/segmentation",
                "target/entropy",
                *(f"target/share/{name}" for name in sorted(CITYSCAPES.classes)),
            ]
        timing = read_rows(first / "train/timing.jsonl")
        assert [row["iteration"] for row in timing] == [2, 4]
        assert all(row.keys() == {"iteration", "iterations_per_second"} for row in timing)

    def test_a_line_is_the_mean_of_its_window(self, tiny_recipe, tmp_path):
        lines = {}
        for every in (1, 2):
            settings = ("stages.train.iterations=4", f"stages.train.log_every={every}", SMALL)
            folder = run(tiny_recipe(NAME, *settings), tmp_path / str(every))
            lines[every] = read_rows(folder / "train/metrics.jsonl")
        for index, row in enumerate(lines[2]):
            pair = lines[1][2 * index : 2 * index + 2]
            for name in row:
                if name.startswith(("loss/", "gradient_norm/", "accuracy/")):
                    mean = np.mean([one[name] for one in pair])
                    assert row[name] == pytest.approx(mean, rel=1e-5), name

    def test_files_are_closed_when_a_run_fails(self, loop, monkeypatch):
        ended = []
        original = Tracker.close
        monkeypatch.setattr(Tracker, "close", lambda self: (ended.append(self), original(self)))
        with pytest.raises(SegueError):
            loop("stages.train.iterations=3", SMALL, change=spoiling(1, not_a_number))
        assert len(ended) == 1, "or the terminal keeps a dead progress bar"

    def test_the_saved_model_is_the_trained_one(self, loop, tmp_path):
        one = loop("stages.train.iterations=2", SMALL)
        saved = read(tmp_path / "train" / FILE).segmenter
        assert isinstance(saved, Segmenter)
        trained = one.networks["segmenter"]
        for key, value in trained.state_dict().items():
            assert torch.equal(saved.state_dict()[key], value), key
