"""What a sweep does for a trial, beside training it, hardly grows with the trials there are.

It is counted, not timed; `python -m bnlab.bench search` gives the milliseconds.
"""

from statistics import median

import pytest
from executed import Counter
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "optimizer.beta1=tag(one_minus_log,interval(0.9,0.999))")
COUNTED = range(20, 40)  # counting is slow


class CountingLauncher(Launcher):
    """Returns at once: what is executed until it is called again is the sweep's own."""

    def __init__(self):
        self.counter = Counter()
        self.lines = []
        self.num_calls = 0

    def setup(self, **arguments):
        pass

    def launch(self, job_overrides, initial_job_idx):
        self.counter.stop()
        if self.num_calls - 1 in COUNTED:
            self.lines.append(self.counter.lines)
        self.counter.lines = 0
        if self.num_calls in COUNTED:
            self.counter.start()
        self.num_calls += 1
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=0.5) for _ in job_overrides]


# Of each trial that waits: Optuna executes 4 lines to list it, and a search in rounds 4 more to tell its round.
@pytest.mark.parametrize(("kind", "per_other"), [("random", 4), ("coarse_to_fine", 8)])
def test_a_trial_costs_hardly_more_among_many_others(kind, per_other, train, monkeypatch, tmp_path):
    """The median over some trials, each a batch of its own: now and then the tables are written, too."""
    monkeypatch.chdir(tmp_path)
    lines = {}
    for num_trials in (50, 250):
        launcher = CountingLauncher()
        monkeypatch.setattr("hydra.core.plugins.Plugins.instantiate_launcher", lambda self, _it=launcher, **setup: _it)
        arguments = [f"search={kind}", f"search.num_trials={num_trials}", "search.batch_size=1", *SPACE]
        outcome = train("-m", f"hydra.sweep.dir={num_trials}", *arguments)
        assert outcome.exit_code == 0, outcome.stderr
        lines[num_trials] = median(launcher.lines)
    print(f"{kind}: lines of Python per trial, by the number of trials: {lines}")
    assert (
        lines[250] - lines[50] < (per_other + 0.9) * 200
    )  # another loop over all trials adds a line for each, or more
