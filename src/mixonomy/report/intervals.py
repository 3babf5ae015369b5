"""How far a measured share may be from the true one."""

import math

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion, in [0, 1]; stays sensible near 0, near 1 and for small n.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", without
    continuity correction.
    """
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(centre - margin, 0.0), min(centre + margin, 1.0)


def student_quantile(share: float, degrees: int) -> float:
    """The quantile of Student's t distribution, for shares from 0.5 to less than 1 and whole degrees of freedom.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4 (the distribution as finite sums), inverted by bisection.
    """
    if not 0.5 <= share < 1.0 or degrees < 1:
        raise ValueError(f"share {share} and {degrees} degrees of freedom; give 0.5 to less than 1, and 1 or more.")

    def within(t: float) -> float:
        """Probability of (-t, t)."""
        angle = math.atan(t / math.sqrt(degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        if degrees % 2 == 0:
            term, total = 1.0, 1.0
            for k in range(2, degrees - 1, 2):
                term *= (k - 1) / k * cosine * cosine
                total += term
            return sine * total
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= (k - 1) / k * cosine * cosine
            total += term
        return 2 / math.pi * (angle + sine * total)

    low, high = 0.0, 1.0
    while within(high) < 2 * share - 1:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 2 * share - 1 else (low, middle)
    return (low + high) / 2
