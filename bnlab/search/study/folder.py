"""A sweep's folder: what is in it, and who may write to it."""

import csv
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.errors import UserError, user_errors
from bnlab.io.atomic_file import remove_unfinished, write_text
from bnlab.io.folder_lock import FolderLock
from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml, to_yaml
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Owner, Summary, read_summary
from bnlab.search.study.address import anchored
from bnlab.text.command_line import Origin, command, override, shown
from bnlab.text.concealing import conceal_address, is_masked, override_to_write, remember_address, revealed

__all__ = ["UNFINISHED", "Definition", "SweepFolder", "TrialFolder", "is_owned", "read_result", "resume_command"]

UNFINISHED = ".unfinished"  # the folder of what stacks go on from (`bnlab.stacked.unfinished`)


_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Definition:
    """What a sweep was asked to do, so that it can go on.

    Attributes:
        id: drawn when the sweep was defined; what is this sweep's says so.
        overrides: of the settings, among them the space and those of `search`.
        origin: Hydra's flags and its own overrides, such as the launcher.
        study: its name in the storage.
        storage: its address as it was given, `${oc.env:NAME}` unresolved; None for the file in the folder. A password
            in it is not written down.
        pruner: `_target_` and its settings; None for none.
        minimize: whether a lower objective is better.
        num_points: configurations to try, when it was defined; a sampler may divide them into rounds.
    """

    id: str
    overrides: list[str]
    origin: Origin
    study: str
    storage: str | None
    pruner: dict[str, Any] | None
    minimize: bool
    num_points: int

    def storage_url(self, folder: Path) -> str | None:
        """`storage` with what the environment has to say; a relative file is one in `folder`, the sweep's."""
        if self.storage is None:
            return None
        with user_errors("`search.storage`: "):
            url: str = OmegaConf.create({"url": revealed(self.storage)}).url
        if is_masked(url):
            raise UserError(
                f"`search.storage` was {url}, whose password was not written down: say search.storage=ADDRESS again, "
                "best as search.storage='${oc.env:NAME}'; or leave the password to PGPASSWORD or ~/.pgpass."
            )
        remember_address(url)
        return anchored(url, Path() if "${" in self.storage else folder)


@dataclass(frozen=True)
class SweepFolder:
    """What lies in it: a folder per trial, named after its number where nothing else is asked for, and the names below.

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
    def settings(self) -> Path:
        """What was composed when the sweep was defined (see `bnlab.search.study.changes`)."""
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
        """The same one in three formats."""
        return tuple(self.path / f"search.{suffix}" for suffix in ("png", "svg", "pdf"))

    @property
    def ablation(self) -> tuple[Path, ...]:
        """The table over seeds in three formats, where there are several."""
        return tuple(self.path / f"ablation.{suffix}" for suffix in ("md", "csv", "tex"))

    @property
    def results(self) -> tuple[Path, ...]:
        """What is written anew as trials end."""
        return self.trials, self.leaderboard, self.best, *self.figures, *self.ablation

    @property
    def unfinished(self) -> Path:
        return self.path / UNFINISHED

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, which no trial's folder may take the place of."""
        return (self.definition, self.journal, self.settings, self.unfinished, *self.results)

    def trial(self, name: str) -> Path:
        return self.path / name

    def write_definition(self, definition: Definition) -> None:
        plain = asdict(definition)
        plain["origin"]["overrides"] = list(map(override_to_write, plain["origin"]["overrides"]))
        plain["overrides"] = list(map(override_to_write, plain["overrides"]))
        if plain["storage"] is not None:
            plain["storage"] = conceal_address(plain["storage"])
        write_text(self.definition, to_yaml(plain))

    def read_definition(self) -> Definition:
        """
        Raises:
            UserError: it is not the folder of a sweep.
        """
        if not self.definition.is_file():
            raise UserError(f"{str(self.path)!r} is not the folder of a sweep: it has no {self.definition.name}.")
        with user_errors(f"The sweep in {str(self.path)!r} cannot be read: "):
            stored: Any = read_yaml(self.definition)
            if isinstance(stored, dict) and "trials_per_round" in stored:
                raise ValueError("an earlier version of bnlab began it; start a new sweep")
            if not _is_definition(stored):
                raise ValueError(f"{self.definition.name} is damaged")
            origin = stored.pop("origin")
            return Definition(**stored, origin=Origin(**origin | {"overrides": tuple(origin["overrides"])}))

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
        if self.journal.is_file() and self.journal.stat().st_size:  # an empty one is of a sweep that was killed early
            taken.append(self.journal.name)
        if taken:
            raise UserError(
                f"{shown(self.path)!r} holds results that are not this sweep's ({_some(taken)}): choose another folder "
                "by hydra.sweep.dir."
            )

    def check_is_own(self, names: Iterable[str], sweep_id: str) -> None:
        """Refuse a folder to which trials were added from elsewhere; `names` are the folders of the sweep's own.

        A journal that was damaged, or whose end a power cut took, does not know all of them: one whose summary says
        that it is of the sweep `sweep_id` is, and one without a summary has no result to mix up.

        Raises:
            UserError: there are numbered folders with results of others.
        """
        outermost = {Path(name).parts[0] for name in names}  # one may be nested
        foreign = [
            name
            for name in self.numbered()
            if name not in outermost
            and (summary := self.result(name)) is not None
            and not is_owned(summary, sweep_id, name)
        ]
        if foreign and not self.lost_trials:
            raise UserError(
                f"{shown(self.path)!r} holds run folders that are not its sweep's ({_some(foreign)}): move them "
                "elsewhere."
            )

    @property
    def lost_trials(self) -> bool:
        """Whether a part of the journal could not be read, and was set aside."""
        return any(self.path.glob(f"{self.journal.name}.damaged-*"))

    def numbered(self) -> list[str]:
        """The names of what a trial's folder could collide with."""
        if not self.path.is_dir():
            return []
        return sorted((entry.name for entry in self.path.iterdir() if entry.name.isdecimal()), key=int)

    def forget(self) -> None:
        """Take back the definition of a sweep that was refused."""
        for file in (self.definition, self.settings):
            file.unlink(missing_ok=True)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        write_text(self.settings, json.dumps(settings, indent=1) + "\n")

    def read_settings(self) -> Any:
        """
        Raises:
            UserError: they are not there.
        """
        with user_errors(f"The sweep in {str(self.path)!r} cannot be read: "):
            settings = json.loads(read_text(self.settings))
            if not (isinstance(settings, dict) and all(isinstance(of_job, dict) for of_job in settings.values())):
                raise ValueError(f"{self.settings.name} is damaged")
            return settings

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out, until this one leaves or dies.

        Raises:
            UserError: another one is there.
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
        """Whether `result` has something to read, without reading it."""
        return os.path.exists(f"{self.path}/{name}/{_SUMMARY}")

    def result(self, name: str) -> Summary | None:
        """The summary.json of a trial, None while it has none that can be read."""
        try:
            return read_result(self.trial(name))
        except ValueError:
            return None

    def set_damaged_files_aside(self, name: str) -> bool:
        """Rename what a trial has left and cannot be read, with a line on stderr each; whether there was any."""
        damaged = [file for file, read in _READERS.items() if not _can_be_read(self.trial(name) / file, read)]
        for file in damaged:
            path = self.trial(name) / file
            aside = path.with_name(f"{file}.damaged")
            if aside.exists():
                aside = path.with_name(f"{file}.damaged-{secrets.token_hex(3)}")
            path.rename(aside)
            print(
                f"{shown(path)} is damaged: it is set aside as {aside.name}, and the trial is done again.",
                file=sys.stderr,
            )
        return bool(damaged)


