"""What it costs to watch trials, counted and not timed, and that none is missed for it."""

import json
import threading
import time
from pathlib import Path
from statistics import median

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from simulated_sweep import LR

from bnlab.search.sweeps.watch import Watch

NUM_POLLS = 5


class PollCounter:
    """Counts the lines of Python, and the calls of functions in C, that a sweep's watching thread executes per poll."""

    def __init__(self):
        self.polls = []
        self._executed = 0

    def trace(self, frame, event, argument):
        if event == "call" and frame.f_code.co_name == "seen":  # once a poll
            self.polls.append(self._executed)
            self._executed = 0
        self._executed += event == "line"
        return self.trace

    def profile(self, frame, event, argument):
        self._executed += event == "c_call"


class IdleLauncher(Launcher):
    """Nothing happens to its jobs, of which it begins `num_begun`, while it is watched."""

    def __init__(self, counter, num_begun):
        self.counter, self.num_begun = counter, num_begun

    def setup(self, *, config, **others):
        self.folder = config.hydra.sweep.dir

    def launch(self, job_overrides, initial_job_idx):
        for number in range(self.num_begun):
            (Path(self.folder) / str(number)).mkdir()
        deadline = time.monotonic() + 60
        while len(self.counter.polls) < NUM_POLLS:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=0.5) for _ in job_overrides]


@pytest.mark.parametrize("num_begun", [0, 5])
def test_a_poll_in_which_nothing_changes_costs_the_same_among_many_open_trials(num_begun, train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    executed = {}
    for num_trials in (20, 220):
        counter = PollCounter()
        launcher = IdleLauncher(counter, num_begun)
        monkeypatch.setattr(
            "hydra.core.plugins.Plugins.instantiate_launcher",
            lambda self, _it=launcher, **setup: (_it.setup(**setup), _it)[1],
        )
        threading.settrace(counter.trace)
        threading.setprofile(counter.profile)
        try:
            outcome = train(
                "-m", "search=random", f"search.num_trials={num_trials}", LR, f"hydra.sweep.dir={num_trials}"
            )
        finally:
            threading.settrace(None)
            threading.setprofile(None)
        assert outcome.exit_code == 0, outcome.stderr
        executed[num_trials] = median(counter.polls[1:NUM_POLLS])
    print(f"{num_begun} begun: lines and calls per poll, by the number of open trials: {executed}")
    assert executed[220] - executed[20] < 10


class Told:
    """A sweep in the folder `root`, which keeps what it is told."""

    def __init__(self, root):
        self.root = root
        self.told = []
        self.num_running = []
        self.returns = {}
        self.is_busy = False

    def result(self, number):
        file = self.root / f"{number}" / "run" / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def returned(self, since):
        return dict(list(self.returns.items())[since:])

    def tell(self, number, result):
        if self.is_busy:
            raise OSError("busy")
        self.told.append((number, result["status"]))

    def tell_return(self, number, job_return):
        self.tell(number, {"status": "returned"})

    def seen(self, num_running):
        self.num_running.append(num_running)

    def release(self):
        pass


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "sweep")


def watched(told, numbers):
    return Watch(told, told.root, {number: f"{number}/run" for number in numbers})


def begin(told, number):
    (told.root / f"{number}" / "run").mkdir(parents=True)


def end(told, number):
    (told.root / f"{number}" / "run" / "summary.json").write_text('{"status": "completed"}')


def test_trials_are_told_as_they_end_in_whatever_order(told):
    watch = watched(told, range(5))
    watch.look()
    for begun, ended in [([3, 1], []), ([0], [1]), ([], [0, 3]), ([2], [2])]:
        for number in begun:
            begin(told, number)
        for number in ended:
            end(told, number)
        watch.look()
    assert told.num_running == [0, 2, 2, 0, 0]
    assert [number for number, _ in told.told] == [1, 3, 0, 2]
    assert list(watch.open) == [4]


def test_more_trials_under_way_than_are_looked_at_each_time_take_turns(told):
    watch = watched(told, range(450))
    for number in range(450):
        begin(told, number)
    watch.look()
    for number in range(450):
        end(told, number)
    for _ in range(3):
        watch.look()
    assert sorted(number for number, _ in told.told) == list(range(450))
    assert told.num_running == [450, 250, 50, 0]


def test_a_trial_that_leaves_no_folder_is_told_by_what_its_launcher_returns(told):
    watch = watched(told, [7, 8, 9])
    begin(told, 8)
    end(told, 8)
    told.returns = {2: JobReturn(), 1: JobReturn()}
    watch.look()
    told.returns[0] = JobReturn()
    watch.look()
    assert told.told == [(9, "returned"), (8, "completed"), (7, "returned")]


@pytest.mark.parametrize("by_return", [True, False])
def test_what_cannot_be_told_now_is_told_later(told, by_return):
    watch = watched(told, [0, 1])
    for number in (0, 1):
        begin(told, number)
        end(told, number)
    if by_return:
        told.returns = {0: JobReturn(), 1: JobReturn()}
    told.is_busy = True
    for _ in range(3):
        with pytest.raises(OSError, match="busy"):
            watch.look()
    told.is_busy = False
    watch.look()
    assert sorted(told.told) == [(0, "completed"), (1, "completed")]
    watch.look()
    watch.collect()
    assert len(told.told) == 2


def test_the_end_of_a_batch_finds_what_no_look_has_seen(told):
    watch = watched(told, [0, 1])
    begin(told, 1)
    end(told, 1)
    watch.collect()
    assert told.told == [(1, "completed")]
    assert list(watch.open) == [0]
