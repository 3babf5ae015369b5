"""How good a model's features are for other data: the model stays as it is, and simple classifiers are fitted on top.

Axes: N images, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mixonomy import data
from mixonomy.data.sources.base import Picked
from mixonomy.evals import KNN, Features, FewShot, LinearScores, draw_support, features_of, few_shot, linear_probe, top1
from mixonomy.evals.fewshot import NUM_SEEDS, SHOTS
from mixonomy.predicting import predictor_of

Kind = Literal["ridge", "linear", "knn"]
HELD_OUT = 0.1  # of train, to choose l2 of the linear probe where the data has no validation split
CACHE = Path.home() / ".cache/mixonomy/features"


@dataclass(frozen=True)
class Probing:
    """Scores of the classifiers on the features of one model.

    Args:
      data: the SOURCE.
      num_train: training images that could be read, of all that the classifiers could use.
      n: test images.
      few_shot: of the ridge classifier, by shots.
      linear: of the logistic regression.
      knn: top-1 of the nearest neighbours among the training images.
      notes: what a person should know, one sentence each.
    """

    data: str
    num_train: int
    n: int
    few_shot: tuple[FewShot, ...] = ()
    linear: LinearScores | None = None
    knn: float | None = None
    notes: tuple[str, ...] = ()

    def scores(self) -> Iterator[tuple[str, float]]:
        """(name, value), such as ("ridge_5shot", 0.31)."""
        for found in self.few_shot:
            yield from ((f"ridge_{name}", value) for name, value in found.scores())
        if self.linear is not None:
            yield from ((f"linear_{name}", value) for name, value in self.linear.scores())
        if self.knn is not None:
            yield "knn_top1", self.knn
        yield "n", self.n

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "data": self.data,
            "scores": dict(self.scores()),
            "few_shot": [{**vars(found), "mean": found.mean, "std": found.std} for found in self.few_shot],
            "linear": None if self.linear is None else vars(self.linear),
            "knn": None if self.knn is None else {"top1": self.knn},
            "num_train": self.num_train,
            "n": self.n,
            "notes": list(self.notes),
        }


def probe(
    model: nn.Module,
    source: data.Source,
    *,
    probes: Sequence[Kind] = ("ridge",),
    shots: Sequence[int] | None = None,
    num_seeds: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    bad: data.BadImages | None = None,
    cache: Path | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
) -> Probing:
    """See `mixonomy.probe`.

    Args:
      train_images: use so many of train and val together only, as a training with `data.train_images` does.
      test_images: score so many test images only, chosen by their names; all if there are no more.
      cache: folder of files of features; nothing is kept if not given.
    """
    _check(probes, shots, num_seeds)
    shots, num_seeds = sorted(set(SHOTS if shots is None else shots)), NUM_SEEDS if num_seeds is None else num_seeds
    plan = data.plan_splits(source, 0.0, train_images=train_images)
    num_classes, train_split = len(source.class_names), plan.train
    if source.is_multilabel:
        raise ValueError(f"{source.name} has images with several labels; give data with one label for each image.")
    predictor = predictor_of(model, device)
    workers = data.default_workers() if workers is None else workers
    bad = data.BadImages() if bad is None else bad

    def features(split: data.Split) -> Features:
        return features_of(predictor, split, workers=workers, bad=bad, cache=cache)

    if tuple(probes) == ("ridge",):  # only images that are drawn need features
        drawn = [draw_support(train_split, shots[-1], seed) for seed in range(num_seeds)]
        needed = np.unique(np.concatenate(drawn))
        found = features(train_split.pick(needed))
        train = Features(found.values, found.labels, found.indices.new_tensor(needed)[found.indices])
    else:
        train = features(train_split)
    test_split = plan.test
    if test_images is not None and test_images < len(test_split):
        test_split = data.first_images(test_split, test_images, source.name, "test_images")
    test = features(test_split)
    scores, linear, knn = (), None, None
    if "ridge" in probes:
        scores = tuple(few_shot(train_split, train, test, num_classes, shots=shots, num_seeds=num_seeds))
    if "linear" in probes:
        rest, held_out = _held_out(train_split, train) if plan.val is None else (train, features(plan.val))
        linear = linear_probe(rest, held_out, test, num_classes)
    if "knn" in probes:
        knn = top1(KNN.fit(train.values, train.labels, num_classes), test)
    notes = tuple(_notes(scores, train_split.counts(num_classes), bad))
    return Probing(source.name, len(train), len(test), scores, linear, knn, notes)


def _check(probes: Sequence[str], shots: Sequence[int] | None, num_seeds: int | None) -> None:
    """Refuses options that cannot work, or would have no effect."""
    if not probes or (unknown := [name for name in probes if name not in get_args(Kind)]):
        given = repr(unknown[0]) if probes else "nothing"
        raise ValueError(f"unknown probe {given}; use {', '.join(get_args(Kind))}.")
    if "ridge" not in probes and (shots is not None or num_seeds is not None):
        raise ValueError("shots and seeds have no effect without the probe ridge; leave them out, or add it.")
    if shots is not None and (not shots or min(shots) < 1):
        raise ValueError(f"shots are {list(shots)}; give at least 1 image of each class.")
    if num_seeds is not None and num_seeds < 1:
        raise ValueError(f"seeds is {num_seeds}; give at least 1.")


def _held_out(split: data.Split, train: Features) -> tuple[Features, Features]:
    """Training features without, and those of, the images that a training run would hold out."""
    rest, held_out = data.hold_out(split, HELD_OUT)
    assert isinstance(rest.images, Picked) and isinstance(held_out.images, Picked), "what hold_out returns"
    without, with_them = (part.indices[np.arange(len(part))] for part in (rest.images, held_out.images))
    return train.of_images(without), train.of_images(with_them)


def _notes(scores: Sequence[FewShot], counts: NDArray[np.int64], bad: data.BadImages) -> Iterator[str]:
    for found in scores:
        if found.num_short:
            yield (
                f"{found.num_short} of {len(counts)} classes have fewer than {found.shots} training images (the "
                f"smallest has {counts.min()}) and gave all they have: {found.num_support} images in all."
            )
    if bad.errors:
        yield f"{len(bad.errors)} images could not be read and were left out: {', '.join([*bad.errors][:5])}."
