"""A training to be done, in the form in which the caller passes it to a worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.runs.summary import Owner

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """One of several trainings, identified by its number.

    Attributes:
        settings: the config; resolved and in plain containers if the job is sent to another process, because a
            DictConfig takes far longer to pickle.
        folder: the folder of the run.
        overrides, command, sweep: as in `bnlab.runs.summary.beginning`.
        from_environment: the interpolations of settings from the environment, by keys and indices from the root; they
            are written instead of the values.
        secrets: the known secrets, and the text shown instead of each (`bnlab.text.concealing.known`).
    """

    number: int
    settings: Mapping[str, Any]
    folder: Path
    overrides: Sequence[str] | None = ()
    command: str | None = None
    sweep: Owner | None = None
    from_environment: Mapping[tuple[Any, ...], str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def config(self) -> DictConfig:
        """Return the settings as a DictConfig."""
        if isinstance(self.settings, DictConfig):
            return self.settings
        return self.interpolated(OmegaConf.create(dict(self.settings)))

    def interpolated(self, config: DictConfig) -> DictConfig:
        """Put the interpolations back into `config`, which was made from the settings."""
        for (*above, last), text in self.from_environment.items():
            node = config
            for part in above:
                node = node[part]
            node[last] = text
        return config
