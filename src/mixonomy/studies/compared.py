"""What rows of a comparison say: tables, Pareto fronts, and a recommendation with its uncertainty."""

import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mixonomy.report.charts import NEUTRAL, Chart, Line, chart_svg
from mixonomy.report.study_page import Figure, Found, Table
from mixonomy.rows import Row
from mixonomy.studies.paired import Difference, paired, points
from mixonomy.studies.sources import slug
from mixonomy.studies.study import Values, failures, percent, values_of

SECONDS, EPOCHS = "equal seconds", "equal epochs"
SETTINGS = (SECONDS, EPOCHS)
MIXER = re.compile(r"(timm:)?mixer[-_]")
TARGET = "target_seconds"  # metric: of each training at equal seconds
OFF = 0.1  # share by which the seconds of a training may be others before that is said
EDGE = "at the edge of what was tried"  # in the note of a learning rate
NORMAL = 1.96  # standard deviations to either side that hold 95 %
MUCH = 1.5  # times as fast or as small, from which a saving is worth a sentence


@dataclass(frozen=True)
class Entry:
    """One model in one setting.

    Args:
      top1: test accuracy by seed.
      test_images: that it is of; 0 where rows do not say.
      seconds: of one training, mean over seeds.
      target_seconds: that it was planned for at equal seconds; 0 elsewhere.
      sweep_seconds: of all trials of the learning rate.
      epochs, train_flops: of one training.
      predicts_per_s, trains_per_s: images/s by themselves, without data.
      train_bytes: peak memory of a training step.
      cores: threads of the machine; None on a GPU.
    """

    model: str
    top1: Values
    test_images: float
    seconds: float
    target_seconds: float
    sweep_seconds: float
    lr: float
    epochs: float
    train_flops: float
    predicts_per_s: float
    trains_per_s: float
    train_bytes: float
    params: float
    flops: float
    cores: int | None

    @property
    def hours(self) -> float:
        """Core-hours of one training, or hours of the GPU."""
        return self.seconds * (self.cores or 1) / 3600


def found_of(rows: Sequence[Row]) -> Found:
    """The page and the tables."""
    sources = list(dict.fromkeys(_source_of(row) for row in rows))
    said: list[str] = []
    topics: list[str] = []
    figures: list[Figure] = []
    tables: list[Table] = []
    recommended = {}
    for source in sources:
        for setting in SETTINGS:
            found = entries(rows, source, setting)
            if not found:
                continue
            if setting == SECONDS:
                texts = [*recommendation(found), *standing_of_mixers(found), *sampling(found), *off_target(found)]
                texts += at_the_edge(rows, source, found)
                recommended[source] = best(found).model
            else:
                texts = [*at_equal_epochs(found), *standing_of_mixers(found)]
            said += texts
            topics += [f"{source}, {setting}" if len(sources) > 1 else setting] * len(texts)
            figures += _figures(found, source, setting)
            tables.append(_scores(found, source, setting))
        if found := entries(rows, source, EPOCHS) or entries(rows, source, SECONDS):
            tables.append(_costs(found, source))
    for table in failures(rows):
        said.append(f"Not trained to the end: {', '.join(dict.fromkeys(line[0] for line in table.lines))}.")
        topics.append("failures")
        tables.append(table)
    title = f"Which model for {sources[0]}?" if len(sources) == 1 else "Which model?"
    facts = {"recommended": recommended}
    return Found(title, tuple(said), tuple(figures), tuple(tables), facts, tuple(topics))


def _source_of(row: Row) -> str:
    """The data of a row without the setting; the source may have a comma of its own."""
    for setting in SETTINGS:
        if row["data"].endswith(f", {setting}"):
            return row["data"].removesuffix(f", {setting}")
    return row["data"]


def entries(rows: Sequence[Row], source: str, setting: str) -> list[Entry]:
    """The models that were trained to the end, the most accurate first; those that were not with all seeds are last."""
    place, found = f"{source}, {setting}", []
    for model in dict.fromkeys(row["model"] for row in rows):
        top1 = values_of(rows, "top1", model=model, data=place)
        if not top1.n:
            continue

        def one(metric: str, data: str, model: str = model) -> float:
            values = values_of(rows, metric, model=model, data=data)
            return values.mean if values.n else 0.0

        device = next(row["device"] for row in rows if row["model"] == model and row["data"] == place)
        found.append(
            Entry(
                model,
                top1,
                one("test_images", place),
                one("seconds", place),
                one(TARGET, place),
                one("sweep_seconds", source),
                one("lr", source),
                one("epochs", place),
                one("train_flops", place),
                one("predicts_per_s", source),
                one("trains_per_s", source),
                one("train_bytes", source),
                one("params", place),
                one("flops", source),
                cores_of(device),
            )
        )
    return sorted(found, key=lambda entry: (not is_complete(entry, found), -entry.top1.mean))


