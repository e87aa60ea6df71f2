"""`python -m bnlab.bench sweep`: train 64 networks by each launcher and by plain loops."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bnlab.errors import report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.import_path import python, safe_environment

__all__ = ["main"]


@dataclass(frozen=True)
class Case:
    """A training with momentum, cosine decay and batch norm: its widths, data, batch size and epochs."""

    name: str
    hidden: tuple[int, ...]
    data: str
    batch_size: int
    epochs: int

    def overrides(self, root: str) -> list[str]:
        return [
            f"data={self.data}",
            *([f"data.root={root}"] if self.data != "digits" else []),
            f"data.batch_size={self.batch_size}",
            f"model.hidden={list(self.hidden)}".replace(" ", ""),
            "optimizer=momentum",
            f"trainer.max_epochs={self.epochs}",
            "trainer.accelerator=cpu",
        ]


CASES = {
    "A": Case("64-100-100-100-10 on digits", (100, 100, 100), "digits", 64, 20),
    "B": Case("784-100-100-100-10 on MNIST", (100, 100, 100), "mnist", 60, 2),
    "C": Case("784-256-256-256-10 on MNIST", (256, 256, 256), "mnist", 64, 1),
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LAUNCHERS = {
    "(a) stacked launcher": "stacked",
    "(c) joblib launcher": "joblib",
    "(d) basic launcher": "basic",
}
PLAIN = "(b) plain PyTorch loops"


@dataclass(frozen=True)
class Measured:
    """Wall seconds from command to prompt, and microseconds of wall time per step of one network."""

    wall_s: float
    step_us: float | None = None


def rates(num_networks: int) -> list[float]:
    """Draw the learning rates, the same for every way; none of them diverges, so that all do all steps."""
    generator = random.Random(0)
    return [10 ** generator.uniform(-3, -1) for _ in range(num_networks)]


def sweep(launcher: str, case: Case, num_networks: int, num_workers: int, root: str) -> Measured:
    """Run `python -m bnlab.train -m` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *python("bnlab.train", "-m", f"hydra.sweep.dir={folder}/sweep", *case.overrides(root)),
            "optimizer.lr=" + ",".join(f"{rate:.6g}" for rate in rates(num_networks)),
            f"hydra/launcher={launcher}",
            *([] if launcher == "basic" else [f"hydra.launcher.n_jobs={num_workers}"]),
        ]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, env=os.environ | safe_environment(), text=True, check=False)
        wall_s = time.perf_counter() - start
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        summaries = [json.loads(file.read_text()) for file in Path(folder, "sweep").glob("*/summary.json")]
        assert len(summaries) == num_networks
        return Measured(wall_s)


def steps(function: str, case: Case, num_networks: int, num_workers: int, root: str) -> tuple[float, float]:
    """Time the steps of one network, in `num_workers` processes that start together.

    Returns:
        microseconds per step of wall time and of processor time; other load on the machine affects the latter less.
    """
    from omegaconf import OmegaConf

    from bnlab.composing import compose

    config = OmegaConf.to_container(compose(case.overrides(root)), resolve=True)
    dealt = [rates(num_networks)[worker::num_workers] for worker in range(num_workers)]
    processes = [
        subprocess.Popen(
            python("bnlab.bench.sweep_steps", function),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD | safe_environment(),
            text=True,
        )
        for _ in dealt
    ]
    for process, own in zip(processes, dealt, strict=True):
        _send(process, [config, own, case.epochs])
    for process in processes:
        assert _receive(process) == "ready"
    start = time.perf_counter()
    for process in processes:
        _send(process, "go")
    told = [json.loads(_receive(process)) for process in processes]
    wall_s = time.perf_counter() - start
    for process in processes:
        process.communicate()
    num_steps = sum(num_steps for _, num_steps in told)
    return wall_s / num_steps * 1e6, sum(busy_s for busy_s, _ in told) / num_steps * 1e6


