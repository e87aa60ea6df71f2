"""The figure of a search shows what the trials are, on the scale on which they were drawn."""

import math

import pytest
from matplotlib.colors import to_hex

from bnlab.figures import picture, search
from bnlab.figures.search_view import factor_of
from bnlab.search.results.figure import points_of
from bnlab.search.results.leaderboard import Leaderboard, axis_of
from bnlab.search.spaces.parameter import Choice, Parameter
from bnlab.search.spaces.space import Space
from bnlab.search.study.trials import Trial
from bnlab.status import Status
from bnlab.text.command_line import Origin

TRIALS = [
    {"lr": 0.001, "momentum": 0.9, "units": 16, "optimizer": "sgd", "objective": 0.5, "status": "completed"},
    {"lr": 0.1, "momentum": 0.99, "units": 64, "optimizer": "adam", "objective": 0.9, "status": "completed"},
    {"lr": 1.0, "momentum": 0.999, "units": 32, "optimizer": "adam", "objective": 0.1, "status": "diverged"},
    {"lr": 0.01, "units": 20, "optimizer": "sgd", "objective": 0.95, "status": "pruned"},
]
AXES = {"lr": "log", "momentum": "one_minus_log", "units": "linear", "optimizer": ["sgd", "adam"]}


@pytest.fixture
def panels():
    figure = search(TRIALS, AXES, "val_accuracy", minimize=False)
    figure.canvas.draw()
    return {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}