def is_complete(entry: Entry, found: Sequence[Entry]) -> bool:
    """Whether it was trained to the end with as many seeds as any other, and failed with none."""
    return not entry.top1.failed and entry.top1.n == max(each.top1.n for each in found)


def best(found: Sequence[Entry]) -> Entry:
    """The highest mean accuracy of those with every seed; of all, if there is none."""
    return found[0]


def test_margin(first: Entry, second: Entry) -> float:
    """By how much other test images might move the difference of two accuracies, 95 %; 0 where rows do not count them.

    The normal interval of two paired shares, as if the models erred independently of one another. Models err alike on
    hard images, so this is rather too wide.
    """
    number = min(first.test_images, second.test_images)
    if not number:
        return 0.0
    a, b = first.top1.mean, second.top1.mean
    return NORMAL * math.sqrt(max(a * (1 - b) + b * (1 - a) - (a - b) ** 2, 0.0) / number)


def is_behind(entry: Entry, other: Entry) -> bool:
    """Clearly: by seeds, as the 95 % interval of the paired difference is below 0, and by the number of test images."""
    difference = paired(other.top1, entry.top1)
    interval = difference.interval()
    return interval is not None and interval[1] < 0 and -difference.mean > test_margin(entry, other)


def level_with(winner: Entry, found: Sequence[Entry]) -> list[Entry]:
    """The others that share seeds with it and are not clearly worse."""
    others = [entry for entry in found if entry is not winner and _less(winner, entry).n > 1]
    return [entry for entry in others if not is_behind(entry, winner)]


def front(found: Sequence[Entry], cost: Callable[[Entry], float]) -> list[Entry]:
    """The Pareto front, the cheapest first: no entry is beaten in accuracy by one that costs no more."""
    chosen = []
    for entry in sorted(found, key=lambda each: (cost(each), -each.top1.mean)):
        if not chosen or entry.top1.mean > chosen[-1].top1.mean:
            chosen.append(entry)
    return chosen


def recommendation(found: Sequence[Entry]) -> Iterator[str]:
    """What to take, how sure that is, and what costs less."""
    winner = best(found)
    minutes = _minutes(statistics.median(entry.seconds for entry in found))
    yield (
        f"Take {winner.model}: after {minutes} of training for each model it has the highest test accuracy, "
        f"{percent(winner.top1)} % ({_seeds(winner)})."
        if len(found) > 1
        else f"{winner.model} has {percent(winner.top1)} % after {minutes} of training ({_seeds(winner)})."
    )
    yield from sureness(found)
    for name, cost, unit in (
        ("answers", lambda entry: 1 / max(entry.predicts_per_s, 1e-9), "as fast"),
        ("needs", lambda entry: entry.params, "as many parameters"),
    ):
        cheaper = [entry for entry in front(_complete(found), cost) if cost(winner) >= MUCH * cost(entry)]
        if cheaper:
            other = cheaper[-1]
            ratio = cost(winner) / max(cost(other), 1e-12)
            how = f"{ratio:.1f} times {unit}" if unit == "as fast" else f"1/{ratio:.1f} {unit}"
            yield f"{other.model} {name} {how}; its accuracy differs by {_how_much(winner, other)}."


def sureness(found: Sequence[Entry]) -> Iterator[str]:
    """How sure it is that the first is the best, pair by pair of the seeds that two models share."""
    winner, others = best(found), found[1:]
    if not others:
        return
    if all(len(entry.top1.by_seed) + len(entry.top1.failed) < 2 for entry in found):
        yield (
            f"With one seed there is no spread, so the order may be chance; the next is {others[0].model} with "
            f"{percent(others[0].top1)} %. Repeat with --seeds 0 1 2."
        )
        return
    level = level_with(winner, found)
    compared = [entry for entry in others if _less(winner, entry).n > 1]
    above = [entry for entry in level if is_behind(winner, entry)]
    open_ones = [entry for entry in level if entry not in above]
    for said, which in (("Better with the seeds that both were trained with", above), ("Not clearly worse", open_ones)):
        if which:
            yield f"{said}: {', '.join(f'{entry.model} ({_how_much(winner, entry)})' for entry in which)}."
    if compared and not level:
        which = "All others" if len(compared) == len(others) else f"{_count(len(compared), 'other')} of {len(others)}"
        yield (
            f"{which} {'is' if len(compared) == 1 < len(others) else 'are'} clearly worse: the next is "
            f"{compared[0].model}, at {_how_much(winner, compared[0])}."
        )
    if undecided := [entry for entry in others if entry not in compared]:
        words = ", ".join(f"{entry.model} ({_how_much(winner, entry)})" for entry in undecided)
        yield f"Not decided, since two seeds or more that both were trained with are needed: {words}."
    if partly := [entry for entry in found if not is_complete(entry, found)]:
        words = ", ".join(f"{entry.model} ({percent(entry.top1)} %, {_seeds(entry)})" for entry in partly)
        yield f"Not trained to the end with every seed, and so placed behind any that was: {words}."


