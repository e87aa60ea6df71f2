"""What a sweep from the command line runs, says and leaves."""

import json
import math
import re
import shlex
import threading
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from simulated_sweep import LR, MOMENTUM, SAMPLERS, smooth

from bnlab.search.study.trials import Trial
from bnlab.search.sweeps.progress import SweepProgress
from bnlab.status import Status


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
        assert row["status"] == "completed"
        assert float(row["seconds"]) >= 0
        summary = json.loads((left.folder / row["folder"] / "summary.json").read_text())
        assert summary["objective"] == float(row["val_accuracy"])
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert (left.folder / f"search.{suffix}").read_bytes().startswith(start)


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
    assert max(map(len, lines[1:-1])) <= 80  # all but what is searched and the command, which must not be broken


def test_a_grid_runs_every_combination_once(sweep):
    outcome, left = sweep("optimizer=momentum", "optimizer.lr=0.1,0.01", "optimizer.momentum=0.8,0.9,0.95")
    assert outcome.exit_code == 0
    pairs = [(float(row["optimizer.lr"]), float(row["optimizer.momentum"])) for row in left.rows]
    assert pairs == [(lr, momentum) for lr in (0.1, 0.01) for momentum in (0.8, 0.9, 0.95)]


ODD = ["{a:1}", "[10]", "[20,20]", "null", "1", "True", "'1'", "1e-10", "1.00000001e-10", "''", "'[b]x|<b>'", "'$_$'"]


@pytest.mark.parametrize("search", [["search=grid"], ["search=random", "search.num_trials=30"]], ids=["grid", "random"])
def test_a_choice_is_shown_as_it_is_written_and_reaches_the_job_as_hydra_reads_it(sweep, search):
    seen = []

    def task(config):
        seen.append(config.notes.x)
        return 0.5

    outcome, left = sweep(*search, f"+notes.x={','.join(ODD)}", task=task)
    assert outcome.exit_code == 0, outcome.stdout + outcome.stderr
    rows = [row["notes.x"] for row in left.rows]
    read = [{"a": 1}, [10], [20, 20], None, 1, True, "1", 1e-10, 1.00000001e-10, "", "[b]x|<b>", "$_$"]
    values = dict(zip(ODD, read, strict=True))
    assert [repr(value) for value in seen] == [repr(values[text]) for text in rows]
    assert rows[: len(ODD)] == ODD or search != ["search=grid"]
    assert len(set(rows)) > 8
    table = [line.split()[-1] for line in outcome.stdout.splitlines() if re.match(r" +\d", line)]
    assert table == rows[:10]
    assert outcome.stdout.splitlines()[-1] == shlex.join(["python", "-m", "bnlab.train", f"+notes.x={rows[0]}"])
    escaped = {"'[b]x|<b>'": r"'[b]x\|\<b>'", "'$_$'": r"'\$_\$'"}
    listed = [line.rpartition("50.00 % | ")[2][:-2] for line in left.leaderboard.splitlines() if "50.00 %" in line]
    assert listed == [escaped.get(text, text) for text in rows]
    assert (left.folder / "search.png").exists()


def test_numbers_that_differ_are_shown_with_as_many_digits_as_that_takes(sweep):
    arguments = ["search=random", "search.num_trials=4", "optimizer.lr=interval(0.1,0.1000001)", "objective=val_loss"]
    outcome, _ = sweep(*arguments, task=lambda config: config.optimizer.lr * 1e-9)
    shown = [line.split()[2:] for line in outcome.stdout.splitlines() if re.match(r" \d", line)]
    assert len({lr for _, lr in shown}) == 4
    assert all(float(loss) == pytest.approx(1e-10) for loss, _ in shown)


@pytest.mark.parametrize(
    "broken", ["sweeps.ending.write_figure", "sweeps.ending.write_ablation", "results.leaderboard.Leaderboard.table"]
)
def test_what_cannot_be_shown_does_not_take_the_ending_with_it(sweep, monkeypatch, broken):
    def fail(*arguments):
        raise RuntimeError("out of\ncolour")

    monkeypatch.setattr(f"bnlab.search.{broken}", fail)
    outcome, left = sweep("search=random", "search.num_trials=3", LR, task=fails_on_odd)
    assert outcome.exit_code == 1
    assert len(left.rows) == 3
    assert outcome.stdout.strip().splitlines()[-1] == left.best.command
    assert "cannot be shown: RuntimeError: out of colour" in outcome.stderr
    assert "Traceback" not in outcome.stderr


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


def test_more_quasi_random_trials_are_the_next_points_of_the_same_sequence(sweep, train):
    beta = "tag(one_minus_log,'optimizer={}',interval(0.9,0.999))"
    arguments = [
        "search=quasi_random",
        "optimizer=adam,momentum,sgd",
        f"optimizer.beta1={beta.format('adam')}",
        f"optimizer.momentum={beta.format('momentum')}",
        LR,
    ]
    _, whole = sweep(*arguments, "search.num_trials=9", folder="whole")
    _, halved = sweep(*arguments, "search.num_trials=1", folder="halved")  # of momentum, the next is of Adam
    assert train("-m", "search.resume=halved", "search.num_trials=9").exit_code == 0
    keys = ["optimizer", "optimizer.beta1", "optimizer.momentum", "optimizer.lr"]
    points = [[tuple(row[key] for key in keys) for row in left.rows] for left in (whole, halved)]
    assert points[0] == points[1]
    assert {bool(beta1) + 2 * bool(momentum) for _, beta1, momentum, _ in points[0]} == {0, 1, 2}


