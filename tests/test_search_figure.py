"""The figure of a search shows what the trials are, on the scale on which they were drawn."""

import math

import pytest

from bnlab.figures import picture, search
from bnlab.search.leaderboard import axis_of
from bnlab.search.space import Choice, Parameter

TRIALS = [
    {"lr": 0.001, "momentum": 0.9, "units": 16, "optimizer": "sgd", "objective": 0.5, "state": "completed"},
    {"lr": 0.1, "momentum": 0.99, "units": 64, "optimizer": "adam", "objective": 0.9, "state": "completed"},
    {"lr": 1.0, "momentum": 0.999, "units": 32, "optimizer": "adam", "objective": 0.1, "state": "diverged"},
    {"lr": 0.01, "units": 20, "optimizer": "sgd", "objective": 0.95, "state": "pruned"},
]
AXES = {"lr": "log", "momentum": "one_minus_log", "units": "linear", "optimizer": ["sgd", "adam"]}


@pytest.fixture
def panels():
    figure = search(TRIALS, AXES, "val_accuracy", minimize=False)
    figure.canvas.draw()
    return {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}


def points(panel, label):
    (line,) = [line for line in panel.lines if line.get_label() == label]
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_every_trial_is_a_point_in_the_panels_of_its_parameters(panels):
    assert list(panels) == list(AXES)
    assert points(panels["lr"], "completed") == [(0.001, 0.5), (0.1, 0.9)]
    assert points(panels["lr"], "diverged") == [(1.0, 0.1)]
    assert points(panels["lr"], "pruned") == [(0.01, 0.95)]
    assert not [line for line in panels["momentum"].lines if line.get_label() == "pruned"]  # it has no momentum
    assert points(panels["optimizer"], "completed") == [(0, 0.5), (1, 0.9)]
    assert [text.get_text() for text in panels["optimizer"].get_xticklabels()] == ["sgd", "adam"]


def test_the_best_is_marked_and_is_no_pruned_trial(panels):
    assert points(panels["lr"], "best") == [(0.1, 0.9)]
    figure = search(TRIALS, AXES, "val_loss", minimize=True)
    assert points(figure.axes[0], "best") == [(1.0, 0.1)]


def test_each_panel_has_the_scale_of_its_parameter(panels):
    def place(panel, x):
        return panel.transData.transform((x, 0.5))[0]

    log, one_minus_log = panels["lr"], panels["momentum"]
    assert place(log, 0.1) - place(log, 0.01) == pytest.approx(place(log, 0.01) - place(log, 0.001))
    assert place(one_minus_log, 0.999) - place(one_minus_log, 0.99) == pytest.approx(
        place(one_minus_log, 0.99) - place(one_minus_log, 0.9)
    )
    assert [text.get_text() for text in one_minus_log.get_xticklabels()] == ["0.9", "0.99", "0.999"]
    assert panels["units"].get_xscale() == "linear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 1e-3, 1, 0.02), ["0.001", "0.02", "0.1", "1"]),
        (("relu", "elu"), ["relu", "elu"]),
        ((True, False), ["True", "False"]),
        ((3, "full", 1), ["3", "full", "1"]),
        ((1.00000001e-10, 1e-10), ["1e-10", "1.00000001e-10"]),
        ((0.1, math.nan, -math.inf), ["0.1", "nan", "-inf"]),
        (([2], None, {"a": 1}), ["[2]", "None", "{'a': 1}"]),
    ],
)
def test_numbers_among_which_is_chosen_go_from_low_to_high(values: tuple[object, ...], expected: list[str]) -> None:
    assert axis_of(Parameter("key", Choice(values, tuple(map(str, values))))) == expected


def test_of_many_choices_some_are_named() -> None:
    rates = [f"{number / 100:g}" for number in range(1, 31)]
    trials = [{"lr": rate, "objective": 0.5, "state": "completed"} for rate in rates]
    panel = search(trials, {"lr": rates}, "val_accuracy", minimize=False).axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == rates[::4]
    assert [x for x, _ in points(panel, "completed")] == list(range(30))


def test_choices_are_named_as_they_are_written_however_odd() -> None:
    texts = ["$a_b$", "$x^", "[10]", "a\nb", "long" * 100, "long" * 101]
    trials = [{"x": text, "objective": 0.5, "state": "completed"} for text in texts]
    figure = search(trials, {"x": texts, "k" * 200: "log"}, "val_accuracy", minimize=False)
    assert picture(figure).startswith(b"\x89PNG")
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert [name.partition(": ")[2] for name in names[:4]] == ["$a_b$", "$x^", "[10]", "a\\nb"]
    assert len(set(names)) == len(texts)
    assert max(map(len, names)) < 40


@pytest.mark.parametrize(
    ("values", "scale"),
    [((1e-300, 1e-5), "log"), ((0.1, 0.1 + 1e-16), "log"), ((0.999999999999999, 0.5), "one_minus_log"), ((), "log")],
    ids=str,
)
def test_any_range_can_be_drawn(values: tuple[float, ...], scale: str) -> None:
    trials = [{"x": value, "objective": 0.5, "state": "completed"} for value in values]
    trials += [{"objective": 1e300, "state": "completed"}]  # without x
    panel = search(trials, {"x": scale}, "val_loss", minimize=True)
    assert picture(panel).startswith(b"\x89PNG")
    assert [x for line in panel.axes[0].lines if line.get_label() == "completed" for x in line.get_xdata()] == [*values]
