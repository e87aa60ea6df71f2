"""Samplers and pruners that a user adds by a YAML and a class, in one file each: `own_sampler.py`, `own_pruner.py`."""

import csv
from pathlib import Path

import pytest
from simulated_sweep import LR

from bnlab.process.signals import UserInterrupt

GOLDEN = 0.6180339887498949
SAMPLERS = {
    "additive": f"_target_: own_sampler.Additive\nstep: {GOLDEN}\n",
    "learning": "_target_: own_sampler.Learning\n",
    "together": "_target_: own_sampler.Together\n",
    "raising": "_target_: own_sampler.Raising\nafter: 3\n",
    "outside": "_target_: own_sampler.Outside\nvalue: 7\n",
    "qmc": "_target_: optuna.samplers.QMCSampler\nscramble: true\n",
}
PRUNERS = {
    "below": "_target_: own_pruner.Below\nvalue: 0.5\nepoch: 2\n",
    "saying": "_target_: own_pruner.Saying\nanswer: null\n",
}
TINY = ("model.hidden=[16]", "trainer.max_epochs=4", "trainer.accelerator=cpu")


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A folder of configs of one's own, beside bnlab's."""
    for folder, configs in (("search", SAMPLERS), ("search/pruner", PRUNERS)):
        (tmp_path / "my_conf" / folder).mkdir(parents=True)
        for name, text in configs.items():
            (tmp_path / "my_conf" / folder / f"{name}.yaml").write_text(text)
    return f"--config-dir={tmp_path / 'my_conf'}"


def additive(place: int, step: float = GOLDEN, seed: int = 0) -> float:
    """In LR, by hand."""
    return float(10 ** (-4 + 4 * (((place + 1) * step + seed / 10) % 1)))


def rates(rows: list[dict[str, str]], status: str = "completed") -> list[float]:
    return [float(row["optimizer.lr"]) for row in rows if row["status"] == status]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("batch_size", ["null", "2"])
def test_a_sampler_of_a_users_own_draws_a_sweep_and_its_seeds(own, batch_size, sweep) -> None:
    arguments = ("search.num_trials=5", "search.seed=3", "search.step=0.3", f"search.batch_size={batch_size}")
    outcome, left = sweep(own, "search=additive", *arguments, "search.seeds=2", LR)
    assert outcome.exit_code == 0, outcome.stderr
    expected = [additive(place, 0.3, 3) for place in range(5) for _ in range(2)]
    assert rates(left.rows) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["additive", "qmc"])
def test_a_sweep_with_it_goes_on_as_if_nothing_had_happened(kind, own, sweep, train) -> None:
    """With Optuna's own sequence, which a new process begins anew, no configuration comes twice."""
    interrupts = 0

    def task(config) -> float:
        nonlocal interrupts
        if config.optimizer.lr > 1e-3 and not interrupts:
            interrupts += 1
            raise UserInterrupt
        return float(config.optimizer.lr)

    outcome, left = sweep(own, f"search={kind}", "search.num_trials=6", "search.batch_size=1", LR, task=task)
    assert outcome.exit_code == 130
    assert train("-m", "search.resume=sweep").exit_code == 2  # whose sampler it is, only its maker knows
    outcome = train("-m", "search.resume=sweep", "search.trust=true", "search.num_trials=8")
    assert outcome.exit_code == 0, outcome.stderr
    found = rates(left.rows)
    assert len(set(found)) == 8
    if kind == "additive":
        assert sorted(found) == pytest.approx(sorted(additive(place) for place in range(8)), rel=1e-12)


def test_optunas_samplers_need_no_trust_and_no_config_of_ones_own(sweep, train) -> None:
    target = "search._target_=optuna.samplers.TPESampler"
    outcome, left = sweep(target, "+search.n_startup_trials=3", "search.num_trials=5", LR)
    assert outcome.exit_code == 0, outcome.stderr
    outcome = train("-m", "search.resume=sweep", "search.num_trials=7")
    assert outcome.exit_code == 0, outcome.stderr
    assert len(set(rates(left.rows))) == 7


