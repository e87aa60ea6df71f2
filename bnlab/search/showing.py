"""`-m` with --cfg, --info or --help: what a sweep would start from. Hydra shows that of single runs only."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra._internal.hydra as hydra_itself
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = ["MULTIRUN", "is_shown", "showing_a_sweep", "shows_something"]

MULTIRUN = "hydra.mode=MULTIRUN"


def is_shown(arguments: Namespace) -> bool:
    """Whether the command line asks to see something of a sweep, rather than to run it."""
    return shows_something(arguments) and (arguments.multirun or MULTIRUN in arguments.overrides)


def shows_something(arguments: Namespace) -> bool:
    """Whether the command line asks to see something, rather than to train."""
    asked: bool = arguments.help or arguments.hydra_help or arguments.shell_completion
    return asked or arguments.cfg is not None or arguments.info is not None


@contextmanager
def showing_a_sweep(arguments: Namespace) -> Iterator[Namespace]:
    """Within, Hydra composes as it does for a sweep; yields the arguments as it takes them from a single run."""
    hydra_itself.ConfigLoaderImpl = _LoaderOfASweep  # type: ignore[misc]
    try:
        mode = [] if MULTIRUN in arguments.overrides else [MULTIRUN]
        yield Namespace(**vars(arguments) | {"multirun": False, "overrides": [*arguments.overrides, *mode]})
    finally:
        hydra_itself.ConfigLoaderImpl = ConfigLoaderImpl  # type: ignore[misc]


class _LoaderOfASweep(ConfigLoaderImpl):
    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *arguments: Any, **named: Any
    ) -> DictConfig:
        return super().load_configuration(config_name, overrides, RunMode.MULTIRUN, *arguments, **named)
