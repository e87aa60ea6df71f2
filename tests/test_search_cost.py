"""What a sweep costs beside the training: with an objective that does nothing, and a launcher that does little more."""

import time
from itertools import pairwise

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

SLOW_KINDS = ("coarse_to_fine", "quasi_random")
SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "optimizer.beta1=tag(one_minus_log,interval(0.9,0.999))")


class Stopwatch(Launcher):
    """Returns at once, and writes down the time at which it is called: what lies between is the sweep's own."""

    def __init__(self):
        self.calls = []

    def setup(self, **arguments):
        pass

    def launch(self, job_overrides, initial_job_idx):
        returns = [JobReturn(status=JobStatus.COMPLETED, _return_value=0.5) for _ in job_overrides]
        self.calls.append((time.perf_counter(), time.process_time()))
        return returns


@pytest.fixture
def own_time(train, monkeypatch, tmp_path):
    """Seconds a trial, by the clock and by the processor, before and after the launcher's call: (whole, calls)."""

    def run(*arguments):
        launcher = Stopwatch()
        monkeypatch.setattr("hydra.core.plugins.Plugins.instantiate_launcher", lambda self, **setup: launcher)
        monkeypatch.chdir(tmp_path)
        start = time.perf_counter(), time.process_time()
        outcome = train("-m", "hydra.sweep.dir=s", *arguments)
        assert outcome.exit_code == 0, outcome.stderr
        return start, launcher.calls, (time.perf_counter(), time.process_time())

    return run


def test_asking_telling_and_bookkeeping_cost_less_than_10_ms_a_trial(own_time):
    """One after the other, the dearest way: each trial is a batch of its own."""
    number = 200
    _, calls, _ = own_time("search=random", f"search.num_trials={number}", "search.batch_size=1", *SPACE)
    wall, processor = ((calls[-1][clock] - calls[0][clock]) / (number - 1) * 1e3 for clock in (0, 1))
    print(f"{wall:.2f} ms a trial, of which the processor works {processor:.2f}")
    assert processor < 10
    assert min(b[0] - a[0] for a, b in pairwise(calls)) < 0.010


@pytest.mark.parametrize("kind", ["random", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW_KINDS)])
def test_2000_trials_in_a_study_do_not_slow_it(own_time, kind):
    """Time a trial in the last hundred against the first hundred."""
    _, calls, _ = own_time(f"search={kind}", "search.num_trials=2000", "search.batch_size=1", *SPACE)
    times = [b[1] - a[1] for a, b in pairwise(calls)]
    first, last = sum(times[:100]) * 10, sum(times[-100:]) * 10
    print(f"{kind}: {first:.2f} ms a trial in the first hundred of 2,000, {last:.2f} in the last")
    assert last < 2 * first
    assert last < 10


def test_one_batch_of_2000_costs_less_than_10_ms_a_trial_from_start_to_end(own_time):
    start, _, end = own_time("search=random", "search.num_trials=2000", *SPACE)
    print(f"{(end[1] - start[1]) / 2:.2f} ms a trial, start and figure included")
    assert (end[1] - start[1]) / 2 < 10
