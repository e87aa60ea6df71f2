"""Keep or replace existing runs in the folders of a stacked training; a run is replaced once a better one has ended."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bnlab.errors import UserError, user_errors
from bnlab.io.yaml_text import read_yaml
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Summary
from bnlab.status import Status

__all__ = ["Replacement", "stored_summary"]


_COMPLETE = [status for status in Status if status.has_results]


def stored_summary(run: RunFolder, config: Mapping[str, Any]) -> Summary | None:
    """Read the summary of the run of `config` in this folder; None if it failed, was interrupted or is incomplete.

    Raises:
        UserError: the run is of another config, or cannot be read.
    """
    with user_errors(f"The run in {str(run.path)!r} cannot be read: "):
        stored = read_yaml(run.config) if run.config.is_file() else {}
        of_run = {key: value for key, value in _leaves(stored) if key.partition(".")[0] != "search"}
        summary = run.read_summary() if run.summary.is_file() else {}
    wanted = dict(_leaves(config))
    for key in [*wanted, *of_run]:
        if of_run.get(key) != wanted.get(key):
            raise UserError(
                f"{str(run.path)!r} holds a run of another config, whose {key} is {of_run.get(key)!r} and not "
                f"{wanted.get(key)!r}: choose another folder, or exist='overwrite' to replace it."
            )
    return summary if summary.get("status") in _COMPLETE else None


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Replacement:
    """A run that is trained beside an existing one and replaces it when it has ended.

    Attributes:
        folder: where it is trained.
    """

    def __init__(self, replaced: Path) -> None:
        self._replaced = replaced
        self.folder = replaced.with_name(f".{replaced.name}.new")
        self.discard()  # leftovers of a killed process

    def end(self, summary: Summary) -> None:
        """Replace the run, unless the new one has no results and the old one may have some."""
        is_better = summary["status"] in _COMPLETE or _status(self._replaced) == Status.FAILED
        if not (is_better and self.folder.is_dir()):
            self.discard()
            return
        old = self._replaced.with_name(f".{self._replaced.name}.old")
        _remove(old)
        with RunFolder(self._replaced).locked():
            self._replaced.rename(old)
            self.folder.rename(self._replaced)
        _remove(old)

    def discard(self) -> None:
        _remove(self.folder)


def _remove(folder: Path) -> None:
    """Remove the folder as far as possible; leftovers do no harm."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _status(folder: Path) -> Status | None:
    try:
        return RunFolder(folder).read_summary()["status"]
    except UserError:
        return None
