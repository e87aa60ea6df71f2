"""The command line of the chaos benchmark, its rounds and its table."""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bnlab.bench.chaos.database import NoServerError, Server
from bnlab.bench.chaos.disturbances import DISTURBANCES, OF_THE_DATABASE
from bnlab.bench.chaos.kinds import DATABASE, LAUNCHERS, STORAGES
from bnlab.bench.chaos.memory import MemoryGroup, NoGroupError
from bnlab.bench.chaos.round import References, Round, draw_round, run_round
from bnlab.errors import UserError, report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.signals import EXIT_INTERRUPTED, interruptible

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Run the rounds and print them.

    Raises:
        SystemExit: 1 if a sweep did not end as the undisturbed one.
    """
    parser = ArgumentParser(prog="python -m bnlab.bench chaos", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10, help="the time in which new rounds may begin (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="seed of the draws (default: a new one each time)")
    parser.add_argument("--round", type=int, help="run only this round of the seed")
    parser.add_argument("--disturbances", nargs="+", default=[], choices=DISTURBANCES, help="(default: all)")
    parser.add_argument("--launchers", nargs="+", default=LAUNCHERS, choices=LAUNCHERS, help="(default: all)")
    options = parser.parse_args(arguments)
    if not Path("/proc/self/environ").exists():
        parser.error("it needs /proc to find the processes of a sweep, but this system has none")
    console = Console(highlight=False, soft_wrap=True)
    seed = int(time.time()) if options.seed is None else options.seed
    left_out = _left_out()
    database: Server | None = None
    try:
        database = Server()
    except NoServerError as error:
        left_out[OF_THE_DATABASE] = str(error)
    try:
        with report_user_errors():
            _run(options, console, seed, left_out, database)
    finally:
        if database is not None:
            database.close()


def _run(
    options: argparse.Namespace, console: Console, seed: int, left_out: dict[str, str], database: Server | None
) -> None:
    for name, reason in left_out.items():
        console.print(f"{name} is left out: {reason}")
    names = [name for name in options.disturbances or DISTURBANCES if name not in left_out]
    storages = [storage for storage in STORAGES if storage != DATABASE or database is not None]
    if names == [OF_THE_DATABASE]:
        storages = [DATABASE]
    if not names:
        raise UserError("None of the chosen --disturbances is possible here: choose others.")
    console.print(f"seed {seed}; to repeat a round, give --seed {seed} --round NUMBER and the same other options")
    folder = Path(tempfile.mkdtemp(prefix="bnlab-chaos-"))
    references = References(folder / "undisturbed")
    done: list[Round] = []
    end = time.monotonic() + 60 * options.minutes
    number = 0 if options.round is None else options.round
    try:
        with interruptible():
            while True:
                round_ = draw_round(seed, number, names, options.launchers, storages)
                run_round(round_, references, folder / str(number), "memory limit" not in left_out, database)
                done.append(round_)
                console.print(str(round_), markup=False)
                for fault in round_.faults[:5]:
                    console.print(f"    {fault}", markup=False)
                if options.round is not None or time.monotonic() > end:
                    break
                number += 1
    except SystemExit as ending:
        if ending.code != EXIT_INTERRUPTED:
            raise
    has_faults = any(round_.faults for round_ in done)
    if not has_faults:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(_table(done, names, options.launchers))
    if has_faults:
        raise SystemExit(1)


def _left_out() -> dict[str, str]:
    """Return the disturbances that are impossible here, and why."""
    left_out = {}
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
            subprocess.run(["umount", folder], check=True, capture_output=True)
        except FileNotFoundError:
            left_out["full disk"] = "the program mount is not installed"
        except subprocess.CalledProcessError as error:
            left_out["full disk"] = f"only root can mount: {error.stderr.strip()}"
    try:
        MemoryGroup().close()
    except NoGroupError as error:
        left_out["memory limit"] = str(error)
    return left_out


def _table(done: Sequence[Round], names: Sequence[str], launchers: Sequence[str]) -> Table:
    """Count each round under each of its disturbances, and once in the last row."""
    table = Table(title=f"{len(done)} rounds; per launcher: rounds, resumes, equal, different", title_justify="left")
    table.add_column("disturbance")
    for launcher in (*launchers, "all"):
        table.add_column(launcher, justify="right")
    for name in (*names, "any"):
        rounds = [round_ for round_ in done if name in ("any", *round_.done)]
        cells = []
        for launcher in (*launchers, "all"):
            of_cell = [round_ for round_ in rounds if launcher in ("all", round_.kind.launcher)]
            different = sum(bool(round_.faults) for round_ in of_cell)
            resumes = sum(round_.num_resumes for round_ in of_cell)
            cells.append(f"{len(of_cell)}, {resumes}, {len(of_cell) - different}, {different}")
        table.add_row(name, *cells)
    return table
