"""One way to write a metric, in tables, on the bar and in pictures."""

import math

import pytest

from bnlab.text.number_format import difference, mean_and_deviation, metric


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("val_accuracy", 0.96667, "96.67 %"),
        ("accuracy", 1.0, "100.00 %"),
        ("test_accuracy", 0.0001, "0.01 %"),
        ("val_accuracy", math.nan, "nan %"),
        ("test_accuracy", None, "none"),
        ("val_loss", 0.123456, "0.1235"),
        ("loss", 0.1, "0.1000"),
        ("val_loss", 0, "0.000"),
        ("val_loss", 12345.6, "12346"),
        ("val_loss", 1234567.0, "1.235e+06"),
        ("val_loss", 1.5e-7, "1.500e-07"),
        ("val_loss", math.inf, "inf"),
        ("accuracy_of_something", 0.5, "0.5000"),
    ],
)
def test_a_metric_is_written(name: str, value: float | None, expected: str) -> None:
    assert metric(name, value) == expected


def test_a_deviation_has_the_unit_of_its_mean() -> None:
    assert mean_and_deviation("val_accuracy", 0.96667, 0.0031) == "96.67 ± 0.31 %"
    assert mean_and_deviation("val_loss", 0.5, 0.0125) == "0.5000 ± 0.01250"
    assert mean_and_deviation("val_accuracy", 0.96667, None) == "96.67 %"
    assert mean_and_deviation("val_accuracy", None, None) == "none"


def test_a_difference_has_its_sign() -> None:
    assert difference("val_accuracy", 0.0031) == "+0.31 pp"
    assert difference("val_accuracy", -0.5) == "-50.00 pp"
    assert difference("val_loss", 0.25) == "+0.2500"
    assert difference("val_loss", -0.25) == "-0.2500"
