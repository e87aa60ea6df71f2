"""`-m` with --cfg, --info or --help: show what a sweep would start from. Hydra itself shows only single runs."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from bnlab.errors import UserError
from bnlab.internals.hydra_internals import composing_for_multirun

__all__ = ["MULTIRUN", "is_shown", "showing_a_sweep", "shows_something"]

MULTIRUN = "hydra.mode=MULTIRUN"


def is_shown(arguments: Namespace) -> bool:
    """Whether the command line asks to show something about a sweep instead of running it."""
    return shows_something(arguments) and (arguments.multirun or MULTIRUN in arguments.overrides)


def shows_something(arguments: Namespace) -> bool:
    """Whether the command line asks to show something instead of training."""
    asked: bool = arguments.help or arguments.hydra_help or arguments.shell_completion
    return asked or arguments.cfg is not None or arguments.info is not None


@contextmanager
def showing_a_sweep(arguments: Namespace) -> Iterator[Namespace]:
    """Let Hydra compose as for a sweep; yield the arguments in the form of a single run.

    Raises:
        UserError: this version of Hydra cannot do so.
    """
    with composing_for_multirun() as it_does:
        if not it_does:
            raise UserError("This version of Hydra does not show what a sweep starts from: leave -m out.")
        mode = [] if MULTIRUN in arguments.overrides else [MULTIRUN]
        yield Namespace(**vars(arguments) | {"multirun": False, "overrides": [*arguments.overrides, *mode]})
