"""The learning-rate range test: a short training whose rate grows from far too small to far too large.

Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3; Smith 2018, "A disciplined
approach to neural network hyper-parameters"; exponential growth and smoothing as in fastai's `lr_find`.
"""

import copy
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from torch import nn

from mixonomy import devices, optim, parallel
from mixonomy.experiment import Runtime, set_up
from mixonomy.progress import Console
from mixonomy.recipe import Recipe, changed

STEPS = 100  # fastai's default
LOWEST, HIGHEST = 1e-4, 1e2  # times the optimizer's usual rate
SMOOTHING = 0.9  # of the moving average; fastai's 0.98 lags by half of 100 steps
DIVERGED = 4.0  # times the best smoothed loss; fastai's factor


@dataclass(frozen=True)
class LrTest:
    """What a range test saw.

    Args:
      lr: the suggestion, for `optim.lr`.
      rest_lr: for muon, the suggestion for `optim.rest_lr`; None for others.
      rates: of each step, as `optim.lr`.
      losses: of each step, in nats, with all that the recipe adds to them.
      smoothed: their bias-corrected moving average.
      is_diverged: whether the loss diverged within the range, which ended the test.
    """

    lr: float
    rest_lr: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    is_diverged: bool


def find_lr(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    console: Console | None = None,
    steps: int = STEPS,
) -> LrTest:
    """Runs the range test with the data, model, optimizer and augmentation of a recipe; writes nothing.

    The rate grows exponentially from LOWEST to HIGHEST times the optimizer's usual one, whatever the recipe's own
    `lr` is; muon's two rates keep the recipe's ratio. The test ends early when the loss diverges: when it is not
    finite, or its average is more than DIVERGED times the best so far.

    Args:
      model: a module of the user's own, left as it is; the recipe's model if None.
      steps: over the whole range, at least 20.
    Raises:
      ValueError: for a recipe that does not fit the data, and if the loss falls at no rate.
    """
    parallel.only_alone("a learning-rate range test")
    if steps < 20:
        raise ValueError(f"steps is {steps}; a range test needs 20 or more.")
    runtime, console = runtime or Runtime(), console or Console(quiet=True)
    recipe = changed(recipe, optim={"ema": 0.0})  # nobody would look at the average
    setup = set_up(recipe, runtime, copy.deepcopy(model))
    precision = devices.resolve_precision(recipe.precision, setup.device)
    images = setup.train_data(recipe)
    peak, usual = optim.peak_lr(recipe.optim), optim.LR[recipe.optim.name]
    rates = usual * np.geomspace(LOWEST, HIGHEST, steps)
    console.say(
        f"{recipe.name}: {setup.name}, {setup.source.name}, {images.kind}, up to {steps} steps of {recipe.batch_size} "
        f"at learning rates from {rates[0]:.2g} to {rates[-1]:.2g}, {precision} on {setup.device}"
    )
    state = setup.state(recipe, precision, total=steps, warmup=0)
    losses: list[float] = []
    is_diverged = False
    with closing(images.batches(0, recipe.batch_size)) as batches, console.progress(steps, 0) as meter:
        for step, rate in enumerate(rates):
            batch = next(batches)
            while not len(batch.labels):  # none of its images could be read
                setup.check_bad(recipe)
                batch = next(batches)
            loss = state.step(batch, step, factor=rate / peak).item()
            if not np.isfinite(loss):
                is_diverged = True
                break
            losses.append(loss)
            average = smooth(losses)
            meter.update(step + 1, f"learning rate {rate:.2g}, loss {loss:.3f}")
            if average[-1] > DIVERGED * average.min():
                is_diverged = True
                break
    rates, average = rates[: len(losses)], smooth(losses)
    lr = suggest(rates, average)
    rest_peak = optim.peak_rest_lr(recipe.optim)
    return LrTest(
        lr=lr,
        rest_lr=None if rest_peak is None else _rounded(lr / peak * rest_peak),
        rates=tuple(rates.tolist()),
        losses=tuple(losses),
        smoothed=tuple(average.tolist()),
        is_diverged=is_diverged,
    )


def smooth(losses: list[float]) -> np.ndarray:
    """Exponential moving average with bias correction: float64 [N] -> [N].

    Source: fastai's lr_find; the correction is that of Adam (Kingma and Ba 2015, section 3).
    """
    average, out = 0.0, []
    for i, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1.0 - SMOOTHING) * loss
        out.append(average / (1.0 - SMOOTHING**i))
    return np.array(out)


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """A tenth of the rate where the loss is lowest, but no more than the rate where it has made half of its fall.

    The first is the common rule; where nothing diverges, as with muon, it would be a tenth of wherever the range ends,
    and the second holds it back. The steepest step, another common rule, wandered over a decade between seeds.
    docs/training.md says how trainings at the suggestion compared with those around it.

    Args:
      rates: float [N], rising.
      smoothed: float [N], the smoothed loss.
    Raises:
      ValueError: if the loss does not fall clearly below where it starts, the median of the first fifth.
    """
    first = smoothed[: max(len(smoothed) // 5, 1)]
    start, best = float(np.median(first)), int(smoothed.argmin())
    if best < len(first) or start - smoothed[best] <= 2.0 * first.std():
        raise ValueError(
            f"the loss falls at none of the learning rates from {rates[0]:.2g} to {rates[-1]:.2g}; it starts at "
            f"{start:.3g}. Look at labels and augmentation, or give a larger --batch-size."
        )
    above = np.flatnonzero(smoothed[:best] > (start + smoothed[best]) / 2)  # the last is just before the half
    return _rounded(float(min(rates[best] / 10, rates[above[-1] + 1])))


def _rounded(rate: float) -> float:
    """Two significant digits: the test is no more exact than that."""
    return float(f"{rate:.1e}")
