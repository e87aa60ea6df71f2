"""Hydra's `--help` with a page of bnlab's own, made of the config that Hydra composed.

In place of `Hydra.get_help`, whose template has no comments of the YAML and shows each `_target_`. With a Hydra that
has no such method, its own page is shown. To be deleted when a template can be a function.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import hydra._internal.hydra as hydra_itself
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, open_dict

from bnlab.help_text import help_text

__all__ = ["own_help"]


@contextmanager
def own_help() -> Iterator[None]:
    """Within, `--help` prints it."""
    hydras = getattr(hydra_itself.Hydra, "get_help", None)
    if hydras is None:
        yield
        return
    hydra_itself.Hydra.get_help = _get_help  # type: ignore[method-assign]
    try:
        yield
    finally:
        hydra_itself.Hydra.get_help = hydras  # type: ignore[method-assign]


def _get_help(self: Any, help_cfg: DictConfig, cfg: DictConfig, *arguments: Any, **named: Any) -> str:
    hydra: Any = HydraConfig.instance().cfg
    with open_dict(cfg):
        cfg.hydra = hydra.hydra
    order = list(cfg.hydra.runtime.choices)[::-1]  # that of the defaults list
    # Of the repository, as the loader copies all that it has read for each question, which takes longer than the rest.
    overrides = [*cfg.hydra.overrides.hydra, *cfg.hydra.overrides.task]
    _, repository = self.config_loader._parse_overrides_and_create_caching_repo(cfg.hydra.job.config_name, overrides)
    names = sorted(_groups(repository), key=lambda name: order.index(name) if name in order else len(order))
    groups = {name: sorted(repository.get_group_options(name, ObjectType.CONFIG)) for name in names}
    folders = [Path(source.path) for source in cfg.hydra.runtime.config_sources if source.schema == "file"]
    return help_text(
        cfg, {name: options for name, options in groups.items() if options}, folders, get_terminal_size().columns
    )


def _groups(repository: Any, parent: str = "") -> Iterator[str]:
    """All but Hydra's, and its launchers."""
    for name in repository.get_group_options(parent, ObjectType.GROUP):
        if not parent and name == "hydra":
            yield "hydra/launcher"
        else:
            yield f"{parent}{name}"
            yield from _groups(repository, f"{parent}{name}/")
