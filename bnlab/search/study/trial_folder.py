"""A trial's folder, as seen by its run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnlab.runs.summary import Owner
from bnlab.search.study.folder import SweepFolder

__all__ = ["TrialFolder"]


@dataclass(frozen=True)
class TrialFolder:
    """A trial's folder, `name`, relative to the sweep's folder."""

    sweep: SweepFolder
    name: str

    @classmethod
    def of(cls, hydra: Any) -> "TrialFolder":
        """Read it from the `hydra` node of a job's config."""
        return cls(SweepFolder(Path(hydra.sweep.dir)), str(hydra.sweep.subdir))

    @classmethod
    def at(cls, path: Path, name: str) -> "TrialFolder":
        """Derive it from its path, which ends with its name."""
        return cls(SweepFolder(path.parents[len(Path(name).parts) - 1]), name)

    def identity(self, sweep_id: str) -> Owner:
        """Return the owner in the trial's summary, by which it is told from any other summary."""
        return Owner(id=sweep_id, folder=self.name)
