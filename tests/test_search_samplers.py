"""What the samplers draw, and the course's claims on grid, random and coarse to fine, on simulated objectives."""

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.stats import binomtest, chisquare, kstest

from bnlab.search import CoarseToFineSampler, QuasiRandomSampler, RandomSampler
from bnlab.search.samplers.building import build_sampler
from bnlab.search.samplers.fixed import FixedSampler
from bnlab.search.spaces.distributions import position, value_at

P_MIN = 0.01

LR = FloatDistribution(1e-4, 1, log=True)
ONE_MINUS_MOMENTUM = FloatDistribution(1e-3, 1e-1, log=True)
UNITS = IntDistribution(2, 9)
OPTIMIZER = CategoricalDistribution(("sgd", "adam", "rmsprop"))
SPACE = {"lr": LR, "1 - momentum": ONE_MINUS_MOMENTUM, "units": UNITS, "optimizer": OPTIMIZER}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def run(sampler, num_trials, objective, space=SPACE, direction="minimize"):
    study = optuna.create_study(sampler=sampler, direction=direction)
    for _ in range(num_trials):
        trial = study.ask(space)
        study.tell(trial, objective(trial.params))
    return study


def nothing(params):
    return 0.0


@pytest.mark.parametrize("sampler", [RandomSampler(0), QuasiRandomSampler(0)], ids=["random", "quasi_random"])
def test_draws_are_even_on_each_parameters_scale(sampler):
    trials = run(sampler, 2000, nothing).trials
    lr = np.array([trial.params["lr"] for trial in trials])
    assert chisquare(np.histogram(lr, bins=[1e-4, 1e-3, 1e-2, 1e-1, 1])[0]).pvalue > P_MIN
    assert kstest(np.log10(lr), "uniform", args=(-4, 4)).pvalue > P_MIN
    beta = 1 - np.array([trial.params["1 - momentum"] for trial in trials])
    assert chisquare(np.histogram(beta, bins=[0.9, 0.99, 0.999])[0]).pvalue > P_MIN
    units = [trial.params["units"] for trial in trials]
    assert chisquare(np.bincount(units, minlength=10)[2:]).pvalue > P_MIN
    chosen = [trial.params["optimizer"] for trial in trials]
    assert chisquare([chosen.count(name) for name in OPTIMIZER.choices]).pvalue > P_MIN


def test_random_parameters_are_independent_of_each_other():
    trials = run(RandomSampler(3), 1000, nothing).trials
    lr = np.log10([trial.params["lr"] for trial in trials])
    momentum = np.log10([trial.params["1 - momentum"] for trial in trials])
    assert abs(np.corrcoef(lr, momentum)[0, 1]) < 4 / math.sqrt(1000)


def test_quasi_random_covers_the_square_better_than_random():
    """Of 64 cells, 64 random points leave about 1/e empty; Sobol's leave hardly any."""

    def empty_cells(sampler):
        space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
        trials = run(sampler, 64, nothing, space).trials
        return 64 - len({(int(t.params["x"] * 8), int(t.params["y"] * 8)) for t in trials})

    random = [empty_cells(RandomSampler(seed)) for seed in range(5)]
    quasi_random = [empty_cells(QuasiRandomSampler(seed)) for seed in range(5)]
    assert max(quasi_random) < min(random)
    assert np.mean(random) == pytest.approx(64 / math.e, abs=6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(0),
        lambda: QuasiRandomSampler(0, ["lr", "units"]),
        lambda: CoarseToFineSampler(0, trials_per_round=4),
    ],
    ids=["random", "quasi_random", "coarse_to_fine"],
)
def test_a_new_process_continues_with_the_draws_of_the_old_one(make):
    space = {"lr": LR, "units": UNITS}

    def objective(params):
        return params["lr"]

    whole = [trial.params for trial in run(make(), 10, objective, space).trials]
    study = run(make(), 6, objective, space)
    study.sampler = make()
    for _ in range(4):
        trial = study.ask(space)
        study.tell(trial, objective(trial.params))
    assert [trial.params for trial in study.trials] == whole
    assert len({params["lr"] for params in whole}) == 10


MOMENTUM = FloatDistribution(1e-3, 1e-1, log=True)
BRANCHES = {"sgd": {"lr": LR}, "momentum": {"1 - momentum": MOMENTUM, "lr": LR}, "adam": {"units": UNITS, "lr": LR}}


