"""What all faults are done to: small photographs, their shards, and one short training with its undisturbed result."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from faults.commands import LIMIT_S, CaseFailed, Command, Ended, Hung, run

CLASSES, PER_CLASS = 4, 100
TRAIN_IMAGES, BATCH = 324, 32  # a tenth is held out for the test, and a tenth of the rest to choose by
SHARD = "100kB"
STEPS = 120
MODEL = (
    *("--model.name", "mixer", "--model.patch-size", "16", "--model.hidden-dim", "256", "--model.num-blocks", "3"),
    *("--model.tokens-mlp-dim", "32", "--model.channels-mlp-dim", "1024", "--image-size", "32"),
)
SETTINGS = (
    *("--recipe", "folder", *MODEL, "--batch-size", f"{BATCH}", "--optim.name", "adamw"),
    *("--augment.mixup", "0.2", "--augment.cutmix-prob", "0"),
    *("--workers", "2", "--checkpoint-minutes", "0.01", "--device", "cpu", "--precision", "fp32"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Args:
      case: what was done.
      ended: the command that met it.
      problems: what should not be so; none if all held.
      is_intact: whether the last good state was there afterwards; None if there was none to lose.
      is_equal: whether the same command, once the cause was gone, ended with the very weights and scores of an
        undisturbed run; None if it is not to.
      counts: more numbers of the case, by name.
      skipped: why it could not be done here.
    """

    case: str
    ended: Ended | None = None
    problems: list[str] = field(default_factory=list)
    is_intact: bool | None = None
    is_equal: bool | None = None
    counts: dict[str, float] = field(default_factory=dict)
    skipped: str = ""


class Place:
    """A folder with the data, in which the cases work one after the other; `say` hears of every command."""

    def __init__(self, folder: Path, limit_s: float = LIMIT_S, say: Callable[[str], None] = lambda text: None):
        self.folder, self.say, self.steps, self.limit_s = folder, say, STEPS, limit_s
        self.photos, self.shards = folder / "photos", folder / "shards"
        self._number = 0
        photographs(self.photos)
        done = self.run("data", "pack", str(self.photos), str(self.shards), "--shard-size", SHARD)
        if done.status:
            raise CaseFailed(f"the photographs could not be packed: {done.text[-600:]}")

    def log(self) -> Path:
        """Where the next command's standard error goes."""
        self._number += 1
        return self.folder / "logs" / f"{self._number:03d}.txt"

    def run(self, *words: str) -> Ended:
        """Runs a command to its end, or kills it.

        Raises:
          Hung: see `commands.run`.
        """
        ended = run(words, self.log(), self.limit_s)
        self.say(f"  {ended.seconds:5.1f} s  status {ended.status:3d}  {ended.sentence}")
        return ended

    def train(self, source: str | Path, out: Path, *more: str) -> tuple[str, ...]:
        """The words of the training."""
        length = ("--duration", f"{self.steps} steps", "--eval-every", f"{self.steps // 3} steps")
        return ("train", "--data", str(source), "--out", str(out), *SETTINGS, *length, *more)

    def started(self, source: str | Path, out: Path, *more: str) -> Command:
        """The training, begun."""
        return Command(self.train(source, out, *more), self.log())

    def whole(self, source: str | Path, *more: str) -> Path:
        """The run folder of the training undisturbed; trained when it is first asked for.

        Raises:
          CaseFailed: if it does not succeed.
        """
        name = "-".join([Path(str(source).removeprefix("shards:")).name, *more])
        out = self.folder / f"whole-{self.steps}-{name}"
        if not (out / "result.json").is_file():
            ended = self.run(*self.train(source, out, *more))
            if ended.status:
                raise CaseFailed(f"the training that nothing disturbs ended with {ended.status}: {ended.text[-600:]}")
        return out

    def has_lost(self, source: str | Path, out: Path, *more: str) -> list[str]:
        """What is wrong if the same command goes on now, compared with the undisturbed run."""
        try:
            ended = self.run(*self.train(source, out, *more))
        except Hung as error:
            return [str(error)]
        return [*ended.problems("going on from step", status=0), *different(self.whole(source, *more), out)]


def checkpoints(out: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted((out / "checkpoints").glob("step-*.safetensors"))


def half_written(out: Path) -> list[Path]:
    """The files of checkpoints that are being written, or were when a process was killed."""
    return sorted((out / "checkpoints").glob(".step-*.tmp"))


def last_step(out: Path) -> int:
    """The last step that metrics.jsonl tells of; 0 before it does."""
    try:
        lines = (out / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except ValueError:  # it is being written
            continue
    return 0


def different(one: Path, other: Path) -> list[str]:
    """In what two finished runs differ that should be one: any bit of a weight, any score of a test image."""
    try:
        first, second = (load_file(out / "model.safetensors") for out in (one, other))
        tested = [json.loads((out / "test.json").read_text()) for out in (one, other)]
        results = [json.loads((out / "result.json").read_text()) for out in (one, other)]
    except OSError as error:
        return [f"no finished run: {error}"]
    found = [] if first.keys() == second.keys() else ["other tensors"]
    found += [f"{name} differs" for name in first if not torch.equal(first[name], second.get(name, torch.empty(0)))]
    found += [] if tested[0] == tested[1] else ["test.json differs"]
    kept = [{key: value for key, value in result.items() if key not in VARIES} for result in results]
    return found + ([] if kept[0] == kept[1] else ["result.json differs"])


VARIES = ("seconds", "images_per_s", "out", "data")


def photographs(folder: Path) -> None:
    """JPEG files of different sizes in folders of four classes, the same each time."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        for number in range(PER_CLASS):
            path = folder / f"class{label}" / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            few = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            few[label // 2 * 2 : label // 2 * 2 + 2, :, label % 2] = 255
            width, height = random.integers(40, 100, 2).tolist()
            Image.fromarray(few).resize((width, height), Image.Resampling.BILINEAR).save(path)