def _complete(found: Sequence[Entry]) -> list[Entry]:
    """Those that were trained to the end with every seed; all, if there is none."""
    return [entry for entry in found if is_complete(entry, found)] or [*found]


def sampling(found: Sequence[Entry]) -> Iterator[str]:
    """What the number of test images leaves open."""
    if len(found) > 1 and (margin := max(test_margin(found[0], entry) for entry in found[1:])):
        number = min(entry.test_images for entry in found)
        yield (
            f"Intervals are over seeds, pair by pair, on the same {number:,.0f} test images; as many others would move "
            f"a difference by up to {100 * margin:.1f} points, so less is never called clear."
        )


def off_target(found: Sequence[Entry]) -> Iterator[str]:
    """The models whose trainings took another time than was planned for all, or than the others."""
    planned = [e for e in found if e.target_seconds]
    off = [e for e in found if e.target_seconds and abs(e.seconds / e.target_seconds - 1) > OFF]
    if off:
        words = ", ".join(
            f"{e.model} {e.seconds:,.1f} s ({100 * (e.seconds / e.target_seconds - 1):+.0f} %)" for e in off
        )
        yield (
            f"The seconds are not equal: {off[0].target_seconds:,.1f} s were planned for each training, from speeds "
            f"that were measured before, and it took {words}."
        )
    elif planned:
        shortest, longest = (pick(planned, key=lambda e: e.seconds) for pick in (min, max))
        if longest.seconds > (1 + OFF) * shortest.seconds:
            yield (
                f"The seconds are not quite equal: {planned[0].target_seconds:,.1f} s were planned, and it took "
                f"{shortest.model} {shortest.seconds:,.1f} s and {longest.model} {longest.seconds:,.1f} s."
            )


def standing_of_mixers(found: Sequence[Entry]) -> Iterator[str]:
    """What each Mixer beats and by what it is beaten; nothing where it stands alone."""
    for entry in found:
        if not MIXER.match(entry.model) or len(found) < 2:
            continue
        by_standing: dict[str, list[str]] = {}
        for other in found:
            if other is not entry:
                difference = paired(other.top1, entry.top1)
                by_standing.setdefault(_standing(entry, other), []).append(f"{other.model} ({points(difference)})")
        said = "; ".join(f"{standing} {', '.join(names)}" for standing, names in sorted(by_standing.items()))
        yield f"{entry.model} is {_ordinal(1 + found.index(entry))} of {len(found)}, in points: {said}."


def _ordinal(place: int) -> str:
    """ "1st", "2nd", "3rd", "4th", "11th" and so on."""
    last = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{last}"


def _standing(entry: Entry, other: Entry) -> str:
    difference = paired(other.top1, entry.top1)
    if difference.interval() is None:
        return "of one seed, against" if difference.n else "with no seed in common with"
    if is_behind(other, entry):
        return "ahead of"
    return "behind" if is_behind(entry, other) else "not clearly ahead of or behind"


def at_the_edge(rows: Sequence[Row], source: str, found: Sequence[Entry]) -> Iterator[str]:
    """The models whose best learning rate was the largest or smallest that was tried."""
    at_edge = {
        row["model"] for row in rows if row["metric"] == "lr" and row["data"] == source and EDGE in row.get("note", "")
    }
    words = ", ".join(f"{entry.model} ({entry.lr:g})" for entry in found if entry.model in at_edge)
    if words:
        yield f"The best learning rate is at the edge of those tried, so others may serve better, for {words}."


def at_equal_epochs(found: Sequence[Entry]) -> Iterator[str]:
    """Who learns most from as many looks at the images, and what that takes."""
    if len(found) < 2:
        return
    winner, fastest = best(found), min(found, key=lambda entry: entry.seconds)
    yield (
        f"After {winner.epochs:.3g} epochs each, {winner.model} has the highest test accuracy, "
        f"{percent(winner.top1)} % ({_seeds(winner)}), in {_minutes(winner.seconds)}"
        + (
            "; it is the fastest, too."
            if fastest is winner
            else f"; {fastest.model}, the fastest, takes {_minutes(fastest.seconds)}, its accuracy differs by "
            f"{_how_much(winner, fastest)}."
        )
    )
    yield from sureness(found)


