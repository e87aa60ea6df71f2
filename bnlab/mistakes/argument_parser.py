"""argparse with mistakes in one line that says what was probably meant, in place of the usage before them."""

import argparse
from typing import NoReturn

from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["ArgumentParser"]

_UNKNOWN = "unrecognized arguments: "


class ArgumentParser(argparse.ArgumentParser):
    """As argparse's, for the commands beside `bnlab.train`, whose parser is Hydra's."""

    def error(self, message: str) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        meant = ""
        if message.startswith(_UNKNOWN):
            word = message.removeprefix(_UNKNOWN).split()[0]
            likely = closest(word.partition("=")[0], options) if word.startswith("-") else []
            message = f"there is no argument {word}"
            meant = did_you_mean(likely)
        self.exit(2, f"{self.prog}: {message}: {meant or f'{self.prog} --help tells what it takes.'}\n")
