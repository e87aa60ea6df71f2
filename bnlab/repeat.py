"""`python -m bnlab.repeat FOLDER`: train a run again and say whether the numbers are the same."""

from bnlab.errors import report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.lost_reader import outlast_readers
from bnlab.process.signals import interruptible

__all__ = ["main"]

_DESCRIPTION = """\
Train a run again from its config.yaml, into a new folder, and compare every epoch and the test metrics with the
original. The exit code is 0 if the numbers are the same, bit for bit or up to rounding, and 1 if they are not."""


def main() -> None:
    parser = ArgumentParser(prog="python -m bnlab.repeat", description=_DESCRIPTION)
    parser.add_argument("folder", help="the folder of a run, or of a trial of a sweep")
    parser.add_argument("--into", metavar="FOLDER", help="the new run's folder (default: a new one in outputs/repeats)")
    parser.add_argument("--trust", action="store_true", help="allow the run to execute any code that its settings name")
    options = parser.parse_args()
    outlast_readers()
    with report_user_errors(), interruptible():
        from bnlab.engines.repetition import repeat
        from bnlab.io.output_files import new_folder

        repetition = repeat(options.folder, options.into or new_folder("repeats"), trust=options.trust)
        for line in repetition.lines():
            print(line)
        if not (repetition.is_same or repetition.is_rounding):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
