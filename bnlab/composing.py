"""Composing a config from Python, and finding the overrides that make one."""

import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from bnlab.config.checking import check
from bnlab.config.folder import config_folder
from bnlab.config.hydra_choices import add_choices
from bnlab.config.settings import plain
from bnlab.errors import UserError, user_errors
from bnlab.internals.hydra_internals import initialized
from bnlab.io.yaml_text import to_yaml
from bnlab.mistakes.explaining import explain
from bnlab.text.command_line import Origin, differences

__all__ = ["compose", "overrides_of"]


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the config that `python -m bnlab.train` would use with these overrides.

    Raises:
        UserError: an override that does not parse, or names something that does not exist.
    """
    with _composing:
        outer = GlobalHydra.instance().hydra  # the calling program may use Hydra, too
        GlobalHydra.instance().clear()
        add_choices()
        try:
            try:
                with user_errors(), initialized(config_folder()):
                    config = hydra_compose("train", list(overrides))
            except UserError as error:
                raise UserError(explain(list(overrides), Origin(), multirun=False) or str(error)) from error
        finally:
            GlobalHydra.instance().hydra = outer
    check(config)
    if len(_composed) > 10_000:
        _composed.clear()
    _composed[_digest(plain(config))] = list(overrides)
    return config


_composing = threading.RLock()
"""Held while composing: Hydra has one global state per process, which threads would share."""

_composed: dict[bytes, list[str]] = {}
"""The overrides that gave a config, by a digest of its content, so that a changed config has none."""


def overrides_of(settings: dict[str, Any], written: dict[str, Any] | None = None) -> list[str] | None:
    """Return the overrides that make `python -m bnlab.train` use these settings (from `plain`); None if none do.

    They are the overrides passed to `compose` or, for a config that was changed or made by hand, its differences from
    the defaults. The differences use `written`, the settings as they may be stored (from `plain_to_write`).
    """
    composed = _composed.get(_digest(settings))
    if composed is not None:
        return list(composed)
    try:
        return differences(_defaults(), settings if written is None else written)
    except ValueError:
        return None


@functools.cache
def _defaults() -> dict[str, Any]:
    return plain(compose())


def _digest(settings: dict[str, Any]) -> bytes:
    return hashlib.blake2b(to_yaml(settings).encode(), digest_size=16).digest()
