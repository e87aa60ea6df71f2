"""Sweeps from the command line, with a simulated objective in place of the training."""

import csv
import json
import math
import shlex
import time
from pathlib import Path

import optuna
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

LR = "optimizer.lr=tag(log,interval(1e-4,1))"
MOMENTUM = "optimizer.momentum=tag(one_minus_log,interval(0.9,0.999))"


def smooth(config):
    """Best at a learning rate of 0.01 and a momentum of 0.97; the seed moves it a little."""
    value = 1 - (math.log10(config.optimizer.lr) + 2) ** 2 / 10
    if "momentum" in config.optimizer:
        value -= (math.log10(1 - config.optimizer.momentum) + 1.5) ** 2 / 10
    return value + config.seed * 1e-4


@pytest.fixture
def sweep(train, monkeypatch, tmp_path):
    """Run a sweep of `task`; what it left is read back from its folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, task=smooth, folder="sweep"):
        monkeypatch.setattr("bnlab.train.task", task)
        outcome = train("-m", f"hydra.sweep.dir={folder}", *arguments)
        return outcome, Left(tmp_path / folder)

    return run


class Left:
    def __init__(self, folder):
        self.folder = folder

    @property
    def rows(self):
        with (self.folder / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def best(self):
        return OmegaConf.load(self.folder / "best.yaml")

    @property
    def leaderboard(self):
        return (self.folder / "leaderboard.md").read_text()

    @property
    def study(self):
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(self.folder / "study.journal"))
        )
        return optuna.load_study(study_name=None, storage=storage)


def test_a_sweep_leaves_a_row_a_trial_with_every_parameter_at_full_precision(sweep):
    seen = {}

    def task(config):
        number = int(Path(HydraConfig.get().runtime.output_dir).name)
        seen[number] = (config.optimizer.lr, config.optimizer.momentum)
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=6", "optimizer=momentum", LR, MOMENTUM, task=task)
    assert outcome.exit_code == 0, outcome.stderr
    rows = left.rows
    assert [int(row["number"]) for row in rows] == list(range(6))
    for row in rows:
        lr, momentum = seen[int(row["number"])]
        assert (float(row["optimizer.lr"]), float(row["optimizer.momentum"])) == (lr, momentum)
        assert 1e-4 <= lr <= 1
        assert 0.9 <= momentum <= 0.999
        assert row["state"] == "completed"
        assert float(row["seconds"]) >= 0
        summary = json.loads((left.folder / row["folder"] / "summary.json").read_text())
        assert summary["objective"] == float(row["val_accuracy"])
    assert (left.folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_of_the_best_gives_the_same_objective(sweep, train):
    outcome, left = sweep("search=random", "search.num_trials=8", "optimizer=momentum", LR, MOMENTUM, "seed=3")
    best = max(left.rows, key=lambda row: float(row["val_accuracy"]))
    assert left.best.objective == float(best["val_accuracy"])
    command = outcome.stdout.strip().splitlines()[-1]
    assert command == left.best.command
    values = []
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "bnlab.train"]
    # alone, `task` is called by main, which does not say what it returned
    import bnlab.train

    original = bnlab.train.task
    bnlab.train.task = lambda config: values.append(original(config))
    assert train(*words[3:]).exit_code == 0
    assert values == [left.best.objective]


def test_the_screen_ends_with_the_ten_best_as_a_table(sweep):
    outcome, left = sweep("search=random", "search.num_trials=14", LR)
    assert "The 10 best of 14" in outcome.stdout
    lines = outcome.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "The 10 best" in line)
    ranks = [line.split() for line in lines[start:] if line.split()[:1] and line.split()[0].isdecimal()]
    ranked = sorted(left.rows, key=lambda row: -float(row["val_accuracy"]))[:10]
    assert [(int(rank), trial) for rank, trial, *_ in ranks] == [(i + 1, row["number"]) for i, row in enumerate(ranked)]
    assert max(map(len, lines[:-1])) <= 80  # all but the command, which must not be broken


def test_a_grid_runs_every_combination_once(sweep):
    outcome, left = sweep("optimizer=momentum", "optimizer.lr=0.1,0.01", "optimizer.momentum=0.8,0.9,0.95")
    assert outcome.exit_code == 0
    pairs = [(float(row["optimizer.lr"]), float(row["optimizer.momentum"])) for row in left.rows]
    assert pairs == [(lr, momentum) for lr in (0.1, 0.01) for momentum in (0.8, 0.9, 0.95)]


def test_of_a_key_that_is_given_twice_the_last_holds(sweep):
    _, left = sweep("optimizer.lr=0.1,0.2", "seed=5,6", "optimizer.lr=0.3,0.4", "seed=7")
    assert [float(row["optimizer.lr"]) for row in left.rows] == [0.3, 0.4]
    assert OmegaConf.load(left.folder / "best.yaml").overrides[0] == "seed=7"


def test_a_sweep_without_anything_to_vary_is_one_job(sweep):
    outcome, left = sweep("optimizer.lr=0.1")
    assert outcome.exit_code == 0
    assert len(left.rows) == 1


def test_parameters_exist_only_where_their_condition_holds(sweep):
    def task(config):
        assert ("beta1" in config.optimizer) == ("adam" in config.optimizer._target_.lower())
        return 0.5

    outcome, left = sweep(
        "search=random",
        "search.num_trials=12",
        "optimizer=adam,sgd",
        "optimizer.beta1=tag(one_minus_log,'optimizer=adam',interval(0.9,0.999))",
        task=task,
    )
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    assert {row["optimizer"] for row in left.rows} == {"adam", "sgd"}
    assert all((row["optimizer.beta1"] != "") == (row["optimizer"] == "adam") for row in left.rows)


def fails_on_odd(config):
    number = int(Path(HydraConfig.get().runtime.output_dir).name)
    if number % 2:
        raise ValueError(f"number {number}\nis odd")
    return smooth(config)


def test_a_trial_that_raises_is_a_row_with_its_reason_and_the_others_go_on(sweep):
    outcome, left = sweep("search=random", "search.num_trials=6", LR, task=fails_on_odd)
    assert outcome.exit_code == 1
    states = [row["state"] for row in left.rows]
    assert states == ["completed", "failed"] * 3
    assert [row["reason"] for row in left.rows if row["state"] == "failed"] == [
        f"ValueError: number {number} is odd" for number in (1, 3, 5)
    ]
    assert all(row["val_accuracy"] == "" for row in left.rows if row["state"] == "failed")
    for number in (1, 3, 5):
        assert f"trial {number} failed: ValueError: number {number} is odd" in outcome.stdout
        assert f"| {number} | failed | ValueError: number {number} is odd |" in left.leaderboard
        log = (left.folder / str(number) / "train.log").read_text()
        assert "Traceback" in log
        assert "in fails_on_odd" in log
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert "3 of 6 trials failed" in outcome.stdout
    assert [trial.state.name for trial in left.study.trials] == ["COMPLETE", "FAIL"] * 3


def test_all_trials_failing_still_leaves_the_files(sweep):
    def task(config):
        raise RuntimeError("no")

    outcome, left = sweep("search=random", "search.num_trials=3", LR, task=task)
    assert outcome.exit_code == 1
    assert [row["state"] for row in left.rows] == ["failed"] * 3
    assert not (left.folder / "best.yaml").exists()


@pytest.mark.parametrize(("objective", "worst"), [("val_accuracy", 0.0), ("val_loss", math.inf)])
def test_a_diverged_trial_is_a_result_and_not_a_failure(sweep, objective, worst):
    def task(config):
        folder = Path(HydraConfig.get().runtime.output_dir)
        if folder.name == "1":
            (folder / "summary.json").write_text('{"status": "diverged", "objective": null, "seconds": 1.0}')
            return None
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=4", LR, f"objective={objective}", task=task)
    assert outcome.exit_code == 0
    assert [row["state"] for row in left.rows] == ["completed", "diverged", "completed", "completed"]
    assert left.rows[1][objective] == ""
    assert left.study.trials[1].value == worst
    pick = max if objective == "val_accuracy" else min
    assert left.best.objective == pick(float(row[objective]) for row in left.rows if row[objective])
    assert "| 1 | diverged |" in left.leaderboard


def test_seeds_rank_configurations_by_their_mean(sweep):
    outcome, left = sweep(
        "search=random", "search.num_trials=4", "search.seeds=3", LR, "seed=10", task=lambda c: smooth(c) * c.seed
    )
    assert outcome.exit_code == 0
    rows = left.rows
    assert len(rows) == 12
    assert [int(row["seed"]) for row in rows] == [10, 11, 12] * 4
    groups = {}
    for row in rows:
        groups.setdefault(row["optimizer.lr"], []).append(float(row["val_accuracy"]))
    assert [len(group) for group in groups.values()] == [3] * 4
    means = {lr: sum(group) / 3 for lr, group in groups.items()}
    lr = max(means, key=means.get)
    assert left.best.objective == pytest.approx(means[lr], rel=1e-12)
    deviation = math.sqrt(sum((value - means[lr]) ** 2 for value in groups[lr]) / 2)
    assert f"{means[lr]:.5f} ± {deviation:.5f}" in left.leaderboard
    assert f"{means[lr]:.5f} ± {deviation:.5f}" in outcome.stdout
    # the command runs all seeds again, and ends with the same mean
    again, repeated = sweep(*shlex.split(left.best.command)[4:], task=lambda c: smooth(c) * c.seed, folder="again")
    assert again.exit_code == 0
    assert repeated.best.objective == left.best.objective


@pytest.mark.parametrize("kind", ["random", "quasi_random", "tpe", "coarse_to_fine"])
def test_seeds_of_a_configuration_share_its_values(sweep, kind):
    _, left = sweep(f"search={kind}", "search.num_trials=6", "search.seeds=2", "search.batch_size=3", LR)
    values = [row["optimizer.lr"] for row in left.rows]
    assert values[::2] == values[1::2]
    assert len(set(values)) == 6


class Spy(Launcher):
    """Takes jobs as any launcher does, and keeps what it was given."""

    def __init__(self, n_jobs=1):
        self.n_jobs = n_jobs
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
    assert all(row["state"] == "completed" for row in left.rows)  # told by the returns alone


def test_tpe_fills_the_workers_of_the_launcher(sweep, spy):
    spy.n_jobs = 3
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
    failed = [row for row in left.rows if row["state"] == "failed"]
    assert len(left.rows) == 9
    assert [(row["optimizer"], row["scheduler"]) for row in failed] == [("sgd", "constant")]
    assert "Could not override 'optimizer.beta1'" in failed[0]["reason"]
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
    assert [row["state"] for row in left.rows] == ["completed", "completed", "failed", "completed", "completed"]
    assert left.rows[2]["reason"] == "the launcher failed: OSError: lost the node"


def test_progress_is_readable_in_a_log(sweep, monkeypatch):
    monkeypatch.setattr("bnlab.search.progress.LINE_EVERY_S", 0.2)

    def task(config):
        time.sleep(0.15)
        return smooth(config)

    outcome, _ = sweep("search=random", "search.num_trials=8", LR, task=task)
    lines = [line for line in outcome.stdout.splitlines() if " done" in line]
    assert len(lines) >= 3
    assert "\x1b" not in outcome.stdout
    assert "\r" not in outcome.stdout
    middle = lines[len(lines) // 2]
    for part in ("/8 done", "1 running", "best val_accuracy 0.", "(trial ", " left"):
        assert part in middle
    assert lines[-1].startswith("8/8 done, best val_accuracy")


def test_interrupting_a_sweep_keeps_its_results_and_says_how_to_go_on(sweep):
    def task(config):
        if HydraConfig.get().runtime.output_dir.endswith("/2"):
            raise KeyboardInterrupt
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=5", LR, task=task)
    assert outcome.exit_code == 130
    assert [row["state"] for row in left.rows] == ["completed", "completed", "interrupted"]
    command = outcome.stdout.strip().splitlines()[-1]
    assert command == "python -m bnlab.train -m search.resume=sweep"


def test_resuming_finishes_an_interrupted_sweep_with_the_draws_of_a_whole_one(sweep, train, monkeypatch):
    ran = []

    def interrupts(config):
        if HydraConfig.get().runtime.output_dir.endswith("/2"):
            raise KeyboardInterrupt
        ran.append(config.optimizer.lr)
        return smooth(config)

    arguments = ["search=random", "search.num_trials=5", LR, "search.batch_size=2"]
    _, whole = sweep(*arguments, folder="whole")
    _, left = sweep(*arguments, task=interrupts)
    assert len(ran) == 2
    monkeypatch.setattr("bnlab.train.task", lambda config: ran.append(config.optimizer.lr) or smooth(config))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0
    finished = [row for row in left.rows if row["state"] == "completed"]
    assert sorted(row["optimizer.lr"] for row in finished) == sorted(row["optimizer.lr"] for row in whole.rows)
    assert len(ran) == len(set(ran)) == 5  # none twice
    assert [row["state"] for row in left.rows] == [*["completed"] * 2, "interrupted", *["completed"] * 3]
    assert left.best.objective == whole.best.objective
    numbers = [int(row["number"]) for row in left.rows]
    assert numbers == list(range(len(numbers)))


def test_resuming_a_finished_sweep_runs_nothing_and_shows_its_result(sweep, train, monkeypatch):
    first, left = sweep("search=random", "search.num_trials=3", LR)
    before = left.rows
    monkeypatch.setattr("bnlab.train.task", lambda config: pytest.fail("a job ran"))
    outcome = train("-m", "search.resume=sweep")
    assert outcome.exit_code == 0
    assert left.rows == before
    assert outcome.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]


def test_resuming_with_more_trials_extends_the_sweep(sweep, train):
    _, left = sweep("search=random", "search.num_trials=3", LR)
    before = left.rows
    assert train("-m", "search.resume=sweep", "search.num_trials=7").exit_code == 0
    assert left.rows[:3] == before
    assert len({row["optimizer.lr"] for row in left.rows}) == 7
    assert train("-m", "search.resume=sweep").exit_code == 0
    assert len(left.rows) == 7  # the new number is kept


def test_resuming_refuses_other_settings(sweep, train):
    sweep("search=random", "search.num_trials=2", LR)
    outcome = train("-m", "search.resume=sweep", "trainer.max_epochs=4")
    assert outcome.exit_code == 2
    assert "keeps its settings, so that 'trainer.max_epochs=4' cannot be given" in outcome.stderr


def test_a_sweep_that_is_running_cannot_be_resumed(sweep, train):
    outcomes = []

    def task(config):
        from bnlab import UserError
        from bnlab.search.folder import SweepFolder

        folder = SweepFolder(Path(HydraConfig.get().runtime.output_dir).parent)
        with pytest.raises(UserError, match="is still running"), folder.lock():
            pass
        outcomes.append(True)
        return 0.5

    sweep("search=random", "search.num_trials=1", LR, task=task)
    assert outcomes == [True]


def test_a_folder_with_a_sweep_is_not_overwritten(sweep):
    sweep("search=random", "search.num_trials=1", LR)
    outcome, _ = sweep("search=random", "search.num_trials=1", LR)
    assert outcome.exit_code == 2
    assert "search.resume" in outcome.stderr
