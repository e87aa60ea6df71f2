"""`python -m bnlab.bench search`: measure the overhead of a sweep beside the training, and its start."""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from rich.console import Console
from rich.table import Table

from bnlab.bench.interleaved import interleaved_medians
from bnlab.config.folder import config_folder
from bnlab.errors import report_user_errors
from bnlab.hydra_plugins.register import register, register_plugin
from bnlab.internals.hydra_internals import initialized, register_resolver
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.import_path import python, safe_environment
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.train import main as train

__all__ = ["main"]

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "optimizer.beta1=tag(one_minus_log,interval(0.9,0.999))")
KINDS = sorted(file.stem for file in Path(config_folder(), "search").glob("*.yaml") if file.stem != "grid")


class InstantLauncher(Launcher):
    """Report every job as done at once, and record the time of each call: the sweep itself uses the time in between."""

    calls: list[float] = []  # noqa: RUF012  # one per process, because Hydra creates the launcher

    def setup(self, **arguments: Any) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.calls.append(time.perf_counter())
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=0.5) for _ in job_overrides]


@contextmanager
def _in_empty_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield


def _sweep(*arguments: str) -> tuple[float, list[float]]:
    """Run `python -m bnlab.train -m` in this process; return its seconds, and when each batch was launched."""
    InstantLauncher.calls.clear()
    words = ["bnlab.train", "-m", "hydra/launcher=instant", "hydra.sweep.dir=sweep", *SPACE, *arguments]
    start = time.perf_counter()
    with _in_empty_folder(), patch.object(sys, "argv", words), redirect_stdout(io.StringIO()):
        train()
    return time.perf_counter() - start, list(InstantLauncher.calls)


def batches_of_one(kind: str, num_trials: int) -> tuple[float, float, float]:
    """Return the milliseconds per trial in batches of one: mean of all, of the first and of the last hundred."""
    _, calls = _sweep(f"search={kind}", f"search.num_trials={num_trials}", "search.batch_size=1")
    gaps = [(after - before) * 1e3 for before, after in pairwise(calls)]
    return sum(gaps) / len(gaps), sum(gaps[:100]) / len(gaps[:100]), sum(gaps[-100:]) / len(gaps[-100:])


def one_batch(num_trials: int) -> float:
    """Return the milliseconds per trial of a random search in one batch, from its start to its figure."""
    seconds, _ = _sweep("search=random", f"search.num_trials={num_trials}")
    return seconds / num_trials * 1e3


def composing(num_jobs: int, num_rounds: int) -> tuple[float, float]:
    """Return the milliseconds to compose the config of a job, by bnlab and by Hydra's own loader."""
    unique = count()
    register_resolver("unique", lambda: next(unique), use_cache=True, replace=True)
    with initialized(config_folder()):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", ["hydra.mode=MULTIRUN"], run_mode=RunMode.MULTIRUN)
        jobs = count()

        def compose(way: Any) -> Callable[[], None]:
            def run() -> None:
                for job in (next(jobs) for _ in range(num_jobs)):
                    overrides = ["optimizer=momentum", f"optimizer.lr={job / 7}", f"seed={job}"]
                    way.load_sweep_config(master, overrides)

            return run

        medians = interleaved_medians(
            {"bnlab": compose(SweepConfigLoader(loader)), "Hydra": compose(loader)}, num_rounds=num_rounds
        )
    return medians["bnlab"] / num_jobs * 1e3, medians["Hydra"] / num_jobs * 1e3


def help_seconds(num_rounds: int) -> float:
    """Time `python -m bnlab.train --help`, from Enter to the end."""
    seconds = []
    for _ in range(num_rounds):
        start = time.perf_counter()
        subprocess.run(
            python("bnlab.train", "--help"), stdout=subprocess.DEVNULL, env=os.environ | safe_environment(), check=True
        )
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m bnlab.bench search", description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="per sweep (default: %(default)s)")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=[kind for kind in KINDS if kind != "tpe"],
        choices=KINDS,
        help="(default: all but tpe)",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of composing and of --help (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.trials < 2 or options.rounds < 1:
        parser.error("--trials must be at least 2 and --rounds at least 1")
    with report_user_errors():
        Console().print(measure(options.kinds, options.trials, options.rounds))


def measure(kinds: Sequence[str], num_trials: int, num_rounds: int) -> Table:
    register()
    register_plugin(InstantLauncher, "hydra/launcher", "instant", {})
    table = Table(title=f"{num_trials} trials that train nothing, {os.cpu_count()} cores", title_justify="left")
    table.add_column("what")
    table.add_column("time", justify="right")
    table.add_row("python -m bnlab.train --help", f"{help_seconds(num_rounds):.2f} s")
    ours, hydras = composing(10, num_rounds)
    table.add_row("composing a job's config", f"{ours:.1f} ms")
    table.add_row("composing it by Hydra's own loader", f"{hydras:.1f} ms")
    table.add_row("random search in one batch, per trial", f"{one_batch(num_trials):.1f} ms")
    for kind in kinds:
        mean, first, last = batches_of_one(kind, num_trials)
        table.add_row(f"{kind}, in batches of one, per trial", f"{mean:.1f} ms")
        table.add_row(f"{kind}, the first and the last hundred", f"{first:.1f} and {last:.1f} ms")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
