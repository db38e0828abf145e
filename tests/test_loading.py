import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import forked
import numpy as np
import one_reader
import pytest
import torch
from dataset_files import write_gta5
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segue.datasets.augmentation import colour_jitter, flip, random_crop, random_scale
from segue.datasets.dataset import Dataset, Item, id_table
from segue.datasets.loading import Role, batches
from segue.datasets.sampling import index_at, positions, seed_for
from segue.errors import SegueError
from segue.label_space import CITYSCAPES
from segue.runtime.cores import available_cores, default_workers, training_threads

IDENTITY = id_table({i: i for i in range(19)}, CITYSCAPES)


def make_dataset(root, count, labels=True, seed=0):
    random = np.random.default_rng(seed)
    items = []
    for index in range(count):
        size = (10 + index, 8)  # files of different sizes
        image, label = root / f"{index}.png", root / f"{index}_label.png"
        root.mkdir(exist_ok=True, parents=True)
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), np.uint8)).save(image)
        Image.fromarray(random.integers(0, 19, size[::-1], np.uint8)).save(label)
        items.append(Item(image, label if labels else None))
    return Dataset(root.name, tuple(items), CITYSCAPES, IDENTITY)


@pytest.fixture
def roles(tmp_path):
    return {
        "source": Role(
            make_dataset(tmp_path / "source", 7),
            (12, 9),
            True,
            (random_scale(0.5, 2.0), random_crop((8, 6)), flip(), colour_jitter()),
        ),
        "target": Role(make_dataset(tmp_path / "target", 5, seed=1), (10, 6), False),
    }


@pytest.fixture
def plain(roles):
    """Without augmentation, which takes workers long to import."""
    return {name: replace(role, augment=()) for name, role in roles.items()}


def tensors(drawn):
    return [
        (name, batch.names, batch.image, batch.label)
        for micro_batches in drawn
        for micro in micro_batches
        for name, batch in micro.items()
    ]


def equal(one, other):
    one, other = tensors(one), tensors(other)
    assert len(one) == len(other)
    for (name, names, image, label), (other_name, other_names, other_image, other_label) in zip(
        one, other, strict=True
    ):
        assert (name, names) == (other_name, other_names)
        assert torch.equal(image, other_image)
        assert (label is None and other_label is None) or torch.equal(label, other_label)
    return True


# ----------------------------------------------------------------------------------- sampling


@given(
    length=st.integers(1, 40),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 3),
)
@settings(max_examples=50)
def test_an_epoch_shows_each_image_once(length, seed, epoch):
    drawn = [index_at(seed, "source", epoch * length + i, length) for i in range(length)]
    assert sorted(drawn) == list(range(length))


@given(
    batch_size=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    world=st.integers(1, 4),
    iterations=st.integers(1, 4),
)
@settings(max_examples=50)
def test_processes_and_micro_batches_share_out_the_joint_batch(
    batch_size, accumulate, world, iterations
):
    joint = batch_size * accumulate * world
    for iteration in range(iterations):
        drawn = [
            place
            for micro in range(accumulate)
            for rank in range(world)
            for place in positions(
                iteration,
                micro,
                batch_size=batch_size,
                accumulate=accumulate,
                rank=rank,
                world=world,
            )
        ]
        assert drawn == list(positions(iteration, 0, batch_size=joint))


def test_roles_seeds_and_epochs_are_drawn_apart():
    def order(seed, role, epoch):
        return tuple(index_at(seed, role, epoch * 50 + i, 50) for i in range(50))

    orders = [order(*parts) for parts in itertools.product((0, 1), ("source", "target"), (0, 1))]
    assert len(set(orders)) == 8


def test_seeds_are_stable_and_fit_torch():
    assert seed_for(0, "source", 1) == 7871451833863516275
    torch.Generator().manual_seed(seed_for(2**70, "x"))


# ------------------------------------------------------------------------------------ workers