def conditional(study, num_trials, order=1):
    """Trials whose parameters depend on the optimizer; those of a branch are asked for in one order or the other."""
    for _ in range(num_trials):
        trial = study.ask()
        branch = BRANCHES[trial.suggest_categorical("optimizer", list(BRANCHES))]
        for name, distribution in list(branch.items())[::order]:
            trial._suggest(name, distribution)
        study.tell(trial, 0.0)
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("names", [[], ["optimizer", "lr", "1 - momentum", "units"]], ids=["unnamed", "named"])
def test_a_quasi_random_point_depends_on_its_place_and_not_on_other_trials(names):
    whole = conditional(optuna.create_study(sampler=QuasiRandomSampler(5, names)), 30)
    assert {params["optimizer"] for params in whole} == set(BRANCHES)
    study = optuna.create_study(sampler=QuasiRandomSampler(5, names))
    conditional(study, 7)
    study.sampler = QuasiRandomSampler(5, names)  # as a new process has it
    assert conditional(study, 23) == whole
    # another machine, which sees none of the trials before, and one that draws the last first
    for number in (29, 11, 3):
        alone = optuna.create_study(sampler=QuasiRandomSampler(5, names))
        alone.enqueue_trial({}, user_attrs={"point": number})
        assert conditional(alone, 1) == [whole[number]]
    shared = QuasiRandomSampler(5, names)
    for number in (29, 11, 300, 3):
        alone = optuna.create_study(sampler=shared)
        alone.enqueue_trial({}, user_attrs={"point": number})
        assert number == 300 or conditional(alone, 1) == [whole[number]]


def test_named_quasi_random_parameters_do_not_depend_on_the_order_in_which_they_are_asked_for():
    names = ["optimizer", "lr", "1 - momentum", "units"]
    ways = [conditional(optuna.create_study(sampler=QuasiRandomSampler(5, names)), 20, order) for order in (1, -1)]
    assert ways[0] == ways[1]
    # and not on whether there are others
    fewer = run(QuasiRandomSampler(5, names), 20, nothing, {"lr": LR}).trials
    assert [trial.params["lr"] for trial in fewer] == [params["lr"] for params in ways[0]]


def test_threads_draw_the_points_of_the_sequence():
    def values(n_jobs):
        study = optuna.create_study(sampler=QuasiRandomSampler(0))
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=400, n_jobs=n_jobs)
        return [trial.params["x"] for trial in study.trials]

    assert values(n_jobs=4) == values(n_jobs=1)


@pytest.mark.parametrize(
    ("distribution", "grid"),
    [
        (FloatDistribution(0, 1, step=0.25), [0, 0.25, 0.5, 0.75, 1]),
        (FloatDistribution(-0.1, 0.5, step=0.2), [-0.1, 0.1, 0.3, 0.5]),
        (FloatDistribution(0, 0.3, step=0.1), [0, 0.1, 0.2, 0.3]),
        (FloatDistribution(1e9, 1e9 + 2, step=1), [1e9, 1e9 + 1, 1e9 + 2]),
        (IntDistribution(2, 11, step=3), [2, 5, 8, 11]),
        (IntDistribution(2**40, 2**40 + 6, step=3), [2**40, 2**40 + 3, 2**40 + 6]),
    ],
    ids=str,
)
def test_the_values_of_a_step_are_drawn_alike_both_ends_included(distribution, grid):
    space = {"x": distribution}
    for sampler in (RandomSampler(0), QuasiRandomSampler(0), CoarseToFineSampler(0, trials_per_round=999)):
        drawn = [trial.params["x"] for trial in run(sampler, 256, nothing, space).trials]
        counts = [sum(abs(value - place) < 1e-12 for value in drawn) for place in grid]
        assert sum(counts) == 256
        assert max(drawn) <= distribution.high
        assert chisquare(counts).pvalue > P_MIN
    sampler = CoarseToFineSampler(0, trials_per_round=32, shrink=0.01)
    drawn = [trial.params["x"] for trial in run(sampler, 64, lambda params: abs(params["x"] - grid[1]), space).trials]
    assert {min(grid, key=lambda place: abs(place - value)) for value in drawn[32:]} == set(grid[:3])


def test_coarse_to_fine_draws_anew_where_the_best_is_out_of_range():
    study = optuna.create_study(sampler=CoarseToFineSampler(0, trials_per_round=4))
    for number in range(12):
        trial = study.ask()
        low = 0 if number < 4 else 100
        x, y = trial.suggest_float("x", low, low + 10, step=0.5), trial.suggest_int("y", low, low + 10, step=2)
        study.tell(trial, x + y)
    assert all(100 <= trial.params["x"] <= 110 for trial in study.trials[4:])


