"""Lengths of training that say their unit: "14 epochs", "500 steps", "50000 examples", "10 %"."""

import math
import re
from typing import Annotated

from pydantic import AfterValidator

_PATTERN = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*(epochs?|steps?|examples?|%)")


def parse(text: str) -> tuple[float, str]:
    """Splits "14 epochs" into (14.0, "epoch").

    Raises:
      ValueError: if the text is not a non-negative number followed by a unit.
    """
    match = _PATTERN.fullmatch(text.strip())
    if not match or not math.isfinite(float(match[1])):
        raise ValueError(f"{text!r} is not a duration; write it like '14 epochs', '500 steps' or '50000 examples'")
    return float(match[1]), match[2].rstrip("s")


def num_steps(text: str, *, batch_size: int, num_examples: int, total_steps: int | None = None) -> int:
    """The number of optimizer steps in a duration, rounded up, and at least 1 unless the duration is 0.

    Args:
      batch_size: examples per step.
      num_examples: examples per epoch.
      total_steps: what a duration in % is a share of.
    Raises:
      ValueError: if the duration is in % and there is nothing to take a share of.
    """
    amount, unit = parse(text)
    if unit == "%":
        if total_steps is None:
            raise ValueError(f"{text!r} is a share; a training length is given in epochs, steps or examples")
        return math.ceil(amount / 100 * total_steps - 1e-9)
    # A tiny slack, so that 0.1 epochs of 30 examples are 3 examples in spite of binary fractions.
    examples = {"epoch": amount * num_examples, "step": amount * batch_size, "example": amount}[unit]
    return math.ceil(examples / batch_size - 1e-9)


def _checked(text: str) -> str:
    parse(text)
    return text


def _checked_length(text: str) -> str:
    amount, unit = parse(text)
    if unit == "%" or amount == 0:
        raise ValueError(f"{text!r} is not a training length; write it like '14 epochs' or '500 steps'")
    return text


Duration = Annotated[str, AfterValidator(_checked)]
Length = Annotated[str, AfterValidator(_checked_length)]
