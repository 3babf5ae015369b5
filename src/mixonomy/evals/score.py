"""Runs a model over labelled images, each exactly once, and adds up how it did.

Axes: B images in a batch, N images in all, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from mixonomy import parallel


class Scores(Protocol):
    """Sums over scored images: `Classification`, or `MultiLabel` where an image may have several classes."""

    headline: ClassVar[str]
    n: int

    def add(self, probs: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        """Adds a batch: float64 [B, K]; int64 [B] or bool [B, K]; which images of the split, int64 [B]."""
        ...

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value) of the headline measures."""
        ...

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Measures of each class."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        ...


S = TypeVar("S", bound=Scores)


def score(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    into: S,
    label_map: Tensor | None = None,
) -> S:
    """Scores all images of a split, each exactly once.

    Several ranks each predict their batches, and all add up those of all, in the order of one process.

    Args:
      predict: uint8 images [B, c, H, W] -> float64 probabilities [B, K] on the CPU.
      batches: uint8 images, labels (int64 [B], or bool [B, K]) and indices int64 [B].
      into: where to add.
      label_map: int64, the model's class for each class of the data; the same if not given.
    """
    predicted = ((predict(images), labels, indices) for images, labels, indices in batches)
    for probs, labels, indices in parallel.in_turn(predicted):
        if label_map is not None:
            labels = label_map[labels] if labels.ndim == 1 else _mapped(labels, label_map, probs.shape[1])
        into.add(probs, labels, indices)
    if not into.n:
        raise ValueError("none of the images can be read; `mixonomy data check` says why.")
    return into


def _mapped(labels: Tensor, label_map: Tensor, num_classes: int) -> Tensor:
    """bool [B, classes of the data] -> bool [B, K]."""
    out = labels.new_zeros(len(labels), num_classes)
    out[:, label_map] = labels
    return out


def map_classes(model_names: tuple[str, ...], data_names: tuple[str, ...]) -> Tensor | None:
    """The model's class number for each class of the data, matched by name; None if they are the same.

    Raises:
      ValueError: if the data has a class that the model does not know, or two classes share a name; scores would
        be silently wrong.
    """
    if model_names == data_names:
        return None
    for whose, names in (("model", model_names), ("data", data_names)):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the {whose} has two classes named {twice!r}, so classes cannot be matched by name.")
    numbers = {name: i for i, name in enumerate(model_names)}
    unknown = [name for name in data_names if name not in numbers]
    if unknown:
        raise ValueError(
            f"the data has classes that the model does not know: {_some(unknown)}; the model knows "
            f"{_some(model_names)}."
        )
    return torch.tensor([numbers[name] for name in data_names])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
