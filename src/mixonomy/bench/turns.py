"""Settings that are compared take turns, each turn a process of its own; what was measured, put together.

In a process of its own one setting's memory, threads and caches do not touch the next; in turns, a machine that is busy
for a minute slows them all. A module whose turns are taken is run as `python -m MODULE TASK`, calls `answer` and prints
one JSON object.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TURN_LIMIT_S = 1200
OURS = "ours"  # what the names of our own settings begin with
HOPELESS = 10.0  # times as slow as the yardstick; after one such turn a setting is given up


@dataclass(frozen=True)
class Turn:
    """What one turn of a setting measured.

    Args:
      seconds: of each timed repetition.
      first_s: of the very first one, with all that it builds, compiles or tunes.
      precision: of the products: "fp32", "bf16", "int8"; "-" where there are none.
      backend: what computes, in a few words.
      limit: operations per second of a matrix product in that precision, measured in the same process.
      peak_bytes: the most that one more repetition holds, less what the process held before the setting was built.
      is_probe: whether the setting was so slow that a part of the work stands for all of it; then no memory is known.
    """

    seconds: list[float]
    first_s: float
    precision: str
    backend: str
    limit: float | None = None
    peak_bytes: int | None = None
    is_probe: bool = False


@dataclass
class Measured:
    """The turns of one setting, and why there are no more of them, or none at all."""

    turns: list[Turn] = field(default_factory=list)
    note: str | None = None

    @property
    def seconds(self) -> list[float]:
        """Of all timed repetitions."""
        return [seconds for turn in self.turns for seconds in turn.seconds]

    @property
    def first_s(self) -> float | None:
        """The longest first repetition: later processes find what the first one compiled."""
        return max((turn.first_s for turn in self.turns), default=None)

    @property
    def peaks(self) -> list[int]:
        """Bytes, one for each turn that measured them."""
        return [turn.peak_bytes for turn in self.turns if turn.peak_bytes is not None]


def checked(
    names: Sequence[str], check: Callable[[str], dict[str, Any]], say: Callable[[str], None], *, needed: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Checks each setting before any is timed.

    Args:
      names: of the settings.
      check: what a setting's check found; a ValueError says what is wrong. Its "said" is for `say`.
      needed: settings without which the others do not matter; checked first.
    Returns:
      Setting -> what was found, and setting that fails -> why.
    Raises:
      ValueError: if one that is needed fails.
    """
    found, failed = dict[str, dict[str, Any]](), dict[str, str]()
    for name in sorted(names, key=lambda name: name not in needed):
        try:
            found[name] = check(name)
        except ValueError as error:
            if name in needed:
                raise ValueError(f"nothing was timed, since {name} failed: {error}") from None
            failed[name] = str(error)
        say(f"{name}: {failed[name] if name in failed else found[name].pop('said')}")
    return found, failed


def take_turns(
    names: Sequence[str],
    rounds: int,
    run: Callable[[str, dict[str, Measured]], Turn],
    say: Callable[[str], None],
    failed: Mapping[str, str] | None = None,
) -> dict[str, Measured]:
    """Each setting once per round; one that fails, or is hopelessly slow, takes no further turns.

    Args:
      names: of the settings.
      run: (name, what was measured so far) -> its next turn; a ValueError says why there is none.
      say: told of every turn.
      failed: settings that take no turn -> why, such as wrong results.
    """
    measured = {name: Measured(note=(failed or {}).get(name)) for name in names}
    for number in range(1, rounds + 1):
        for name, so_far in measured.items():
            if so_far.note is not None:
                continue
            try:
                so_far.turns.append(run(name, measured))
            except ValueError as error:
                so_far.note = str(error)
                say(f"round {number}, {name}: {error}")
                continue
            if so_far.turns[-1].is_probe:
                so_far.note = f"more than {HOPELESS:g} times as slow as the yardstick: from a part of the work"
            value = median(so_far.turns[-1].seconds)
            say(f"round {number}, {name}: {value:.4g} s, {len(so_far.turns[-1].seconds)} times")
    return measured


