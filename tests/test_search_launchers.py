"""What a sweep asks of its launcher, and what it makes of one that fails."""

import math
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from simulated_sweep import LR, smooth

from bnlab.launchers.n_jobs import num_processes


class Spy(Launcher):
    """Takes jobs as any launcher does, and keeps what it was given."""

    def __init__(self):
        self.batches = []

    def setup(self, *, hydra_context, task_function, config):
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        self.batches.append((initial_job_idx, [list(overrides) for overrides in job_overrides]))
        returns = []
        for overrides in job_overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            returns.append(JobReturn(status=JobStatus.COMPLETED, _return_value=smooth(config)))
        return returns


@pytest.fixture
def spy(monkeypatch):
    launcher = Spy()

    def instantiate(self, **setup):
        launcher.setup(**setup)
        return launcher

    monkeypatch.setattr("hydra.core.plugins.Plugins.instantiate_launcher", instantiate)
    return launcher


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        (["search=random", "search.num_trials=9"], [9]),
        (["search=quasi_random", "search.num_trials=9"], [9]),
        (["search=random", "search.num_trials=9", "search.batch_size=4"], [4, 4, 1]),
        (["search=coarse_to_fine", "search.num_trials=9"], [3, 3, 3]),
        (["search=coarse_to_fine", "search.num_trials=10", "search.rounds=2", "search.batch_size=3"], [3, 2, 3, 2]),
        (["search=coarse_to_fine", "search.num_trials=4", "search.rounds=2", "search.seeds=3"], [6, 6]),
        (["search=tpe", "search.num_trials=12"], [10, 1, 1]),
        (["search=tpe", "search.num_trials=12", "search.seeds=2"], [20, 2, 2]),
    ],
)
def test_batches_hold_all_trials_that_are_independent(sweep, spy, arguments, sizes):
    outcome, left = sweep(*arguments, LR)
    assert outcome.exit_code == 0
    assert [len(jobs) for _, jobs in spy.batches] == sizes
    assert [first for first, _ in spy.batches] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert len(left.rows) == sum(sizes)
    assert all(row["status"] == "completed" for row in left.rows)  # told by the returns alone


def test_tpe_fills_the_workers_of_the_launcher(sweep, spy):
    spy.num_parallel = 3
    sweep("search=tpe", "search.num_trials=16", LR)
    assert [len(jobs) for _, jobs in spy.batches] == [10, 3, 3]


def test_jobs_are_plain_overrides(sweep, spy):
    sweep("search=random", "search.num_trials=2", LR, "trainer.max_epochs=3", "search/space=learning_rate")
    for number, overrides in enumerate(spy.batches[0][1]):
        keys = [override.partition("=")[0] for override in overrides]
        assert keys == ["trainer.max_epochs", "optimizer.lr", "hydra.sweep.subdir"]
        assert overrides[-1] == f"hydra.sweep.subdir={number}"


def test_coarse_to_fine_narrows_in_on_the_best(sweep, spy):
    _, left = sweep("search=coarse_to_fine", "search.num_trials=30", LR)
    exponents = [math.log10(float(row["optimizer.lr"])) for row in left.rows]
    spreads = [max(part) - min(part) for part in (exponents[:10], exponents[10:20], exponents[20:])]
    assert spreads[1] <= 4 * 0.5
    assert spreads[2] <= 4 * 0.25
    assert abs(math.log10(left.best.objective and float(left.rows[-1]["optimizer.lr"])) + 2) < 1


def test_a_launcher_that_cannot_start_is_said_in_one_line(sweep, spy, monkeypatch):
    def launch(job_overrides, initial_job_idx):
        raise OSError("no queue of that name")

    monkeypatch.setattr(spy, "launch", launch)
    outcome, _ = sweep("search=random", "search.num_trials=3", LR)
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines() == ["The launcher cannot start a job: no queue of that name"]
    monkeypatch.undo()


