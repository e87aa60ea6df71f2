"""Hydra composes a config once to see whether it says `hydra.mode`, and once more to run it: the first is spared here.

Replaces `get_mode` of Hydra's private class, which takes a third of the time to the first line; delete it when Hydra
composes once.
"""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra._internal.hydra as hydra_itself

from bnlab.command_line import key_of

__all__ = ["known_mode"]

_MAY_SAY = ("hydra", "hydra.mode", "hydra.searchpath")


@contextmanager
def known_mode(arguments: Namespace) -> Iterator[None]:
    """Within, Hydra takes the mode from the flag -m, as it does where no config says another: bnlab's say none."""
    hydras: Any = getattr(hydra_itself, "Hydra", None)
    flags = (arguments.config_name, arguments.config_path, arguments.config_dir)
    may_say = any(flags) or any(key_of(line) in _MAY_SAY for line in arguments.overrides)
    if may_say or not hasattr(hydras, "get_mode"):
        yield
        return

    class Hydra(hydras):
        def get_mode(self, *_: Any, **__: Any) -> None:
            """What no config says."""

    knowing: Any = Hydra
    hydra_itself.Hydra = knowing  # type: ignore[misc]
    try:
        yield
    finally:
        hydra_itself.Hydra = hydras  # type: ignore[misc]
