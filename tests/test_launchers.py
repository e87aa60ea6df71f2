"""The contract of launchers: what a sweep may count on, with each launcher of the house and with a stranger's."""

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import own_launcher
import pytest
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher

from bnlab.errors import UserError
from bnlab.hydra_plugins.register import register_plugin
from bnlab.search.sweeps.launcher import SweepLauncher, offers_of

QUICK = ("trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[5]")
DEFAULTS = {
    "num_parallel": 1,
    "num_threads_in_a_job": None,
    "jobs_end_together": False,
    "activity": "",
    "returns": {},
}
LAUNCHERS = ("basic", "joblib", "stacked", "own")


def trials(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "trials.csv").open(newline="") as file:
        return [(row["optimizer.lr"], row["status"], row["val_accuracy"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Each learning rate's objective, trained by itself."""
    import bnlab

    return {
        lr: bnlab.run([*QUICK, f"optimizer.lr={lr}"], tmp_path_factory.mktemp("alone")).summary["objective"]
        for lr in ("0.01", "0.1", "1.0")
    }


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_keeps_the_contract(name, train, tmp_path, monkeypatch, expected) -> None:
    """The third job of four fails; the launcher goes on, and returns what each job ended with in the jobs' order."""
    register_plugin(own_launcher.OwnLauncher, "hydra/launcher", "own", {})
    launched = []

    def remember(launcher: Launcher) -> SweepLauncher:
        offers, launch = offers_of(launcher), launcher.launch

        def remembered(job_overrides, initial_job_idx):
            seen = offers.returns
            assert not seen
            returns = launch(job_overrides, initial_job_idx)
            launched.append((offers, list(job_overrides), initial_job_idx, list(returns)))
            return returns

        monkeypatch.setattr(launcher, "launch", remembered)
        return offers

    monkeypatch.setattr("bnlab.search.sweeps.running.offers_of", remember)
    outcome = train(
        *("-m", *QUICK, "optimizer.lr=0.01,0.1,0.5,1.0", f"hydra/launcher={name}", f"hydra.sweep.dir={tmp_path}/s"),
        "data.batch_size=tag('optimizer.lr=0.5',choice(100000))",  # more than there are
        *(["hydra.launcher.n_jobs=2"] if name in ("joblib", "stacked") else []),
    )
    assert outcome.exit_code == 1, outcome.stdout + outcome.stderr
    ((offers, jobs, first, returns),) = launched
    assert first == 0
    assert len(jobs) == len(returns) == 4
    assert [each.status for each in returns] == [
        *(JobStatus.COMPLETED,) * 2,
        JobStatus.FAILED,
        JobStatus.COMPLETED,
    ]
    one_of_360 = 0.003  # on whose side the rounding of a stack decides
    values = {lr: each._return_value for lr, each in zip(("0.01", "0.1", "", "1.0"), returns, strict=True) if lr}
    assert values == pytest.approx(expected, rel=0, abs=one_of_360 if name == "stacked" else 0)
    assert isinstance(offers.num_parallel, int)
    assert offers.num_parallel >= 1
    assert offers.num_threads_in_a_job in (None, 1)
    assert isinstance(offers.jobs_end_together, bool)
    assert (offers.activity, dict(offers.returns)) == ("", {})  # those of the next batch are not there yet
    if name in ("basic", "own"):
        assert {key: getattr(offers, key) for key in DEFAULTS} == DEFAULTS
    table = trials(tmp_path / "s")
    assert [state for _, state, _ in table] == ["completed", "completed", "failed", "completed"]
    assert {lr: float(value) for lr, _, value in table if value} == pytest.approx(values, abs=1e-6)


def test_a_launcher_in_one_file_of_a_users_own_runs_a_sweep(tmp_path, expected) -> None:
    """Found as Hydra finds plugins: in a folder `hydra_plugins` on the import path."""
    plugins = tmp_path / "hydra_plugins"
    plugins.mkdir()
    shutil.copy(own_launcher.__file__, plugins)
    arguments = ["-m", *QUICK, "optimizer.lr=0.01,0.1", "hydra/launcher=own", f"hydra.sweep.dir={tmp_path}/s"]
    code = "import sys; sys.path.append(sys.argv.pop(1)); from bnlab.train import main; main()"
    outcome = subprocess.run(
        [sys.executable, "-c", code, tmp_path, *arguments], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stderr == ""
    assert [(lr, status) for lr, status, _ in trials(tmp_path / "s")] == [("0.01", "completed"), ("0.1", "completed")]
    assert {lr: float(value) for lr, _, value in trials(tmp_path / "s")} == pytest.approx(
        {lr: expected[lr] for lr in ("0.01", "0.1")}, abs=1e-6
    )
    modified = [(tmp_path / "s" / number / "config.yaml").stat().st_mtime_ns for number in "01"]
    assert modified[0] > modified[1]  # the last one first


def test_a_launcher_that_offers_some_of_it_keeps_the_defaults_of_the_rest() -> None:
    class Partly:
        num_parallel = 3
        activity = "waiting"

    launcher = Partly()
    offers = offers_of(launcher)
    assert {key: getattr(offers, key) for key in DEFAULTS} == DEFAULTS | {"num_parallel": 3, "activity": "waiting"}
    launcher.activity = "running"
    assert offers.activity == "running"


@pytest.mark.parametrize("number", [0, -1, 1.5, "two", None, True, math.nan])
def test_a_launcher_that_runs_no_number_of_jobs_is_refused_in_one_line(number) -> None:
    class Wrong:
        num_parallel = number

    with pytest.raises(UserError, match="must be a whole number >= 1, but Wrong has") as error:
        offers_of(Wrong())
    assert "\n" not in str(error.value)
