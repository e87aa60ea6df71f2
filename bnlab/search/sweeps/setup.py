"""The setup of a sweep, from the command line or from its folder."""

from dataclasses import dataclass

from omegaconf import DictConfig
from optuna.storages import BaseStorage

from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.search import Search
from bnlab.search.definition.subdir import Subdirs
from bnlab.search.study.changes import Settings
from bnlab.search.study.definition import Definition
from bnlab.search.study.folder import SweepFolder

__all__ = ["Setup"]


@dataclass(frozen=True)
class Setup:
    """The settings of a sweep, shared by all that run it.

    Attributes:
        settings: the settings of the jobs, which must agree between sweeps that share a study.
        config, loader: the sources of the jobs' configs.
        subdirs: the names of the jobs' folders.
        resumes: whether the sweep is resumed.
    """

    search: Search
    definition: Definition
    settings: Settings
    folder: SweepFolder
    storage: BaseStorage
    config: DictConfig
    loader: SweepConfigLoader
    subdirs: Subdirs
    resumes: bool
