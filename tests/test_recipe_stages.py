"""Stages written once and run many times, and what one stage may take from another."""

import json

import pytest
import tiny
import torch
import yaml

from segue.batch import Batch
from segue.datasets.sampling import index_at, positions, seed_for
from segue.errors import SegueError
from segue.losses.adversarial import adversarial
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.style import style_adversarial
from segue.models import MODELS
from segue.models.discriminator import discriminator
from segue.models.style_discriminator import style_discriminator
from segue.recipe import build as assembly
from segue.recipe import load
from segue.recipe.expand import expand_like, expand_rounds
from segue.recipe.files import resolve
from segue.training.loop import backward, begin
from segue.training.networks import Network, Networks
from segue.training.optimisers import adam, sgd
from segue.training.phases import Phase, Weighted, usual_phases
from segue.training.state import Training
from segue.training.step import Step

DATA = """
label_space: {name: toy, classes: [sky, road, car]}
data:
  source: {kind: folder, root: a}
  target: {kind: folder, root: b, labels: null}
  validation: {kind: folder, root: c}
templates:
  train:
    kind: train
    iterations: 5
    source: {data: source, size: [8, 4]}
    networks: {segmenter: {kind: deeplab_v2, backbone: test_resnet, optimiser: sgd}}
    terms: {segmentation: {kind: cross_entropy}}
  adapt: {like: train, target: {data: target, size: [8, 4]}}
  label: {kind: pseudo_label, data: target, size: [8, 4], rule: confidence}
  evaluate: {kind: evaluate, data: validation, size: [8, 4]}
"""
ROUNDS = (
    DATA
    + """
stages:
  first: {like: train}
  rounds:
    repeat: 3
    start: {train: first}
    stages:
      labels: {like: label, models: [previous.train]}
      train:
        like: adapt
        iterations: {by_round: [10, 20]}
        target: {data: this.labels}
        networks: {segmenter: {load_from: previous.train}}
        terms: {pseudo_labels: {kind: cross_entropy, view: target}}
  evaluate: {like: evaluate, models: [last.train]}
"""
)
TRANSLATED = (
    DATA
    + """
stages:
  translate: {kind: translate, data: source, towards: target, size: [8, 4]}
  train: {like: train, source: {data: translate}}
  labels: {like: label, models: [train]}
  centres:
    kind: centres
    source: {data: translate, size: [8, 4]}
    target: {data: labels, size: [8, 4]}
    model: train
  again:
    like: adapt
    target: {data: labels}
    views: {seen: {kind: jittered, of: source}}
    terms: {segmentation: {view: seen}}
  evaluate: {like: evaluate, models: [again]}
"""
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def rounds(tmp_path):
    return write(tmp_path / "rounds.yaml", ROUNDS)


@pytest.fixture
def translated(tmp_path):
    return write(tmp_path / "translated.yaml", TRANSLATED)


def told(*arguments):
    with pytest.raises(SegueError) as caught:
        load(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


def expanded(rounds, **others):
    settings = {"stages": {"rounds": rounds, **others}}
    expand_rounds(settings)
    return settings["stages"]


# Rounds.


def test_rounds_are_written_out(rounds):
    stages = load(rounds).stages
    assert list(stages) == [
        *("first", "labels_1", "train_1", "labels_2", "train_2", "labels_3", "train_3"),
        "evaluate",
    ]
    assert [stages[f"labels_{n}"].models for n in (1, 2, 3)] == [
        ["first"],
        ["train_1"],
        ["train_2"],
    ]
    assert [stages[f"train_{n}"].target.data for n in (1, 2, 3)] == [
        *("labels_1", "labels_2", "labels_3"),
    ]
    loaded = [stages[f"train_{n}"].networks["segmenter"].load_from for n in (1, 2, 3)]
    assert loaded == ["first", "train_1", "train_2"]
    assert stages["evaluate"].models == ["train_3"]


def test_a_list_by_round_may_be_shorter_or_longer(rounds):
    def lengths(*overrides):
        stages = load(rounds, overrides).stages
        return [stage.iterations for name, stage in stages.items() if name.startswith("train_")]

    assert lengths() == [10, 20, 20], "the last entry holds on"
    at = "stages.rounds.stages.train.iterations"
    assert lengths(f"{at}={{by_round: [1, 2, 3, 4, 5]}}") == [1, 2, 3]
    assert lengths(f"{at}=7") == [7, 7, 7]
    for empty in ("[]", "3"):
        assert "by_round: needs a list; one a round" in told(
            rounds, [f"{at}={{by_round: {empty}}}"]
        )


@pytest.mark.parametrize(
    ("repeat", "names", "last"),
    [
        (0, ["first", "evaluate"], "first"),
        (1, ["first", "labels_1", "train_1", "evaluate"], "train_1"),
    ],
)
def test_few_rounds(rounds, repeat, names, last):
    stages = load(rounds, [f"stages.rounds.repeat={repeat}"]).stages
    assert list(stages) == names
    assert stages["evaluate"].models == [last], "of no round the last is what they start from"


def test_a_start_of_null_leaves_the_setting_out(rounds):
    train = ["stages.rounds.stages.labels.models=[first]", "stages.rounds.start.train=null"]
    assert "no stage behind 'previous' is called 'train'" in told(rounds, train)
    stages = expanded(
        {
            "repeat": 2,
            "start": {"train": None},
            "stages": {"train": {"kind": "train", "load_from": "previous.train", "clip": None}},
        }
    )
    assert stages["train_1"] == {"kind": "train", "clip": None}, "what says null itself stays"
    assert stages["train_2"] == {"kind": "train", "clip": None, "load_from": "train_1"}


def test_settings_of_a_written_out_stage_are_laid_over_it(rounds):
    overrides = [
        "stages.train_2.iterations=99",
        "stages.train_3.terms.pseudo_labels=null",
        "stages.labels_1.rule={kind: confidence, quantile: 0.3}",
    ]
    stages, usual = load(rounds, overrides).stages, load(rounds).stages
    assert list(stages) == list(usual), "in their places"
    assert [stages[f"train_{n}"].iterations for n in (1, 2, 3)] == [10, 99, 20]
    assert list(stages["train_3"].terms) == ["segmentation"]
    assert list(stages["train_2"].terms) == ["segmentation", "pseudo_labels"]
    assert stages["labels_1"].rule == {"kind": "confidence", "quantile": 0.3}
    assert stages["labels_2"].rule == "confidence"


def test_a_written_out_stage_may_be_left_out(rounds):
    stages = load(rounds, ["stages.train_3=null", "stages.evaluate.models=[train_2]"]).stages
    assert list(stages)[-3:] == ["train_2", "labels_3", "evaluate"]


def test_a_file_of_a_rounds_stage_may_follow_its_mark():
    stages = expanded(
        {"repeat": 2, "start": {"fine": "coarse"}, "stages": {"fine": {"from": "previous.fine/b"}}},
        later={"from": ["last.fine/b"]},
    )
    assert [stage["from"] for stage in stages.values()] == ["coarse/b", "fine_1/b", ["fine_2/b"]]


def test_two_groups_of_rounds_follow_each_other():
    stages = expanded(
        {"repeat": 2, "stages": {"a": {"kind": "train"}}},
        more={"repeat": 2, "start": {"b": "last.a"}, "stages": {"b": {"after": "previous.b"}}},
        end={"models": ["last.a", "last.b"]},
    )
    assert list(stages) == ["a_1", "a_2", "b_1", "b_2", "end"]
    assert [stages[name].get("after") for name in ("b_1", "b_2")] == ["a_2", "b_1"]
    assert stages["end"]["models"] == ["a_2", "b_2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.rounds.repeats=2", "stages.rounds: no key of rounds is called 'repeats'; did you"),
        ("stages.rounds.repeat=-1", "stages.rounds.repeat: -1 will not do; 0 rounds or more"),
        ("stages.rounds.repeat=true", "stages.rounds.repeat: True will not do; 0 rounds or more"),
        ("stages.rounds.repeat=two", "stages.rounds.repeat: 'two' will not do; 0 rounds or more"),
        ("stages.rounds.stages=null", "stages.rounds: rounds have no stages; give `stages`"),
        ("stages.rounds.start=first", "stages.rounds.start: 'first' will not do; map"),
        (
            "stages.rounds.stages.train.target.data=this.label",
            "stages.rounds.stages.train.target.data: no stage behind 'this' is called 'label'; did",
        ),
        (
            "stages.rounds.stages.labels.models=[previous.trian]",
            "stages.rounds.stages.labels.models: no stage behind 'previous' is called 'trian'; did",
        ),
        (
            "stages.evaluate.models=[last.trian]",
            "stages.evaluate.models: no stage behind 'last' is called 'trian'; did you mean 'train",
        ),
        (
            "stages.rounds.stages.train.iteratons=4",
            "stages.train_1.iteratons: unknown key; did you mean 'iterations'?",
        ),
        ("stages.train_4.iterations=4", "stages.train_4: `kind` is missing"),
        ("stages.evaluate.models=[this.train]", "stages.evaluate.models: no earlier train stage"),
    ],
)
def test_mistakes_in_rounds_are_told_with_their_path(rounds, override, message):
    assert told(rounds, [override]).startswith(message)


