"""Hydra 1.3 composes a config once to see whether it says `hydra.mode`, and once more to run it: the first is spared.

Composing is most of what precedes the first line (bnlab/bench/records/start.md). Delete this when Hydra 1.3 is no
longer served: Hydra 1.4 looks first.
"""

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext

from bnlab.internals.hydra_internals import without_composing_for_the_mode
from bnlab.text.command_line import key_of

__all__ = ["known_mode"]

_MAY_SAY = ("hydra", "hydra.mode", "hydra.searchpath")


def known_mode(arguments: Namespace) -> AbstractContextManager[object]:
    """Within, Hydra takes the mode from the flag -m, as it does where no config says another: bnlab's say none."""
    flags = (arguments.config_name, arguments.config_path, arguments.config_dir)
    may_say = any(flags) or any(key_of(line) in _MAY_SAY for line in arguments.overrides)
    return nullcontext() if may_say else without_composing_for_the_mode()
