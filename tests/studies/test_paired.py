"""Differences by seed: intervals of Student's t, and when two kinds of runs are called equal."""

import pytest
from scipy.stats import t, ttest_rel

from mixonomy.report.intervals import student_quantile
from mixonomy.studies.paired import Difference, paired, points
from mixonomy.studies.study import Values


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 30])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.975])
def test_quantiles_are_those_of_students_distribution(share, degrees):
    assert student_quantile(share, degrees) == pytest.approx(t.ppf(share, degrees), abs=1e-9)


@pytest.mark.parametrize(("share", "degrees"), [(0.4, 2), (1.0, 2), (0.9, 0)])
def test_quantiles_that_are_none_are_refused(share, degrees):
    with pytest.raises(ValueError, match="degrees of freedom"):
        student_quantile(share, degrees)


def test_differences_are_of_equal_seeds_with_the_interval_of_a_paired_test():
    first = Values({0: 0.5, 1: 0.6, 2: 0.7, 9: 0.1})
    second = Values({2: 0.72, 1: 0.65, 0: 0.51})
    difference = paired(first, second)
    assert difference.values == pytest.approx((0.01, 0.05, 0.02))
    expected = ttest_rel([0.51, 0.65, 0.72], [0.5, 0.6, 0.7]).confidence_interval(0.95)
    assert difference.interval() == pytest.approx(tuple(expected))
    assert points(difference) == f"+2.67 [{100 * expected.low:+.2f}, {100 * expected.high:+.2f}]"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.001, -0.001, 0.0), "equal within 1 point"),
        ((0.004, 0.005, 0.006), "equal within 1 point"),  # not 0, but too small to matter
        ((0.05, 0.06, 0.055), "better"),
        ((-0.05, -0.06, -0.055), "worse"),
        ((0.05, -0.05, 0.0), "not decided"),  # a missing difference is no equality
        ((0.0,), "one seed"),
        ((), "no pair"),
    ],
)
def test_verdicts(values, verdict):
    assert Difference(values).verdict() == verdict