def test_resolving_leaves_no_marks(rounds):
    text = yaml.safe_dump(resolve(rounds))
    for mark in ("this.", "previous.", "last.", "by_round", "repeat", "like", "templates"):
        assert mark not in text, mark


# Templates.


def test_templates_are_no_stages_and_may_be_like_each_other(rounds):
    recipe = load(rounds)
    assert "train" not in recipe.stages
    assert "adapt" not in recipe.stages
    assert recipe.stages["train_1"].source.data == "source"
    settings = {
        "templates": {"a": {"x": 1, "y": {"z": 2}}, "b": {"like": "a", "y": {"z": 3}}},
        "stages": {"c": {"like": "b", "w": 4}, "d": {"like": "c", "x": None}},
    }
    expand_like(settings)
    assert settings == {
        "stages": {"c": {"x": 1, "y": {"z": 3}, "w": 4}, "d": {"y": {"z": 3}, "w": 4}}
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("templates.train.like=adapt", "templates.train.like: no template or earlier stage"),
        ("templates.adapt.like=trian", "templates.adapt.like: no template or earlier stage"),
        ("stages.first.like=trian", "stages.first.like: no template or earlier stage"),
        ("stages.first.like=evaluate_it", "stages.first.like: no template or earlier stage"),
    ],
)
def test_likeness_to_what_is_not_there_is_told(rounds, override, message):
    text = told(rounds, [override])
    assert text.startswith(message)
    if "trian" in override:
        assert "did you mean 'train'?" in text


