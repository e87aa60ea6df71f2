"""Formats metrics for people: an accuracy as `96.67 %`, any other metric with four digits."""

from bnlab.metrics import metric_of, words

__all__ = ["difference", "is_share", "label", "mean_and_deviation", "metric", "number", "percent"]

MISSING = "none"


def is_share(name: str) -> bool:
    """Whether the metric called `name` is a share of 1, to be shown in percent."""
    return metric_of(name).is_share


def percent(share: float | None) -> str:
    """Format 0.96667 as `96.67 %`: two decimals show one image in ten thousand."""
    return MISSING if share is None else f"{100 * share:.2f} %"


def number(value: float | None) -> str:
    """Format with four significant digits, trailing zeros included: 0.1 as `0.1000`, 12345.6 as `12346`."""
    if value is None:
        return MISSING
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:#.4g}"


def label(name: str) -> str:
    """Return a metric's name in words: `val accuracy`, `test R²`."""
    return words(name)


def metric(name: str, value: float | None) -> str:
    """Format `value` of the metric called `name`, such as val_accuracy or test_loss."""
    return percent(value) if is_share(name) else number(value)


def mean_and_deviation(name: str, mean: float | None, deviation: float | None) -> str:
    """Format `96.67 ± 0.31 %`, or the mean alone if a single run has no deviation."""
    if mean is None or deviation is None:
        return metric(name, mean)
    if is_share(name):
        return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{number(mean)} ± {number(deviation)}"


def difference(name: str, value: float) -> str:
    """Format a difference with its sign; for accuracies in percentage points, `+0.31 pp`."""
    if is_share(name):
        return f"{round(100 * value, 2) + 0.0:+.2f} pp"  # no -0.00
    return f"+{number(value)}" if value >= 0 else number(value)