def fails_on_odd(config):
    number = int(Path(HydraConfig.get().runtime.output_dir).name)
    if number % 2:
        raise ValueError(f"number {number}\nis odd")
    return smooth(config)


def test_a_trial_that_raises_is_a_row_with_its_error_and_the_others_go_on(sweep):
    outcome, left = sweep("search=random", "search.num_trials=6", LR, task=fails_on_odd)
    assert outcome.exit_code == 1
    statuses = [row["status"] for row in left.rows]
    assert statuses == ["completed", "failed"] * 3
    assert [row["error"] for row in left.rows if row["status"] == "failed"] == [
        f"ValueError: number {number} is odd" for number in (1, 3, 5)
    ]
    assert all(row["val_accuracy"] == "" for row in left.rows if row["status"] == "failed")
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
    assert [row["status"] for row in left.rows] == ["failed"] * 3
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
    assert [row["status"] for row in left.rows] == ["completed", "diverged", "completed", "completed"]
    assert left.rows[1][objective] == ""
    assert left.study.trials[1].value == worst
    pick = max if objective == "val_accuracy" else min
    assert left.best.objective == pick(float(row[objective]) for row in left.rows if row[objective])
    assert "| 1 | diverged |  | 1 |" in left.leaderboard
    assert left.leaderboard.endswith("\n\n- diverged: its loss became infinite or NaN\n")


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
    assert f"{100 * means[lr]:.2f} ± {100 * deviation:.2f} %" in left.leaderboard
    assert f"{100 * means[lr]:.2f} ± {100 * deviation:.2f} %" in outcome.stdout
    # the command runs all seeds again, and ends with the same mean
    again, repeated = sweep(*shlex.split(left.best.command)[4:], task=lambda c: smooth(c) * c.seed, folder="again")
    assert again.exit_code == 0
    assert repeated.best.objective == left.best.objective


@pytest.mark.parametrize("kind", SAMPLERS)
def test_seeds_of_a_configuration_share_its_values(sweep, kind):
    _, left = sweep(f"search={kind}", "search.num_trials=6", "search.seeds=2", "search.batch_size=3", LR)
    values = [row["optimizer.lr"] for row in left.rows]
    assert values[::2] == values[1::2]
    assert len(set(values)) == 6


def test_progress_is_readable_in_a_log(sweep, monkeypatch):
    """A line now and then while trials run, here whenever the sweep looks after them; the fifth trial waits for one."""
    monkeypatch.setattr("bnlab.search.sweeps.progress.LINE_EVERY_S", 0)
    shown = threading.Event()
    line = SweepProgress._line

    def seen(self):
        text = line(self)
        if text.startswith("4/8 done, 1 running"):
            shown.set()
        return text

    monkeypatch.setattr(SweepProgress, "_line", seen)

    def task(config):
        if HydraConfig.get().job.num == 4:
            assert shown.wait(60)
        return smooth(config)

    outcome, _ = sweep("search=random", "search.num_trials=8", LR, task=task)
    lines = [line for line in outcome.stdout.splitlines() if " done" in line]
    assert "\x1b" not in outcome.stdout
    assert "\r" not in outcome.stdout
    (middle,) = [line for line in lines if line.startswith("4/8 done, 1 running")][:1]
    for part in ("best val_accuracy ", " % (trial ", " used", " left"):
        assert part in middle
    assert lines[-1].startswith("8/8 done, best val_accuracy")


def test_of_equally_good_trials_the_progress_names_the_first_in_whatever_order_they_end():
    progress = SweepProgress(Console(), 3, [], "val_accuracy", minimize=False)
    for number, objective in ((2, 0.9), (1, 0.9), (0, 0.8)):
        progress.ended(Trial(number, number, 0, Status.COMPLETED, objective))
    assert "(trial 1)" in progress._line()


def test_a_folder_with_a_sweep_is_not_overwritten(sweep):
    sweep("search=random", "search.num_trials=1", LR)
    outcome, _ = sweep("search=random", "search.num_trials=1", LR)
    assert outcome.exit_code == 2
    assert "search.resume" in outcome.stderr


def test_a_sweep_that_is_said_to_have_ended_survives_a_power_cut(sweep, powered):
    disk, after_power_cut = powered
    outcome, left = sweep("optimizer.lr=0.1,0.01", folder=f"{disk}/s")
    assert outcome.exit_code == 0, outcome.stderr
    copy = after_power_cut() / "s"
    for name in ("trials.csv", "best.yaml", "leaderboard.md", "study.journal", "0/summary.json", "1/summary.json"):
        assert (copy / name).read_bytes() == (left.folder / name).read_bytes(), name
