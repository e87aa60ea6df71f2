"""The commands and their summaries, which are the first sentences of their modules.

The modules are read and not imported, because some import torch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "Command", "commands", "described", "version"]

COMMANDS = (
    *("train", "evaluate", "compare", "look", "repeat"),
    *("report", "panda", "experiment", "worker", "bench"),
)
"""Modules of bnlab that are commands, in the order in which they are listed; those without a module are left out."""

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Command:
    """A module that is run by `python -m`.

    Attributes:
        usage: such as python -m bnlab.evaluate FOLDER.
        summary: what the command does, in one line.
    """

    name: str
    usage: str
    summary: str


def commands() -> list[Command]:
    return list(described(_PACKAGE, COMMANDS, "bnlab"))


def described(folder: Path, names: tuple[str, ...], package: str) -> Iterator[Command]:
    """Find the commands called `names` in the `folder` of `package`."""
    for name in names:
        for file in (folder / f"{name}.py", folder / name / "__main__.py", folder / name / "__init__.py"):
            if file.is_file():
                yield _command(name, file, f"python -m {package}.{name}")
                break


def _command(name: str, file: Path, usage: str) -> Command:
    opening = re.match(r'"""(.*?)("""|\n\n)', file.read_text(encoding="utf-8"), re.DOTALL)
    first = " ".join(opening[1].split()) if opening else ""
    found = re.match(r"`(python -m [^`]*)`: (.*)", first)
    if found is not None:
        usage, first = found.groups()
    return Command(name, usage, re.split(r"\.(?:\s|$)", first)[0])


def version() -> str:
    from bnlab.own_version import own_version  # late, because importlib.metadata delays --help

    return f"bnlab {own_version()}"
