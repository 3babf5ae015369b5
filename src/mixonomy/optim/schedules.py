"""Learning-rate schedules: pure functions from the step to a factor of the peak rate."""

import math

from mixonomy.choices import Schedule


def lr_factor(step: int, *, total: int, warmup: int, schedule: Schedule, end: float = 0.0) -> float:
    """The share of the peak learning rate that step `step` uses.

    Rises linearly over the warm-up (the first step already uses 1 / warmup), then falls from 1 to `end`,
    which it would reach at step `total`.

    Args:
      step: from 0.
      total: number of steps in all.
      warmup: number of steps of the warm-up, within `total`.
      end: final factor; a share of the peak, not a learning rate (big_vision utils.py, `linear_end`).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    match schedule:
        case "linear":
            return 1.0 + (end - 1.0) * progress
        case "cosine":
            return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "constant":
            return 1.0
