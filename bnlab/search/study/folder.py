"""A sweep's folder: its files, and who may write to it."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnlab.errors import UserError, user_errors
from bnlab.io.atomic_file import remove_unfinished, write_text
from bnlab.io.folder_lock import FolderLock
from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Owner, Summary, summary_in
from bnlab.search.study.definition import Definition
from bnlab.text.command_line import command, override, shown

__all__ = ["UNFINISHED", "SweepFolder", "resume_command"]

UNFINISHED = ".unfinished"  # the folder of the states from which stacks continue (`bnlab.stacked.unfinished`)


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder: a folder per trial, named after its number by default, and the files below.

    The journal, in Optuna's format, exists unless another storage is named.
    """

    path: Path

    @property
    def definition(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def settings(self) -> Path:
        """The settings composed when the sweep was defined (see `bnlab.search.study.changes`)."""
        return self.path / "settings.json"

    @property
    def trials(self) -> Path:
        return self.path / "trials.csv"

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.md"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def figures(self) -> tuple[Path, ...]:
        """The sweep's figure in three formats."""
        return tuple(self.path / f"search.{suffix}" for suffix in ("png", "svg", "pdf"))

    @property
    def ablation(self) -> tuple[Path, ...]:
        """The table over several seeds in three formats."""
        return tuple(self.path / f"ablation.{suffix}" for suffix in ("md", "csv", "tex"))

    @property
    def results(self) -> tuple[Path, ...]:
        """Return the files that are rewritten as trials end."""
        return self.trials, self.leaderboard, self.best, *self.figures, *self.ablation

    @property
    def unfinished(self) -> Path:
        return self.path / UNFINISHED

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, whose names no trial's folder may have."""
        return (self.definition, self.journal, self.settings, self.unfinished, *self.results)

    def trial(self, name: str) -> Path:
        return self.path / name

    def write_definition(self, definition: Definition) -> None:
        write_text(self.definition, definition.text())

    def read_definition(self) -> Definition:
        """Read sweep.yaml.

        Raises:
            UserError: it is not the folder of a sweep.
        """
        if not self.definition.is_file():
            raise UserError(f"{str(self.path)!r} is not the folder of a sweep: it has no {self.definition.name}.")
        with user_errors(f"The sweep in {str(self.path)!r} cannot be read: "):
            stored: Any = read_yaml(self.definition)
            if isinstance(stored, dict) and "trials_per_round" in stored:
                raise ValueError("an earlier version of bnlab began it; start a new sweep")
            definition = Definition.of(stored)
            if definition is None:
                raise ValueError(f"{self.definition.name} is damaged")
            return definition

    def check_is_free(self) -> None:
        """Refuse a folder in which a new sweep would mix its results with others, or overwrite them.

        Raises:
            UserError: another sweep's definition, trials or results are in it, or a run is.
        """
        if self.definition.exists():
            raise UserError(
                f"{shown(self.path)!r} already holds a sweep: choose another folder, or go on with it by "
                f"{resume_command(self)}"
            )
        run = RunFolder(self.path)
        if run.holds_results or run.config.exists():
            raise UserError(f"{shown(self.path)!r} already holds a run: choose another folder by hydra.sweep.dir.")
        taken = [file.name for file in self.results if file.exists()] + self.numbered()
        if self.journal.is_file() and self.journal.stat().st_size:  # an empty one is from a sweep that was killed early
            taken.append(self.journal.name)
        if taken:
            raise UserError(
                f"{shown(self.path)!r} holds results that are not this sweep's ({_some(taken)}): choose another folder "
                "by hydra.sweep.dir."
            )

    def check_is_own(self, names: Iterable[str], sweep_id: str) -> None:
        """Refuse a folder to which trials were added from elsewhere; `names` are the folders of the sweep's own.

        A journal that was damaged or lost its end in a power cut may lack some of them. So a folder whose summary names
        the sweep `sweep_id` is its own, too, and a folder without a summary has no result to mix up.

        Raises:
            UserError: numbered folders have results of others.
        """
        outermost = {Path(name).parts[0] for name in names}  # one may be nested
        foreign = [
            name
            for name in self.numbered()
            if name not in outermost and self.result(name) is not None and self.own_result(name, sweep_id) is None
        ]
        if foreign and not self.lost_trials:
            raise UserError(
                f"{shown(self.path)!r} holds run folders that are not its sweep's ({_some(foreign)}): move them "
                "elsewhere."
            )

    @property
    def lost_trials(self) -> bool:
        """Whether an unreadable part of the journal was set aside."""
        return any(self.path.glob(f"{self.journal.name}.damaged-*"))

    def numbered(self) -> list[str]:
        """List the entries that a trial's folder could collide with."""
        if not self.path.is_dir():
            return []
        return sorted((entry.name for entry in self.path.iterdir() if entry.name.isdecimal()), key=int)

    def forget(self) -> None:
        """Remove the definition of a sweep that was refused."""
        for file in (self.definition, self.settings):
            file.unlink(missing_ok=True)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        write_text(self.settings, json.dumps(settings, indent=1) + "\n")

    def read_settings(self) -> Any:
        """Read settings.json.

        Raises:
            UserError: it is missing.
        """
        with user_errors(f"The sweep in {str(self.path)!r} cannot be read: "):
            settings = json.loads(read_text(self.settings))
            if not (isinstance(settings, dict) and all(isinstance(of_job, dict) for of_job in settings.values())):
                raise ValueError(f"{self.settings.name} is damaged")
            return settings

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against every other process until this one leaves or ends.

        Raises:
            UserError: another process has locked it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(self.path)
        except BlockingIOError:
            raise UserError(f"The sweep in {str(self.path)!r} is still running: wait for its end.") from None
        with lock:
            remove_unfinished((self.definition, self.settings, *self.results))
            yield

    def has_started(self, name: str) -> bool:
        return self.trial(name).is_dir()

    def has_result(self, name: str) -> bool:
        """Whether there is a summary for `result`, without reading it."""
        return os.path.exists(f"{self.path}/{name}/summary.json")

    def result(self, name: str) -> Summary | None:
        """Read the summary of a trial; None while there is no readable one."""
        try:
            return summary_in(self.trial(name))
        except ValueError:
            return None

    def own_result(self, name: str, sweep_id: str) -> Summary | None:
        """Read the summary in the folder `name`, if a trial of the sweep `sweep_id` wrote it."""
        summary = self.result(name)
        return summary if summary is not None and summary.get("sweep") == Owner(id=sweep_id, folder=name) else None


def resume_command(folder: SweepFolder, *, trust: bool = False, asks_for_storage: bool = False) -> str:
    """Return the command that resumes a sweep; its flags and overrides are in its folder.

    Args:
        asks_for_storage: whether to take its address from the environment, since its password was not stored.
        trust: whether to declare the folder trusted, which is right only if this user made it.
    """
    storage = ["search.storage=${oc.env:STUDY}"] if asks_for_storage else []
    trusting = ["search.trust=true"] if trust else []
    return command([override("search.resume", shown(folder.path)), *trusting, *storage], multirun=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
