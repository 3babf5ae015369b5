"""What to do next, in plain words: rules that read the evidence off a finished run.

A rule is a function from a run to one piece of advice, or None where its evidence is missing. The thresholds are
judgement, chosen so that a rule keeps silent where noise alone could explain what it sees; each says how.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from mixonomy.durations import parse
from mixonomy.report.finished import FinishedRun
from mixonomy.report.intervals import Z95, wilson_interval

MAX_ADVICE = 5
CHANCE_MAP = 0.05  # mean average precision above that of guessing, below which nothing was learned
CREDIBLE = 0.85  # top-1, or micro F1, from which a model's suspicion of a label is worth a look; see docs/report.md
EARLY = 0.6  # share of the steps before which the best validation score comes early
LOSS_RISE = 1.1  # of the validation loss from its lowest point to the end: overfitting
LOSS_FALL = 0.9  # of the validation loss from the middle of the run to its end: improving
GOOD_ENOUGH = 0.97  # headline score from which longer training is not worth a word
MIN_EVALUATIONS = 5  # fewer make no curve
MAP_NOISE = 0.01  # of mean average precision, for which there is no simple formula
FEW_IMAGES = 50  # training images of a class that are few, if the class does worse than the others too
VERY_FEW_IMAGES = 10  # ... that are few in any case
WORSE_F1 = 0.1  # below the mean over classes: a class that does worse
IMBALANCE = 10.0  # largest over smallest class: long-tailed
CONFUSED_SHARE = 0.1  # of the images of two classes taken for the other one
CONFUSED_IMAGES = 5
MISCALIBRATED = 0.03  # mean confidence less top-1
SMALL_VAL_POINTS = 0.02  # half-width of the 95 % interval of validation top-1
SMALL_VAL_IMAGES = 200  # for mean average precision


@dataclass(frozen=True)
class Advice:
    """One sentence or two with the evidence, and the section of the report (its anchor) that shows it."""

    text: str
    anchor: str


def advise(run: FinishedRun) -> list[Advice]:
    """The most useful pieces of advice first, at most `MAX_ADVICE`; none where nothing stands out."""
    rules = AT_CHANCE_RULES if chance_level(run) else RULES
    return [advice for rule in rules if (advice := rule(run)) is not None][:MAX_ADVICE]


def chance_level(run: FinishedRun) -> Advice | None:
    """The scores could be those of guessing."""
    counts = [row["n"] for row in run.test["per_class"]]
    n = run.result["n"]
    if run.is_multilabel:
        guess = fmean(count / n for count in counts if count) if any(counts) else 0.0
        if run.score >= guess + CHANCE_MAP:
            return None
        got = f"The mean average precision is {_percent(run.score)}, and guessing would give {_percent(guess)}"
    else:
        most = max(range(len(counts)), key=counts.__getitem__)
        if wilson_interval(round(run.score * n), n)[0] > counts[most] / n:
            return None
        got = (
            f"The model is right in {_percent(run.score)} of the images, and always answering "
            f"“{run.names[most]}” would be right in {_percent(counts[most] / n)}"
        )
    return Advice(
        f"{got}: it has learned next to nothing. Check the labels, then train longer or try another --lr.", "curves"
    )


def images_left_out(run: FinishedRun) -> Advice | None:
    """Images could not be read."""
    bad = run.result["bad_images"]
    if not bad:
        return None
    were = "1 image could not be read and was" if len(bad) == 1 else f"{len(bad):,} images could not be read and were"
    return Advice(
        f"{were} left out, such as “{bad[0]['name']}”: {bad[0]['error']}. Mend or remove them.", "environment"
    )


def label_errors(run: FinishedRun) -> Advice | None:
    """Held-out images whose label is probably wrong, of a model good enough to be asked."""
    names = {"test": "test", "val": "validation"}
    found = {names[split]: errors["found"] for split, errors in run.label_errors().items() if errors["found"]}
    if not found or not run.judges_labels(CREDIBLE):
        return None
    counts = " and ".join(f"{count:,} {name}" for name, count in found.items())
    what = "label" if sum(found.values()) == 1 else "labels"
    return Advice(
        f"{counts} {what} may be wrong: the model is as sure of another answer as it usually is where that is the "
        f"label. Look at them, and correct those that are; wrong labels limit every score.",
        "labels",
    )


def overfitting(run: FinishedRun) -> Advice | None:
    """The training loss went on falling after validation data had seen its best."""
    steps = run.result["steps"]
    for measure, sign in ((run.headline, 1.0), ("nll", -1.0)):
        curve = run.validation(measure)
        if len(curve) < MIN_EVALUATIONS:
            return None
        best_step, best = max(curve, key=lambda point: (sign * point[1], point[0]))
        end = fmean(value for _, value in curve[-max(len(curve) // 4, 1) :])
        is_worse = end < best - _noise(run) if measure == run.headline else end > LOSS_RISE * best
        if best_step > EARLY * steps or not is_worse or not _train_loss_falls(run, best_step):
            continue
        is_mixed = run.recipe.augment.mixup or run.recipe.augment.cutmix_prob
        mixing = "" if is_mixed else " (--augment.mixup 0.2)"
        shown = (_percent(best), _percent(end)) if measure == run.headline else (f"{best:.3f}", f"{end:.3f}")
        return Advice(
            f"Overfitting: validation {_name(measure)} was best at step {best_step:,} of {steps:,} ({shown[0]}) and "
            f"ends at {shown[1]}, while the training loss went on falling. More images help most; then stronger "
            f"augmentation{mixing}, more --optim.weight-decay, or a smaller model.",
            "curves",
        )
    return None


def still_improving(run: FinishedRun) -> Advice | None:
    """The validation loss fell until the end.

    From the middle to the end, not over the last steps: a learning rate that goes to zero flattens any curve there.
    """
    curve = [value for _, value in run.validation("nll")]
    if len(curve) < MIN_EVALUATIONS or run.score >= GOOD_ENOUGH or run.result["steps"] < run.planned_steps:
        return None
    fifth = len(curve) // 5
    before, end = fmean(curve[2 * fifth : 3 * fifth]), fmean(curve[-fifth:])
    if end > LOSS_FALL * before:
        return None
    amount, unit = parse(run.recipe.duration)
    longer = f"--epochs {2 * amount:g}" if unit == "epoch" else f'--duration "{2 * amount:g} {unit}s"'
    return Advice(
        f"Not finished learning: the validation loss fell from {before:.3f} in the middle of the run to {end:.3f} at "
        f"its end. Train longer, such as {longer}.",
        "curves",
    )


def few_images(run: FinishedRun) -> Advice | None:
    """Classes with so few training images that more of them would help."""
    mean, counts = run.result["macro_f1"], run.test["train_counts"]
    few = [
        (count, name)
        for count, name, row in zip(counts, run.names, run.test["per_class"], strict=True)
        if count < VERY_FEW_IMAGES or (count < FEW_IMAGES and row["f1"] is not None and row["f1"] < mean - WORSE_F1)
    ]
    if not few:
        return None
    few.sort()
    named = ", ".join(f"“{name}” ({count:,})" for count, name in few[:3])
    more = f" and {len(few) - 3:,} more class{'es' * (len(few) > 4)}" if len(few) > 3 else ""
    if len(few) < len(counts) and max(counts) < FEW_IMAGES:  # not few beside the others, only worse
        said = f"All classes have few training images, up to {max(counts):,}, and {named}{more} do worst."
    else:
        said = f"Too few training images of {named}{more}."
    return Advice(f"{said} Add images of them first.", "classes")


def imbalance(run: FinishedRun) -> Advice | None:
    """Rare classes do worse than the others, and nothing was done about it."""
    counts = run.test["train_counts"]
    if run.recipe.balance != "none" or max(counts) < IMBALANCE * max(min(counts), 1):
        return None
    f1s = [
        (count, row["f1"]) for count, row in zip(counts, run.test["per_class"], strict=True) if row["f1"] is not None
    ]
    rare = [f1 for count, f1 in f1s if count * IMBALANCE <= max(counts)]
    others = [f1 for count, f1 in f1s if count * IMBALANCE > max(counts)]
    if not rare or not others or median(rare) > median(others) - WORSE_F1:
        return None
    most, least = counts.index(max(counts)), counts.index(min(counts))
    option = "--balance loss" if run.is_multilabel else "--balance sampling or --balance loss"
    return Advice(
        f"Unequal classes: “{run.names[most]}” has {max(counts):,} training images and “{run.names[least]}” "
        f"{min(counts):,}; the rare ones have a median F1 of {median(rare):.2f}, the others {median(others):.2f}. "
        f"Try {option}.",
        "classes",
    )


def confusions(run: FinishedRun) -> Advice | None:
    """Two classes are often taken for each other."""
    pairs = [
        (sum(pair["counts"]) / pair["n"], pair)
        for pair in run.test.get("confused_pairs", ())
        if sum(pair["counts"]) >= CONFUSED_IMAGES and sum(pair["counts"]) >= CONFUSED_SHARE * pair["n"]
    ]
    if not pairs:
        return None
    share, pair = max(pairs, key=lambda item: item[0])
    first, second = (run.names[k] for k in pair["classes"])
    return Advice(
        f"“{first}” and “{second}” are taken for each other in {sum(pair['counts']):,} of their {pair['n']:,} images "
        f"({_percent(share)}). If people can tell them apart, add images of both or use larger ones (--image-size); "
        f"if not, make them one class.",
        "confusion",
    )


def poor_calibration(run: FinishedRun) -> Advice | None:
    """Mean confidence and accuracy differ by more than chance."""
    if run.is_multilabel:
        return None
    n = run.result["n"]
    confidence = sum(run.test["calibration"]["confidence"]) / n
    gap = confidence - run.score
    if abs(gap) < max(MISCALIBRATED, Z95 * _standard_error(run.score, n)):
        return None
    much = "too much" if gap > 0 else "too little"
    if run.num_val:
        remedy = (
            "The temperature was chosen on validation images, so test images differ from them: see what is different."
        )
    elif run.recipe.data.train_on_val:
        remedy = "No image was left to choose a temperature by; the same recipe without data.train_on_val has one."
    else:
        remedy = "Hold out validation images (--data.val-share 0.1): then a temperature is chosen that corrects this."
    return Advice(
        f"Probabilities claim {much}: {_percent(confidence)} on average, and {_percent(run.score)} of the predictions "
        f"are right. {remedy}",
        "calibration",
    )


def stopped_early(run: FinishedRun) -> Advice | None:
    """Training ended before the learning rate had come down."""
    steps, planned = run.result["steps"], run.planned_steps
    if steps >= planned:
        return None
    return Advice(
        f"Stopped early at step {steps:,} of {planned:,}, before the learning rate had come down. A run planned to "
        f'end there (--duration "{steps} steps") lets it come down.',
        "curves",
    )


def early_best(run: FinishedRun) -> Advice | None:
    """The best weights are from the first part of the run, and what followed changed nothing beyond noise."""
    curve, steps = run.validation(run.headline), run.result["steps"]
    if len(curve) < MIN_EVALUATIONS or overfitting(run) or steps < run.planned_steps:
        return None
    best_step, best = max(curve, key=lambda point: (point[1], point[0]))
    if best_step > EARLY * steps:
        return None
    return Advice(
        f"The best validation {_name(run.headline)} ({_percent(best)}) came at step {best_step:,} of {steps:,}, and "
        f'nothing better followed: a run of --duration "{best_step} steps" may do as well in less time.',
        "curves",
    )


def small_validation(run: FinishedRun) -> Advice | None:
    """Too few validation images to tell checkpoints or recipes apart."""
    n = run.num_val
    if run.recipe.data.train_on_val:
        return None
    if not n:
        return Advice(
            "Nothing was held out for validation, so no checkpoint, temperature or threshold could be chosen. "
            "Use --data.val-share 0.1.",
            "curves",
        )
    if run.is_multilabel:
        if n >= SMALL_VAL_IMAGES:
            return None
        why = "its scores are rough"
    else:
        margin = Z95 * _standard_error(run.result["val_top1"], n)
        if margin < SMALL_VAL_POINTS:
            return None
        why = (
            f"its top-1 is known to ±{100 * margin:.1f} points only, and smaller differences between runs mean nothing"
        )
    return Advice(f"Validation has {n:,} images: {why}. A larger --data.val-share or more images help.", "curves")


RULES: Sequence[Callable[[FinishedRun], Advice | None]] = (
    images_left_out,
    overfitting,
    still_improving,
    label_errors,
    few_images,
    imbalance,
    confusions,
    poor_calibration,
    stopped_early,
    early_best,
    small_validation,
)
"""Most useful first: what was lost, how long and how hard to train, labels, single classes, finer points."""

AT_CHANCE_RULES = (chance_level, images_left_out, few_images)
"""Of a model that has learned nothing, most rules would read noise."""


def _train_loss_falls(run: FinishedRun, since: int) -> bool:
    """Whether the mean training loss of the last tenth of the rows is below that of as many rows up to a step."""
    losses = run.train_losses
    count = max(len(losses) // 10, 1)
    before = [loss for step, loss in losses if step <= since][-count:]
    return bool(before) and fmean(loss for _, loss in losses[-count:]) < fmean(before)


def _noise(run: FinishedRun) -> float:
    """How far the validation headline may move by chance: one standard error of top-1."""
    return MAP_NOISE if run.is_multilabel else _standard_error(run.result["val_top1"], run.num_val)


def _standard_error(share: float, n: int) -> float:
    """Of a share of n images, with Laplace's rule so that a share of 0 or 1 is not certain."""
    smoothed = (share * n + 1) / (n + 2)
    return math.sqrt(smoothed * (1 - smoothed) / n)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _name(measure: str) -> str:
    return {"top1": "top-1", "map": "mean average precision", "nll": "loss"}[measure]
