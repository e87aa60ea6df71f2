"""Avoid the composition by which Hydra 1.3 finds out whether a config sets `hydra.mode`.

Composing takes most of the time before the first line (bnlab/bench/records/start.md). Delete this with the support of
Hydra 1.3: Hydra 1.4 composes once.
"""

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext

from bnlab.internals.hydra_internals import skipping_mode_composition
from bnlab.text.command_line import key_of

__all__ = ["known_mode"]

_MAY_SAY = ("hydra", "hydra.mode", "hydra.searchpath")


def known_mode(arguments: Namespace) -> AbstractContextManager[object]:
    """Let Hydra take the mode from the flag -m alone, unless a config or override may set it; bnlab's do not."""
    flags = (arguments.config_name, arguments.config_path, arguments.config_dir)
    may_say = any(flags) or any(key_of(line) in _MAY_SAY for line in arguments.overrides)
    return nullcontext() if may_say else skipping_mode_composition()