def test_a_setting_of_a_template_reaches_every_stage_that_is_like_it(rounds):
    stages = load(rounds, ["templates.train.source.size=[16, 8]"]).stages
    assert {stages[name].source.size for name in ("first", "train_1", "train_3")} == {(16, 8)}


# Bases.


def test_several_bases_in_their_order(tmp_path):
    write(tmp_path / "data.yaml", DATA)
    write(tmp_path / "one.yaml", "seed: 1\ntitle: one\nstages: {first: {like: train}}\n")
    write(
        tmp_path / "two.yaml",
        "seed: 2\npaper: {title: a, venue: b}\nstages: {second: {like: first, iterations: 9}}\n",
    )
    own = "base: [data.yaml, one.yaml, two.yaml]\nstages: {second: {batch_size: 3}}\n"
    recipe = load(write(tmp_path / "own.yaml", own))
    assert list(recipe.stages) == ["first", "second"]
    assert (recipe.seed, recipe.title, recipe.paper) == (2, "one", None), "later bases win"
    assert (recipe.stages["second"].iterations, recipe.stages["second"].batch_size) == (9, 3)
    turned = write(tmp_path / "turned.yaml", own.replace("one.yaml, two", "two.yaml, one"))
    assert "stages.second.like: no template or earlier stage is called 'first'" in told(turned)


