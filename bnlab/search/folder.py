"""A sweep's folder: what is in it, and who may write to it."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.atomic_file import write_text
from bnlab.errors import UserError, user_errors

__all__ = ["Definition", "SweepFolder"]


@dataclass(frozen=True)
class Definition:
    """What a sweep was asked to do, so that it can go on.

    Attributes:
        overrides: of the settings, among them the space and those of `search`.
        hydra_overrides: of Hydra, such as the launcher.
        study: its name in the storage.
        storage: its address as it was given, `${oc.env:NAME}` unresolved; None for the file in the folder.
        pruner: `search.pruner`.
        minimize: whether a lower objective is better.
        trials_per_round: of coarse_to_fine.
    """

    overrides: list[str]
    hydra_overrides: list[str]
    study: str
    storage: str | None
    pruner: str
    minimize: bool
    trials_per_round: int


@dataclass(frozen=True)
class SweepFolder:
    """What lies in it: a folder a trial under its number, and beside them the names below.

    The journal is Optuna's, and is there where no other storage is named.
    """

    path: Path

    @property
    def definition(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

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
    def figure(self) -> Path:
        return self.path / "search.png"

    def trial(self, number: int) -> Path:
        return self.path / str(number)

    def write_definition(self, definition: Definition) -> None:
        write_text(self.definition, OmegaConf.to_yaml(OmegaConf.create(vars(definition))))

    def read_definition(self) -> Definition:
        """
        Raises:
            UserError: it is not the folder of a sweep.
        """
        if not self.definition.is_file():
            raise UserError(f"{str(self.path)!r} is not the folder of a sweep: it has no {self.definition.name}.")
        with user_errors(f"The sweep in {str(self.path)!r} cannot be read: "):
            stored: Any = OmegaConf.to_container(OmegaConf.load(self.definition))
            return Definition(**stored)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out, until this one leaves or dies.

        Raises:
            UserError: another one is there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"The sweep in {str(self.path)!r} is still running: wait for its end.") from None
            self._remove_what_a_killed_process_left()
            yield

    def _remove_what_a_killed_process_left(self) -> None:
        for file in (self.definition, self.trials, self.leaderboard, self.best, self.figure):
            for unfinished in self.path.glob(f".{file.name}.*"):
                unfinished.unlink()

    def has_started(self, number: int) -> bool:
        return self.trial(number).is_dir()

    def result(self, number: int) -> dict[str, Any] | None:
        """The summary.json of a trial, None while it has none."""
        return read_result(self.trial(number))


def read_result(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        return None


def shown(path: Path | str) -> str:
    """Relative to the current directory where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def without(overrides: Sequence[str], *keys: str) -> list[str]:
    """The overrides that do not set one of `keys`."""
    return [override for override in overrides if key_of(override) not in keys]


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
