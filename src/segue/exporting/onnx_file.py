"""A model as one ONNX file: an image of any size in, labels and probabilities of its size out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.errors import SegueError
from segue.exporting.resizing import resized
from segue.inference.model import Ensemble, Model
from segue.models import Segmenter
from segue.storage.whole import write_whole

OPSET = 20
MOST = 1e-4  # probabilities of the file may differ by so much from PyTorch's
SIZES = ((37, 51), (211, 97), (3, 301))  # height, width of the images that a file is tried on
EXAMPLE = (37, 51, 3)


class Graph(nn.Module):
    """All that `Ensemble.predict` does, for an exporter.

    Args:
        models: on the CPU.
    """

    def __init__(self, models: Ensemble) -> None:
        super().__init__()
        self.segmenters = nn.ModuleList(model.segmenter for model in models.models)
        self.sizes = [model.size for model in models.models]
        self.shares = [shares(model, len(models.models)) for model in models.models]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB uint8 [H, W, 3] -> labels uint8 [H, W], probabilities float32 [C, H, W]."""
        whole = (image.shape[0], image.shape[1])
        summed: Tensor | None = None
        for module, size, heads in zip(self.segmenters, self.sizes, self.shares, strict=True):
            segmenter = cast(Segmenter, module)
            output = segmenter(resized(image, size)[None].float() / 255)
            for name, share in heads.items():
                logits = segmenter.upsample(output.logits[name].float(), whole)
                vote = logits[0].softmax(0) * share
                summed = vote if summed is None else summed + vote
        assert summed is not None
        return summed.argmax(0).to(torch.uint8), summed


def shares(model: Model, models: int) -> dict[str, float]:
    """How much each head counts among so many models."""
    total = sum(model.heads.values()) * models
    return {name: share / total for name, share in model.heads.items()}


def write_onnx(models: Ensemble, path: Path) -> float:
    """Writes a file that onnxruntime runs by itself, and returns how far it is from PyTorch.

    Resizing as Pillow does it, normalisation and upsampling are inside. Input `image`: uint8 RGB
    [height, width, 3], any size. Outputs `labels`: uint8 [height, width], and `probabilities`:
    float32 [classes, height, width]. Classes, colours and sizes are in its metadata.

    Returns:
        The largest difference of a probability on three images of odd sizes.

    Raises:
        SegueError: PyTorch cannot export the network, or the file differs by more than 1e-4.
    """
    proto = graph_of(models, path)
    describe(proto, models)
    data = proto.SerializeToString()
    worst = max(difference(models, data, size) for size in SIZES)
    # Not `worst > MOST`, which NaN passes.
    if not worst <= MOST:
        told = f"probabilities differ by {worst:.1e} from PyTorch's"
        raise SegueError(told, where=path, fix="leave out --onnx, and report the network")
    write_whole(path, lambda file: file.write(data))
    return worst


def graph_of(models: Ensemble, path: Path) -> Any:
    """The model in ONNX.

    Raises:
        SegueError: PyTorch cannot export the network.
    """
    dynamic = torch.export.Dim.DYNAMIC
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    # The exporter warns of its own parts, which users cannot change.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                Graph(models).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["labels", "probabilities"],
                dynamic_shapes={"image": {0: dynamic, 1: dynamic}},
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            fix = "leave out --onnx"
            raise SegueError("PyTorch cannot export the network", where=path, fix=fix) from error
        assert program is not None
        return program.model_proto


def describe(proto: Any, models: Ensemble) -> None:
    """Names the dimensions, says what it is, and drops the exporter's traces of this machine."""
    space = models.label_space
    shapes = {
        "image": ("height", "width", 3),
        "labels": ("height", "width"),
        "probabilities": (space.num_classes, "height", "width"),
    }
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        named = onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name])
        value.CopyFrom(named)
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    properties = {
        "segue_version": version("segue"),
        "label_space": space.name,
        "classes": json.dumps(space.classes),
        "colours": json.dumps(space.colours),
        "sizes": json.dumps([model.size for model in models.models]),
    }
    if models.range is not None:
        properties["range"] = json.dumps(models.range.settings)
    onnx.helper.set_model_props(proto, properties)
    proto.doc_string = "RGB uint8 [height, width, 3] to train ids and probabilities of each pixel"
    onnx.checker.check_model(proto)


def difference(models: Ensemble, file: bytes | Path, size: Sequence[int]) -> float:
    """The largest difference of a probability from PyTorch's, for an image of this size.

    Args:
        models: what was exported.
        file: the ONNX file or what is in it.
        size: height and width.
    """
    image = checks(size[0], size[1])
    whole = (size[0], size[1])
    wanted = sum(one.probabilities(image) for one in models.models) / len(models.models)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    labels, found = session.run(None, {"image": image})
    if labels.shape != whole or found.shape != (models.label_space.num_classes, *whole):
        return float("nan")
    return float(np.abs(found - cast(Tensor, wanted).numpy()).max())


def checks(height: int, width: int) -> NDArray[np.uint8]:
    """Squares of random colour with noise: edges, flat places and texture."""
    random = np.random.default_rng([height, width])
    squares = random.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    whole = squares.repeat(16, 0).repeat(16, 1)[:height, :width].astype(np.int16)
    noise = random.integers(-20, 21, whole.shape)
    mixed: NDArray[np.int64] = np.clip(whole + noise, 0, 255)
    return mixed.astype(np.uint8)