def points(panel, label):
    lines = [line for line in panel.lines if line.get_label() == label]
    return [point for line in lines for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_every_trial_is_a_point_in_the_panels_of_its_parameters(panels):
    assert list(panels) == ["lr", "momentum", "units"]  # the optimizer is told by colours
    assert points(panels["lr"], "completed") == [(0.001, 0.5), (0.1, 0.9)]
    assert points(panels["lr"], "_diverged beyond") == [(1.0, pytest.approx(0.03))]  # of the panel's height
    assert points(panels["lr"], "pruned") == [(0.01, 0.95)]
    assert points(panels["momentum"], "pruned") == []  # it has no momentum
    alone = search(TRIALS, {"optimizer": ["sgd", "adam"]}, "val_accuracy", minimize=False).axes[0]
    assert points(alone, "completed") == [(0, 0.5), (1, 0.9)]
    assert [text.get_text() for text in alone.get_xticklabels()] == ["sgd", "adam"]


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
    trials = [{"lr": rate, "objective": 0.5, "status": "completed"} for rate in rates]
    panel = search(trials, {"lr": rates}, "val_accuracy", minimize=False).axes[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == rates[::4]
    assert [x for x, _ in points(panel, "completed")] == list(range(30))


def test_choices_are_named_as_they_are_written_however_odd() -> None:
    texts = ["$a_b$", "$x^", "[10]", "a\nb", "long" * 100, "long" * 101]
    trials = [{"x": text, "objective": 0.5, "status": "completed"} for text in texts]
    assert picture(search(trials, {"x": texts, "k" * 200: "log"}, "val_accuracy", minimize=False))
    figure = search(trials, {"x": texts}, "val_accuracy", minimize=False)
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
    trials = [{"x": value, "objective": 0.5, "status": "completed"} for value in values]
    trials += [{"objective": 1e300, "status": "completed"}]  # without x
    panel = search(trials, {"x": scale}, "val_loss", minimize=True)
    assert picture(panel).startswith(b"\x89PNG")
    assert [x for line in panel.axes[0].lines if line.get_label() == "completed" for x in line.get_xdata()] == [*values]


GRID = [
    {"norm": norm, "lr": lr, "objective": value, "deviation": 0.01, "status": "completed"}
    for norm, values in (("none", (0.5, 0.9)), ("batch", (0.6, 0.95)))
    for lr, value in zip(("0.1", "1"), values, strict=True)
]
BAD = [
    {"norm": "none", "lr": "1", "objective": None, "status": "diverged"},
    {"norm": "none", "lr": "1", "objective": 0.1, "deviation": 0.05, "status": "diverged"},
    {"norm": "batch", "lr": "0.1", "objective": None, "status": "failed"},
    {"norm": "batch", "lr": "0.1", "objective": 0.99, "deviation": None, "status": "incomplete"},
]
GRID_AXES = {"norm": ["none", "batch"], "lr": ["0.1", "1"]}


def test_one_factor_is_told_by_colours_and_each_level_has_its_line_and_error_bars() -> None:
    figure = search(GRID, GRID_AXES, "val_accuracy", minimize=False, title="digits, 5 seeds")
    (panel,) = figure.axes
    assert panel.get_xlabel() == "lr"
    assert figure.get_suptitle() == "digits, 5 seeds"
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["norm=none", "norm=batch", "best"]
    colours = {}
    for line in panel.lines:
        if line.get_label() == "completed":
            colours[line.get_color()] = list(line.get_ydata())
    assert list(colours.values()) == [[0.5, 0.9], [0.6, 0.95]]
    connected = {line.get_color(): list(line.get_ydata()) for line in panel.lines if line.get_label() == "_level"}
    assert connected == colours
    bars = [bar for container in panel.containers for bar in container.lines[2][0].get_segments()]
    ends = sorted(y for bar in bars for _, y in bar)
    assert ends == pytest.approx([0.49, 0.51, 0.59, 0.61, 0.89, 0.91, 0.94, 0.96])
    places = {text.get_text(): x for text, x in zip(panel.get_xticklabels(), panel.get_xticks(), strict=True)}
    assert [x for x, _ in points(panel, "completed")] == pytest.approx(
        [places["0.1"] - 0.045, places["1"] - 0.045, places["0.1"] + 0.045, places["1"] + 0.045]
    )


def test_what_diverged_or_failed_is_at_the_edge_and_does_not_flatten_the_axis() -> None:
    figure = search([*GRID, *BAD], GRID_AXES, "val_accuracy", minimize=False)
    (panel,) = figure.axes
    low, high = panel.get_ylim()
    assert 0.4 < low < 0.49
    assert 0.99 < high < 1.05
    assert len(points(panel, "_diverged beyond")) == 2
    assert len(points(panel, "_failed beyond")) == 1
    assert points(panel, "diverged") == []
    assert points(panel, "best") == [(pytest.approx(1.045), 0.95)]  # not the one that lacks seeds
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["norm=none", "norm=batch", "completed", "lacks seeds", "diverged", "failed", "best"]
    loss = search([*GRID, *BAD], GRID_AXES, "val_loss", minimize=True).axes[0]
    assert all(y > 0.9 for _, y in points(loss, "_diverged beyond"))  # where the bad ones are


def test_a_search_in_which_all_diverged_is_drawn_all_the_same() -> None:
    figure = search(BAD[:2], GRID_AXES, "val_loss", minimize=True)
    assert picture(figure).startswith(b"\x89PNG")
    assert points(figure.axes[0], "best") == [(pytest.approx(0.955), 0.1)]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"lr": "log", "norm": ["a", "b"]}, "norm"),
        ({"lr": ["0.1", "1"], "norm": ["a", "b", "c"]}, "norm"),
        ({"lr": ["0.1", "1", "10"], "units": ["10", "20"]}, "units"),
        ({"norm": ["a", "b"]}, None),
        ({"lr": "log", "beta": "linear"}, None),
        ({"lr": "log", "seed": [str(number) for number in range(30)]}, None),
        ({"lr": "log", "norm": ["a"]}, None),
    ],
    ids=str,
)
def test_the_factor_of_colours_is_a_choice_of_few_names(axes, expected) -> None:
    assert factor_of(axes) == expected


