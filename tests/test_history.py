import math

import pytest

from bnlab.runs.history import History


def add(
    history: History, epoch: int, *, val_accuracy: float = 0.5, val_loss: float = 1.0, train_loss: float = 1.0
) -> bool:
    metrics = {"val_accuracy": val_accuracy, "val_loss": val_loss, "train_loss": train_loss}
    return history.add(epoch, step=epoch * 10, lr=0.1, metrics=metrics)


@pytest.mark.parametrize(
    ("objective", "values", "improves"),
    [
        ("val_accuracy", [0.5, 0.6, 0.6, 0.4, 0.7], [True, True, False, False, True]),
        ("val_loss", [1.0, 0.9, 0.9, 1.1, 0.8], [True, True, False, False, True]),
    ],
)
def test_an_epoch_is_the_best_if_it_improves_and_a_tie_does_not(objective: str, values: list, improves: list) -> None:
    history = History(objective, minimize=objective == "val_loss")
    assert [add(history, epoch, **{objective: value}) for epoch, value in enumerate(values, 1)] == improves
    assert history.best is not None
    assert history.best["epoch"] == 5
    assert history.columns()[objective] == values


@pytest.mark.parametrize("name", ["train_loss", "val_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_divergence_and_never_the_best(name: str, value: float) -> None:
    history = History("val_accuracy", minimize=False)
    assert add(history, 1)
    assert not add(history, 2, val_accuracy=0.9, **{name: value})
    assert history.diverged_epoch == 2
    assert history.best is not None
    assert history.best["epoch"] == 1
    assert len(history.rows) == 2