def test_another_seed_draws_otherwise():
    first, second = (run(RandomSampler(seed), 5, nothing).trials for seed in (0, 1))
    assert all(a.params["lr"] != b.params["lr"] for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "distribution", [LR, UNITS, OPTIMIZER, IntDistribution(3, 15, step=4), IntDistribution(1, 64, log=True)], ids=str
)
def test_position_inverts_value(distribution):
    for r in np.linspace(0, 0.999, 50):
        value = value_at(distribution, r)
        again = value_at(distribution, position(distribution, value))
        assert math.isclose(again, value, rel_tol=1e-12) if isinstance(value, float) else again == value


# Coarse to fine


def positions(trial):
    return {name: position(SPACE[name], trial.params[name]) for name in ("lr", "1 - momentum", "units")}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_coarse_to_fine_draws_in_shrunk_boxes_around_the_best_of_the_round_before(direction):
    def objective(params):
        return -math.log10(params["lr"]) + params["units"]  # the best are at the corners: boxes must stay inside

    sampler = CoarseToFineSampler(0, trials_per_round=20, shrink=0.4)
    trials = run(sampler, 80, objective, direction=direction).trials
    pick = min if direction == "minimize" else max
    for round_ in (1, 2, 3):
        before, now = trials[20 * (round_ - 1) : 20 * round_], trials[20 * round_ : 20 * (round_ + 1)]
        best = positions(pick(before, key=lambda trial: trial.values[0]))
        width = 0.4**round_
        for name in ("lr", "1 - momentum"):
            drawn = [positions(trial)[name] for trial in now]
            low = min(max(best[name] - width / 2, 0), 1 - width)
            assert low - 1e-9 <= min(drawn)
            assert max(drawn) <= low + width + 1e-9
            assert 0 <= min(drawn) <= max(drawn) <= 1
            assert max(drawn) - min(drawn) > 0.6 * width  # it fills the box


def test_coarse_to_fine_never_collapses():
    sampler = CoarseToFineSampler(0, trials_per_round=30, shrink=0.1)
    last = run(sampler, 300, lambda params: (params["units"] - 5) ** 2).trials[-30:]
    assert {trial.params["units"] for trial in last} == {4, 5, 6}
    assert len({trial.params["lr"] for trial in last}) == 30


def test_coarse_to_fine_keeps_the_best_choices_more_often_round_by_round():
    sampler = CoarseToFineSampler(0, trials_per_round=100, shrink=0.5)
    trials = run(sampler, 300, lambda params: params["optimizer"] != "adam").trials
    shares = [sum(t.params["optimizer"] == "adam" for t in trials[i : i + 100]) / 100 for i in (0, 100, 200)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 5 / 6], abs=0.15)


def test_coarse_to_fine_gives_each_of_the_kept_a_box():
    space = {"x": FloatDistribution(0, 1)}
    sampler = CoarseToFineSampler(0, trials_per_round=50, shrink=0.02, keep=2)
    study = run(sampler, 100, lambda params: params["x"], space)
    best = sorted(trial.params["x"] for trial in study.trials[:50])[:2]
    for trial in study.trials[50:]:
        assert min(abs(trial.params["x"] - centre) for centre in best) <= 0.02
    assert {min(best, key=lambda c: abs(t.params["x"] - c)) for t in study.trials[50:]} == set(best)


def test_coarse_to_fine_steps_over_a_round_without_results():
    space = {"x": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=CoarseToFineSampler(0, trials_per_round=10, shrink=0.5))
    for number in range(30):
        trial = study.ask(space)
        if number // 10 == 1:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, trial.params["x"])
    best = min(trial.params["x"] for trial in study.trials[:10])
    low = min(max(best - 0.125, 0), 0.75)
    assert all(low <= trial.params["x"] <= low + 0.25 for trial in study.trials[20:])


# The course's claims


def grid_5_by_5(objective):
    axis = [(i + 0.5) / 5 for i in range(5)]
    return min(objective(x, y) for x in axis for y in axis), len(set(axis))


def test_25_random_trials_try_25_learning_rates_and_a_grid_5():
    trials = run(RandomSampler(0), 25, nothing, {"lr": LR, "eps": FloatDistribution(1e-9, 1e-7, log=True)}).trials
    assert len({trial.params["lr"] for trial in trials}) == 25
    assert grid_5_by_5(lambda x, y: x)[1] == 5


def wins(pairs):
    """How often the first is smaller, and the p-value of that under a fair coin (one-sided sign test)."""
    count = sum(first < second for first, second in pairs)
    return count, binomtest(count, len(pairs), alternative="greater").pvalue


