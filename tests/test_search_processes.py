"""Sweeps in processes that are killed: a worker of joblib, or the sweep itself."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf

PROGRAM = Path(__file__).with_name("search_program.py")
LR = "optimizer.lr=tag(log,interval(1e-4,1))"


def start(folder, *arguments, new_group=False, program=(str(PROGRAM),), **environment):
    return subprocess.Popen(
        [sys.executable, *program, "-m", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0 if new_group else None,
    )


def run(folder, *arguments, **environment):
    process = start(folder, *arguments, **environment)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def ran(folder):
    """(number, learning rate, process, threads) of each job that began."""
    return [line.split() for line in (folder / "ran.txt").read_text().splitlines()]


def test_joblib_runs_jobs_in_processes_of_one_thread(tmp_path):
    code, stdout, stderr = run(
        tmp_path,
        *("search=random", "search.num_trials=6", LR, "hydra.sweep.dir=s"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        BNLAB_TEST_SECONDS="0.3",
        OMP_NUM_THREADS="3",
    )
    assert code == 0, stdout + stderr
    jobs = ran(tmp_path / "s")
    assert sorted(int(number) for number, *_ in jobs) == list(range(6))
    assert len({pid for _, _, pid, _ in jobs}) == 2
    assert {threads for *_, threads in jobs} == {"1"}
    assert [row["status"] for row in rows(tmp_path / "s")] == ["completed"] * 6
    assert OmegaConf.load(tmp_path / "s" / "best.yaml").command.startswith("OMP_NUM_THREADS=1 python -m bnlab.train ")


def test_the_trial_of_a_killed_worker_is_tried_again(tmp_path):
    code, stdout, stderr = run(
        tmp_path,
        *("search=random", "search.num_trials=8", LR, "hydra.sweep.dir=s"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        BNLAB_TEST_SECONDS="0.2",
        BNLAB_TEST_KILL="1,4",
        BNLAB_TEST_RAISE="6",
    )
    assert code == 1, stdout + stderr
    table = rows(tmp_path / "s")
    assert [row["number"] for row in table if row["status"] == "failed"] == ["6"]
    assert [row["number"] for row in table if row["status"] == "interrupted"] == ["1", "4"]
    assert [row["optimizer.lr"] for row in table[8:]] == [table[number]["optimizer.lr"] for number in (1, 4)]
    assert [row["status"] for row in table[8:]] == ["completed"] * 2
    assert "its worker process was killed or crashed (SIGKILL(-9))" in table[1]["error"]
    assert table[6]["error"] == "ValueError: on request"
    assert len(ran(tmp_path / "s")) == 10  # no other was run twice
    assert "trial 1 was lost: WorkerDiedError" in stdout
    assert "Traceback" not in stdout + stderr


ERRORS = {
    "exit": "SystemExit: called sys.exit(3)",
    "exit_well": "SystemExit: called sys.exit()",
    "interrupt": "KeyboardInterrupt: raised by code, not by a signal",
    "end": "End: the end",
    "recurse": "RecursionError: maximum recursion depth exceeded",
    "memory": "MemoryError: MemoryError",
    "unreadable": "UnreadableError: its message cannot be read, which raised RuntimeError",
    "stuck": r"StuckError: 1 \x1b[31m\ud800",
    "lose": "",
    "fork": "",
    "os_exit": "WorkerDiedError: its worker process was killed or crashed (EXIT(0))",
    "abort": "WorkerDiedError: its worker process was killed or crashed (SIGABRT(-6))",
    "orphan": "WorkerDiedError: its worker process was killed or crashed (exit code 6)",
}


@pytest.mark.parametrize(
    ("misdeeds", "arguments"),
    [
        ("exit exit_well interrupt end recurse memory unreadable stuck lose fork", ()),
        (
            "os_exit exit abort unreadable orphan stuck interrupt lose fork",
            ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ),
    ],
    ids=["basic", "joblib"],
)
def test_whatever_a_job_does_to_end_its_process_ends_that_job_only(tmp_path, misdeeds, arguments):
    expected = [ERRORS[misdeed] for misdeed in misdeeds.split()] + [""] * 2
    code, stdout, stderr = run(
        tmp_path,
        *("search=random", f"search.num_trials={len(expected)}", LR, "hydra.sweep.dir=s", *arguments),
        BNLAB_TEST_MISDEEDS=misdeeds,
        BNLAB_TEST_SECONDS="0.01",
    )
    assert code == 1, stdout + stderr
    table = rows(tmp_path / "s")
    assert [row["error"] for row in table] == expected
    assert [row["status"] for row in table] == ["failed" if error else "completed" for error in expected]
    assert sorted(int(number) for number, *_ in ran(tmp_path / "s")) == list(range(len(expected)))
    for number, error in enumerate(expected):
        assert f"trial {number} failed: {error}" in stdout or not error
    assert "Logging error" not in stderr
    assert "Run the best again" in stdout  # by what a job had closed


@pytest.mark.parametrize("arguments", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=len)
def test_sigterm_to_all_processes_of_a_sweep_is_ctrl_c(tmp_path, arguments):
    process = start(
        tmp_path,
        *("search=random", "search.num_trials=8", LR, "hydra.sweep.dir=s", *arguments),
        new_group=True,
        BNLAB_TEST_SECONDS="60",
    )
    wait_for(lambda: (tmp_path / "s" / "ran.txt").exists() and len(ran(tmp_path / "s")) == (2 if arguments else 1))
    os.killpg(process.pid, signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stdout + stderr
    assert "search.resume=s" in stdout
    assert "Traceback" not in stderr
    assert {row["status"] for row in rows(tmp_path / "s")} == {"interrupted"}


def test_interrupting_joblib_ends_its_workers(tmp_path):
    process = start(
        tmp_path,
        *("search=random", "search.num_trials=8", LR, "hydra.sweep.dir=s"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        BNLAB_TEST_SECONDS="60",
    )
    wait_for(lambda: (tmp_path / "s" / "ran.txt").exists() and len(ran(tmp_path / "s")) == 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stdout + stderr
    assert "search.resume=s" in stdout
    assert "Traceback" not in stderr
    wait_for(lambda: not any(is_alive(int(pid)) for _, _, pid, _ in ran(tmp_path / "s")))


def test_a_worker_that_is_killed_while_it_starts_holds_up_no_sweep(tmp_path):
    """It has read nothing yet of what it is told."""
    process = start(
        tmp_path,
        *("search=random", "search.num_trials=2", LR, "hydra.sweep.dir=s"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=1"),
    )
    wait_for(lambda: workers_of(process.pid))
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert sorted(row["status"] for row in rows(tmp_path / "s")) == ["completed", "completed", "interrupted"]


def workers_of(pid):
    lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    children = " ".join(lists).split()
    return [int(child) for child in children if "popen_loky" in Path(f"/proc/{child}/cmdline").read_text()]


TRAINED = ("trainer.max_epochs=100000", "trainer.accelerator=cpu", "model.hidden=[8]", "hydra.sweep.dir=s")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM], ids=lambda number: number.name
)
def test_a_joblib_sweep_that_is_asked_to_end_lets_its_trainings_save(tmp_path, number):
    process = start(
        tmp_path,
        *("optimizer.lr=0.01,0.1,1.0", *TRAINED, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        program=("-m", "bnlab.train"),
        new_group=True,
    )
    wait_for(lambda: len(list(tmp_path.glob("s/*/metrics.csv"))) == 2, seconds=100)
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert "Traceback" not in stderr
    summaries = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("s/*/summary.json"))]
    assert [summary["status"] for summary in summaries] == ["interrupted"] * 2
    for summary, folder in zip(summaries, ("0", "1"), strict=True):
        with (tmp_path / "s" / folder / "metrics.csv").open() as file:
            assert summary["epochs"] == len(list(csv.DictReader(file))) > 0
        assert (tmp_path / "s" / folder / "checkpoints" / "last.ckpt").is_file()


def test_workers_end_when_the_sweep_is_killed(tmp_path):
    process = start(
        tmp_path,
        *("search=random", "search.num_trials=8", LR, "hydra.sweep.dir=s"),
        *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        BNLAB_TEST_SECONDS="60",
    )
    wait_for(lambda: (tmp_path / "s" / "ran.txt").exists() and len(ran(tmp_path / "s")) == 2)
    process.kill()
    process.wait()  # not communicate(): a worker that lives on holds the pipes open
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    wait_for(lambda: not any(is_alive(int(pid)) for _, _, pid, _ in ran(tmp_path / "s")))


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# kill -9 of the sweep

NUM_TRIALS = 30


def kill_and_resume(folder, kills, *arguments, seed=0, longest=2.5):
    """Kill the sweep at random moments, `kills` times in all; then let it end. How long each attempt lived."""
    generator = random.Random(seed)
    arguments = ["search=random", f"search.num_trials={NUM_TRIALS}", LR, "hydra.sweep.dir=s", *arguments]
    lives = []
    for attempt in range(kills):
        first = not (folder / "s" / "sweep.yaml").exists()
        process = start(folder, *(arguments if first else ["search.resume=s"]), BNLAB_TEST_SECONDS="0.1")
        # from the planning on: an early kill comes while the study is made, a late one in the middle of trials
        wait_for(lambda: (folder / "s").is_dir())
        life = generator.uniform(0, longest) if attempt % 3 else generator.uniform(0, 0.15)
        time.sleep(life)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lives.append(life)
    resumes = (folder / "s" / "sweep.yaml").exists()
    code, stdout, stderr = run(folder, *(["search.resume=s"] if resumes else arguments), BNLAB_TEST_SECONDS="0.01")
    assert code == 0, stdout + stderr
    return lives


def check_nothing_is_lost_or_twice(folder, expected):
    table = rows(folder)
    finished = [row for row in table if row["status"] == "completed"]
    assert len(finished) == NUM_TRIALS
    assert sorted(float(row["optimizer.lr"]) for row in finished) == expected  # each draw once
    assert {row["status"] for row in table} <= {"completed", "interrupted"}
    numbers = [int(row["number"]) for row in table]
    assert numbers == list(range(len(table)))
    # the study says the same
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    states = [trial.state.name for trial in study.trials]
    assert states == [{"completed": "COMPLETE", "interrupted": "FAIL"}[row["status"]] for row in table]
    # a finished trial was begun once, whatever happened to the sweep
    begun = [int(number) for number, *_ in ran(folder)]
    assert sorted(begun) == sorted(set(begun))
    assert {int(row["number"]) for row in finished} <= set(begun)
    # every file is readable, and none is left half written
    for row in finished:
        assert json.loads((folder / row["number"] / "summary.json").read_text())["status"] == "completed"
    for file in folder.rglob("*"):
        if file.is_file():
            assert not file.name.endswith((".tmp", ".rename"))
            assert not file.name.startswith("."), file
    assert OmegaConf.load(folder / "best.yaml").objective == max(float(row["val_accuracy"]) for row in finished)
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def draws(tmp_path_factory):
    """The learning rates of the sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, stderr = run(folder, "search=random", f"search.num_trials={NUM_TRIALS}", LR, "hydra.sweep.dir=s")
    assert code == 0, stderr
    return sorted(float(row["optimizer.lr"]) for row in rows(folder / "s"))