def test_a_job_that_cannot_be_composed_is_a_row_and_the_others_go_on(sweep):
    """Only one combination in the middle lacks the setting, so that the check before the sweep does not see it."""
    outcome, left = sweep(
        "optimizer=adam,sgd,adamw",
        "scheduler=step,constant,cosine",
        "optimizer.beta1=tag('scheduler=constant',choice(0.5))",
    )
    assert outcome.exit_code == 1
    failed = [row for row in left.rows if row["status"] == "failed"]
    assert len(left.rows) == 9
    assert [(row["optimizer"], row["scheduler"]) for row in failed] == [("sgd", "constant")]
    assert "Could not override 'optimizer.beta1'" in failed[0]["error"]
    assert len(list(left.folder.glob("[0-9]/summary.json"))) == 8


def test_a_launcher_that_fails_in_the_middle_loses_the_job_it_was_at(sweep, spy, monkeypatch):
    calls = []

    def launch(job_overrides, initial_job_idx):
        calls.append(len(job_overrides))
        for overrides in job_overrides:
            folder = Path("sweep") / overrides[-1].partition("=")[2]
            folder.mkdir(parents=True)
            if folder.name == "2":
                raise OSError("lost the node")
            (folder / "summary.json").write_text('{"status": "completed", "objective": 0.5, "seconds": 1.0}')
        return [None] * len(job_overrides)

    spy.launch = launch
    outcome, left = sweep("search=random", "search.num_trials=5", LR)
    assert outcome.exit_code == 1
    assert calls == [5, 2]
    assert [row["status"] for row in left.rows] == ["completed", "completed", "failed", "completed", "completed"]
    assert left.rows[2]["error"] == "the launcher failed: OSError: lost the node"


@pytest.mark.parametrize("name", ["[red]a [x]", "a\\b\\", "it's % \\' é -{},", "-a\nb"], ids=ascii)
def test_a_folder_is_named_and_shown_as_it_was_asked_for(sweep, tmp_path, name):
    escaped = name.replace("\\'", "\\\\'").replace("'", "\\'") + ("\\" if name.endswith("\\") else "")
    outcome, _ = sweep("seed=0,1", folder=f"'{escaped}'")
    assert outcome.exit_code == 0, outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.parent.name for path in tmp_path.rglob("summary.json")) == ["0", "1"]
    assert f"results go to {name}; loading" in outcome.stdout
    assert f"...\n2 trials in {name}\n" in outcome.stdout


@pytest.mark.parametrize("launcher", ["joblib", "stacked"])
@pytest.mark.parametrize("n_jobs", [0, 1.5, "two", "null", True])
def test_a_number_of_jobs_that_makes_no_sense_is_one_line_and_begins_no_sweep(train, tmp_path, launcher, n_jobs):
    outcome = train(
        *("-m", "seed=0,1", f"hydra/launcher={launcher}", f"hydra.launcher.n_jobs={n_jobs}"),
        f"hydra.sweep.dir={tmp_path}/s",
    )
    assert outcome.exit_code == 2
    assert outcome.stdout.count("\n") == outcome.stdout.count("Searching seed") == 1
    assert outcome.stderr.startswith(
        "`hydra.launcher.n_jobs` must be a whole number >= 1, or -1 for one process per core"
    )
    assert outcome.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_negative_number_of_jobs_counts_as_in_joblib():
    import joblib

    cores = joblib.cpu_count()
    for n_jobs in (-1, -2, -3, -100, 1, 7):
        expected = joblib.parallel.LokyBackend(parallel=None).effective_n_jobs(n_jobs) if n_jobs > -100 else 1
        assert num_processes(n_jobs, cores) == expected


def test_jobs_of_another_task_run_one_after_another_under_the_stacked_launcher_which_says_so(sweep):
    outcome, left = sweep("hydra/launcher=stacked", "search=random", "search.num_trials=3", LR)
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["status"] for row in left.rows] == ["completed"] * 3
    (line,) = outcome.stderr.splitlines()
    assert line.partition("] ")[2].startswith(
        "hydra/launcher=stacked can only stack the task of `python -m bnlab.train`"
    )
