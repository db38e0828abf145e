"""Finds image files and the label file of each."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path, PurePosixPath
from string import Formatter

from segue.datasets import files
from segue.datasets.dataset import Item
from segue.errors import SegueError

PLACEHOLDERS = ("stem", "star", "parent")


def find_pairs(
    root: Path,
    images: str,
    labels: str | None,
    *,
    first: str | None,
    last: str | None,
    zips: tuple[str, str] = ("*.zip", "*.zip"),
) -> tuple[Item, ...]:
    """The image files under `root` in sorted order, each with its label file.

    What does not lie in the folder is looked for in its ZIP files, as if they were unpacked there;
    the order is that of unpacked files too.

    Args:
        root: the dataset's folder, a ZIP file, or a folder inside one.
        images: a glob below `root`; `**` goes through folders.
        labels: where below `root` an image's label lies, see `label_path`. None: no label path is
            made, looked for or opened.
        first: the stem (file name without ending) of the first image to take; None is the start.
        last: the stem of the last image to take; None is the end.
        zips: globs of the ZIP files in `root` that hold images, and labels.

    Raises:
        SegueError: the folder is missing, no image matches, an image has no label, `first` or
            `last` is no image, or a ZIP file is damaged.
    """
    lying = find_images(root, images, zips[0])
    found = _select(list(lying), first, last)
    if labels is None:
        return tuple(Item(lying[image], None) for image in found)
    find = label_finder(root, images, labels)
    wanted = [find(image) for image in found]
    lies = files.finder()
    there = [path if lies(path) else None for path in wanted]
    if None in there:
        inside = files.packed(root, zips[1])
        there = [at or inside.get(path) for at, path in zip(there, wanted, strict=True)]
    items = tuple(Item(lying[image], label) for image, label in zip(found, there, strict=True))
    missing = [number for number, item in enumerate(items) if item.label is None]
    if missing:
        names = ", ".join(str(found[number].relative_to(root)) for number in missing[:3])
        more = "" if len(missing) <= 3 else ", ..."
        raise SegueError(
            f"{len(missing)} of {len(items)} images have no label: {names}{more}",
            where=root,
            fix=f"looked for {wanted[missing[0]]}; add the labels or remove the images",
        )
    return items


def find_images(root: Path, pattern: str, zips: str) -> dict[Path, Path]:
    """The files below `root` that match a glob, sorted: where they would lie unpacked, and do lie.

    Raises:
        SegueError: the folder is missing, the pattern is none, or no file matches.
    """
    if not root.is_dir() and not files.is_zip(root):
        what = "is a file, not a folder" if root.is_file() else "no such folder"
        raise SegueError(what, where=root, fix="set `root` to the folder that holds the dataset")
    try:
        found = files.listed(root, pattern, zips)
    except (ValueError, NotImplementedError) as error:
        raise SegueError(
            f"{pattern!r} is no pattern for files ({error})",
            where=root,
            fix="write one like images/*.png, relative to `root`",
        ) from error
    if not found:
        inside = next((path.relative_to(root) for path in files.packed(root, zips)), None)
        hint = "" if inside is None else f": what is packed there is called like {inside}"
        raise SegueError(
            f"no image matches {pattern}",
            where=root,
            fix=f"check `root` and how it is laid out{hint}",
        )
    return found


def label_path(root: Path, image: Path, images: str, labels: str) -> Path:
    """The label file of an image, from a pattern with placeholders.

    `{stem}` is the image's file name without its ending, `{star}` what the one `*` in the file
    part of `images` stands for, and `{parent}` the image's folder below the part of `images`
    before its first `*`.

    Raises:
        SegueError: the pattern has another placeholder, or `{star}` without a single `*`.

    Example:
        >>> image = Path("kitti/rgb/a/07_rgb.png")
        >>> label_path(Path("kitti"), image, "rgb/**/*_rgb.png", "gt/{parent}/{star}_gt.png").parts
        ('kitti', 'gt', 'a', '07_gt.png')
    """
    return label_finder(root, images, labels)(image)


def label_finder(root: Path, images: str, labels: str) -> Callable[[Path], Path]:
    """What `label_path` does, for many images of one pattern.

    Raises:
        SegueError: as `label_path`.
    """
    pattern = PurePosixPath(images)
    fixed: list[str] = []
    for part in pattern.parent.parts:
        if any(sign in part for sign in "*?["):
            break
        fixed.append(part)
    base, known = root.joinpath(*fixed), {"stem", "parent"}
    before, star, after = pattern.name.partition("*")
    if star and not any(sign in before + after for sign in "*?["):
        known.add("star")
    try:
        # Plain ones: format's own would reach into Python's objects.
        for _, field, spec, conversion in Formatter().parse(labels):
            if field is not None and (field not in known or spec or conversion):
                raise ValueError(f"{{{field}}}")
    except ValueError as error:
        raise SegueError(
            f"cannot fill in {labels!r} ({error})",
            where="labels",
            fix=f"use only {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}; {{star}} needs "
            "one * in the file part of `images`",
        ) from error

    @cache
    def below(folder: Path) -> str:
        return folder.relative_to(base).as_posix()

    def find(image: Path) -> Path:
        name = image.name
        star = name[len(before) : len(name) - len(after)]
        return root / labels.format(stem=image.stem, star=star, parent=below(image.parent))

    return find


def _select(images: list[Path], first: str | None, last: str | None) -> list[Path]:
    if first is None and last is None:
        return images
    stems = [image.stem for image in images]
    start = 0 if first is None else stems.index(_known(first, stems, "first"))
    end = len(stems)
    if last is not None:
        end -= stems[::-1].index(_known(last, stems, "last"))
    if start >= end:
        raise SegueError(f"{first} comes after `last`, {last}", where="first", fix="swap them")
    return images[start:end]


def _known(stem: str, stems: list[str], setting: str) -> str:
    if stem in stems:
        return stem
    near = get_close_matches(stem, stems, n=1)
    hint = f"did you mean {near[0]}?" if near else f"they are called like {stems[0]}"
    raise SegueError(f"no image is called {stem}", where=setting, fix=hint)