def test_one_that_learns_is_asked_for_as_many_at_once_as_are_trained_at_once(own, sweep) -> None:
    def largest_is_best(config) -> float:
        return float(config.optimizer.lr)

    outcome, left = sweep(own, "search=learning", "search.num_trials=4", LR, task=largest_is_best)
    assert outcome.exit_code == 0, outcome.stderr
    first, *others = rates(left.rows)
    assert others == [first / 2] * 3
    outcome, left = sweep(own, "search=learning", "search.num_trials=4", "search.batch_size=2", LR, folder="two")
    first, second, *others = rates(left.rows)
    assert len({first, second, *others}) == 3


def test_one_that_draws_parameters_together_does_so_where_draws_could_repeat(own, sweep) -> None:
    space = ("seed=range(1,6)", "data.batch_size=32,64")
    outcome, left = sweep(own, "search=together", "search.num_trials=3", *space, task=lambda config: 0.5)
    assert outcome.exit_code == 0, outcome.stderr
    assert [(row["seed"], row["data.batch_size"]) for row in left.rows] == [("5", "64"), ("4", "64"), ("3", "64")]


WRONG = {
    ("search=raising",): "`search`: Raising failed (ZeroDivisionError: the mean of nothing is nothing).",
    ("search=raising", "+search.at_end=true"): "`search`: Raising failed (ZeroDivisionError: the mean of nothing is",
    ("search=outside",): "`search`: the values of optimizer.lr are 0.0001 to 1, but Outside drew 7.",
    ("search=outside", "search.value=nan"): "but Outside drew nan.",
    ("search=outside", "search.value=lots"): "but Outside drew 'lots'.",
    ("search=outside", "search.value=null"): "but Outside drew None.",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_one_that_raises_or_draws_rubbish_ends_in_a_line_and_keeps_what_there_is(arguments, own, sweep, train) -> None:
    outcome, left = sweep(own, *arguments, "search.num_trials=5", "search.batch_size=2", LR)
    assert outcome.exit_code == 2
    assert WRONG[arguments] in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    if arguments[0] == "search=raising":
        assert len(rates(left.rows)) == 2
        told = train("-m", "search.resume=sweep", "search.trust=true")  # the class is not mended
        assert told.exit_code == 2 or len(rates(left.rows)) == 5


def test_what_it_does_not_take_is_refused_before_anything_is_loaded(own, train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train("-m", own, "search=additive", "+search.stpe=1", LR)
    assert outcome.exit_code == 2
    said = (
        "`search.stpe` is not a setting of own_sampler.Additive: there are step, num_trials, seed, seeds, batch_size, "
    )
    assert outcome.stderr.startswith(said)
    assert outcome.stdout == ""
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_sampler_and_a_pruner_of_a_users_own_train_networks(launcher, own, train, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["search=additive", "search/pruner=below", "search.num_trials=3", LR, "optimizer=sgd", *TINY]
    outcome = train("-m", own, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", *arguments)
    assert outcome.exit_code == 0, outcome.stderr
    rows = rows_of(tmp_path / "sweep")
    assert [float(row["optimizer.lr"]) for row in rows] == pytest.approx([additive(place) for place in range(3)])
    for row in rows:
        curve = rows_of_metrics(tmp_path / "sweep" / row["number"])
        best = max(float(epoch["val_accuracy"]) for epoch in curve[:2])
        assert (row["status"], len(curve)) == (("pruned", 2) if best < 0.5 else ("completed", 4))
    assert {row["status"] for row in rows} == {"pruned", "completed"}
    # It goes on with two more, by another pruner.
    more = ["search.trust=true", "search.num_trials=4", "search/pruner=none", f"hydra/launcher={launcher}"]
    outcome = train("-m", "search.resume=sweep", *more)
    assert outcome.exit_code == 0, outcome.stderr
    last = rows_of(tmp_path / "sweep")[-1]
    assert (float(last["optimizer.lr"]), last["status"]) == (pytest.approx(additive(3)), "completed")


def rows_of_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("null", "`search.pruner`: Saying failed (ZeroDivisionError: the mean of nothing)."),
        ("perhaps", "`search.pruner`: Saying must return true or false, but returned 'perhaps'."),
    ],
)
def test_a_pruner_that_raises_or_says_rubbish_fails_the_trial_in_a_line(
    launcher, answer, told, own, train, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["search/pruner=saying", f"search.pruner.answer={answer}", "optimizer.lr=0.1,0.2", *TINY]
    outcome = train("-m", own, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", *arguments)
    assert outcome.exit_code == 1
    rows = rows_of(tmp_path / "sweep")
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert all(told in row["error"] for row in rows)
