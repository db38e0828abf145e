"""One draw of images with everything that is computed from it, each thing once.

A `Step` is what a loss sees. It hands out views (source, target, and what is made from them) and
predictions, computes each when it is first asked for, and knows which networks each result depends
on, so that it can drop what an update made stale and let go of graphs that have been used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from segue.batch import Batch
from segue.errors import SegueError
from segue.models.segmenter import Output, Segmenter

T = TypeVar("T")


class View(Protocol):
    """Makes a batch from others: jittered, cropped, mixed, masked, translated.

    `parents` are the views whose graph the result shares, where a trained network makes it.
    """

    parents: tuple[str, ...]

    def __call__(self, step: Step) -> Batch:
        """The batch; random choices come from `step.random`."""


class Prediction:
    """What a network says of a view, with what follows from it, computed when first asked for.

    Args:
        output: logits by head and features by name, at the network's own strides.
        upsample: the model's own bilinear upsampling, (logits, (height, width)) -> logits.
        size: height and width of the view in pixels.

    Example:
        >>> from segue.models.segmenter import Output
        >>> grow = lambda logits, size: torch.nn.functional.interpolate(logits, size)
        >>> prediction = Prediction(Output({"main": torch.zeros(1, 4, 2, 2)}, {}), grow, (8, 8))
        >>> prediction.probabilities().shape, float(prediction.probabilities()[0, 0, 0, 0])
        (torch.Size([1, 4, 8, 8]), 0.25)
    """

    def __init__(
        self,
        output: Output,
        upsample: Callable[[Tensor, tuple[int, int]], Tensor],
        size: tuple[int, int],
    ) -> None:
        self._output, self._upsample, self.size = output, upsample, size
        self._known: dict[tuple[str, str], Tensor] = {}

    def _once(self, what: str, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if (what, name) not in self._known:
            self._known[what, name] = compute()
        return self._known[what, name]

    def heads(self) -> dict[str, Tensor]:
        """Logits by head, at the network's own stride."""
        return self._output.logits

    def logits(self, head: str = "main") -> Tensor:
        """[B, C, h, w] at the network's own stride."""
        if head not in self._output.logits:
            fix = f"the network has: {', '.join(self._output.logits)}"
            raise SegueError(f"no head is called {head!r}", where="head", fix=fix)
        return self._output.logits[head]

    def feature(self, name: str) -> Tensor:
        """[B, D, h, w], an encoder stage (`layer1` to `layer4`) or `penultimate`."""
        if ("feature", name) not in self._known and name not in self._output.features:
            fix = "name another, or list it in the term's `features`"
            there = ", ".join(self._output.features) or "none is kept beyond its objective"
            raise SegueError(f"no feature is called {name!r} (there: {there})", fix=fix)
        return self._once("feature", name, lambda: self._output.features[name])

    def upsampled(self, head: str = "main") -> Tensor:
        """Logits at the size of the view, [B, C, H, W]."""
        return self._once("upsampled", head, lambda: self._upsample(self.logits(head), self.size))

    def log_probabilities(self, head: str = "main") -> Tensor:
        """Logarithm of the softmax of the upsampled logits, [B, C, H, W]."""
        return self._once(
            "log_probabilities", head, lambda: torch.log_softmax(self.upsampled(head).float(), 1)
        )

    def probabilities(self, head: str = "main") -> Tensor:
        """Softmax of the upsampled logits, [B, C, H, W]."""
        return self._once("probabilities", head, lambda: self.log_probabilities(head).exp())

    def detached(self, keep: Collection[str] = ()) -> Prediction:
        """The same without its graph; of the features, those asked for and those to `keep`."""
        logits = {head: value.detach() for head, value in self._output.logits.items()}
        features = {name: x.detach() for name, x in self._output.features.items() if name in keep}
        kept = Prediction(Output(logits, features), self._upsample, self.size)
        kept._known = {key: value.detach() for key, value in self._known.items()}
        return kept


@dataclass
class _Known:
    value: Any
    networks: frozenset[str]
    spent: bool = False


