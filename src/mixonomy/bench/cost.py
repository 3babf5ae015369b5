"""What one model costs: time and peak memory of a forward pass and of a training step, as mixonomy runs them.

python -m mixonomy.bench.cost TASK         in JSON; see `turns`
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from mixonomy import devices
from mixonomy.bench import limits, turns
from mixonomy.bench.step import TINY, Case, Setting, batch, build, training_step

MODULE = "mixonomy.bench.cost"
OURS = Setting("ours", "auto")


@dataclass(frozen=True)
class Cost:
    """Of one batch; the bytes are the most that is held, weights included, less what the process held before.

    Args:
      flops: multiplications and additions of the forward pass.
      forward_s, step_s: seconds of each repetition.
    """

    params: int
    flops: float
    precision: str
    forward_s: list[float]
    forward_bytes: int
    step_s: list[float]
    step_bytes: int


def measure(case: Case, device: torch.device) -> Cost:
    """Runs forward passes, then training steps, in this process."""
    devices.prepare(device)
    precision = devices.resolve_precision("auto", device)
    tiny = Case({"name": "mixer", **TINY}, (8, 8), 1, num_classes=2)  # loads what a first step loads
    training_step(tiny, OURS, device, build(tiny).to(device))(1)
    before = turns.held_bytes(device)
    model = build(case).to(device)
    images = batch(case, device)[0] / 127.5 - 1.0

    def forward() -> None:
        with torch.inference_mode(), devices.autocast(device, precision):
            model(images)

    model.eval()
    flops = limits.flops_of(model, images[:1]) * case.batch_size
    turns.seconds_of(forward, device)
    forward_s = turns.timed(forward, device, for_s=case.turn_s, at_least=3)
    forward_bytes = turns.most_bytes(forward, device) - before
    step = training_step(case, OURS, device, model.train())
    turns.seconds_of(lambda: step(case.batch_size), device)
    step_s = turns.timed(lambda: step(case.batch_size), device, for_s=case.turn_s, at_least=3)
    step_bytes = turns.most_bytes(lambda: step(case.batch_size), device) - before
    params = sum(p.numel() for p in model.parameters())
    return Cost(params, flops, precision, forward_s, forward_bytes, step_s, step_bytes)


def in_a_process(case: Case, device: str = "cpu") -> Cost:
    """Measures a case in a process of its own.

    Raises:
      ValueError: if it fails there.
    """
    return Cost(**turns.child(MODULE, {"case": asdict(case), "device": device}))


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Does a task in this process."""
    case = Case(**{**task["case"], "image_size": tuple(task["case"]["image_size"])})
    return asdict(measure(case, devices.resolve_device(task["device"])))


if __name__ == "__main__":
    turns.answer(run)