def test_bases_may_share_a_base_but_not_turn_in_circles(tmp_path):
    write(tmp_path / "data.yaml", DATA)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", f"base: data.yaml\nstages: {{{name}: {{like: train}}}}\n")
    own = write(tmp_path / "own.yaml", "base: [a.yaml, b.yaml]\n")
    assert list(load(own).stages) == ["a", "b"]
    write(tmp_path / "b.yaml", f"base: [a.yaml, {own}]\n")
    assert "extends itself" in told(own)
    assert "no recipe is called 'none'" in told(write(tmp_path / "x.yaml", "base: [a.yaml, none]"))


def test_what_lies_below_comes_before_the_recipes_own(tmp_path):
    write(tmp_path / "data.yaml", DATA)
    own = write(tmp_path / "own.yaml", "base: data.yaml\nseed: 5\nstages: {b: {like: train}}\n")
    lower = write(tmp_path / "lower.yaml", "seed: 1\ntitle: low\nstages: {a: {like: train}}\n")
    recipe = load(own, ["stages.b.source.data=target"], below=[lower])
    assert list(recipe.stages) == ["a", "b"]
    assert (recipe.name, recipe.seed, recipe.title) == ("own", 5, "low")
    assert recipe.stages["b"].source.data == "target"
    assert load(own, below=[]) == load(own)
    translated = load("coarse-to-fine-gta5", below=["_translated_by_cyclegan"])
    assert list(translated.stages)[:4] == ["source_only", "cyclegan", "translate", "coarse"]


# What stages take from each other.


def test_datasets_that_stages_make_can_be_named(translated):
    recipe = load(translated)
    assert recipe.stages["train"].source.data == "translate"
    assert recipe.stages["again"].target.data == "labels"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.translate.data=labels", "stages.translate.data: no dataset is called 'labels'"),
        (
            "stages.translate.towards=targt",
            "stages.translate.towards: no dataset is called 'targ",
        ),
        ("stages.labels.data=train", "stages.labels.data: no dataset is called 'train'"),
        ("stages.labels.measure_on=again", "stages.labels.measure_on: no dataset is called 'again"),
        ("stages.labels.models=[again]", "stages.labels.models: no earlier train stage is called"),
        ("stages.centres.model=labels", "stages.centres.model: no earlier train stage is called"),
        ("stages.centres.view=seen", "stages.centres.view: no view is called 'seen'"),
        (
            "stages.train.target={data: labels, size: [8, 4]}",
            "stages.train.target.data: no data",
        ),
        ("stages.translate.by=photometry", "stages.translate.by: unknown translation 'photome"),
        ("stages.labels.rule=confident", "stages.labels.rule: unknown rule 'confident'; did you"),
        ("stages.labels.rule.capp=1", "stages.labels.rule: `kind` is missing; add `kind: NAME`"),
        (
            "stages.labels.rule={kind: confidence, capp: 1}",
            "stages.labels.rule.capp: unknown key; did you mean 'cap'?",
        ),
        (
            "data.labels={kind: folder, root: d}",
            "stages.labels: is a dataset and a stage; give",
        ),
        ("stages.again.views.seen.kind=jitered", "stages.again.views.seen.kind: unknown view 'jit"),
        ("stages.again.views.seen.hew=1", "stages.again.views.seen.hew: unknown key; did you mean"),
        ("stages.again.views.seen.of=sorce", "stages.again.views.seen: no view is called 'sorce'"),
        (
            "stages.again.terms.segmentation.view=sene",
            "stages.again.terms.segmentation: no view",
        ),
        (
            "stages.again.networks.segmenter.load_from=evaluate",
            "stages.again.networks.segmenter.load_from: no earlier stage is called 'evaluate'",
        ),
        (
            "stages.train.networks.segmenter.load_from=train",
            "stages.train.networks.segmenter.load_from: no earlier stage is called 'train'",
        ),
        (
            "stages.again.networks.segmenter.load_from=tran",
            "stages.again.networks.segmenter.load_from: no earlier stage is called 'tran'; did you",
        ),
        (
            "stages.again.networks.segmenter.load_from=evaluate/segmenter",
            "stages.again.networks.segmenter.load_from: no earlier stage is called 'evaluate'",
        ),
        (
            "stages.translate.by={kind: generator, load_from: again, network: to_target}",
            "stages.translate.by.load_from: no earlier stage is called 'again'",
        ),
        ("stages.again.source.share=0", "stages.again.source.share: 0 will not do"),
        ("stages.again.source.share=1.5", "stages.again.source.share: 1.5 will not do"),
    ],
)
def test_stages_that_do_not_go_together(translated, override, message):
    assert told(translated, [override]).startswith(message)


