"""Replace the page of Hydra's `--help`, whose template shows each `_target_` and no comments of the YAML.

If this Hydra has no method that can be replaced, its own page is shown. Delete this when a template can be a function.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, open_dict

from bnlab.hydra_plugins.help_text import help_text
from bnlab.internals.hydra_internals import options_in, replacing_help

__all__ = ["own_help"]


def own_help() -> AbstractContextManager[object]:
    """Let `--help` print bnlab's page within."""
    return replacing_help(_get_help)


def _get_help(self: Any, help_cfg: DictConfig, cfg: DictConfig, *arguments: Any, **named: Any) -> str:
    hydra: Any = HydraConfig.instance().cfg
    with open_dict(cfg):
        cfg.hydra = hydra.hydra
    order = list(cfg.hydra.runtime.choices)[::-1]  # the order of the defaults list
    overrides = [*cfg.hydra.overrides.hydra, *cfg.hydra.overrides.task]
    options = options_in(self.config_loader, cfg.hydra.job.config_name, overrides)
    names = sorted(_groups(options), key=lambda name: order.index(name) if name in order else len(order))
    groups = {name: sorted(options(name, ObjectType.CONFIG)) for name in names}
    folders = [Path(source.path) for source in cfg.hydra.runtime.config_sources if source.schema == "file"]
    return help_text(
        cfg, {name: options for name, options in groups.items() if options}, folders, get_terminal_size().columns
    )


def _groups(options: Callable[[str, ObjectType], list[str]], parent: str = "") -> Iterator[str]:
    """Yield all groups, but of Hydra's only the launchers."""
    for name in options(parent, ObjectType.GROUP):
        if not parent and name == "hydra":
            yield "hydra/launcher"
        else:
            yield f"{parent}{name}"
            yield from _groups(options, f"{parent}{name}/")
