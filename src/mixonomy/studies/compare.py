"""Which architecture is worth its cost on given data: accuracy at equal seconds and at equal epochs, and what it takes.

Every model gets the same recipe but for its learning rate, which is chosen on validation images from the same values,
and by the same rule from some beyond, by trainings of about a quarter of its longer length below. Their cost is
counted, and their speed decides how many steps fill the seconds. Then it is trained twice with each seed, on all but
the test images: for as long as all others, and for as many epochs. A schedule belongs to a length, so these are
different trainings, but where a model has the same length in both.
Source: MLP-Mixer paper, figure 3 and tables 2 and 3 (accuracy, cost and throughput beside one another).
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixonomy.bench.cost import Cost, in_a_process
from mixonomy.bench.step import Case
from mixonomy.data import open_source
from mixonomy.experiment import Runtime
from mixonomy.loading import load
from mixonomy.models import info_of
from mixonomy.progress import Console
from mixonomy.recipe import Optim, Recipe, changed
from mixonomy.recipes import choose_recipe
from mixonomy.rows import Origin, Row, machine, make_row, origin_of
from mixonomy.runs import RunFolder, environment, write_json
from mixonomy.studies.compared import EDGE, EPOCHS, SECONDS, SETTINGS, TARGET, found_of
from mixonomy.studies.contenders import Contender
from mixonomy.studies.pace import step_seconds
from mixonomy.studies.study import Planned, Study, Work, check_results, collected, resolved, rows_of, why_failed
from mixonomy.sweeping import Trial, best_of, edges, remembering_failure
from mixonomy.training import Diverged, train

NAME = "compare"
LRS = (3e-4, 1e-3, 3e-3, 1e-2)  # AdamW, fresh weights; short trainings of small models want the larger ones
FINE_TUNING = 0.1  # of them where weights are pre-trained; source: none
TRIAL = 0.25  # of the longer training, by the speeds measured before
SAME = 0.05  # two lengths that differ by less are one
LR = "optim.lr"
STEP = math.sqrt(10)  # between learning rates
BEYOND = 2  # rates at most that are tried beyond those of LRS
BACKWARD = 3  # FLOPs of a training step over those of its forward pass; source: Kaplan et al. 2020, section 2.1
TURN_S = 2.0  # that each timing of steps fills, but
TURN_SHARE = 0.05  # of a training's seconds at most
TURNS = 2  # of timing each model; the faster one counts, as the machine may have been busy in the other
CHOOSING = 1_000  # validation images that choose a learning rate, if there are as many in MOST_CHOOSING of the images
MOST_CHOOSING = 0.2


@dataclass(frozen=True)
class Budget:
    """Of each training.

    Args:
      value: seconds or epochs.
      unit: "seconds" or "epochs".
    """

    value: float
    unit: str

    @classmethod
    def of(cls, text: str) -> "Budget":
        """ "10min", "90s", "1.5h", or a number of epochs such as "20" or "20 epochs".

        Raises:
          ValueError: for anything else.
        """
        number, unit = text.strip(), ""
        while number and not (number[-1].isdigit() or number[-1] == "."):
            number, unit = number[:-1], number[-1] + unit
        factors = {"s": 1.0, "min": 60.0, "h": 3600.0}
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        unit = unit.strip()
        if not 0 < value < math.inf or unit not in (*factors, "", "epochs"):
            raise ValueError(f"the budget is {text!r}; give a time such as 90s, 10min or 2h, or a number of epochs.")
        return cls(value * factors[unit], "seconds") if unit in factors else cls(value, "epochs")

    def __str__(self) -> str:
        return f"{self.value:g} {'s' if self.unit == 'seconds' else 'epochs'}"


@dataclass(frozen=True)
class Comparison:
    """What is compared on what.

    Args:
      base: recipe of all trainings but for model, learning rate and length.
      lrs: that every model tries.
      is_fixed: these and no others; else some beyond are tried where the best is at the edge.
    Raises:
      ValueError: for a seed or a learning rate that is given twice.
    """

    base: Recipe
    contenders: tuple[Contender, ...]
    budget: Budget
    seeds: tuple[int, ...]
    lrs: tuple[float, ...] = LRS
    is_fixed: bool = False

    def __post_init__(self) -> None:
        for name, values in (("seed", self.seeds), ("learning rate", self.lrs)):
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"the {name} {twice[0]:g} is given twice; give each once.")

    def recipe(self, contender: Contender) -> Recipe:
        """Of one contender."""
        if contender.init is not None:
            return changed(self.base, init=contender.init)
        return changed(
            self.base, model=contender.model.model_dump(exclude_defaults=True) | {"name": contender.model.name}
        )

    def rates(self, contender: Contender) -> tuple[float, ...]:
        """The learning rates that a contender tries."""
        return tuple(float(f"{lr * FINE_TUNING:g}") if contender.init else lr for lr in self.lrs)

    @property
    def data(self) -> str:
        """What rows call the data: rows of two budgets are not of one comparison."""
        return f"{self.base.data.source} ({self.budget})"

    @property
    def turn_s(self) -> float:
        """Seconds that each timing of steps fills."""
        return min(TURN_S, TURN_SHARE * self.budget.value) if self.budget.unit == "seconds" else TURN_S

    @property
    def lengths_follow(self) -> dict[str, Any]:
        """What the lengths were measured for; another request needs another folder."""
        about = {"models": [asdict(each) | {"model": each.model.model_dump()} for each in self.contenders]}
        return {
            **about,
            "budget": asdict(self.budget),
            "base": self.base.model_dump(mode="json"),
            "lrs": list(self.lrs),
        }


@dataclass(frozen=True)
class _Chosen:
    """What the trials of the learning rate came to.

    Args:
      lr: that scores best on validation images; None if every one failed.
      seconds: of training, those until a trial diverged included.
      step_s: of a step, the median of the trials that came to their end; None if none did.
      note: how each did.
    """

    lr: float | None
    seconds: float
    step_s: float | None
    note: str


def base_recipe(
    source: str, data_root: str | None, *, image_size: int | None = None, batch_size: int | None = None
) -> Recipe:
    """The data, image size, crops and flips of the recipe for the data, with AdamW for all.

    AdamW with warm-up and a cosine, as every one of these architectures is trained by it somewhere; a comparison on
    each one's own optimizer would compare recipes. Images are not mixed: that pays in longer trainings than most of
    these (results/folder.jsonl).
    """
    found = choose_recipe(None, source, data_root)
    splits = open_source(source, data_root).splits
    share = min(max(CHOOSING / max(len(splits.get("train", ())), 1), found.data.val_share), MOST_CHOOSING)
    changes: dict[str, Any] = {"data": {"source": source, "val_share": float(f"{share:.3g}")}}
    changes["augment"] = {"mixup": 0.0, "cutmix_prob": 0.0}
    changes |= {} if image_size is None else {"image_size": image_size}
    changes |= {} if batch_size is None else {"batch_size": batch_size}
    optim = Optim(name="adamw", lr=LRS[1], weight_decay=0.05, schedule="cosine", clip=1.0)
    return changed(found, name=NAME, optim=optim.model_dump(), keep="last", early_stop=None, **changes)


def compare(
    asked: Comparison,
    out: Path,
    *,
    runtime: Runtime | None = None,
    console: Console | None = None,
    command: str = "",
) -> list[Row]:
    """Measures costs, chooses learning rates, trains, and writes OUT/rows.jsonl and OUT/compare.html.

    The lengths that follow from the speeds of the trials are kept in OUT/plan.json, so that the same command goes on;
    what a training then takes is in its rows, and the page says where that is another time than was planned. A model
    that fails has rows that say why, and the others go on. Rows and page of a comparison that is interrupted are of
    the models that were finished.

    Raises:
      ValueError: if OUT holds another comparison or one of another machine, or the data is not there.
      Interrupted: after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, once everything is saved.
    """
    work = Work(out, resolved(runtime), console or Console(quiet=True), command)
    check_results(NAME, out)
    for contender in asked.contenders:
        for lr, seed in itertools.product(asked.rates(contender), asked.seeds):
            changed(asked.recipe(contender), optim={"lr": lr}, seed=seed)  # a wrong one is said before it is measured

    def all_rows() -> Iterator[list[Row]]:
        plan = _plan(asked, work)
        running = [contender for contender in asked.contenders if contender.name in plan["trial_steps"]]
        chosen = {contender.name: _chosen(asked, contender, plan, work) for contender in running}
        plan = _with_lengths(asked, plan, chosen, work)
        for contender in asked.contenders:
            yield _contender_rows(asked, contender, plan, chosen.get(contender.name), work)

    return collected(STUDY, out, all_rows())


def _contender_rows(
    asked: Comparison, contender: Contender, plan: dict[str, Any], chosen: _Chosen | None, work: Work
) -> list[Row]:
    """All rows of one contender, once it is trained; of one that fails the row that says why."""
    where = origin_of(plan["environment"], work.runtime.device, work.command)
    about: dict[str, Any] = {"study": NAME, "model": contender.name, "data": asked.data}
    cost = plan["costs"][contender.name]
    if chosen is None:
        return [make_row(where, metric="top1", value=None, unit="share", n=0, note=cost["error"], **about)]
    rows = [*_cost_rows(where, cost, plan["batch_size"], contender.note, about)]
    took = make_row(where, metric="sweep_seconds", value=chosen.seconds, unit="s", **about)
    if (lr := chosen.lr) is None:
        return [*rows, took, make_row(where, metric="top1", value=None, unit="share", n=0, note=chosen.note, **about)]
    rows += [make_row(where, metric="lr", value=lr, unit="", note=chosen.note, **about), took]
    at_equal_seconds = {**about, "data": f"{about['data']}, {SECONDS}"}
    rows.append(make_row(where, metric=TARGET, value=plan[TARGET], unit="s", **at_equal_seconds))
    return [*rows, *_final_rows(asked, contender, lr, plan, work)]


STUDY = Study(NAME, (), found_of)
"""How the rows of comparisons are read."""


def _plan(asked: Comparison, work: Work) -> dict[str, Any]:
    """Costs of all contenders and the steps of their trials, measured once; those of trainings if they are known."""
    out, runtime, console = work.out, work.runtime, work.console
    path, here = out / "plan.json", environment()
    costs, seconds = dict[str, dict[str, Any]](), dict[str, float]()
    measured_for = json.loads(json.dumps({**asked.lengths_follow, "machine": machine(here, runtime.device)}))
    if path.is_file():
        plan = json.loads(path.read_text())
        if plan["asked"] != measured_for:
            raise ValueError(
                f"{out} holds another comparison, or speeds of another machine; give another --out, or the same "
                f"models, data, budget and device on {plan['asked'].get('machine', 'that machine')}."
            )
        if "trial_steps" in plan:
            return plan
        costs, seconds = plan["costs"], plan["step_seconds"]
    out.mkdir(parents=True, exist_ok=True)
    opened = work.data_of(changed(asked.base, data={"train_on_val": True}))
    num_images, num_classes = len(opened.plan.train), len(opened.source.class_names)
    height, width = asked.base.height_width
    console.say(f"compare: images of {height} x {width} pixels, {asked.base.batch_size} a step")
    for number, contender in enumerate(asked.contenders, start=1):
        if contender.name in costs:
            continue
        console.say(f"compare, cost of {contender.name}, {number} of {len(asked.contenders)}")
        try:
            case = _case(asked, contender, num_classes, opened.source.channels)
            turns = [in_a_process(case, runtime.device) for _ in range(TURNS)]
            costs[contender.name] = asdict(min(turns, key=lambda cost: statistics.median(cost.step_s)))
            recipe = changed(asked.recipe(contender), data={"train_on_val": True})
            seconds[contender.name] = step_seconds(recipe, runtime, opened, turns=TURNS, turn_s=asked.turn_s)
        except (ValueError, MemoryError, RuntimeError) as error:
            why = str(error) if isinstance(error, ValueError) else why_failed(error)
            console.say(f"{contender.name} has failed: {why}")
            costs[contender.name] = {"error": why}
        ran = {name: cost for name, cost in costs.items() if "error" not in cost}  # the others may run another time
        write_json(path, {"asked": measured_for, "costs": ran, "step_seconds": seconds})
    if not seconds:
        raise ValueError(f"none of the models runs here; the first said: {next(iter(costs.values()))['error']}")
    steps = lengths(asked.budget, seconds, num_images / asked.base.batch_size)
    trial_steps = {name: max(round(TRIAL * max(each.values())), 1) for name, each in steps.items()}
    plan = {
        "asked": measured_for,
        "costs": costs,
        "step_seconds": seconds,
        "trial_steps": trial_steps,
        "batch_size": asked.base.batch_size,
        "num_images": num_images,
        "environment": here,
    }
    write_json(path, plan)
    whole = sum(
        seconds[name] * (sum(set(each.values())) * len(asked.seeds) + trial_steps[name] * len(asked.lrs))
        for name, each in steps.items()
    )
    console.say(f"compare: about {whole / 60:,.0f} minutes of training in all on this machine")
    return plan


def _with_lengths(asked: Comparison, plan: dict[str, Any], chosen: Mapping[str, _Chosen], work: Work) -> dict[str, Any]:
    """The plan with the steps of all trainings, by the speed of their trials, which a short disturbance moves little.

    A model whose every trial failed is not trained, so its speed decides nothing. Where one ran in a later command,
    for failures for want of memory are not kept, its lengths follow from what was planned for the others.
    """
    planned = plan.get("steps", {})
    seconds = {name: each.step_s for name, each in chosen.items() if each.step_s is not None and name not in planned}
    if not seconds:
        return plan
    if planned:
        by_epochs = next(iter(planned.values()))[EPOCHS]
        steps = {name: _lengths_of(plan[TARGET] / each, by_epochs) for name, each in seconds.items()}
    else:
        steps_per_epoch = plan["num_images"] / plan["batch_size"]
        plan = {**plan, TARGET: target_seconds(asked.budget, seconds, steps_per_epoch)}
        steps = lengths(asked.budget, seconds, steps_per_epoch)
    plan = {**plan, "steps": planned | steps}
    write_json(work.out / "plan.json", plan)
    return plan


def lengths(budget: Budget, step_s: Mapping[str, float], steps_per_epoch: float) -> dict[str, dict[str, int]]:
    """Steps of each model at equal seconds and at equal epochs; at least one, and the same where they nearly are.

    A budget of seconds is what each training may take: the epochs are then those that the slowest model makes in it. A
    budget of epochs is what each training has: the seconds are then those of the fastest model.

    Args:
      step_s: seconds of a step: timed, for the lengths of trials; of the trials, for those of trainings.
    """
    target = target_seconds(budget, step_s, steps_per_epoch)
    by_time = {name: target / each for name, each in step_s.items()}
    by_epochs = min(by_time.values()) if budget.unit == "seconds" else budget.value * steps_per_epoch
    return {name: _lengths_of(steps, by_epochs) for name, steps in by_time.items()}


def _lengths_of(by_time: float, by_epochs: float) -> dict[str, int]:
    """Whole steps of one model."""
    is_same = abs(by_time - by_epochs) <= SAME * by_epochs
    return {SECONDS: max(round(by_epochs if is_same else by_time), 1), EPOCHS: max(round(by_epochs), 1)}


def target_seconds(budget: Budget, step_s: Mapping[str, float], steps_per_epoch: float) -> float:
    """Of each training at equal seconds."""
    return budget.value if budget.unit == "seconds" else budget.value * steps_per_epoch * min(step_s.values())


def _case(asked: Comparison, contender: Contender, num_classes: int, channels: int) -> Case:
    size = asked.base.height_width
    if contender.init is None:
        model = {key: value for key, value in contender.model.model_dump().items() if value is not None}
    else:
        arguments = info_of(load(contender.init, num_classes=num_classes, image_size=size)).arguments
        model = {key: value for key, value in arguments.items() if key not in ("num_classes", "image_size")}
    return Case({**model, "in_channels": channels}, size, asked.base.batch_size, num_classes, turn_s=asked.turn_s)


def _chosen(asked: Comparison, contender: Contender, plan: dict[str, Any], work: Work) -> _Chosen:
    """Tries all learning rates on validation images, and others beyond while the best is the largest or the smallest.

    Rates that the user gave are all that is tried.
    """
    steps = plan["trial_steps"][contender.name]
    trials = [_trial(asked, contender, lr, steps, work) for lr in asked.rates(contender)]
    for _ in range(0 if asked.is_fixed else BEYOND):
        if not (lr := beyond(trials)):
            break
        trials.append(_trial(asked, contender, lr, steps, work))
    seconds = sum(trial.seconds for trial in trials)
    try:
        best = best_of(trials)
    except Diverged:
        return _Chosen(None, seconds, None, f"no learning rate trained to its end: {trials[0].error}")
    in_order = sorted(trials, key=lambda trial: trial.values[LR])
    said = ", ".join(
        f"{trial.values[LR]:g}: {'diverged' if trial.score is None else f'{100 * trial.score:.2f} %'}"
        for trial in in_order
    )
    edge = f"; {EDGE}" if edges(best, trials) else ""
    step_s = statistics.median(trial.seconds for trial in trials if trial.score is not None) / steps
    return _Chosen(best.values[LR], seconds, step_s, f"validation top-1 after {steps} steps: {said}{edge}")


def beyond(trials: Sequence[Trial]) -> float | None:
    """The learning rate to try next: beyond the best where that is the largest or the smallest, else None.

    Neighbours in the grid differ by this step, half a power of ten, rounded to a digit.
    """
    scored = [trial for trial in trials if trial.score is not None]
    if len(trials) < 2 or not scored:
        return None
    best, tried = best_of(trials).values[LR], [trial.values[LR] for trial in trials]
    if best == max(tried):
        return float(f"{best * STEP:.1g}")
    return float(f"{best / STEP:.1g}") if best == min(tried) else None


def _trial(asked: Comparison, contender: Contender, lr: float, steps: int, work: Work) -> Trial:
    """One short training, scored on validation images."""
    recipe = changed(
        asked.recipe(contender),
        optim={"lr": lr},
        duration=f"{steps} steps",
        eval_every=f"{steps} steps",
        seed=asked.base.seed,  # whatever the seeds, the rate is the same
    )
    folder = RunFolder(work.out / "sweep" / contender.name.replace("/", "-").replace(":", "-") / f"lr={lr:g}")
    work.console.say(f"compare, {contender.name}: learning rate {lr:g}, {steps} steps")
    options: dict[str, Any] = {"runtime": work.runtime, "console": work.console, "command": work.command}
    try:
        with remembering_failure(folder.path, recipe):
            result = train(recipe, folder.path, is_trial=True, opened=work.data_of(recipe), **options)
    except (Diverged, MemoryError, RuntimeError) as error:
        return Trial({LR: lr}, None, getattr(error, "seconds", 0.0), why_failed(error))
    folder.model.unlink(missing_ok=True)  # only the score counts
    return Trial({LR: lr}, result["val_top1"], result["seconds"])


def _final_rows(
    asked: Comparison,
    contender: Contender,
    lr: float,
    plan: dict[str, Any],
    work: Work,
) -> Iterator[Row]:
    """The rows of all trainings; one that has the same length in both settings is in both."""
    steps = plan["steps"][contender.name]
    for seed in asked.seeds:
        for length in dict.fromkeys(steps.values()):
            recipe = changed(
                asked.recipe(contender),
                optim={"lr": lr},
                duration=f"{length} steps",
                eval_every=f"{length} steps",
                data={"train_on_val": True},
                seed=seed,
            )
            planned = Planned(contender.name, f"{asked.base.data.source}, {length} steps", recipe)
            work.console.say(f"compare, {contender.name}: seed {seed}, {length} steps")
            rows = rows_of(NAME, planned, work)
            epochs = length * plan["batch_size"] / plan["num_images"]
            if any(row["metric"] == "top1" and row["value"] is not None for row in rows):
                about = {key: rows[0][key] for key in ("study", "model", "data", "seed")}
                where = Origin(*(rows[0][key] for key in ("device", "commit", "command", "date")))
                flops = plan["costs"][contender.name]["flops"] / plan["batch_size"]
                total = BACKWARD * flops * length * plan["batch_size"]
                rows.append(make_row(where, metric="train_flops", value=total, unit="FLOP", **about))
                rows.append(make_row(where, metric="epochs", value=epochs, unit="epochs", **about))
            for setting in SETTINGS:
                if steps[setting] == length:
                    yield from ({**row, "data": f"{asked.data}, {setting}"} for row in rows)


def _cost_rows(where: Origin, cost: dict[str, Any], batch: int, note: str, about: dict[str, Any]) -> Iterator[Row]:
    """What a model costs by itself; times are medians, spreads none."""
    measured = Cost(**cost)
    said = f"batch {batch}, {measured.precision}" + (f"; {note}" if note else "")
    for metric, value, unit in (
        ("flops", measured.flops / batch, "FLOP per image"),
        ("predicts_per_s", batch / statistics.median(measured.forward_s), "images/s"),
        ("trains_per_s", batch / statistics.median(measured.step_s), "images/s"),
        ("train_bytes", float(measured.step_bytes), "bytes"),
        ("predict_bytes", float(measured.forward_bytes), "bytes"),
    ):
        yield make_row(where, metric=metric, value=value, unit=unit, note=said, **about)
