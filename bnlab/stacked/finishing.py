"""Finish trials that were trained together: draw their curves and write their folders to disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from bnlab.config.description import describe
from bnlab.curves import Curves
from bnlab.io.atomic_file import to_disk
from bnlab.stacked.trial import StackedTrial
from bnlab.status import Status

__all__ = ["draw", "finish"]


def finish(trials: Sequence[StackedTrial]) -> Iterator[StackedTrial]:
    """Write the folders of trials that have ended; yield each trial once its folder is on disk.

    Raises:
        OSError: one cannot be written; those before it are complete.
    """
    written, failure = _write_while_possible(trials, StackedTrial.write_results)
    to_disk([trial.run.path for trial in written])
    complete, failure_of_summary = _write_while_possible(written, StackedTrial.write_summary)
    to_disk([trial.run.path for trial in complete])
    yield from complete
    if (cause := failure_of_summary or failure) is not None:
        raise cause


def _write_while_possible(
    trials: Sequence[StackedTrial], write: Callable[[StackedTrial], None]
) -> tuple[Sequence[StackedTrial], OSError | None]:
    """Return the trials that were written, and the error that stopped the writing early, if any."""
    for index, trial in enumerate(trials):
        try:
            write(trial)
        except OSError as error:
            return trials[:index], error
    return trials, None


def draw(trials: Sequence[StackedTrial], pictures_of: Callable[[Sequence[Curves]], Iterable[bytes]]) -> None:
    """Draw the curves of each trial; diverged trials share their axes, and so do the others."""
    for diverged in (False, True):  # their losses would dwarf all others
        drawn = [trial for trial in trials if trial.history.rows and (trial.status == Status.DIVERGED) == diverged]
        if drawn:
            curves = [
                Curves(trial.history.columns(), describe(trial.config), trial.history.best_epoch) for trial in drawn
            ]
            for trial, picture in zip(drawn, pictures_of(curves), strict=True):
                trial.picture = picture
