"""How long a training step takes with all that a run does for it: images drawn, decoded and augmented, and the update.

A step on images that lie ready says less: a fast model waits for its images, which a slow one does not notice.
"""

import time
from collections.abc import Iterator
from contextlib import closing

from mixonomy import devices
from mixonomy.data import Batch
from mixonomy.experiment import Opened, Runtime, set_up
from mixonomy.recipe import Recipe
from mixonomy.train_state import TrainState
from mixonomy.training import LOG_STEPS

AT_LEAST = 3  # steps of each turn


def step_seconds(recipe: Recipe, runtime: Runtime, opened: Opened, *, turns: int, turn_s: float) -> float:
    """Seconds of a step of the training by the recipe, in this process; the weights are not kept.

    A turn before the first is not counted: kernels are chosen in it, and batches used up that were made in advance.

    Args:
      opened: the recipe's data.
      turns: the fastest of so many counts, as the machine may have been busy in the others.
      turn_s: seconds that each of them fills.
    """
    setup = set_up(recipe, runtime, opened=opened)
    images = setup.train_data(recipe)
    precision = devices.resolve_precision(recipe.precision, setup.device)
    state = setup.state(recipe, precision, total=1_000_000, warmup=0)
    with closing(images.batches(0, recipe.batch_size)) as batches:
        return min([_turn(state, batches, turn_s) for _ in range(turns + 1)][1:])


def _turn(state: TrainState, batches: Iterator[Batch], turn_s: float) -> float:
    start, count = time.perf_counter(), 0
    while count < AT_LEAST or time.perf_counter() - start < turn_s:
        loss, count = state.step(next(batches), 0), count + 1
        if count % LOG_STEPS == 0 or count == AT_LEAST:
            loss.item()  # waits for the device, as a training does when it writes a line
    return (time.perf_counter() - start) / count
