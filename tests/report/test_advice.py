"""Every rule fires on its evidence, and keeps silent where the evidence is missing or could be chance."""

from typing import Any

import pytest

from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Recipe, changed
from mixonomy.report import advice
from mixonomy.report.advice import MAX_ADVICE, advise
from mixonomy.report.finished import FinishedRun

STEPS = 1000


def finished(
    *,
    result: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    curve: list[float] | None = None,
    nll: list[float] | None = None,
    losses: list[float] | None = None,
    num_val: int = 20_000,
    confidence: float = 0.95,
    **recipe: Any,
) -> FinishedRun:
    """A run without anything to say about it: three classes, 95 % right, ten evaluations on many images."""
    n = 3000
    scores = {"top1": 0.95, "macro_f1": 0.95, "n": n, "steps": STEPS, "best_step": STEPS, "val_top1": 0.95}
    rows = [{"precision": 0.95, "recall": 0.95, "f1": 0.95, "n": 1000} for _ in range(3)]
    stored = {
        "per_class": rows, "train_counts": [3000] * 3, "confused_pairs": [], "n": n,
        "calibration": {"confidence": [0.0, confidence * n]}, "label_errors": {"found": 0, "listed": []},
    }  # fmt: skip
    curve = [0.8, 0.9, 0.93, 0.94, 0.945, 0.948, 0.949, 0.95, 0.95, 0.95] if curve is None else curve
    nll = [0.4, 0.3, 0.25, 0.22, 0.21, 0.2, 0.2, 0.2, 0.2, 0.2] if nll is None else nll
    losses = [1.0 - 0.04 * i for i in range(20)] if losses is None else losses
    metrics: list[dict[str, Any]] = [
        {"step": STEPS * (i + 1) // len(losses), "loss": loss} for i, loss in enumerate(losses)
    ]
    headline = "map" if "map" in (result or {}) else "top1"
    if num_val:
        metrics += [
            {"step": STEPS * (i + 1) // len(curve), f"val/{headline}": value, "val/nll": loss, "val/n": num_val}
            for i, (value, loss) in enumerate(zip(curve, nll, strict=True))
        ]
    return FinishedRun(
        {"facts": {"images": 9000}},
        {**scores, "bad_images": [], **(result or {})},
        {**stored, **(test or {})},
        metrics,
        changed(Recipe(), duration=f"{STEPS} steps", **recipe),
        ("cat", "dog", "eel"),
        Preprocessing((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3),
    )


def classes(*f1_and_n: tuple[float | None, int]) -> list[dict[str, Any]]:
    return [{"precision": f1, "recall": f1, "f1": f1, "n": n} for f1, n in f1_and_n]


def pair(first: int, second: int, n: int) -> dict[str, Any]:
    return {"classes": [1, 2], "counts": [first, second], "n": n, "examples": [None, None]}


SEVERAL = {"map": 0.95, "micro_f1": 0.95, "val_map": 0.95}  # of a run with several labels per image
EARLY_PEAK = [0.8, 0.9, 0.95, 0.94, 0.93, 0.92, 0.92, 0.92, 0.92, 0.92]
PLATEAU = [0.8, 0.9, 0.95, *[0.9495] * 7]
RISING_LOSS = [0.4, 0.3, 0.25, 0.26, 0.27, 0.28, 0.29, 0.3, 0.3, 0.3]
FALLING_LOSS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.38, 0.36]
RISING_TRAIN_LOSS = [0.2 + 0.04 * i for i in range(20)]

FIRES = [
    ("chance_level", {"result": {"top1": 0.34}}, "right in 34.0% of the images, and always answering “cat” would be"),
    (
        "chance_level",
        {"result": {**SEVERAL, "map": 0.36}},
        "mean average precision is 36.0%, and guessing would give 33.3%",
    ),
    (
        "images_left_out",
        {"result": {"bad_images": [{"name": "a.png", "error": "no image"}]}},
        "1 image could not be read",
    ),
    (
        "images_left_out",
        {"result": {"bad_images": [{"name": "a.png", "error": "no image"}] * 2}},
        "“a.png”: no image. Mend",
    ),
    ("label_errors", {"test": {"label_errors": {"found": 7, "listed": []}}}, "7 test labels may be wrong"),
    (
        "label_errors",
        {"test": {"label_errors": {"found": 7, "listed": []}, "val_label_errors": {"found": 1, "listed": []}}},
        "7 test and 1 validation labels may be wrong",
    ),
    ("overfitting", {"curve": EARLY_PEAK}, "validation top-1 was best at step 300 of 1,000 (95.0%) and ends at 92.0%"),
    ("overfitting", {"nll": RISING_LOSS}, "validation loss was best at step 300 of 1,000 (0.250) and ends at 0.300"),
    ("overfitting", {"curve": EARLY_PEAK, "result": SEVERAL}, "validation mean average precision was best at step 300"),
    (
        "still_improving",
        {"nll": FALLING_LOSS},
        'from 0.550 in the middle of the run to 0.370 at its end. Train longer, such as --duration "2000 steps"',
    ),
    ("few_images", {"test": {"train_counts": [3000, 9, 3000]}}, "Too few training images of “dog” (9)."),
    (
        "few_images",
        {"test": {"train_counts": [40, 49, 3000], "per_class": classes((0.5, 10), (0.95, 9), (1.0, 9))}},
        "of “cat” (40).",
    ),
    (
        "few_images",
        {"test": {"train_counts": [24, 24, 24], "per_class": classes((0.5, 10), (0.95, 9), (1.0, 9))}},
        "All classes have few training images, up to 24, and “cat” (24) do worst. Add images of them first.",
    ),
    (
        "imbalance",
        {"test": {"train_counts": [3000, 300, 3000], "per_class": classes((0.95, 9), (0.7, 9), (0.95, 9))}},
        "“cat” has 3,000 training images and “dog” 300; the rare ones have a median F1 of 0.70, the others 0.95",
    ),
    (
        "confusions",
        {"test": {"confused_pairs": [pair(20, 30, 500)]}},
        "“dog” and “eel” are taken for each other in 50 of their 500 images (10.0%)",
    ),
    (
        "poor_calibration",
        {"confidence": 0.99},
        "claim too much: 99.0% on average, and 95.0% of the predictions are right",
    ),
    (
        "poor_calibration",
        {"confidence": 0.90, "num_val": 0},
        "claim too little: 90.0% on average, and 95.0% of the predictions are right. Hold out validation",
    ),
    (
        "poor_calibration",
        {"confidence": 0.90, "num_val": 0, "data": {"train_on_val": True}},
        "are right. No image was left to choose a temperature by; the same recipe without data.train_on_val has one.",
    ),
    ("stopped_early", {"result": {"steps": 700}}, "Stopped early at step 700 of 1,000"),
    ("early_best", {"curve": PLATEAU}, "validation top-1 (95.0%) came at step 300 of 1,000"),
    ("small_validation", {"num_val": 0}, "Nothing was held out for validation"),
    ("small_validation", {"num_val": 100}, "Validation has 100 images: its top-1 is known to ±4.6 points only"),
    ("small_validation", {"num_val": 100, "result": SEVERAL}, "Validation has 100 images: its scores are rough"),
]

SILENT = [
    *((rule.__name__, {}) for rule in (advice.chance_level, *advice.RULES)),
    *((rule.__name__, {"result": SEVERAL}) for rule in (advice.chance_level, *advice.RULES)),
    ("chance_level", {"result": {"top1": 0.36}}),
    ("chance_level", {"result": {**SEVERAL, "map": 0.40}}),
    ("label_errors", {"test": {"label_errors": {"found": 7, "listed": []}}, "result": {"top1": 0.84}}),
    ("label_errors", {"test": {"label_errors": {"found": 7, "listed": []}}, "result": {**SEVERAL, "micro_f1": 0.84}}),
    ("overfitting", {"curve": PLATEAU}),
    ("overfitting", {"curve": EARLY_PEAK, "losses": RISING_TRAIN_LOSS}),
    ("overfitting", {"curve": EARLY_PEAK, "num_val": 30}),  # three points are less than one image in thirty
    ("overfitting", {"curve": [0.8, 0.95, 0.9], "nll": [0.3, 0.3, 0.3]}),
    ("overfitting", {"num_val": 0}),
    ("still_improving", {"nll": FALLING_LOSS, "result": {"top1": 0.98}}),
    ("still_improving", {"nll": FALLING_LOSS, "result": {"steps": 900}}),
    ("still_improving", {"nll": [1.0, 0.5, 0.4, 0.38], "curve": [0.9] * 4}),
    ("few_images", {"test": {"train_counts": [40, 3000, 3000]}}),
    ("few_images", {"test": {"train_counts": [40, 3000, 3000], "per_class": classes((None, 0), (1.0, 9), (1.0, 9))}}),
    ("imbalance", {"test": {"train_counts": [3000, 300, 3000]}}),
    (
        "imbalance",
        {
            "test": {"train_counts": [3000, 300, 3000], "per_class": classes((0.95, 9), (0.7, 9), (0.9, 9))},
            "balance": "loss",
        },
    ),
    ("confusions", {"test": {"confused_pairs": [pair(20, 29, 500)]}}),
    ("confusions", {"test": {"confused_pairs": [pair(2, 2, 8)]}}),
    ("poor_calibration", {"confidence": 0.97}),
    ("poor_calibration", {"confidence": 0.99, "result": {"n": 60}, "test": {"calibration": {"confidence": [59.4]}}}),
    ("early_best", {"curve": EARLY_PEAK}),  # that is overfitting
    ("early_best", {"curve": PLATEAU, "result": {"steps": 900}}),
    ("small_validation", {"num_val": 1000}),
    ("small_validation", {"num_val": 200, "result": SEVERAL}),
]


@pytest.mark.parametrize(("rule", "run", "says"), FIRES)
def test_rule_fires_with_its_evidence(rule, run, says):
    found = getattr(advice, rule)(finished(**run))
    assert found is not None and says in found.text
    assert found in advise(finished(**run)) or len(advise(finished(**run))) == MAX_ADVICE


@pytest.mark.parametrize(("rule", "run"), SILENT)
def test_rule_keeps_silent(rule, run):
    assert getattr(advice, rule)(finished(**run)) is None


def test_nothing_is_said_of_a_run_without_fault():
    assert advise(finished()) == []


def test_every_rule_is_tested_both_ways():
    rules = {rule.__name__ for rule in (*advice.RULES, *advice.AT_CHANCE_RULES)}
    assert {rule for rule, *_ in FIRES} == rules == {rule for rule, _ in SILENT}


def test_at_most_five_are_given_in_the_order_of_their_use():
    run = finished(
        result={"bad_images": [{"name": "a", "error": "b"}]},
        test={
            "train_counts": [3000, 5, 3000],
            "per_class": classes((0.95, 9), (0.2, 9), (0.9, 9)),
            "confused_pairs": [pair(20, 30, 400)],
            "label_errors": {"found": 7, "listed": []},
        },
        curve=EARLY_PEAK,
        confidence=0.99,
    )
    texts = [each.text for each in advise(run)]
    assert len(texts) == MAX_ADVICE == 5
    starts = ("1 image could not be read", "Overfitting", "7 test labels", "Too few training images", "Unequal classes")
    assert all(text.startswith(start) for text, start in zip(texts, starts, strict=True))


@pytest.mark.parametrize(("augment", "expected"), [({}, True), ({"mixup": 0.5}, False), ({"cutmix_prob": 0.5}, False)])
def test_mixup_is_advised_only_where_images_are_not_mixed_yet(augment, expected):
    found = advice.overfitting(finished(curve=EARLY_PEAK, augment=augment))
    assert found is not None and ("--augment.mixup" in found.text) == expected


def test_of_a_model_that_guesses_nothing_finer_is_said():
    run = finished(result={"top1": 0.33}, confidence=0.9, test={"confused_pairs": [pair(200, 300, 1000)]})
    (only,) = advise(run)
    assert "it has learned next to nothing" in only.text
