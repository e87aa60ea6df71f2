"""`python -m bnlab.look RUN`: look inside the network of a run, layer by layer."""

from pathlib import Path

from bnlab.errors import report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.lost_reader import outlast_readers
from bnlab.process.signals import interruptible

__all__ = ["main"]

_DESCRIPTION = """\
Look inside the network of a run, with its best weights, on the validation data. A table and a figure show, for each
layer, the values before and after the normalization, γ and β, the running statistics beside those of mini-batches, and
which units are dead."""

_EPILOG = """\
examples:
  python -m bnlab.look outputs/runs/2026-01-31/12-00-00-1a2b3c
  python -m bnlab.look RUN --output inside.pdf"""


def main() -> None:
    parser = ArgumentParser(
        prog="python -m bnlab.look",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("run", help="the folder of a run, or of a trial of a sweep")
    parser.add_argument("--trust", action="store_true", help="allow the run to execute any code that its settings name")
    parser.add_argument(
        "--output",
        metavar="FILE",
        action="append",
        default=[],
        help="a file to write: .png, .svg or .pdf for the picture, .csv for the table; may be given several times; a "
        "name without such a suffix is a folder for all four (default: a new one in outputs/looks)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files of --output")
    options = parser.parse_args()
    outlast_readers()
    with report_user_errors(), interruptible():
        from bnlab.io.output_files import new_folder, places, targets

        names = ("inside.png", "inside.svg", "inside.pdf", "inside.csv")
        files = targets(list(map(Path, options.output)), names, overwrite=options.overwrite)

        from bnlab.inside.inspection import inspect
        from bnlab.inside.output import show, write

        inspection = inspect(options.run, trust=options.trust)
        show(inspection)
        files = files or targets([new_folder("looks")], names)
        write(inspection, files)
        for line in places(files):
            print(line)


if __name__ == "__main__":
    main()
