"""Early stopping of a network in a stack, against Lightning's own."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping as Lightnings

from bnlab.metrics import columns_of
from bnlab.stacked.early_stopping import EarlyStopping, early_stopping_lacks

CURVES = [
    [0.5, 0.6, 0.7, 0.8, 0.9],
    [0.9, 0.85, 0.85, 0.8, 0.8],
    [0.8, 0.8, 0.8, 0.8, 0.8],
    [0.1, 0.2, 0.1, 0.3, 0.1],
    [1.0, float("nan"), 1.0, float("inf"), 0.5],
]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"patience": 0},
        {"patience": 1, "min_delta": 0.1},
        {"patience": 1, "min_delta": -0.1},
        {"patience": 1, "stopping_threshold": 0.8},
        {"patience": 9, "divergence_threshold": 0.8},
        {"patience": 9, "check_finite": False, "stopping_threshold": 0.1},
    ],
    ids=str,
)
def test_a_network_stops_where_lightning_would_stop_it_to_the_last_bit(arguments: dict[str, Any]) -> None:
    """0.8 in fp32 is more than 0.8: a threshold is passed where it is met."""
    for mode in ("min", "max"):
        for curve in CURVES:
            settings = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_loss", "mode": mode}
            assert early_stopping_lacks({**settings, **arguments}, columns_of({})) is None
            own = EarlyStopping.of({**settings, **arguments})
            lightnings = Lightnings("val_loss", mode=mode, **arguments)
            for value in curve:
                expected, _ = lightnings._evaluate_stopping_criteria(torch.tensor(value))
                assert own.should_stop({"val_loss": value}) == expected, (mode, curve)
                if expected:
                    break


def test_the_metric_to_watch_is_one_of_the_task() -> None:
    settings = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val_r2"}
    assert early_stopping_lacks(settings, columns_of({})) == "monitor"
    assert early_stopping_lacks(settings, columns_of({"task": "regression"})) is None