class Step:
    """One micro batch of one iteration, and what the terms of the loss share of it.

    Args:
        batches: what was drawn, by role: `source`, `target`.
        networks: every module of the run by name.
        views: how further views are made, by name.
        iteration: which iteration this is; with `seed` and `slot` it decides every random choice.
        seed: the seed of the run.
        slot: position of the first image of this micro batch in the joint batch of all processes.
        keep: features of predictions that are kept when their graph is freed, for later terms.

    Example:
        >>> step = Step({"source": Batch(torch.zeros(2, 3, 4, 4))}, {}, iteration=7, seed=1)
        >>> step.once("doubled", lambda: step.source.image * 2).shape
        torch.Size([2, 3, 4, 4])
        >>> a, b = (torch.rand(1, generator=step.random("crop", image=0)) for _ in range(2))
        >>> bool(a == b)
        True
    """

    def __init__(
        self,
        batches: Mapping[str, Batch],
        networks: Mapping[str, nn.Module],
        *,
        iteration: int,
        views: Mapping[str, View] | None = None,
        seed: int = 0,
        slot: int = 0,
        keep: Collection[str] = (),
    ) -> None:
        self.iteration, self.seed, self.slot, self._keep = iteration, seed, slot, keep
        self.recorded: dict[str, Tensor] = {}
        self._batches, self._networks, self._views = batches, networks, views or {}
        self._known: dict[Hashable, _Known] = {}
        self._using: list[set[str]] = []
        self._trained: frozenset[str] = frozenset()

    @property
    def source(self) -> Batch:
        """The labelled batch."""
        return self.view("source")

    @property
    def target(self) -> Batch:
        """The unlabelled batch."""
        return self.view("target")

    @property
    def names(self) -> tuple[str, ...]:
        """The image files that were drawn, for messages."""
        return tuple(name for batch in self._batches.values() for name in batch.names)

    def view(self, name: str) -> Batch:
        """A drawn batch, or a view made from it on first use."""
        if name in self._batches:
            return self._batches[name]
        if name not in self._views:
            known = ", ".join((*self._batches, *self._views))
            raise SegueError(f"no view is called {name!r}", where="view", fix=f"drawn: {known}")
        return self.once(("view", name), lambda: self._views[name](self))

    def network(self, name: str) -> nn.Module:
        """A network by name; whatever is being computed is noted to depend on it."""
        for frame in self._using:
            frame.add(name)
        return self._networks[name]

    def predict(self, view: str = "source", network: str = "segmenter") -> Prediction:
        """A segmenter's prediction for a view."""

        def compute() -> Prediction:
            segmenter = cast(Segmenter, self.network(network))
            batch = self.view(view)
            return Prediction(segmenter(batch.image), segmenter.upsample, batch.size)

        return self.once(("predict", view, network), compute)

    def known(self, view: str, network: str = "segmenter") -> Prediction | None:
        """A prediction that was asked for and still holds; none is made."""
        known = self._known.get(("predict", view, network))
        return None if known is None else cast(Prediction, known.value)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `compute`, kept under `key` until a network it used is updated.

        Raises:
            RuntimeError: its graph has been backpropagated already: the term that asks belongs in
                the same group, so it must list the view in its `views`.
        """
        known = self._known.get(key)
        if known is None:
            self._using.append(set())
            try:
                value = compute()
            finally:
                networks = self._using.pop()
            known = self._known[key] = _Known(value, frozenset(networks))
        elif known.spent and known.networks & self._trained:
            raise RuntimeError(
                f"{key}: its graph was freed by an earlier group of terms; list the view that it "
                "comes from in the term's `views` so that both run in one group"
            )
        for frame in self._using:
            frame |= known.networks
        return cast(T, known.value)

    def record(self, name: str, value: Tensor) -> None:
        """Notes a number for metrics.jsonl, such as a discriminator's accuracy."""
        self.recorded[name] = value.detach()

    def pull_on_logits(self, loss: Tensor) -> Tensor | None:
        """Norm of a loss's gradient at the logits of every prediction that can learn from it.

        What a term asks of the segmenters, measured where all terms meet, so that weights can be
        judged: only the path from logits to loss is run backward. None where none can learn.
        """
        predictions = [k.value for k in self._known.values() if isinstance(k.value, Prediction)]
        logits = [x for one in predictions for x in one.heads().values() if x.requires_grad]
        if not (logits and loss.requires_grad):
            return None
        found = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
        parts = [gradient.float().norm() for gradient in found if gradient is not None]
        return torch.stack(parts).norm() if parts else None

    def random(self, name: str, image: int | None = None) -> torch.Generator:
        """A generator that is a function of (seed, iteration, place in the joint batch, name).

        Args:
            name: what the choice is for; the same name gives the same choice again.
            image: index in this batch, for a choice per image that does not depend on how the
                joint batch is spread over processes.
        """
        text = repr((self.seed, self.iteration, self.slot + (image or 0), image is None, name))
        digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def begin(self, trained: Collection[str]) -> None:
        """Starts an objective that trains these networks: earlier results lose their graphs."""
        self._trained = frozenset(trained)
        self.changed(trained)
        for known in self._known.values():
            known.value, known.spent = detached(known.value, self._keep), False

    def free(self) -> None:
        """Lets go of every graph after a backward pass; the values stay."""
        for known in self._known.values():
            known.value, known.spent = detached(known.value, self._keep), True

    def changed(self, networks: Collection[str]) -> None:
        """Forgets what depends on networks that were updated."""
        stale = [key for key, known in self._known.items() if known.networks & set(networks)]
        for key in stale:
            del self._known[key]


def detached(value: T, keep: Collection[str] = ()) -> T:
    """The same value without its graph: tensors, predictions, batches and containers of them."""
    match value:
        case Tensor():
            return cast(T, value.detach())
        case Prediction():
            return cast(T, value.detached(keep))
        case Batch():
            return cast(T, replace(value, image=value.image.detach()))
        case dict():
            return cast(T, {key: detached(item, keep) for key, item in value.items()})
        case tuple() if hasattr(value, "_fields"):
            return cast(T, type(value)(*(detached(item, keep) for item in value)))
        case list() | tuple():
            return cast(T, type(value)(detached(item, keep) for item in value))
    return value
