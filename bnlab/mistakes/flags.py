"""Parse the options of the command line with Hydra's parser, and report an unknown one in one line."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from bnlab.errors import UserError
from bnlab.internals import hydra_internals
from bnlab.text.resemblance import closest, plain

__all__ = ["UnknownOptionError", "parser_of_options", "read_options"]

_HELP = "python -m bnlab.train --help lists the options and settings"


class UnknownOptionError(UserError):
    """An option does not exist; `meant` is the override that it may stand for."""

    def __init__(self, option: str, meant: str, value: str) -> None:
        super().__init__(f"There is no option {option}: {_HELP}.")
        self.option = option
        self.meant = meant
        self.value = value


def parser_of_options(version: str) -> argparse.ArgumentParser:
    """Return Hydra's parser, changed to raise `UserError` instead of exiting and to print bnlab's version."""
    parser = hydra_internals.parser_of_options()

    def error(message: str) -> NoReturn:
        raise UserError(_readable(message, parser))

    parser.error = error  # type: ignore[method-assign]
    for action in parser._actions:
        if "--version" in action.option_strings:
            action.version = version  # type: ignore[attr-defined]
    return parser


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options and overrides in `argv`, in any order.

    Raises:
        UserError: an option does not exist, or lacks its value.
    """
    for word in argv:
        for action in parser._actions:
            for name in action.option_strings:
                if len(name) > 3 and name != word == f"-{name.strip('-')}":
                    raise UserError(f"There is no option {word}: did you mean {_spelled(action)}?")
    # intermixed, to also accept `norm=none -m seed=0,1`
    options, unknown = parser.parse_known_intermixed_args(list(argv))
    for option in unknown:
        if option.startswith("-"):
            _refuse(option, list(argv), parser)
    return options


def _refuse(option: str, argv: list[str], parser: argparse.ArgumentParser) -> None:
    flag, equals, value = option.partition("=")
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    meant = [name for name in known if plain(name) == plain(flag)] or [
        name for name in closest(flag, known) if not name.startswith(("--hydra", "--experimental"))
    ]
    if flag not in ("--resume",) and meant:
        action = next(action for action in parser._actions if meant[0] in action.option_strings)
        raise UserError(f"There is no option {flag}: did you mean {_spelled(action)}?")
    if not equals:
        following = argv[argv.index(option) + 1 :]
        value = following[0] if following and not re.match(r"-[^\d.]|.*=", following[0]) else ""
    raise UnknownOptionError(option, flag.lstrip("-"), value)


def _spelled(action: argparse.Action) -> str:
    return " or ".join(action.option_strings)


def _readable(message: str, parser: argparse.ArgumentParser) -> str:
    """Rephrase a message of argparse, such as "argument --cfg/-c: expected one argument"."""
    found = re.fullmatch(r"argument (\S+): (.*)", message)
    if found is None:
        return f"{message}: {_HELP}."
    names, told = found.groups()
    name = next((name for name in names.split("/") if name.startswith("--")), names)
    choices: Any = re.fullmatch(r"invalid choice: (\S+) \(choose from (.*)\)", told)
    if choices:
        options = re.findall(r"[\w-]+", choices[2])
        likely = closest(choices[1].strip("'"), options)
        meant = f" Did you mean {name} {likely[0]}?" if likely else ""
        return f"{name} must be one of {', '.join(options)}, but got {choices[1]}.{meant}"
    if told == "expected one argument":
        action = next(action for action in parser._actions if name in action.option_strings)
        values = f"one of {', '.join(map(str, action.choices))}" if action.choices else "a value"
        return f"{name} must be followed by {values}."
    if told.startswith("ignored explicit argument"):
        return f"{name} has no value, but got {told.rpartition(' ')[2]}: write {name} by itself."
    return f"{name}: {told}; {_HELP}."
