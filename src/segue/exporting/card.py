"""The model card: what a folder's model is, was trained on and reaches, in the hub's format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from segue.inference.evaluation import FILE as EVALUATION
from segue.inference.evaluation import Evaluation
from segue.inference.model import Ensemble
from segue.recipe.recipe import EvaluateStage, Recipe
from segue.report.iou_table import compare
from segue.work_dir import recipe_of

TASK = {"type": "image-segmentation", "name": "Semantic segmentation"}

USE = """## Use

```python
import segue

model = segue.load("FOLDER")      # this folder
labels = model.predict("a.jpg")   # train ids, uint8 [height, width]
```
"""
ONNX = """
Without PyTorch, with `onnxruntime` alone:

```python
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
image = ImageOps.exif_transpose(Image.open("a.jpg")).convert("RGB")  # upright, any size
labels, probabilities = session.run(None, {"image": np.array(image)})
```

Resizing, normalisation and upsampling are inside. On images of odd sizes its probabilities were
within PARITY of PyTorch's.
"""
RANGE = """
Images of more than 8 bits were read by the range LOW_TO_HIGH: what lies outside is cut, the rest
goes linearly to 0 to 255. `segue.load` does so by itself; an ONNX file takes images of 8 bits.
"""


def card(source: Path, models: Ensemble, *, onnx: float | None = None) -> str:
    """README.md for a model: front matter for the hub, then what a reader asks.

    Nothing in it is a path of this machine. Results are there where a run's evaluate stage scored
    just these models at their own size.

    Args:
        source: what the model was loaded from.
        models: the model.
        onnx: how far model.onnx is from PyTorch; None: there is none.
    """
    recipe = recipe_of(source) if (source / "recipe.yaml").is_file() else None
    scored = scores(source, recipe, models) if recipe is not None else {}
    title = escaped((recipe.title or recipe.name) if recipe is not None else "Segmentation model")
    parts = [
        f"---\n{front_matter(title, scored, onnx=onnx is not None)}---\n\n# {title}\n",
        summary(models, recipe),
        USE + (ONNX.replace("PARITY", f"{onnx:.0e}") if onnx is not None else ""),
        policy(models) + depth(models),
        classes(models),
        *(results(title, data, result) for data, result in scored.items()),
        "## Licence\n\nNone is stated yet: add `license:` to the lines at the top. Terms of the "
        "images and labels that it was trained on may bind it too.\n",
    ]
    return "\n".join(parts)


def scores(source: Path, recipe: Recipe, models: Ensemble) -> dict[str, Evaluation]:
    """A run's results for what `segue.load` reads of it, by dataset."""
    evaluated = [
        (name, stage) for name, stage in recipe.stages.items() if isinstance(stage, EvaluateStage)
    ]
    if not evaluated:
        return {}
    loaded = evaluated[-1][1].models
    return {
        stage.data: Evaluation.read(source / name / EVALUATION)
        for name, stage in evaluated
        if stage.models == loaded
        and all(model.size == tuple(stage.size) for model in models.models)
        and all(dict(model.heads) == dict(stage.heads) for model in models.models)
        and (source / name / EVALUATION).is_file()
    }


def front_matter(title: str, scored: Mapping[str, Evaluation], *, onnx: bool) -> str:
    """What the hub reads, as YAML."""
    tags = ["semantic-segmentation", "domain-adaptation", "unsupervised-domain-adaptation"]
    told: dict[str, Any] = {
        "library_name": "segue",
        "pipeline_tag": TASK["type"],
        "tags": [*tags, "pytorch", *(["onnx"] if onnx else [])],
    }
    if scored:
        listed = [indexed(data, result) for data, result in scored.items()]
        told["model-index"] = [{"name": title, "results": listed}]
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def indexed(data: str, result: Evaluation) -> dict[str, Any]:
    """Results on a dataset as the hub lists them; mIoU in percent."""
    metrics = [
        {"type": "mean_iou", "name": f"mIoU (protocol {name})", "value": round(100 * value, 2)}
        for name, value in result.miou.items()
        if not math.isnan(value)
    ]
    return {"task": TASK, "dataset": {"type": data, "name": data}, "metrics": metrics}


def summary(models: Ensemble, recipe: Recipe | None) -> str:
    """What it is and how it came about."""
    networks = [f"- {escaped(model.segmenter.describe())}" for model in models.models]
    several = " Probabilities of these networks are averaged:" if len(networks) > 1 else ""
    lines = [
        "A semantic segmentation network of Segue, which adapts "
        f"from labelled images to images without labels.{several}",
        "",
        *networks,
    ]
    if recipe is not None:
        data = [f"{name} ({settings['kind']})" for name, settings in recipe.data.items()]
        lines += ["", f"Recipe `{recipe.name}`, seed {recipe.seed}; data: {', '.join(data)}."]
        if recipe.paper is not None:
            lines.append(f"Method: {escaped(recipe.paper.title)}, {escaped(recipe.paper.venue)}.")
    return "\n".join(lines) + "\n"


def policy(models: Ensemble) -> str:
    """At which size it looks at images."""
    sizes = sorted({model.size for model in models.models})
    shown = " and ".join(f"{width} x {height}" for width, height in sizes)
    if any(model.policy == "sliding" for model in models.models):
        several = " (some of the networks; the others see it resized)"
        mixed = any(model.policy == "scaled" for model in models.models)
        return (
            f"An image of any size is seen at full resolution through a sliding window of {shown} "
            f"(width x height) that overlaps by a third{several if mixed else ''}; labels come at "
            "the image's own size.\n"
        )
    return (
        f"An image of any size is resized to {shown} (width x height, Pillow's bicubic), as in "
        "training; labels come at the image's own size.\n"
    )


def depth(models: Ensemble) -> str:
    """How it reads images of more than 8 bits, where that is not by their depth."""
    return "" if models.range is None else RANGE.replace("LOW_TO_HIGH", str(models.range))


def classes(models: Ensemble) -> str:
    """The label space as a table."""
    space = models.label_space
    rows = [
        f"| {number} | {escaped(name)} | {' '.join(str(value) for value in colour)} |"
        for number, (name, colour) in enumerate(zip(space.classes, space.colours, strict=True))
    ]
    head = ["## Classes", "", "| train id | class | colour |", "|---:|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def results(title: str, data: str, result: Evaluation) -> str:
    """IoU by class on one dataset, and means by protocol."""
    table = compare({title: [result]}).to_markdown()
    means = ", ".join(f"{100 * value:.1f} (protocol {p})" for p, value in result.miou.items())
    head = f"## Results on {escaped(data)}\n\n{result.images} images; IoU in percent."
    return f"{head}\n\n{table}\n\nmIoU: {means}\n"


def escaped(text: str) -> str:
    """Text as one line in which Markdown and HTML see nothing to do.

    Example:
        >>> escaped("a <b>|c")
        'a \\\\<b\\\\>\\\\|c'
    """
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))