def test_default_workers_leave_cores_to_training():
    for cores, world in itertools.product(range(1, 130), (1, 2, 4, 8)):
        workers = default_workers(cores, world)
        assert training_threads(cores, world) * world <= max(cores, world)
        assert workers <= max(0, cores // world - 1)
        assert workers <= 8
    assert default_workers(2, 1) == 1
    assert default_workers(2, 2) == 0
    assert available_cores() >= 1


# ------------------------------------------------------------------------------------ batches


def test_what_a_batch_holds(roles):
    drawn = list(batches(roles, batch_size=2, seed=0, start=0, stop=3, accumulate=2, workers=0))
    assert [len(micro_batches) for micro_batches in drawn] == [2, 2, 2]
    source, target = drawn[0][0]["source"], drawn[0][0]["target"]
    assert source.image.shape == (2, 3, 6, 8)
    assert (source.image.dtype, source.label.dtype) == (torch.float32, torch.int64)
    assert source.label.shape == (2, 6, 8)
    assert set(source.label.unique().tolist()) <= {*range(19), 255}
    assert target.label is None
    assert target.image.shape == (2, 3, 6, 10)
    assert 0 <= target.image.min() < target.image.max() <= 1
    assert all(name.endswith(".png") for name in source.names)


def test_a_sample_is_the_dataset_s_image(roles):
    role = roles["target"]
    drawn = next(batches(roles, batch_size=1, seed=3, start=4, stop=5, workers=0))[0]["target"]
    index = index_at(3, "target", 4, 5)
    assert drawn.names == (str(role.dataset.items[index].image),)
    wanted = role.dataset.image(index, role.size).astype(np.float32) / 255
    assert (drawn.image[0].permute(1, 2, 0).numpy() == wanted).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_for_any_number_of_workers(roles, workers):
    arguments = {"batch_size": 2, "seed": 5, "start": 2, "stop": 7, "accumulate": 2}
    alone = list(batches(roles, **arguments, workers=0))
    assert equal(alone, list(batches(roles, **arguments, workers=workers)))


def test_starting_later_gives_what_would_have_come(roles):
    arguments = {"batch_size": 2, "seed": 5, "stop": 8, "workers": 0}
    whole = list(batches(roles, **arguments, start=0))
    assert equal(whole[5:], list(batches(roles, **arguments, start=5)))


def joined(drawn):
    """By iteration and role, the joint batch of lists of batches."""
    return [
        {
            name: (
                tuple(itertools.chain(*(micro[name].names for micro in micros))),
                torch.cat([micro[name].image for micro in micros]),
            )
            for name in micros[0]
        }
        for micros in drawn
    ]


@pytest.mark.parametrize(("world", "accumulate", "batch_size"), [(2, 1, 2), (1, 2, 2), (2, 2, 1)])
def test_processes_together_draw_the_joint_batch_of_one(roles, world, accumulate, batch_size):
    one = joined(batches(roles, batch_size=4, seed=1, start=0, stop=5, workers=0))
    ranks = [
        list(
            batches(
                roles,
                batch_size=batch_size,
                seed=1,
                start=0,
                stop=5,
                accumulate=accumulate,
                rank=rank,
                world=world,
                workers=0,
            )
        )
        for rank in range(world)
    ]
    together = joined(
        [
            [ranks[rank][iteration][micro] for micro in range(accumulate) for rank in range(world)]
            for iteration in range(5)
        ]
    )
    for wanted, found in zip(one, together, strict=True):
        for name in wanted:
            assert wanted[name][0] == found[name][0]
            assert torch.equal(wanted[name][1], found[name][1])


def test_reading_does_not_move_the_training_s_random_numbers(roles, plain):
    torch.manual_seed(0)
    wanted = torch.get_rng_state()
    for read, workers in ((roles, 0), (plain, 1)):
        list(batches(read, batch_size=1, seed=0, start=0, stop=2, workers=workers))
        assert torch.equal(torch.get_rng_state(), wanted)


def test_augmentations_differ_between_visits_to_an_image(tmp_path):
    dataset = make_dataset(tmp_path / "one", 1)
    role = Role(dataset, (16, 16), True, (random_crop((4, 4)),))
    drawn = batches({"source": role}, batch_size=1, seed=0, start=0, stop=20, workers=0)
    seen = Counter(micro[0]["source"].image.numpy().tobytes() for micro in drawn)
    assert len(seen) > 5


def test_a_generator_may_be_left_early(plain):
    drawn = batches(plain, batch_size=1, seed=0, start=0, stop=1000, workers=1)
    next(drawn)
    drawn.close()


def test_no_iterations_no_batches(plain):
    for workers in (0, 1):
        drawn = batches(plain, batch_size=1, seed=0, start=4, stop=4, workers=workers)
        assert list(drawn) == []


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_the_same_line(plain, workers):
    broken = plain["target"].dataset.items[2].image
    broken.write_bytes(b"")
    with pytest.raises(SegueError) as caught:
        list(batches(plain, batch_size=1, seed=0, start=0, stop=5, workers=workers))
    said = f"{broken}: the file is empty (0 bytes); copy or download it again"
    assert str(caught.value) == said
    assert (caught.value.what, str(caught.value.where)) == (
        "the file is empty (0 bytes)",
        str(broken),
    )


SCRIPT = """
import sys
import time
from pathlib import Path
from segue.datasets import folder
from segue.datasets.loading import Role, batches

images = folder(Path(sys.argv[1]), images="target/?.png", labels=None)
role = Role(images, (8, 8), False)
drawn = batches({"target": role}, batch_size=1, seed=0, start=0, stop=2, workers=1)
print(len(list(drawn)))
"""


@pytest.mark.slow
def test_scripts_need_no_guard(roles, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "script.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("2\n", "")


def test_a_share_of_a_dataset_is_all_that_is_read(plain):
    role = replace(plain["source"], share=0.4)
    length = len(role.dataset)
    every = {}
    for seed in range(4):
        drawn = batches({"source": role}, batch_size=2, seed=seed, start=0, stop=9, workers=0)
        names = Counter(name for (micro,) in drawn for name in micro["source"].names)
        assert len(names) == round(0.4 * length) == 3
        assert set(names.values()) == {6}, "each as often"
        every[frozenset(names)] = seed
        ranks = [
            batches({"source": role}, batch_size=1, seed=seed, start=0, stop=9, workers=0,
                    rank=rank, world=2)
            for rank in (0, 1)
        ]  # fmt: skip
        apart = [[micro["source"].names for (micro,) in one] for one in ranks]
        assert {name for rank in apart for (name,) in rank} == set(names)
    assert len(every) > 1, "which ones is the seed's choice"


def end_process(image, label):
    os._exit(3)


def test_a_worker_that_dies_is_told_in_one_line(roles):
    role = replace(roles["target"], augment=(end_process,))
    with pytest.raises(SegueError, match="ended before its time; mostly memory"):
        list(batches({"target": role}, batch_size=1, seed=0, start=0, stop=2, workers=1))


def test_roles_that_cannot_be_read_are_refused_at_once(tmp_path):
    unlabelled = make_dataset(tmp_path / "a", 2, labels=False)
    arguments = {"batch_size": 1, "seed": 0, "start": 0, "stop": 1}
    with pytest.raises(SegueError, match="source \\(a\\): labels are wanted"):
        batches({"source": Role(unlabelled, (8, 8), True)}, **arguments)
    empty = Dataset("b", (), CITYSCAPES, IDENTITY)
    with pytest.raises(SegueError, match="target \\(b\\): no images"):
        batches({"target": Role(empty, (8, 8), False)}, **arguments)


def test_no_label_is_opened_where_labels_are_off(roles):
    for item in roles["target"].dataset.items:
        item.label.unlink()
    list(batches(roles, batch_size=2, seed=0, start=0, stop=3, workers=0))


def test_images_of_different_sizes_after_augmentation(tmp_path):
    role = Role(make_dataset(tmp_path / "a", 3), (40, 30), True, (random_scale(0.2, 3),))
    with pytest.raises(SegueError, match="let `random_crop` be the last"):
        list(batches({"source": role}, batch_size=3, seed=0, start=0, stop=2, workers=0))


def test_no_process_stays_behind_when_training_is_killed(fork_server, tmp_path):
    write_gta5(tmp_path, 4)
    killed = forked.start(one_reader.draw, tmp_path)
    while not (tmp_path / "drawn").exists():
        assert killed.is_alive()
        time.sleep(0.05)
    killed.kill()
    killed.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(killed.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    pytest.fail("reading processes outlive the training that they read for")
