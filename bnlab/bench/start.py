"""`python -m bnlab.bench start`: time from Enter to the first line, the first epoch and the end of a run."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bnlab.errors import UserError, report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser

__all__ = ["main"]

_EMPTY_PROGRAM = """import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass

main()
"""
_LOOK_EVERY_S = 0.002

Times = dict[str, float]


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m bnlab.bench start", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each program is started, in turn (default: %(default)s)"
    )
    parser.add_argument("overrides", nargs="*", help="overrides of the runs, such as trainer.max_epochs=5")
    options = parser.parse_args(arguments)
    with report_user_errors(), tempfile.TemporaryDirectory() as folder:
        if options.rounds < 1:
            raise UserError(f"--rounds must be at least 1, but got {options.rounds}.")
        Console().print(_table(_measure(Path(folder), options.rounds, options.overrides), options.rounds))


def _measure(folder: Path, num_rounds: int, overrides: list[str]) -> dict[str, list[Times]]:
    empty = folder / "empty.py"
    empty.write_text(_EMPTY_PROGRAM)
    train = [sys.executable, "-m", "bnlab.train"]

    def run(trainer: str) -> Callable[[int], Times]:
        command = [*train, f"trainer={trainer}", *overrides]
        return lambda number: _time_run(command, folder, folder / f"{trainer}{number}")

    programs: dict[str, Callable[[int], Times]] = {
        "an empty Hydra program's --help": lambda number: _time([sys.executable, str(empty), "--help"], folder),
        "import torch": lambda number: _time([sys.executable, "-c", "import torch"], folder),
        "import lightning": lambda number: _time([sys.executable, "-c", "import lightning"], folder),
        "train --help": lambda number: _time([*train, "--help"], folder),
        "train, refused": lambda number: _time([*train, "model.activation=none"], folder),
        "train -m": lambda number: _time_first_line([*train, "-m", "seed=0,1"], folder),
        "train": run("default"),
        "train trainer=quick": run("quick"),
    }
    for start in programs.values():  # warm up: bytecode and caches
        start(-1)
    measured: dict[str, list[Times]] = {name: [] for name in programs}
    names = list(programs)
    for number in range(num_rounds):
        for name in names if number % 2 == 0 else reversed(names):
            measured[name].append(programs[name](number))
    return measured


def _time(command: list[str], folder: Path) -> Times:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return {"the end": time.perf_counter() - start}


def _time_first_line(command: list[str], folder: Path) -> Times:
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    return {"the first line": seconds}


def _time_run(command: list[str], folder: Path, run: Path) -> Times:
    """Time a run; its first epoch is found in train.log."""
    times: Times = {}
    start = time.perf_counter()
    with subprocess.Popen([*command, f"hydra.run.dir={run}"], cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None

        def watch() -> None:
            log = run / "train.log"
            while process.poll() is None and "the first epoch" not in times:
                if log.is_file() and "epoch 1:" in log.read_text():
                    times["the first epoch"] = time.perf_counter() - start
                time.sleep(_LOOK_EVERY_S)

        watcher = threading.Thread(target=watch)
        watcher.start()
        process.stdout.readline()
        times["the first line"] = time.perf_counter() - start
        process.stdout.read()
    times["the end"] = time.perf_counter() - start
    watcher.join()
    if process.returncode != 0:
        raise UserError(f"{' '.join(command)} ended with {process.returncode}: run it alone to see why.")
    return times


def _table(measured: dict[str, list[Times]], num_rounds: int) -> Table:
    columns = ("the first line", "the first epoch", "the end")
    table = Table(title=f"Seconds from Enter to ..., medians of {num_rounds}", title_justify="left")
    table.add_column("program")
    for column in columns:
        table.add_column(column, justify="right")
    for name, rounds in measured.items():
        cells = []
        for column in columns:
            found = [times[column] for times in rounds if column in times]
            cells.append(f"{median(found):.2f}" if found else "")
        table.add_row(name, *cells)
    return table