@dataclass(frozen=True)
class TrialFolder:
    """A trial's folder as the run in it sees it: `name` is relative to the sweep's folder."""

    sweep: SweepFolder
    name: str

    @classmethod
    def of(cls, hydra: Any) -> "TrialFolder":
        """From the `hydra` node of a job's config."""
        return cls(SweepFolder(Path(hydra.sweep.dir)), str(hydra.sweep.subdir))

    @classmethod
    def at(cls, path: Path, name: str) -> "TrialFolder":
        """From its path, which ends with its name."""
        return cls(SweepFolder(path.parents[len(Path(name).parts) - 1]), name)

    def identity(self, sweep_id: str) -> Owner:
        """What the summary of a trial says, so that nothing else is taken for it."""
        return Owner(id=sweep_id, folder=self.name)


def resume_command(folder: SweepFolder, *, trust: bool = False, asks_for_storage: bool = False) -> str:
    """The line that goes on with a sweep: its flags and overrides are in its folder.

    Args:
        asks_for_storage: take its address from the environment, as its password was not written down.
        trust: say that the folder is trusted: only where this user made it.
    """
    storage = ["search.storage=${oc.env:STUDY}"] if asks_for_storage else []
    trusting = ["search.trust=true"] if trust else []
    return command([override("search.resume", shown(folder.path)), *trusting, *storage], multirun=True)


def is_owned(summary: Summary, sweep_id: str, name: str) -> bool:
    return summary.get("sweep") == {"id": sweep_id, "folder": name}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def read_result(folder: Path) -> Summary | None:
    """The summary.json in `folder`, None if it has none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return read_summary(folder / _SUMMARY)
    except FileNotFoundError:
        return None


def _read_config(file: Path) -> None:
    config = read_yaml(file)
    if not (isinstance(config, dict) and isinstance(config.get("data"), dict)):
        raise ValueError(f"{file.name} is damaged")


def _read_metrics(file: Path) -> None:
    text = read_text(file)
    header, *rows = csv.reader(text.splitlines(), strict=True)
    if "epoch" not in header or any(len(row) != len(header) for row in rows) or not text.endswith("\n"):
        raise ValueError(f"{file.name} is damaged")
    for row in rows:
        for cell in filter(None, row):
            float(cell)


_READERS: dict[str, Callable[[Path], object]] = {
    _SUMMARY: read_summary,
    "config.yaml": _read_config,
    "metrics.csv": _read_metrics,
}


def _can_be_read(file: Path, read: Callable[[Path], object]) -> bool:
    """Whether it can, or is not there."""
    try:
        read(file)
    except FileNotFoundError:
        return True
    except (ValueError, IsADirectoryError, csv.Error):
        return False
    return True


def _is_definition(stored: Any) -> bool:
    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    if not isinstance(stored, dict) or not isinstance(stored.get("origin"), dict):
        return False
    origin = stored["origin"]
    return (
        set(stored) == {field.name for field in fields(Definition)}
        and set(origin) <= {field.name for field in fields(Origin)}
        and is_texts(stored["overrides"])
        and is_texts(origin.get("overrides", []))
        and isinstance(origin.get("config_name", ""), str)
        and all(isinstance(origin.get(name), str | None) for name in ("config_dir", "config_path"))
        and all(isinstance(stored[name], str) for name in ("id", "study"))
        and isinstance(stored["pruner"], dict | None)
        and isinstance(stored["storage"], str | None)
        and isinstance(stored["minimize"], bool)
        and isinstance(stored["num_points"], int)
    )
