"""A run's folder: its files, and writing them."""

import csv
import errno
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from bnlab.config.confidential import restrict_to_owner, written
from bnlab.errors import UserError, one_line, user_errors
from bnlab.io.atomic_file import remove_unfinished, to_disk, write_bytes, write_text
from bnlab.io.folder_lock import FolderLock, is_locked
from bnlab.io.folder_name import require_readable_name
from bnlab.io.yaml_text import read_yaml, to_yaml
from bnlab.runs.branch import Branch, checked_branch
from bnlab.runs.summary import Summary, read_summary
from bnlab.text.concealing import override_to_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RunFolder", "reading"]


# The lock of a killed process is released a moment after others learn of its death.
_PATIENCE_S = 0.5


@dataclass
class RunFolder:
    """The names and formats of a run's files, and the right to write them.

    config.yaml (resolved, except what the environment sets), overrides.yaml, metrics.csv (one row per epoch),
    summary.json, checkpoints/best.ckpt and last.ckpt (and epoch.ckpt, if last.ckpt is from the middle of an epoch),
    curves.png, train.log; and branch.yaml, if the run continues another one (`bnlab.runs.branch`). Secrets are masked
    in all of them (`bnlab.config.confidential`).

    Readers never see half of a file, and only one run at a time writes (`locked`). The summary.json of a run that has
    ended is its last file; it and all others are then on the disk (`bnlab.io.atomic_file.to_disk`).
    """

    path: Path
    _lock: FolderLock | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def epoch_checkpoint(self) -> Path:
        """The path of the state after the last whole epoch, if last.ckpt is from the middle of the next one."""
        return self.path / "checkpoints" / "epoch.ckpt"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        return self.path / "overrides.yaml"

    @property
    def branch(self) -> Path:
        return self.path / "branch.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def results(self) -> tuple[Path, ...]:
        """The files that a training writes."""
        checkpoints = self.best_checkpoint, self.last_checkpoint, self.epoch_checkpoint
        return self.summary, self.metrics, *checkpoints, self.curves

    @property
    def holds_results(self) -> bool:
        """Whether a run has written results here, which no other run may overwrite."""
        return any(file.exists() for file in self.results)

    def require_free(self) -> None:
        """Refuse a folder in which a new run cannot begin.

        Raises:
            UserError: the folder holds a run or a sweep, another run is in progress in it, or its name is unreadable.
        """
        require_readable_name(self.path)
        if (self.path / "sweep.yaml").exists():
            raise UserError(f"{str(self.path)!r} already holds a sweep: choose another folder, or delete it.")
        if self.holds_results:
            raise UserError(f"{str(self.path)!r} already holds a run: choose another folder, or delete it.")
        self.require_idle()

    def require_idle(self) -> None:
        """Refuse a folder in which another run is in progress.

        Raises:
            UserError: another run is in progress there.
        """
        if self._lock is None and is_locked(self.path):
            raise self._in_use()

    def _in_use(self) -> UserError:
        return UserError(f"A run is still under way in {str(self.path)!r}: choose another folder, or wait for its end.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it against all other runs until the block or the process ends.

        Raises:
            UserError: another run is in progress there, or the folder cannot be made.
        """
        with user_errors(f"The run folder {str(self.path)!r} cannot be written: "):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = FolderLock(self.path, wait_s=_PATIENCE_S)
            except BlockingIOError:
                raise self._in_use() from None
        try:
            with self._lock:
                yield
        finally:
            self._lock = None

    def require_in_place(self) -> None:
        """Check that the folder is still the one that was locked: another run may have taken its place.

        Raises:
            FileNotFoundError: the folder was renamed or removed.
        """
        if self._lock is not None and not self._lock.is_in_place():
            raise FileNotFoundError(errno.ENOENT, "it was renamed or removed meanwhile", str(self.path))

    def create(self, config: DictConfig, overrides: Sequence[str] | None) -> None:
        """Make the folder and write the config and the overrides.

        Raises:
            UserError: the folder already holds a run, or cannot be written.
        """
        self.require_free()
        with user_errors(f"The run folder {str(self.path)!r} cannot be written: "):
            self.best_checkpoint.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished((self.config, self.overrides, *self.results))
            settings, is_confidential = written(config)
            if is_confidential:
                restrict_to_owner(self.path)
            write_text(self.config, to_yaml(settings))
            write_text(self.overrides, to_yaml(list(map(override_to_write, overrides or ()))))

    def reopen(self, *, anew: bool) -> None:
        """Prepare the folder for its training to continue in it: remove what said that it had ended.

        Args:
            anew: no epoch had ended, so that the training begins again, and the state amid its first epoch goes.
        """
        self.require_in_place()
        with user_errors(f"The run folder {str(self.path)!r} cannot be written: "):
            self.best_checkpoint.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished((self.config, self.overrides, *self.results))
            self.summary.unlink(missing_ok=True)
            if anew:
                self.last_checkpoint.unlink(missing_ok=True)

    def write_branch(self, branch: Branch) -> None:
        write_text(self.branch, to_yaml(dict(branch)))

    def read_branch(self) -> Branch | None:
        """Read branch.yaml; None if the run is no branch.

        Raises:
            UserError: it is damaged.
        """
        if not self.branch.is_file():
            return None
        with reading(self, self.branch):
            return checked_branch(read_yaml(self.branch))

    def keep_epoch(self) -> None:
        """Keep last.ckpt, the state after a whole epoch, under its other name, as one amid an epoch will replace it."""
        if not self.epoch_checkpoint.exists():  # otherwise last.ckpt is from the middle of an epoch already
            with suppress(FileNotFoundError):  # no epoch has ended
                self.last_checkpoint.rename(self.epoch_checkpoint)

    def restore_epoch(self) -> None:
        """Undo `keep_epoch`, after which last.ckpt could not be written."""
        if not self.last_checkpoint.exists():
            with suppress(FileNotFoundError):
                self.epoch_checkpoint.rename(self.last_checkpoint)

    def forget_epoch(self) -> None:
        """Remove what `keep_epoch` has kept, as last.ckpt is newer now."""
        self.epoch_checkpoint.unlink(missing_ok=True)

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write one row per epoch, with numbers at full precision, so that reading gives back the same floats."""
        self.require_in_place()
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics, buffer.getvalue())

    def write_summary(self, summary: Summary) -> None:
        """Write JSON, with null for numbers that are not finite, which not every JSON reader accepts."""
        self.require_in_place()
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in summary.items()
        }
        write_text(self.summary, json.dumps(finite, indent=2) + "\n")

    def finish(self, summary: Summary) -> None:
        """Write the summary once all other files are on disk, and wait until the summary is on disk, too."""
        to_disk([self.path])
        self.write_summary(summary)
        to_disk([self.path])

    def read_summary(self) -> Summary:
        """Read summary.json.

        Raises:
            UserError: it cannot be read, or is no summary.
        """
        with reading(self, self.summary):
            return read_summary(self.summary)

    def write_figure(self, figure: "Figure") -> None:
        from bnlab.figures import picture  # matplotlib takes half a second

        self.require_in_place()
        write_bytes(self.curves, picture(figure))


@contextmanager
def reading(folder: RunFolder, file: Path) -> Iterator[None]:
    """Turn any error about the content of a file into one line that names the file."""
    try:
        yield
    except Exception as error:
        told, name = one_line(error), file.name
        told = told if told.startswith(name) else f"{name}: {told}"
        raise UserError(f"The run in {str(folder.path)!r} cannot be read: {told}") from error
