"""Searches of real trainings on digits."""

import csv
import json
import os
import shlex
import subprocess
import sys
from functools import partial

import pytest
from conftest import Outcome
from omegaconf import OmegaConf

SPACE = ("optimizer=momentum", "optimizer.lr=tag(log,interval(1e-3,1))")
MOMENTUM = "optimizer.momentum=tag(one_minus_log,interval(0.8,0.99))"


def call(folder, *words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "bnlab.train", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def rerun(folder, command, way):
    """Run a printed command by `way`, and give back the summary it leaves."""
    words = shlex.split(command)
    environment = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words[:3] == ["python", "-m", "bnlab.train"]
    result = way(*words[3:], **environment)
    assert result.exit_code == 0, result.stderr
    (summary,) = folder.glob("outputs/runs/*/*/summary.json")
    return json.loads(summary.read_text())


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_the_best_of_a_search_reruns_to_the_same_figure(train, monkeypatch, tmp_path, launcher):
    """In the tests' process, where Lightning is imported already; joblib's workers have processes of their own."""
    monkeypatch.chdir(tmp_path)

    def here(*words, OMP_NUM_THREADS="1"):  # which the tests' process has
        assert OMP_NUM_THREADS == "1"
        return train(*words)

    result = here(
        *("-m", "search=random", "search.num_trials=4", "trainer.max_epochs=3", "trainer.accelerator=cpu"),
        *(*SPACE, MOMENTUM, "hydra.sweep.dir=s", f"hydra/launcher={launcher}"),
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert "epoch 1" not in result.stdout  # the progress of a single trial
    assert "best epoch" not in result.stdout  # its closing table
    best = OmegaConf.load(tmp_path / "s" / "best.yaml")
    with (tmp_path / "s" / "trials.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if int(row["number"]) == best.trials[0])
    summary = rerun(tmp_path, result.stdout.strip().splitlines()[-1], here)
    assert summary["objective"] == best.objective == float(row["val_accuracy"])
    assert summary["test_accuracy"] == float(row["test_accuracy"])
    config = OmegaConf.load(tmp_path / "s" / str(best.trials[0]) / "config.yaml")
    assert "search" not in config  # a run is what it is, however it was found
    single = OmegaConf.load(next(tmp_path.glob("outputs/runs/*/*/config.yaml")))
    assert config == single


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_thirty_random_trials_on_digits_reach_98_percent_on_the_test_set(tmp_path, seed):
    result = call(
        tmp_path,
        *("-m", "search=random", "search.num_trials=30", *SPACE, MOMENTUM, "hydra.sweep.dir=s"),
        *("model.num_units=300", "data.batch_size=32", f"search.seed={seed}"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"),
    )
    assert result.exit_code == 0, result.stderr
    best = OmegaConf.load(tmp_path / "s" / "best.yaml")
    with (tmp_path / "s" / "trials.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    row = next(row for row in table if int(row["number"]) == best.trials[0])
    summary = rerun(tmp_path, best.command, partial(call, tmp_path))
    print(result.stdout)
    accuracies = float(row["test_accuracy"]), summary["test_accuracy"]
    print("test accuracy of the best by validation, and again: {:.2%}, {:.2%}".format(*accuracies))
    assert len(table) == 30
    assert float(row["test_accuracy"]) >= 0.98
    assert summary["objective"] == best.objective
    assert summary["test_accuracy"] == float(row["test_accuracy"])
