"""`python -m bnlab.bench NAME`: run a benchmark and print one table."""

import sys
from importlib import import_module
from pathlib import Path

from bnlab.commands import described
from bnlab.errors import UserError, report_user_errors
from bnlab.text.resemblance import closest, did_you_mean

BENCHMARKS = ("batch_norm", "chaos", "search", "start", "sweep", "train")


def main(arguments: list[str]) -> None:
    with report_user_errors():
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            return
        name = arguments[0]
        if name not in BENCHMARKS:
            likely = [f"python -m bnlab.bench {one}" for one in closest(name, BENCHMARKS)]
            meant = f": {did_you_mean(likely)}" if likely else "."
            raise UserError(f"The benchmark must be one of {', '.join(BENCHMARKS)}, but got {name!r}{meant}")
    import_module(f"bnlab.bench.{name}").main(arguments[1:])


def _overview() -> str:
    lines = ["usage: python -m bnlab.bench NAME [options]", ""]
    for command in described(Path(__file__).parent, BENCHMARKS, "bnlab.bench"):
        lines.append(f"  {command.name:12}{command.summary}")
    return "\n".join([*lines, "", "python -m bnlab.bench NAME --help shows its options."])


if __name__ == "__main__":
    main(sys.argv[1:])
