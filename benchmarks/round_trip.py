"""Exported files against the runs they come from, on the whole test split.

    python benchmarks/round_trip.py runs/digits runs/cifar10 --int8 --data-root ../shared/data

Each file is written by `mixonomy export`, read back, and given every test image as evaluation prepares it. Beside the
difference to the model in float32 stand both accuracies. Exit status 1 if a float file differs by more than 1e-4, or
names another class where the two likeliest are not that close. What timm does not have is left out.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import mixonomy as mx
from mixonomy import data
from mixonomy.evals import normalise, probabilities
from mixonomy.export import TOLERANCE, Agreement, Exported, Target, agreement, export_model
from mixonomy.inference.exported import ExportedModel
from mixonomy.models import info_of
from rows import RESULTS, Origin, Row, append, make_row, origin

TARGETS: tuple[Target, ...] = ("onnx", "openvino", "safetensors", "timm")

Answers = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trip:
    """How one file did: its agreement with the model on test images, and the accuracies of both."""

    agreement: Agreement
    top1: float
    model_top1: float


def answers_of(where: Path) -> Answers:
    """Logits and probabilities of a file or run, in float32."""
    model = mx.load(where)
    if isinstance(model, ExportedModel):
        return model.outputs
    info = info_of(model)

    @torch.inference_mode()
    def answers(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(normalise(images, info.preprocessing))
        return logits, probabilities(logits, info.loss, info.temperature, is_multilabel=info.is_multilabel)

    return answers


def compare(run: Path, paths: dict[str, Path], data_root: str | None) -> tuple[str, dict[str, Trip]]:
    """The name of the test data, and how each file did on it."""
    info = info_of(mx.load(run))
    own = info.trained_on
    if own is None:
        raise ValueError(f"{run} does not say what it was trained on.")
    opened = data.open_source(own.source, data_root)
    plan = data.plan_splits(opened, own.val_share, train_on_val=own.with_val, train_images=own.train_images)
    batches = list(data.EvalData(plan.test, info.preprocessing).batches())
    labels = torch.cat([labels for _, labels, _ in batches])

    def all_of(answers: Answers) -> tuple[Tensor, Tensor]:
        logits, probs = zip(*(answers(images) for images, *_ in batches), strict=True)
        return torch.cat(logits), torch.cat(probs)

    def top1(logits: Tensor) -> float:
        return float((logits.argmax(1) == labels).double().mean())

    logits, probs = all_of(answers_of(run))
    trips = {}
    for name, path in paths.items():
        found_logits, found_probs = all_of(answers_of(path))
        trips[name] = Trip(agreement(logits, probs, found_logits, found_probs), top1(found_logits), top1(logits))
    return f"{own.source}, {plan.test_name} split", trips


def rows_of(where: Origin, name: str, place: str, trip: Trip, made: Exported) -> list[Row]:
    """The rows of one file."""
    found, gate = trip.agreement, made.gate
    values = {
        "max_difference": (found.max_difference, "logit"),
        "max_prob_difference": (found.max_prob_difference, "share"),
        "changed": (float(found.changed), "images"),
        "near_ties": (float(found.near_ties), "images"),
        "top1": (trip.top1, "share"),
        "model_top1": (trip.model_top1, "share"),
        "num_bytes": (float(made.num_bytes), "bytes"),
    }
    if gate is not None:
        values |= {"images_per_s": (gate.images_per_s, "images/s")}
        values |= {"float_images_per_s": (gate.float_images_per_s, "images/s")}
        if gate.drop is not None and gate.bound is not None:
            values |= {"drop": (gate.drop, "points"), "bound": (gate.bound, "points")}
    note = None
    if gate is not None:
        note = "kept" if gate.problem is None else f"not kept: {gate.problem}"
        note += f"; fastest float path {gate.fastest_float}, {gate.in_float} operations in float, {gate.n} images"
    about = {"study": "round_trip", "model": name, "data": place, "note": note}
    return [
        make_row(where, metric=metric, value=value, unit=unit, n=found.n if metric != "num_bytes" else 1, **about)
        for metric, (value, unit) in values.items()
    ]


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--to", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--int8", action="store_true", help="OpenVINO's files in 8-bit integers too")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--results", type=Path, default=RESULTS / "round_trip.jsonl")
    options = parser.parse_args()
    worst = 0
    for run in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            made: dict[str, Exported] = {}
            for to in options.to:
                ending = {"onnx": "m.onnx", "openvino": "m.xml", "safetensors": "m.safetensors", "timm": "m"}[to]
                try:
                    made[to] = export_model(run, to, Path(folder) / ending, data_root=options.data_root)
                except ValueError as error:
                    if to != "timm":
                        raise
                    print(f"{run.name}: {error}")
            if options.int8:
                out = Path(folder) / "small.xml"
                made["openvino int8"] = export_model(run, "openvino", out, int8=True, data_root=options.data_root)
            place, trips = compare(run, {to: each.path for to, each in made.items()}, options.data_root)
            for to, trip in trips.items():
                append(options.results, rows_of(origin(), f"{run.name}: {to}", place, trip, made[to]))
                found = trip.agreement
                print(
                    f"{run.name}, {to}: differs by {found.max_difference:.1e} on {found.n:,} images, {found.changed} "
                    f"changed, {found.near_ties} of them near ties, top-1 {trip.top1:.2%} of {trip.model_top1:.2%}"
                )
                is_float = made[to].precision == "fp32"
                worst += is_float and (found.max_difference > TOLERANCE or found.changed > found.near_ties)
    return 1 if worst else 0


if __name__ == "__main__":
    raise SystemExit(main())