def test_rounds_have_colours_and_boxes() -> None:
    rounds = [[{"lr": (1e-3, 1.0), "beta": (0.5, 0.999)}], [{"lr": (1e-2, 0.1), "beta": (0.9, 0.99)}]]
    trials = [
        {"lr": 0.5, "beta": 0.6, "objective": 0.1, "status": "completed", "round": 0},
        {"lr": 0.05, "beta": 0.95, "objective": 0.9, "status": "completed", "round": 1},
    ]
    figure = search(trials, {"lr": "log", "beta": "one_minus_log"}, "val_accuracy", minimize=False, rounds=rounds)
    picture(figure)
    rates, betas, plane = figure.axes
    for panel, key in ((rates, "lr"), (betas, "beta")):
        for number, round_ in enumerate(rounds, 1):
            (bar,) = [line for line in panel.lines if line.get_label() == f"_box {number}"]
            assert tuple(bar.get_xdata()) == round_[0][key]
            low, high = panel.get_xlim()
            assert low < min(bar.get_xdata())  # a bar ends inside its panel
            assert high > max(bar.get_xdata())
    for patch, round_ in zip(plane.patches, rounds, strict=True):
        (left, bottom), (right, top) = patch.get_xy(), patch.get_corners()[2]
        assert (left, right) == pytest.approx(round_[0]["lr"])
        assert (bottom, top) == pytest.approx(round_[0]["beta"])
    assert (plane.get_xlabel(), plane.get_ylabel(), plane.get_yscale()) == ("lr", "beta", "function")
    assert plane.get_ylim()[1] < 0.9999
    assert points(plane, "completed") == [(0.5, 0.6), (0.05, 0.95)]
    colours = [line.get_color() for line in plane.lines if line.get_label() == "completed"]
    assert colours == [to_hex(patch.get_edgecolor()) for patch in plane.patches]


def trial(number: int, point: int, repeat: int, objective: float | None, status: str = "completed") -> Trial:
    return Trial(number, point, repeat, Status(status), objective, {"lr": str(point)}, {}, None, "", None)


def test_a_configuration_over_seeds_is_one_point() -> None:
    space = Space((Parameter("lr", Choice((0, 1, 2, 3), ("0", "1", "2", "3"))),), {})
    trials = [
        *(trial(0, 0, 0, 0.5), trial(1, 0, 1, 0.7)),
        *(trial(2, 1, 0, 0.9), trial(3, 1, 1, None, "failed")),
        *(trial(4, 2, 0, 0.3), trial(5, 2, 1, None, "diverged")),
        *(trial(6, 3, 0, None, "failed"), trial(7, 3, 1, None, "failed"), trial(8, 3, 1, None, "running")),
    ]
    leaderboard = Leaderboard(trials, space, [], "val_accuracy", False, 2, 0, None, Origin())
    assert points_of(leaderboard) == [
        {"lr": "0", "objective": 0.6, "deviation": pytest.approx(0.2 / 2**0.5), "status": "completed"},
        {"lr": "1", "objective": 0.9, "deviation": None, "status": "incomplete"},
        {"lr": "2", "objective": 0.3, "deviation": None, "status": "diverged"},
        {"lr": "3", "objective": None, "status": "failed"},
    ]


def test_an_r2_far_below_zero_does_not_flatten_the_axis() -> None:
    values = ((0.1, 0.5, 0.1), (1, 0.2, 0.1), (10, -1e6, 2e6))
    trials = [{"lr": lr, "objective": r2, "deviation": s, "status": "completed"} for lr, r2, s in values]
    figure = search(trials, {"lr": "log"}, "val_r2", minimize=False)
    panel = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["completed", "off the axis", "best"]
    assert panel.get_ylim() == pytest.approx((0.07, 0.63))
    assert points(panel, "completed") == [(0.1, 0.5), (1, 0.2)]
    assert points(panel, "_completed beyond") == [(10, pytest.approx(0.03))]
    assert panel.get_ylabel() == "val R²"
