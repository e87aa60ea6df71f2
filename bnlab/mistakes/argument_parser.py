"""An argparse parser that reports a mistake, and what was probably meant, in one line without the usage."""

import argparse
import shutil
import textwrap
from typing import Any, NoReturn

from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["ArgumentParser"]

_UNKNOWN = "unrecognized arguments: "


class ArgumentParser(argparse.ArgumentParser):
    """A parser for the commands other than `bnlab.train`, whose parser is Hydra's.

    In the help, the description is as wide as the terminal, and the epilog is unchanged.
    """

    def __init__(self, *, description: str, **named: Any) -> None:
        width = shutil.get_terminal_size().columns - 2  # the width that argparse uses
        super().__init__(
            description=textwrap.fill(" ".join(description.split()), width),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **named,
        )

    def error(self, message: str) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        meant = ""
        if message.startswith(_UNKNOWN):
            word = message.removeprefix(_UNKNOWN).split()[0]
            likely = closest(word.partition("=")[0], options) if word.startswith("-") else []
            message = f"there is no argument {word}"
            meant = did_you_mean(likely)
        way_out = f": {meant}" if meant else f"; {self.prog} --help tells what it takes."
        self.exit(2, f"{self.prog}: {message}{way_out}\n")