def test_a_sweep_killed_again_and_again_ends_with_every_trial_once(tmp_path, draws):
    kill_and_resume(tmp_path, 3)
    check_nothing_is_lost_or_twice(tmp_path / "s", draws)


def test_what_had_ended_when_the_sweep_was_killed_is_kept(tmp_path):
    """Trial 3 kills the sweep, whose basic launcher runs it, right after the others: nobody has told the study."""
    arguments = ("search=random", "search.num_trials=6", LR, "hydra.sweep.dir=s")
    assert run(tmp_path, *arguments, BNLAB_TEST_KILL="3")[0] == -signal.SIGKILL
    objectives = [json.loads((tmp_path / "s" / str(i) / "summary.json").read_text())["objective"] for i in range(3)]
    code, stdout, stderr = run(tmp_path, "search.resume=s")
    assert code == 0, stdout + stderr
    table = rows(tmp_path / "s")
    assert [row["status"] for row in table] == [*["completed"] * 3, "interrupted", *["completed"] * 3]
    assert [float(row["val_accuracy"]) for row in table[:3]] == objectives
    assert [number for number, *_ in ran(tmp_path / "s")] == list("0123456")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_killed_ten_times_ends_with_every_trial_once(tmp_path, draws, seed, launcher):
    arguments = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    lives = kill_and_resume(tmp_path, 10, *arguments, seed=seed, longest=5 if arguments else 2.5)
    check_nothing_is_lost_or_twice(tmp_path / "s", draws)
    interrupted = sum(row["status"] == "interrupted" for row in rows(tmp_path / "s"))
    print(f"killed after {', '.join(f'{life:.2f}' for life in lives)} s; {interrupted} trials tried again")