def _scores(found: Sequence[Entry], source: str, setting: str) -> Table:
    winner, hours = best(found), "core-hours" if found[0].cores else "GPU-hours"
    lines = tuple(
        (
            entry.model,
            percent(entry.top1),
            f"{entry.top1.n}",
            "–" if entry is winner else points(_less(winner, entry)),
            f"{entry.seconds:,.0f}",
            f"{entry.hours:.3f}",
            f"{entry.epochs:.3g}",
            f"{entry.train_flops / 1e12:,.3g}",
            f"{entry.lr:g}",
            f"{entry.sweep_seconds:,.0f}",
        )
        for entry in found
    )
    head = (
        "model",
        "test top-1, %",
        "seeds",
        "less than the first, points [95 %]",
        "seconds",
        hours,
        "epochs",
        "training, TFLOP",
        "learning rate",
        "choosing it, s",
    )
    note = (
        f"At {setting}. Seconds and {hours} are of one training without its evaluation; FLOPs are three times those of "
        "the forward pass. The learning rate was chosen on validation images, by trainings of about a quarter of the "
        "longer length. Intervals are over seeds, each for itself: of many models some differ clearly by chance."
    )
    return Table(f"{source}: {setting}", head, lines, 1, note)


def _costs(found: Sequence[Entry], source: str) -> Table:
    lines = tuple(
        (
            entry.model,
            f"{entry.params / 1e6:.2f}",
            f"{entry.flops / 1e9:.3f}",
            f"{entry.trains_per_s:,.0f}",
            f"{entry.predicts_per_s:,.0f}",
            f"{entry.train_bytes / 1e6:,.0f}",
        )
        for entry in sorted(found, key=lambda entry: entry.params)
    )
    head = ("model", "parameters, M", "GFLOP per image", "training, images/s", "prediction, images/s", "training, MB")
    note = "Speed and peak memory of the model alone at the batch size of the training, each in a process of its own."
    return Table(f"{source}: what each model takes", head, lines, 1, note)


def _figures(found: Sequence[Entry], source: str, setting: str) -> Iterator[Figure]:
    """Accuracy against throughput at equal seconds, against seconds at equal epochs; the front is drawn as text is."""
    if setting == SECONDS:
        x_of, x_label, sign = (lambda entry: entry.predicts_per_s), "prediction, images/s", -1.0
    else:
        x_of, x_label, sign = (lambda entry: entry.seconds), "training, s", 1.0
    on_front = front(_complete(found), lambda entry: sign * x_of(entry))
    lines = [
        Line(entry.model, ((x_of(entry), entry.top1.mean, entry.top1.std),), place, is_joined=False)
        for place, entry in enumerate(sorted(found, key=lambda entry: entry.model))
    ]
    edge = sorted((x_of(entry), entry.top1.mean, None) for entry in on_front)
    if len(edge) > 1:
        lines.append(Line("Pareto front", tuple(edge), NEUTRAL, has_markers=False))
    title = f"{source}, {setting}: accuracy against {'throughput' if setting == SECONDS else 'training time'}"
    better = "right and up" if setting == SECONDS else "left and up"
    svg = chart_svg(Chart(title, x_label, f"test top-1 at {setting}", tuple(lines), is_share=True, is_log=True))
    pareto = "the line joins the models that no other beats in both"
    if len(on_front) == 1 < len(found):
        pareto = f"{on_front[0].model} is the best in both, so no line is drawn"
    caption = f"{title}. Better is {better}; bars are the standard deviation over seeds, {pareto}."
    yield Figure(f"compare-{slug(source)}-{slug(setting)}", svg, caption)


def _less(winner: Entry, entry: Entry) -> Difference:
    return paired(winner.top1, entry.top1)


def _how_much(winner: Entry, entry: Entry) -> str:
    """What the entry has less than the winner: "-0.42 [-1.10, +0.26] points, 3 seeds"."""
    difference = _less(winner, entry)
    return f"{points(difference)} points, {_count(difference.n, 'seed')}" if difference.n else "no seed in common"


def _seeds(entry: Entry) -> str:
    n, failed = entry.top1.n, len(entry.top1.failed)
    return f"{n} of {n + failed} seeds" if failed else _count(n, "seed")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def cores_of(device: str) -> int | None:
    """Threads from "..., 1 of 2 cores, torch ..."; None of a GPU."""
    part = next((part for part in device.split(", ") if part.endswith(" cores")), "")
    return int(part.split(" ")[0]) if part else None
