"""`python -m bnlab`: list the commands; `python -m bnlab NAME ...` runs `python -m bnlab.NAME ...`."""

import runpy
import sys
import textwrap
from shutil import get_terminal_size

from bnlab.commands import commands, version
from bnlab.errors import UserError, report_user_errors
from bnlab.process.lost_reader import outlast_readers
from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["main"]

_TITLE = "bnlab, the batch-norm laboratory"
_END = """\
Each command has --help. To begin:
  python -m bnlab.train
  python -m bnlab.train -m norm=batch,none optimizer.lr=0.1,0.01"""


def overview(width: int) -> str:
    """Describe each command in one line, or in several lines if `width` columns are too few."""
    listed = commands()
    column = max(len(command.usage) for command in listed) + 2
    lines = [f"  {command.usage:{column}}{command.summary}" for command in listed]
    if max(map(len, lines)) > width:
        indent = " " * 6
        lines = []
        for command in listed:
            summary = textwrap.wrap(command.summary, width, initial_indent=indent, subsequent_indent=indent)
            lines += [f"  {command.usage}", *summary]
    return "\n".join([f"{_TITLE} ({version()})", "", *lines, "", _END])


def main() -> None:
    outlast_readers()
    arguments = sys.argv[1:]
    names = [command.name for command in commands()]
    with report_user_errors():
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(overview(get_terminal_size().columns))
        elif arguments[0] in ("--version", "-V"):
            print(version())
        elif arguments[0] in names:
            sys.argv = [f"bnlab.{arguments[0]}", *arguments[1:]]
            runpy.run_module(f"bnlab.{arguments[0]}", run_name="__main__", alter_sys=True)
        else:
            likely = [f"python -m bnlab.{name}" for name in closest(arguments[0], names)]
            if "=" in arguments[0] or arguments[0].startswith("-"):
                likely = [" ".join(["python -m bnlab.train", *arguments])]
            meant = did_you_mean(likely) or "python -m bnlab lists the commands."
            raise UserError(f"{arguments[0]!r} is not a command: {meant}")


if __name__ == "__main__":
    main()