def child(
    module: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None, *, limit_s: float = TURN_LIMIT_S
) -> dict[str, Any]:
    """What a module prints for a task, in a process of its own.

    Args:
      environment: variables that the process gets beside those of this one.
    Raises:
      ValueError: with its error in one line, if it failed, or took longer than it may.
    """
    command = [sys.executable, "-m", module, json.dumps(task)]
    variables = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=variables)
    except subprocess.TimeoutExpired:
        raise ValueError(f"not done after {limit_s:g} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        said = (errors or lines or [f"ended by signal {-done.returncode}"])[-1]
        raise ValueError(said.removeprefix("ValueError: "))
    return json.loads(done.stdout.splitlines()[-1])


def answer(run: Callable[[dict[str, Any]], Any]) -> None:
    """The other end of `child`: does the task of the command line and prints the result."""
    result = run(json.loads(sys.argv[1]))
    print(json.dumps(result))


def timed(
    function: Callable[[], object], device: "torch.device | None" = None, *, for_s: float, at_least: int = 2
) -> list[float]:
    """Seconds of each repetition, of at least so many that fill `for_s` seconds."""
    found, start = [], time.perf_counter()
    while len(found) < at_least or time.perf_counter() - start < for_s:
        found.append(seconds_of(function, device))
    return found


def seconds_of(function: Callable[[], object], device: "torch.device | None" = None) -> float:
    """How long a call takes, until the device has done its work."""
    is_cuda = device is not None and device.type == "cuda"
    if is_cuda:
        _synchronize()
    start = time.perf_counter()
    function()
    if is_cuda:
        _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()


def held_bytes(device: "torch.device | None" = None) -> int:
    """What torch has allocated on a GPU, else this process's anonymous resident memory.

    The whole resident set (ru_maxrss) would count mapped library files too, which the kernel drops when it likes.

    Raises:
      ValueError: where the system does not say.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        raise ValueError("memory is read from /proc/self/status, which only Linux has; run this benchmark on Linux.")
    [kibibytes] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(kibibytes)


def most_bytes(function: Callable[[], object], device: "torch.device | None" = None) -> int:
    """The largest `held_bytes` while the function runs; on a CPU looked at every two milliseconds."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        seconds_of(function, device)
        return torch.cuda.max_memory_allocated()
    seen, is_done = [held_bytes()], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.002):
            seen.append(held_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        is_done.set()
        watcher.join()
    return max(seen)


def middle(values: Sequence[float]) -> tuple[float, float | None]:
    """(median, half the interquartile range); no range for a single value."""
    if len(values) < 2:
        return values[0], None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), (high - low) / 2


def times_as_fast(this: Measured, other: Measured) -> tuple[float | None, float | None]:
    """How many times as fast as the other: ratio of medians, with the spread of the ratios within a round."""
    if not this.seconds or not other.seconds:
        return None, None
    rounds = [median(b.seconds) / median(a.seconds) for a, b in zip(this.turns, other.turns, strict=False)]
    return median(other.seconds) / median(this.seconds), middle(rounds)[1]


def fastest(measured: Mapping[str, Measured]) -> str | None:
    """The name of the setting with the smallest median; None if none was timed."""
    timed_ones = {name: median(each.seconds) for name, each in measured.items() if each.seconds}
    return min(timed_ones, key=lambda name: timed_ones[name], default=None)


def summary(
    measured: Mapping[str, Measured], name: str, *, batch_size: int, flops: float | None, default: str
) -> dict[str, Any]:
    """The numbers of one setting beside the others, by the keys of the JSON object of `mixonomy bench`.

    Args:
      batch_size: images of one repetition.
      flops: operations of one repetition; None where it is no matter of products.
      default: the name of the yardstick, the library as it comes; settings whose names begin with its first word are of
        the same library.
    Returns:
      images_per_s; unless that is None: precision, backend, first_s, share_of_limit, peak_memory_bytes, and the ratios
      to the yardstick (ratio_default), the library's best setting (ratio_best) and the best of all that are not ours
      (ratio_best_peer), with spreads; in `note`, why there are no numbers or fewer turns.
    """
    this = measured[name]
    if not this.seconds:
        return {"images_per_s": None, "note": this.note or "no turn"}
    turn, library = this.turns[-1], default.split()[0]
    rate, rate_spread = middle([batch_size / seconds for seconds in this.seconds])
    same_precision = [one for each in measured.values() for one in each.turns if one.precision == turn.precision]
    limits = [one.limit for one in same_precision if one.limit is not None]
    # An emulated precision has no limit worth the name.
    found: dict[str, Any] = {
        "images_per_s": rate,
        "images_per_s_spread": rate_spread,
        "repetitions": len(this.seconds),
        "precision": turn.precision,
        "backend": turn.backend,
        "share_of_limit": flops / median(this.seconds) / median(limits)
        if flops and limits and not turn.is_probe
        else None,
        "first_s": this.first_s,
        "peak_memory_bytes": int(median(this.peaks)) if this.peaks else None,
    }
    peers = {other: each for other, each in measured.items() if other.split()[0] != OURS}
    others = {
        "default": default,
        "best": fastest({other: each for other, each in peers.items() if other.split()[0] == library}),
        "best_peer": fastest(peers),
    }
    for key, other in others.items():
        ratio, spread = times_as_fast(this, measured.get(other or "", Measured()))
        found |= {f"ratio_{key}": ratio, f"ratio_{key}_spread": spread}
    return found | ({"note": this.note} if this.note else {})
