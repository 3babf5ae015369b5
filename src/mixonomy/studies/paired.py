"""Differences between two kinds of runs with the same seeds, and what may be said of them."""

import math
import statistics
from dataclasses import dataclass
from functools import cached_property

from mixonomy.report.intervals import student_quantile
from mixonomy.studies.study import Values

BOUND = 0.01  # two accuracies within a point of one another are called equal


@dataclass(frozen=True)
class Difference:
    """Of two kinds of runs, each pair with one seed.

    Args:
      values: the second less the first, seed by seed.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    def interval(self, share: float = 0.95) -> tuple[float, float] | None:
        """Where the mean may lie, by Student's t over the seeds; None with fewer than two."""
        if self.n < 2:
            return None
        margin = student_quantile((1 + share) / 2, self.n - 1) * statistics.stdev(self.values) / math.sqrt(self.n)
        return self.mean - margin, self.mean + margin

    def verdict(self, bound: float = BOUND) -> str:
        """In words: equal where the two one-sided tests at 5 % say so, else better or worse where 0 is outside.

        Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach": both
        reject at 5 % just where the 90 % interval is inside the bound.
        """
        narrow, wide = self.interval(0.90), self.interval(0.95)
        if narrow is None or wide is None:
            return "one seed" if self.n else "no pair"
        if -bound < narrow[0] and narrow[1] < bound:
            return f"equal within {100 * bound:g} point{'' if bound == 0.01 else 's'}"
        if wide[0] > 0:
            return "better"
        return "worse" if wide[1] < 0 else "not decided"


def paired(first: Values, second: Values) -> Difference:
    """Over the seeds that both have."""
    seeds = [seed for seed in first.by_seed if seed in second.by_seed]
    return Difference(tuple(second.by_seed[seed] - first.by_seed[seed] for seed in seeds))


def relative(first: Values, second: Values) -> Difference:
    """The second less the first as a share of the first, over the seeds that both have; -0.45 is a loss of 45 %."""
    seeds = [seed for seed, value in first.by_seed.items() if seed in second.by_seed and value]
    return Difference(tuple(second.by_seed[seed] / first.by_seed[seed] - 1 for seed in seeds))


def less(first: Values, second: Values) -> Values:
    """The first less the second, of the seeds that both have."""
    seeds = [seed for seed in first.by_seed if seed in second.by_seed]
    return Values({seed: first.by_seed[seed] - second.by_seed[seed] for seed in seeds})


def points(difference: Difference) -> str:
    """The difference in points with its 95 % interval: "-0.42 [-1.10, +0.26]"; a dash without a pair."""
    if not difference.n:
        return "–"
    interval = difference.interval()
    around = "" if interval is None else f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"
    return f"{100 * difference.mean:+.2f}{around}"
