"""Pruning ends the hopeless trials, and leaves them their folder and their curve."""

import csv
import json
from pathlib import Path

import optuna
import pytest

from bnlab.config.folder import config_folder
from bnlab.io.yaml_text import read_yaml
from bnlab.search.study.journal import Journal
from bnlab.search.study.pruning import Pruning, build_pruner
from bnlab.search.study.trials import RESULT

EPOCHS = 8


@pytest.fixture
def rows(train, monkeypatch, tmp_path):
    def run(pruner, *arguments):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / pruner
        outcome = train(
            *("-m", f"hydra.sweep.dir={folder}", f"search/pruner={pruner}", f"trainer.max_epochs={EPOCHS}"),
            *("norm=torch", "trainer.accelerator=cpu", "model.num_layers=1", "model.num_units=20", *arguments),
        )
        assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
        with (folder / "trials.csv").open(newline="") as file:
            return folder, list(csv.DictReader(file))

    return run


# Five good learning rates first, for the median; then one good and two at which nothing is learned.
RATES = "optimizer.lr=0.01,0.012,0.014,0.016,0.018,0.02,1e-8,2e-8"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's remarks on short epochs
@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
def test_hopeless_trials_are_stopped_and_keep_folder_and_curve(rows, pruner):
    folder, table = rows(pruner, RATES)
    statuses = [row["status"] for row in table]
    assert statuses[6:] == ["pruned", "pruned"]
    assert "completed" in statuses[:6]
    for row in table:
        with (folder / row["folder"] / "metrics.csv").open(newline="") as file:
            curve = list(csv.DictReader(file))
        assert (len(curve) < EPOCHS) == (row["status"] == "pruned")
        assert len(curve) >= 3
        assert json.loads((folder / row["folder"] / "summary.json").read_text())["status"] == row["status"]
        assert (folder / row["folder"] / "curves.png").is_file()
        assert (folder / row["folder"] / "checkpoints" / "last.ckpt").is_file()
    storage = optuna.storages.JournalStorage(Journal(folder / "study.journal"))
    study = optuna.load_study(study_name=None, storage=storage)
    for trial, row in zip(study.trials, table, strict=True):
        assert (trial.state.name == "PRUNED") == (row["status"] == "pruned")
        with (folder / row["folder"] / "metrics.csv").open(newline="") as file:
            curve = {int(line["epoch"]): float(line["val_accuracy"]) for line in csv.DictReader(file)}
        assert trial.intermediate_values == curve
    ranked = (folder / "leaderboard.md").read_text().partition("## Not completed")[0]
    listed = {line.split("|")[2].strip() for line in ranked.splitlines() if line.startswith("|")} - {"trial", "---"}
    assert listed == {row["number"] for row in table if row["status"] == "completed"}


def test_without_a_pruner_every_trial_runs_to_its_end(rows):
    _, table = rows("none", "optimizer.lr=0.01,1e-8")
    assert [row["status"] for row in table] == ["completed", "completed"]


def pruner_of(choice):
    return build_pruner(read_yaml(Path(config_folder()) / "search" / "pruner" / f"{choice}.yaml"))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_pruners_know_which_direction_is_better(direction):
    sign = 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction)
    for _ in range(6):
        trial = study.ask()
        for epoch in range(1, 11):
            trial.report(sign * 0.9, epoch)
        study.tell(trial, sign * 0.9)
    for value, hopeless in ((sign * 0.1, True), (sign * 0.99, False)):
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(value, epoch)
        frozen = study.trials[-1]
        assert pruner_of("median").prune(study, frozen) == hopeless
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def rule_of(study, trial, kind):
    return Pruning(study, study._storage, trial.number, "val_accuracy", pruner_of(kind))


def test_epochs_that_a_killed_process_has_reported_before_decide_nothing_ahead_of_time():
    study = optuna.create_study(direction="maximize")
    for _ in range(6):
        trial = study.ask()
        for epoch in range(1, 11):
            trial.report(0.9, epoch)
        study.tell(trial, 0.9)
    trial = study.ask()
    for epoch, value in enumerate([0.1] * 8 + [0.99], start=1):
        trial.report(value, epoch)
    rule = rule_of(study, trial, "median")
    assert [rule.ends(epoch, {"val_accuracy": 0.1}, 10) for epoch in (1, 2, 3)] == [False, False, True]


def test_a_trial_that_goes_on_with_an_interrupted_one_competes_in_its_place():
    """Of five at a rung only the best passes, of six the second as well: the interrupted one is not the sixth."""
    study = optuna.create_study(direction="maximize")

    def report(trial, value, epochs):
        rule = rule_of(study, trial, "successive_halving")
        return [rule.ends(epoch, {"val_accuracy": value}, 100) for epoch in epochs], rule.rungs()

    interrupted, heir, *others = (study.ask() for _ in range(6))
    assert report(interrupted, 0.9, range(1, 5)) == ([False] * 4, {"completed_rung_0": 0.9})
    interrupted.set_user_attr(RESULT, {"status": "interrupted"})
    study.tell(interrupted, state=optuna.trial.TrialState.FAIL)
    rule = rule_of(study, heir, "successive_halving")
    rows = [{"epoch": epoch, "val_accuracy": 0.9} for epoch in range(1, 5)]
    rule.go_on(rows, {"completed_rung_0": 0.9, "fixed_params": 1.0})
    taken_over = study.trials[heir.number]
    assert taken_over.intermediate_values == study.trials[interrupted.number].intermediate_values
    assert taken_over.system_attrs == {"completed_rung_0": 0.9}
    for trial in others[:3]:
        report(trial, 0.5, [3])
    assert report(others[3], 0.8, [3])[0] == [True]