@pytest.mark.parametrize("given", ["w.pth", "runs/other", "train/segmenter", "/gone/run"])
def test_files_are_not_looked_for_when_a_recipe_is_loaded(translated, given):
    stages = load(translated, [f"stages.again.networks.segmenter.load_from={given}"]).stages
    assert stages["again"].networks["segmenter"].load_from == given


# Chance.


def test_stages_draw_apart_and_the_first_as_the_seed_says(rounds):
    recipe = load(rounds, ["seed=3"])
    trained = ["first", "train_1", "train_2", "train_3"]
    seeds = [assembly.seed_of(recipe, name) for name in trained]
    assert seeds[0] == 3
    assert seeds[1:] == [seed_for(3, name) for name in trained[1:]]
    assert len(set(seeds)) == 4
    assert [assembly.seed_of(load(rounds, ["seed=4"]), name) for name in trained] != seeds
    fewer = load(rounds, ["seed=3", "stages.rounds.repeat=1"])
    assert assembly.seed_of(fewer, "train_1") == seeds[1], "later stages change nothing"


def test_what_draws_first_is_not_always_the_first_stage(translated):
    recipe = load(translated, ["seed=7"])
    assert assembly.seed_of(recipe, "train") == 7
    assert assembly.seed_of(recipe, "centres") == seed_for(7, "centres")


@pytest.mark.parametrize(("share", "length"), [(0.03, 100), (0.25, 10), (0.5, 7), (0.001, 9)])
def test_a_share_is_so_many_distinct_images(share, length):
    count = max(1, round(share * length))
    for seed in range(3):
        drawn = [index_at(seed, "source", place, length, share) for place in range(4 * count)]
        assert len(set(drawn)) == count
        for epoch in range(4):
            assert set(drawn[epoch * count : (epoch + 1) * count]) == set(drawn), "each once"
    others = {
        frozenset(index_at(seed, "source", place, length, share) for place in range(count))
        for seed in range(20)
    }
    assert len(others) > 1, "another seed draws others"