def test_random_beats_grid_when_one_of_two_parameters_does_not_matter():
    """The best learning rate lies anywhere; 25 tries at it come nearer than 5."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    pairs = []
    for seed in range(50):
        best = np.random.default_rng(seed).random()
        random = run(RandomSampler(seed), 25, lambda p, best=best: (p["x"] - best) ** 2, space).best_value
        grid = grid_5_by_5(lambda x, y, best=best: (x - best) ** 2)[0]
        pairs.append((random, grid))
    count, p = wins(pairs)
    print(f"random beat grid {count} of 50 times, p = {p:.1e}")
    assert p < 0.001


@pytest.mark.parametrize(("whole_round", "centre"), [(1, 0.25), (0, 0.5), (None, 0.75)])
def test_coarse_to_fine_centres_on_a_place_with_all_its_seeds_if_there_is_one(whole_round, centre) -> None:
    """Two rounds of two places of two seeds; x = 0.75 is the best of each round, and always lacks a seed."""
    study = optuna.create_study(direction="maximize")
    distribution = optuna.distributions.FloatDistribution(0, 1)
    whole_x = {0: 0.5, 1: 0.25}
    for place in range(4):
        round_, is_best = divmod(place, 2)
        x = 0.75 if is_best else whole_x[round_]
        for seed in range(2):
            has_value = seed == 0 or (not is_best and round_ == whole_round)
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if has_value else optuna.trial.TrialState.FAIL,
                    value=x if has_value else None,
                    params={"x": x},
                    distributions={"x": distribution},
                    user_attrs={"point": place, "repeat": seed},
                )
            )
    sampler = CoarseToFineSampler(0, trials_per_round=2, shrink=0.01)
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"point": 4, "repeat": 0})
    assert sampler.sample_independent(study, trial, "x", distribution) == pytest.approx(centre, abs=1e-3)


def test_coarse_to_fine_counts_a_seed_that_was_tried_again() -> None:
    study = optuna.create_study(direction="maximize")
    distribution = optuna.distributions.FloatDistribution(0, 1)
    for place, seed, value in ((0, 0, 0.5), (0, 1, 0.5), (1, 0, 0.75), (1, 1, None), (1, 1, 0.75)):
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
                value=value,
                params={"x": (place + 2) / 4},
                distributions={"x": distribution},
                user_attrs={"point": place, "repeat": seed},
            )
        )
    sampler = CoarseToFineSampler(0, trials_per_round=2, shrink=0.01)
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"point": 2, "repeat": 0})
    assert sampler.sample_independent(study, trial, "x", distribution) == pytest.approx(0.75, abs=0.01)


def test_coarse_to_fine_beats_random_at_the_same_number_of_trials():
    space = {"lr": LR, "1 - momentum": ONE_MINUS_MOMENTUM}
    pairs = []
    for seed in range(50):
        x, y = np.random.default_rng(seed).uniform(0.1, 0.9, 2)

        def smooth(params, x=x, y=y):
            return (position(LR, params["lr"]) - x) ** 2 + (
                position(ONE_MINUS_MOMENTUM, params["1 - momentum"]) - y
            ) ** 2

        coarse_to_fine = run(CoarseToFineSampler(seed, trials_per_round=10), 30, smooth, space).best_value
        pairs.append((coarse_to_fine, run(RandomSampler(seed), 30, smooth, space).best_value))
    count, p = wins(pairs)
    ratio = np.median([second for _, second in pairs]) / np.median([first for first, _ in pairs])
    print(f"coarse to fine beat random {count} of 50 times, p = {p:.1e}; its median error is {ratio:.1f} times smaller")
    assert p < 0.001
    assert ratio > 2


def test_tpe_goes_on_with_new_draws_after_a_restart():
    def tpe(num_done):
        target = {"_target_": "bnlab.search.TPESampler", "num_startup": 10}
        return build_sampler(target, seed=0, num_done=num_done, names=["lr"], num_points=10, seeds=1)

    study = run(tpe(0), 5, nothing, {"lr": LR})
    study.sampler = tpe(5)
    for _ in range(5):
        study.tell(study.ask({"lr": LR}), 0.0)
    assert len({trial.params["lr"] for trial in study.trials}) == 10


def test_fixed_sampler_gives_what_it_is_told():
    values = {"lr": 0.01, "1 - momentum": 0.02, "units": 5, "optimizer": "adam"}
    assert run(FixedSampler(values), 1, nothing).trials[0].params == values
