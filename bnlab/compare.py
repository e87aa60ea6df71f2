"""`python -m bnlab.compare FOLDER...`: compare the runs and sweeps in these folders."""

import sys
from pathlib import Path

from bnlab.errors import report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.lost_reader import outlast_readers
from bnlab.process.signals import interruptible

__all__ = ["main"]

_DESCRIPTION = """\
Compare runs: a figure of their losses and scores, and a table of the settings and results that differ. Runs that differ
only in the seed are one line with a band, and one row with mean ± standard deviation. Of a sweep, all trials are
compared."""

_EPILOG = """\
examples:
  python -m bnlab.compare outputs/runs/2026-01-31/*
  python -m bnlab.compare outputs/sweeps/2026-01-31/12-00-00-1a2b3c --baseline norm=none
  python -m bnlab.compare SWEEP --table latex > ablation.tex
  python -m bnlab.compare RUN RUN --output figure.pdf"""


def main() -> None:
    parser = ArgumentParser(
        prog="python -m bnlab.compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("folder", nargs="+", help="the folder of a run or of a sweep")
    parser.add_argument(
        "--baseline",
        metavar="SETTINGS",
        help="the row to compare the others with, such as norm=none or norm=none,lr=0.1 (default: the first); if it "
        "matches several rows, each other row is compared with the one that shares its other settings",
    )
    parser.add_argument(
        "--table",
        choices=("screen", "markdown", "csv", "latex"),
        default="screen",
        help="the format of the table (default: screen); in another format, nothing else is printed, and only --output "
        "writes files",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        action="append",
        default=[],
        help="a file to write: .png, .svg or .pdf for the picture, .md, .csv or .tex for the table; may be given "
        "several times; a name without such a suffix is a folder for all six (default: a new one in "
        "outputs/comparisons)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files of --output")
    options = parser.parse_args()
    outlast_readers()
    with report_user_errors(), interruptible():
        from bnlab.comparison.comparison import compare
        from bnlab.comparison.output import NAMES, show, write
        from bnlab.io.output_files import new_folder, places, targets

        files = targets(list(map(Path, options.output)), NAMES, overwrite=options.overwrite)
        comparison = compare(options.folder, baseline=options.baseline)
        show(comparison, options.table)
        if not files and options.table == "screen":
            files = targets([new_folder("comparisons")], NAMES)
        write(comparison, files)
        for line in places(files):
            print(line, file=sys.stdout if options.table == "screen" else sys.stderr)


if __name__ == "__main__":
    main()
