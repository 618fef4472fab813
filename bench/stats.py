"""Median and spread of repeated timings."""

from typing import NamedTuple


class Summary(NamedTuple):
    """The median of ``samples`` values and the interval that holds the middle 80 % of them."""

    median: float
    low: float
    high: float
    samples: int

    @property
    def spread(self) -> float:
        """Half the interval, relative to the median."""
        return (self.high - self.low) / (2 * self.median)


def quantile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def summarize(values: list[float]) -> Summary:
    if not values:
        raise ValueError("values is empty: expected at least one timing")
    low, median, high = (quantile(values, fraction) for fraction in (0.1, 0.5, 0.9))
    return Summary(median, low, high, len(values))


def paired_ratios(values: dict[int, float], base: dict[int, float]) -> list[float]:
    """value / base over the rounds that measured both."""
    return [value / base[key] for key, value in values.items() if key in base]
