"""Name the trials' folders within the sweep's: by number, or as `hydra.sweep.subdir` says."""

import re
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from bnlab.errors import UserError, user_errors
from bnlab.search.definition.composition import SUBDIR, SweepConfigLoader
from bnlab.search.definition.search import Search
from bnlab.search.spaces.parameter import Parameter, Point
from bnlab.search.spaces.scales import Scale
from bnlab.search.study.folder import SweepFolder
from bnlab.text.command_line import override

__all__ = ["Subdirs", "check_sweep_dir", "job_override"]

_NUMBER = "${hydra.job.num}"  # the default in conf/train.yaml and Hydra
_SAME_FOR_ALL_JOBS = re.compile(r"\$\{(now|unique|oc\.env):[^{}]*\}")
_LONGEST = 255  # bytes per name, on the usual file systems


class Subdirs:
    """Resolves `hydra.sweep.subdir` for each job as Hydra does, with the number of the trial as that of the job."""

    def __init__(self, search: Search, config: DictConfig, loader: SweepConfigLoader) -> None:
        self._search = search
        self._config = config
        self._loader = loader
        template: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self._is_number = template["subdir"] == _NUMBER

    def name(self, number: int, point: Point, repeat: int) -> str:
        """Return the name of a trial's folder, relative to the sweep's."""
        if self._is_number:
            return str(number)
        job = self._loader.load_sweep_config(self._config, self._search.overrides(point, repeat))
        return _resolved(job, number, "subdir", self._config)

    def check(self, folder: SweepFolder) -> None:
        """Refuse a template that gives two trials the same name, or a name that no folder can have.

        Raises:
            UserError: the template breaks this rule.
        """
        if self._is_number:
            return
        with user_errors("`hydra.sweep.subdir`: "):
            first = self._search.space.draw(partial(_end, ""))
            name = self.name(0, first, 0)
            _check_name(name, folder)
            if self.name(1, first, 0) != name:
                return
            others = {key: (self._search.space.draw(partial(_end, key)), 0) for key in first}
            if self._search.settings.seeds > 1:
                others["seed"] = first, 1
            for key, (point, repeat) in others.items():
                if (point, repeat) != (first, 0) and self.name(0, point, repeat) == name:
                    raise UserError(
                        f"`hydra.sweep.subdir` is {name!r} for trials that differ in `{key}`, which would mix their "
                        "runs: let it end in -${hydra.job.num}."
                    )


def _end(key: str, parameter: Parameter) -> Any:
    """Return the first value of a parameter, or the last if its key is `key`."""
    values, last = parameter.values, parameter.key == key
    if isinstance(values, Scale):
        return values.high if last else values.low
    return values.elements[-1 if last else 0]


def _check_name(name: str, folder: SweepFolder) -> None:
    path = Path(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or (folder.path / path.parts[0]).is_file():
        raise UserError(f"`hydra.sweep.subdir` must be a folder in the sweep's, but got {name!r}.")
    if folder.path / path.parts[0] in folder.files:
        raise UserError(f"`hydra.sweep.subdir` must not be a file of the sweep's, but got {name!r}.")
    if "${" in name:
        raise UserError(f"`hydra.sweep.subdir` must not have ${{ in it, which Hydra would resolve, but got {name!r}.")
    if any(len(part.encode()) > _LONGEST for part in path.parts):
        raise UserError(
            f"`hydra.sweep.subdir` is longer than the {_LONGEST} bytes that a name may have: {name!r}. Leave keys out "
            "by hydra.job.config.override_dirname.exclude_keys, or use ${hydra.job.num}."
        )


def check_sweep_dir(search: Search, config: DictConfig, loader: SweepConfigLoader) -> None:
    """Refuse a `hydra.sweep.dir` that differs between the jobs of the sweep.

    Raises:
        UserError: `hydra.sweep.dir` depends on a job.
    """
    template: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if "${" not in _SAME_FOR_ALL_JOBS.sub("", template["dir"]):
        return
    for key in ["", *(parameter.key for parameter in search.space.parameters)]:
        point = search.space.draw(partial(_end, key))
        job = loader.load_sweep_config(config, search.overrides(point, 0))
        found = _resolved(job, 0, "dir", config)
        if found != str(config.hydra.sweep.dir):
            raise UserError(
                f"`hydra.sweep.dir` is the folder of the whole sweep, but {template['dir']!r} is {found!r} for a job "
                "of it: hydra.sweep.subdir is for each job's."
            )


def _resolved(job: DictConfig, number: int, key: str, master: DictConfig) -> str:
    """Return hydra.sweep.`key` in a job's config."""
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = str(number), number
    HydraConfig.instance().set_config(job)  # for ${hydra:...}
    try:
        return str(job.hydra.sweep[key])
    finally:
        HydraConfig.instance().set_config(master)


def job_override(name: str) -> str:
    """Return the override that sets a job's folder."""
    return f"{SUBDIR}={name}" if name.isdecimal() else override(SUBDIR, name)