def _send(process: "subprocess.Popen[str]", message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _receive(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m bnlab.bench sweep", description=__doc__)
    parser.add_argument("--cases", default="A,B,C", help="of A, B, C (default: %(default)s)")
    parser.add_argument("--networks", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--launchers", default="stacked,joblib,basic", help="(default: %(default)s)")
    parser.add_argument("--growth", default="", help="numbers of networks, such as 1,8,64,512: how cost grows on A")
    parser.add_argument(
        "--root",
        default="outputs/data",
        help="the folder that holds MNIST, or gets it (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with report_user_errors():
        for name in filter(None, options.cases.split(",")):
            console.print(_table(CASES[name], *_measure(CASES[name], options), options))
        if options.growth:
            console.print(_growth([int(number) for number in options.growth.split(",")], options))


def _measure(
    case: Case, options: argparse.Namespace
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, list[float]]]:
    """Return the steps (µs per network-step, wall and processor) and wall times (s) of each way, in turn."""
    us: dict[str, list[tuple[float, float]]] = {}
    walls: dict[str, list[float]] = {}
    setting = (case, options.networks, options.workers, options.root)
    for _ in range(options.rounds):
        for way, function in (("(a) stacked launcher", "stacked_steps"), (PLAIN, "plain_steps")):
            us.setdefault(way, []).append(steps(function, *setting))
        start = time.perf_counter()
        steps("plain_steps", *setting)
        walls.setdefault(PLAIN, []).append(time.perf_counter() - start)
        for way, launcher in LAUNCHERS.items():
            if launcher in options.launchers.split(","):
                walls.setdefault(way, []).append(sweep(launcher, *setting).wall_s)
    return us, walls


def _table(
    case: Case, us: dict[str, list[tuple[float, float]]], walls: dict[str, list[float]], options: argparse.Namespace
) -> Table:
    table = Table(
        title=f"{options.networks} networks {case.name}, batch {case.batch_size}, {case.epochs} epochs; "
        f"{options.workers} processes of 1 thread, medians of {options.rounds} interleaved rounds",
        title_justify="left",
    )
    table.add_column("way")
    for column in ("µs per step", "x (b)", "core µs", "x (b)", "wall s", "beyond steps", "ms per trial", "x (d)"):
        table.add_column(column, justify="right")
    num_steps = _num_steps(case)
    basic = walls.get("(d) basic launcher")
    for way in sorted(walls):
        wall = median(walls[way])
        cells = [""] * 4
        beyond = ["", ""]
        if way in us:
            cells = []
            for kind in (1, 0):
                step, plain = (median(values[kind] for values in us[name]) for name in (way, PLAIN))
                cells = [f"{step:.1f}", f"{plain / step:.2f}", *cells]
            rest = wall - step * num_steps * options.networks / 1e6
            beyond = [f"{rest:.1f}", f"{rest / options.networks * 1e3:.0f}"]
        table.add_row(way, *cells, f"{wall:.1f}", *beyond, f"{median(basic) / wall:.1f}" if basic else "")
    return table


def _num_steps(case: Case) -> int:
    samples = {"digits": 1077, "mnist": 54000}[case.data]
    return -(-samples // case.batch_size) * case.epochs


def _growth(numbers: Sequence[int], options: argparse.Namespace) -> Table:
    """Show how time and memory of a sweep of case A grow with the number of networks."""
    table = Table(
        title=f"{CASES['A'].name} by the stacked launcher, {options.workers} processes of 1 thread",
        title_justify="left",
    )
    for column in ("networks", "µs per network-step", "wall s", "wall ms per network", "peak MiB, all processes"):
        table.add_column(column, justify="right")
    for number in numbers:
        step, _ = steps("stacked_steps", CASES["A"], number, min(options.workers, number), options.root)
        walls, peaks = zip(*(_watched(number, options) for _ in range(options.rounds)), strict=True)
        wall, peak = median(walls), median(peaks)
        table.add_row(str(number), f"{step:.1f}", f"{wall:.1f}", f"{wall / number * 1e3:.0f}", f"{peak:.0f}")
    return table


def _watched(number: int, options: argparse.Namespace) -> tuple[float, float]:
    """Return the wall seconds of a sweep and the peak memory of its processes (shared pages counted once)."""
    import threading

    peak = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            peak = max(peak, sum(_memory_mib(pid) for pid in _descendants(os.getpid())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        wall = sweep("stacked", CASES["A"], number, options.workers, options.root).wall_s
    finally:
        ended.set()
        thread.join()
    return wall, peak


def _descendants(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _descendants(child)


def _memory_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):  # divides a shared page by the number of its processes
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
