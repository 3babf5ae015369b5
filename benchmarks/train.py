"""Training throughput and peak memory of our Mixer beside timm's: same sizes, batch, loss and optimizer.

    python benchmarks/train.py [--device cuda] [--quick] [--results FILE]

Loss and gradients are compared first, with copied weights; nothing is timed if they differ. Then the settings take
turns, each turn in a process of its own, so that one setting's memory does not touch the next. Times are medians over
all timed steps, spreads half their interquartile range. Peak memory is the most that one more step holds, less what the
process held before the model was built: anonymous resident memory on a CPU, what torch allocated on a GPU. The limit
is the rate at which the machine multiplies two large matrices in the setting's precision, measured in the same
processes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import step
from rows import RESULTS, Origin, Row, append, make_row, middle, origin
from step import CASES, SETTINGS

Turn = Callable[[dict[str, Any]], dict[str, Any]]

DEFAULT = "timm, fp32"  # the yardstick: timm as it comes
HOPELESS = 10.0  # times the yardstick's step; after one such step a setting is given up
BUSY = 0.2  # spread of the matrix product over its median that deserves a warning
TURN_LIMIT_S = 1200


@dataclass
class Measured:
    """What the turns of one setting gave, one list of step seconds for each turn."""

    turns: list[list[float]] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    gemm: list[float] = field(default_factory=list)
    precision: str = ""
    note: str | None = None  # why there are no more turns

    @property
    def steps(self) -> list[float]:
        """The seconds of all timed steps."""
        return [seconds for turn in self.turns for seconds in turn]

    def add(self, turn: dict[str, Any]) -> None:
        """Takes in what `step.measure` returned."""
        self.turns.append(turn["steps"])
        self.peaks += [turn["peak"]] if turn["peak"] is not None else []
        self.gemm.append(turn["gemm"])
        self.precision = turn["precision"]
        if turn["is_probe"]:
            self.note = f"more than {HOPELESS:g} times as slow as {DEFAULT}: from one step on part of the batch"


def child(task: dict[str, Any]) -> dict[str, Any]:
    """What benchmarks/step.py prints for a task.

    Raises:
      ValueError: with its last line, if it failed, or took longer than a turn may.
    """
    command = [sys.executable, str(Path(__file__).with_name("step.py")), json.dumps(task)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TURN_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"not done after {TURN_LIMIT_S} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1] if lines else f"ended by signal {-done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(name: str, rounds: int, device: str, run: Turn) -> dict[str, Measured]:
    """All settings of a case, in turns; a setting that fails or is hopelessly slow takes no further turns."""
    measured = {setting: Measured() for setting in SETTINGS}
    for number in range(1, rounds + 1):
        for setting, so_far in measured.items():
            if so_far.note is not None:
                continue
            # Only bfloat16 can be hopeless by nature: float32 that is slow is a machine that is busy.
            yardstick = measured[DEFAULT].steps if SETTINGS[setting].precision == "bf16" else []
            slow_after_s = HOPELESS * median(yardstick) if yardstick else 1e9
            try:
                task = {"case": name, "setting": setting, "device": device, "slow_after_s": slow_after_s}
                so_far.add(run(task))
                print(f"round {number}, {name}, {setting}: {so_far.turns[-1]}", file=sys.stderr)
            except ValueError as error:
                so_far.note = str(error)
                print(f"round {number}, {name}, {setting}: {error}", file=sys.stderr)
    return measured


def rows_of(name: str, flops: float, measured: dict[str, Measured], where: Origin) -> list[Row]:
    """Rows of a case.

    Args:
      flops: of one training step.
    """
    case, rows = CASES[name], []
    data = f"random {case.image_size} x {case.image_size}, batch {case.batch_size}"
    timms = [m for setting, m in measured.items() if SETTINGS[setting].library == "timm" and m.steps]
    best = min(timms, key=lambda m: median(m.steps), default=Measured())
    for setting, this in measured.items():
        about: dict[str, Any] = {"study": "train", "model": f"{name}: {setting}", "data": data}
        if not this.steps:
            note = this.note or "no turn"
            rows.append(make_row(where, **about, metric="images_per_s", value=None, unit="images/s", n=0, note=note))
            continue
        rates = [case.batch_size / seconds for seconds in this.steps]
        limits = [rate for m in measured.values() if m.precision == this.precision for rate in m.gemm]
        share = flops / median(this.steps) / median(limits)
        numbers = {
            "images_per_s": (*middle(rates), "images/s", len(rates)),
            "ratio_default": (*_ratio(this, measured[DEFAULT]), "ratio", len(this.turns)),
            "ratio_best": (*_ratio(this, best), "ratio", len(this.turns)),
            "peak_memory_bytes": (*(middle(this.peaks) if this.peaks else (None, None)), "bytes", len(this.peaks)),
            # An emulated precision has no limit worth the name.
            "share_of_limit": (share if this.peaks else None, None, "share", len(rates)),
        }
        for metric, (value, spread, unit, n) in numbers.items():
            note = this.note or (f"no step of {DEFAULT} to compare with" if value is None else None)
            rows.append(make_row(where, **about, metric=metric, value=value, spread=spread, unit=unit, n=n, note=note))
    for precision in sorted({m.precision for m in measured.values() if m.steps}):
        rates = [rate for m in measured.values() if m.precision == precision for rate in m.gemm]
        value, spread = middle(rates)
        about = {"study": "train", "model": f"{name}: matrix product, {precision}", "data": "square matrices"}
        about |= {"metric": "gemm_flops_per_s", "unit": "FLOP/s", "n": len(rates)}
        rows.append(make_row(where, **about, value=value, spread=spread))
        if spread is not None and spread > BUSY * value:
            print(f"{about['model']}: {value:.1e} ± {spread:.1e} FLOP/s; this machine is busy.", file=sys.stderr)
    return rows


def _ratio(this: Measured, other: Measured) -> tuple[float | None, float | None]:
    """How many times as fast as the other: ratio of medians, with the spread of the ratios within a round."""
    if not this.steps or not other.steps:
        return None, None
    rounds = [median(b) / median(a) for a, b in zip(this.turns, other.turns, strict=False)]
    return median(other.steps) / median(this.steps), middle(rounds)[1]


def show(rows: Sequence[Row]) -> None:
    """Prints one line per setting."""
    metrics = ("images_per_s", "ratio_default", "ratio_best", "peak_memory_bytes", "share_of_limit")
    print(f"{'':40}{'images/s':>12}{'/ timm fp32':>12}{'/ timm best':>12}{'peak MB':>12}{'of limit':>12}")
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["metric"]: row for row in rows if row["model"] == model}
        if "gemm_flops_per_s" in found:
            print(f"{model:40}{found['gemm_flops_per_s']['value'] / 1e9:12,.1f} GFLOP/s")
            continue
        cells = []
        for metric in metrics:
            value = found[metric]["value"] if metric in found else None
            value = value / 1e6 if value is not None and metric == "peak_memory_bytes" else value
            cells.append(f"{'-' if value is None else f'{value:,.2f}':>12}")
        print(f"{model:40}{''.join(cells)}  {found['images_per_s'].get('note', '')}".rstrip())


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each setting")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["cifar", "mixer-s/16"])
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "train.jsonl")
    options = parser.parse_args()
    rounds, cases = (1, ["tiny"]) if options.quick else (options.rounds, options.cases)
    rows: list[Row] = []
    try:
        facts = {name: child({"case": name, "device": options.device}) for name in cases}
    except ValueError as error:
        print(f"nothing was timed: {error}", file=sys.stderr)
        return 1
    where = origin(options.device)
    for name in cases:
        print(f"{name}: loss and gradients agree, largest difference {facts[name]['difference']:.1e}", file=sys.stderr)
        # The quick look shares one process: importing torch takes longer than its steps.
        measured = run_case(name, rounds, options.device, step.run if options.quick else child)
        made = rows_of(name, facts[name]["flops"], measured, where)
        append(options.results, made)  # case by case: what was measured stays, whatever happens next
        rows += made
    show(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