def test_a_whole_share_draws_as_without():
    for place in range(30):
        assert index_at(5, "source", place, 10, 1.0) == index_at(5, "source", place, 10)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_all_processes_draw_from_the_same_share(world):
    drawn = [
        index_at(1, "source", place, 40, 0.2)
        for iteration in range(8 // world)
        for rank in range(world)
        for place in positions(iteration, 0, batch_size=1, rank=rank, world=world)
    ]
    assert drawn == [index_at(1, "source", place, 40, 0.2) for place in range(8)]
    assert len(set(drawn)) == 8


def test_a_share_reaches_what_is_read(tiny_recipe, tmp_path):
    recipe = tiny_recipe("source-only-demo", "stages.train.source.share=0.3")
    roles = assembly.readings(recipe, recipe.stages["train"], tmp_path)
    assert roles["source"].share == 0.3
    assert len(roles["source"].dataset) == 6


# Features that outlive their objective.


def networks():
    torch.manual_seed(0)
    segmenter = MODELS["deeplab_v2"](3, backbone="test_resnet")
    judges = {"discriminator": discriminator(3, widths=[4, 4])}
    judges |= {f"style_layer{one}": style_discriminator(widths=[4, 4]) for one in (1, 2)}
    table = {name: Network(module, adam(module)) for name, module in judges.items()}
    return Networks({"segmenter": Network(segmenter, sgd(segmenter)), **table})


def terms():
    sides = style_adversarial()
    first, second = adversarial(sees="probabilities").items()
    return [
        Weighted("segmentation", CrossEntropy()),
        *(Weighted(f"style/{name}", term) for name, term in sides.items()),
        Weighted(*first),
        Weighted(*second),
    ]


def run_phase(phase: Phase, *, keep=None):
    """What training does in one phase, by default with the features that its terms name."""
    of = networks()
    training = Training(of, [phase], 1, lambda *_: iter(()))
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, 32, 64, generator=generator) for _ in range(2)]
    batches = {
        "source": Batch(images[0], torch.zeros(1, 32, 64, dtype=torch.int64)),
        "target": Batch(images[1]),
    }
    if keep is None:
        (step,) = begin(training, 0, [batches])
    else:
        step = Step(batches, of, iteration=0, keep=keep)
    forwards = []
    of["segmenter"].register_forward_pre_hook(lambda *_: forwards.append(1))
    for objective in phase.objectives:
        backward(training, objective, step, share=1.0)
    return of, step, len(forwards)


def test_a_later_term_reads_features_of_a_prediction_whose_graph_is_gone():
    """The style discriminator sees the source after the segmenter's own group was freed."""
    (phase,) = usual_phases(terms(), {})
    assert phase.features == {"layer1", "layer2"}
    of, step, forwards = run_phase(phase)
    assert forwards == 2, "source and target each once"
    for name in ("style_layer1", "style_layer2", "discriminator"):
        assert all(parameter.grad is not None for parameter in of[name].parameters()), name
    assert not step.predict("source").feature("layer1").requires_grad


def test_without_its_name_a_feature_is_let_go_and_told():
    (phase,) = usual_phases(terms(), {})
    with pytest.raises(SegueError, match=r"no feature is called 'layer\d'.*the term's `features`"):
        run_phase(phase, keep=())


def test_terms_that_read_no_features_keep_none():
    (phase,) = usual_phases([Weighted(*one) for one in adversarial().items()], {})
    assert phase.features == frozenset()
    _, step, _ = run_phase(phase)
    with pytest.raises(SegueError, match="none is kept beyond its objective"):
        step.predict("target").feature("layer1")


# Shrinking: the tests of whole recipes stand on it.


@pytest.mark.parametrize("name", ["coarse-to-fine-gta5", "bdl-demo", "composition-carla"])
def test_shrunk_recipes_keep_their_stages_parts(name, data):
    whole = load(name, tiny.fewer_rounds(name))
    small = load(name, tiny.overrides(name, data))
    assert list(small.stages) == list(whole.stages)
    for key, stage in small.stages.items():
        one, other = (json.loads(x.model_dump_json()) for x in (stage, whole.stages[key]))
        for part in ("views", "rule", "models", "phases", "heads", "measure_on", "towards"):
            assert one.get(part) == other.get(part)
        for parts in ("terms", "networks"):
            kinds = [
                {inner: part["kind"] for inner, part in (of.get(parts) or {}).items()}
                for of in (one, other)
            ]
            assert kinds[0] == kinds[1]
