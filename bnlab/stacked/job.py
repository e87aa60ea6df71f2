"""A training to be done, in the same form from the caller to the worker."""

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
    """One of several trainings, known by its number.

    Attributes:
        settings: the config; resolved and as plain containers where the job travels between processes, since a
            DictConfig takes far longer to pickle.
        folder: of the run.
        overrides, command, sweep: for the summary, as `bnlab.runs.summary.beginning` takes them.
        from_environment: settings that the environment gives, by their keys and indices from the root on, and their
            interpolations, which are written down in their place.
        secrets: that may turn up anywhere, and what is shown in their place (`bnlab.text.concealing.known`).
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
        """The settings as a DictConfig."""
        if isinstance(self.settings, DictConfig):
            return self.settings
        return self.interpolated(OmegaConf.create(dict(self.settings)))

    def interpolated(self, config: DictConfig) -> DictConfig:
        """Put the interpolations back into `config`, which was made of the settings."""
        for (*above, last), text in self.from_environment.items():
            node = config
            for part in above:
                node = node[part]
            node[last] = text
        return config
