"""`bnlab.run` and `bnlab.sweep`: train and sweep from Python; results are objects."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from os import PathLike, environ
from pathlib import Path
from tempfile import TemporaryFile

from bnlab.composing import compose
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.io.output_files import new_folder
from bnlab.mistakes.added import check_added
from bnlab.mistakes.explaining import refuse_what_hydra_merges
from bnlab.mistakes.vocabulary import vocabulary_of
from bnlab.process.import_path import python, safe_environment
from bnlab.process.signals import EXIT_INTERRUPTED
from bnlab.runs.reading import Run, load
from bnlab.runs.sweeps import Sweep, load_sweep
from bnlab.status import Status
from bnlab.text.command_line import Origin, override

__all__ = ["run", "sweep"]

_FAILED, _MISTAKE = 1, 2
_ASKING_FOR_COLOUR = ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def run(overrides: Sequence[str] = (), folder: str | PathLike[str] | None = None) -> Run:
    """Train one network, as `python -m bnlab.train` does with these overrides.

    Args:
        folder: the run's folder; None for a new one in outputs/runs.
    Raises:
        UserError: a setting is impossible, or the folder already contains a run.
        KeyboardInterrupt: the run was interrupted; its folder keeps the results so far.

    >>> bnlab.run(["optimizer.lr=0.01"]).summary["test_accuracy"]  # doctest: +SKIP
    """
    place = Path(new_folder("runs") if folder is None else folder)
    lines = _checked(overrides)
    refuse_what_hydra_merges(lines, Origin())
    config = compose(lines)
    if any(line.startswith("+") for line in lines):
        check_added(config, lines, vocabulary_of(Origin()).choices, Origin(), None)
    summary = fit(config, place)
    if summary["status"] == Status.INTERRUPTED:
        raise KeyboardInterrupt
    return load(place, trust=True)


def sweep(overrides: Sequence[str], folder: str | PathLike[str] | None = None) -> Sweep:
    """Run a sweep, as `python -m bnlab.train -m` does with these overrides, in a process of its own.

    The results include failed trials, with their status and error.

    Args:
        folder: the sweep's folder; None for a new one in outputs/sweeps.
    Raises:
        UserError: a setting is impossible; this is found before any trial.
        KeyboardInterrupt: the sweep was interrupted; `search.resume` continues it.
    """
    place = Path(new_folder("sweeps") if folder is None else folder)
    words = ["-m", override("hydra.sweep.dir", str(place.absolute())), *_checked(overrides)]
    # A notebook asks for colours, for which a pipe would be treated as a terminal, with a progress bar.
    inherited = {name: value for name, value in environ.items() if name not in _ASKING_FOR_COLOUR}
    environment = inherited | safe_environment()
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            python("bnlab.train", *words), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="")  # a notebook shows what Python prints, but not the output of its child processes
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            print(process.communicate()[0], end="")
            raise
        code = process.wait()
        errors.seek(0)
        told = errors.read()
    if code == _MISTAKE:
        raise UserError(told.strip())
    print(told, end="", file=sys.stderr)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (0, _FAILED):
        raise RuntimeError(f"The sweep in {str(place)!r} ended with exit code {code}.")
    return load_sweep(place)


def _checked(overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str):
        raise UserError(f"Overrides must be a list of texts, but got {overrides!r}: write [{overrides!r}].")
    return list(overrides)
