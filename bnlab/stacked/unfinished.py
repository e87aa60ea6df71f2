"""The states of unfinished networks, one file each, from which another process continues if this one is killed.

They are in one folder beside those of the runs, named by config and not by run folder: a trial that is retried gets a
new folder, and other networks in its stack. A state is valid only for the same config in the same sweep, with the same
data. A training that ends removes its own state.
"""

import hashlib
import io
import json
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlab.config.settings import plain
from bnlab.io.atomic_file import write_bytes
from bnlab.search.study.folder import UNFINISHED
from bnlab.search.study.trial_folder import TrialFolder

if TYPE_CHECKING:
    from bnlab.stacked.data import Data
    from bnlab.stacked.job import Job
    from bnlab.stacked.state import State

__all__ = ["Unfinished"]

_FORMAT = 1  # to be increased when the meaning of a state changes


class Unfinished:
    """The state of one job's network, if there is one."""

    def __init__(self, job: "Job") -> None:
        self._job = job
        self._folder, self._sweep_id = job.folder.parent / UNFINISHED, None
        if job.sweep is not None:
            sweep = TrialFolder.at(job.folder, job.sweep["folder"]).sweep
            self._folder, self._sweep_id = sweep.unfinished, job.sweep["id"]

    @cached_property  # most trainings are too short to need it
    def _key(self) -> str:
        what = json.dumps([_FORMAT, self._sweep_id, plain(self._job.config)], sort_keys=True, default=str)
        return hashlib.sha256(what.encode()).hexdigest()

    @property
    def path(self) -> Path:
        """Return the path of its file."""
        return self._folder / f"{self._key[:32]}.ckpt"

    def write(self, state: "State", data: "Data") -> None:
        """Write the state.

        Raises:
            OSError: it cannot be written; the previous state is unchanged.
        """
        import torch

        buffer = io.BytesIO()
        torch.save({"key": self._key, "data": data.fingerprint, "state": state.plain()}, buffer)
        for is_last in (False, True):
            self._folder.mkdir(exist_ok=True)
            try:
                write_bytes(self.path, buffer.getbuffer())
                return
            except FileNotFoundError:  # another process has removed the empty folder
                if is_last:
                    raise

    def read(self, data: "Data") -> "State | None":
        """Read the state; return None if there is none.

        Raises:
            ValueError: the file cannot be read, or belongs to another training.
        """
        import torch

        from bnlab.stacked.state import State

        if not (self._folder.is_dir() and self.path.is_file()):
            return None
        try:
            stored: Any = torch.load(self.path, weights_only=True, map_location="cpu")
            key, fingerprint, state = (stored[name] for name in ("key", "data", "state"))
        except Exception as error:  # its text would advise the user to load it less safely
            raise ValueError(f"it is damaged ({type(error).__name__})") from None
        if key != self._key:
            raise ValueError("it belongs to another config")
        if fingerprint != data.fingerprint:
            raise ValueError("the data have changed")
        return State.of(state)

    def remove(self) -> None:
        """Remove the state, and the folder with the last one; a file that cannot be removed does no harm."""
        if self._folder.is_dir():
            with suppress(OSError):
                self.path.unlink()
                self._folder.rmdir()
