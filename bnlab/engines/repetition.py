"""Train a run again, and compare its metrics with the original ones."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bnlab.engines.fit import fit
from bnlab.errors import UserError, one_line
from bnlab.runs.folder import RunFolder, reading
from bnlab.runs.reading import Run, load, read_metrics, read_rows
from bnlab.runs.summary import Summary
from bnlab.status import Status

__all__ = ["BUILT", "Difference", "Repetition", "differences", "repeat"]

ROUNDING = 1e-4
"""The largest relative difference that a different order of summation explains, over a training in float32."""

# The groups of the config that a training builds.
BUILT = ("data", "model", "norm", "optimizer", "scheduler", "trainer", "callbacks", "metrics", "figures", "logger")
_OF_THE_CLOCK = ("seconds",)


@dataclass(frozen=True)
class Difference:
    """The first difference of a metric, in metrics.csv or, with epoch None, in summary.json.

    Attributes:
        largest: the largest relative difference in any epoch.
    """

    name: str
    epoch: int | None
    before: float
    now: float
    largest: float

    def __str__(self) -> str:
        where = "" if self.epoch is None else f" in epoch {self.epoch}"
        return f"{self.name}{where}: {self.before!r} before, {self.now!r} now"


@dataclass(frozen=True)
class Repetition:
    """A repeated run compared with the original.

    Attributes:
        folder: the folder of the new run.
        num_numbers: the number of compared values.
        found: the first difference of each metric; empty if all numbers are equal, bit for bit.
        reasons: known differences between the two runs: versions, the commit, the data.
    """

    folder: Path
    num_numbers: int
    found: Sequence[Difference]
    reasons: Sequence[str]

    @property
    def is_same(self) -> bool:
        """Whether all numbers are equal, bit for bit."""
        return not self.found

    @property
    def is_rounding(self) -> bool:
        return all(difference.largest <= ROUNDING for difference in self.found)

    def lines(self) -> Iterator[str]:
        if self.is_same:
            yield f"the same: all {self.num_numbers} numbers agree, bit for bit"
            return
        largest = max(difference.largest for difference in self.found)
        if self.is_rounding:
            yield f"the same up to rounding: {self.num_numbers} numbers agree to a relative difference of {largest:.1e}"
        else:
            yield "different:"
            yield from (f"  {difference}" for difference in self.found)
        yield from (f"  {reason}" for reason in self.reasons)


def repeat(folder: str | Path, into: str | Path, *, trust: bool = False) -> Repetition:
    """Train the run in `folder` again, from its config alone, and compare every epoch and the test.

    Args:
        into: the folder of the new run.
        trust: allow the run to name any code; see `bnlab.load`.
    Raises:
        UserError: the folder holds no run that can be trained again.
    """
    run = load(folder, trust=trust, used=BUILT)
    if run.summary["status"] == Status.INTERRUPTED:
        raise UserError(
            f"The run in {str(run.folder.path)!r} was interrupted, so it has no results to compare with: "
            "repeat a run that has ended."
        )
    try:
        summary = fit(
            run.config, into, overrides=run.overrides, command=run.summary.get("command"), resumes=_source_of(run)
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The run in {str(run.folder.path)!r} cannot be repeated: {one_line(error)}") from error
    new = RunFolder(Path(into))
    metrics = read_metrics(new.metrics)
    if run.summary["status"] == Status.PRUNED:  # it was tested on the best of the epochs before the search ended it
        num_epochs = len(run.metrics["epoch"])
        metrics = {name: column[:num_epochs] for name, column in metrics.items()}
        summary = summary | cast(Summary, {name: value for name, value in run.summary.items() if name in summary})
    found, num_numbers = differences(run.metrics, run.summary, metrics, summary)
    return Repetition(new.path, num_numbers, found, list(_reasons(run.summary, summary)))


def _source_of(run: Run) -> RunFolder | None:
    """Return the folder of the run that a branch continues.

    Raises:
        UserError: it is gone, or no longer as it was.
    """
    branch = run.summary.get("branch")
    if branch is None:
        return None
    source = RunFolder(Path(branch["folder"]))
    if not source.metrics.is_file():
        raise UserError(
            f"The run in {str(run.folder.path)!r} cannot be repeated: it continues {str(source.path)!r}, which is gone."
        )
    with reading(source, source.metrics):
        num_epochs = len(read_rows(source.metrics))
    if num_epochs != branch["epoch"]:
        raise UserError(
            f"The run in {str(run.folder.path)!r} cannot be repeated: it continues {str(source.path)!r} after epoch "
            f"{branch['epoch']}, which has {num_epochs} epochs now."
        )
    return source


def differences(
    metrics: Mapping[str, Sequence[float]],
    summary: Mapping[str, Any],
    metrics_now: Mapping[str, Sequence[float]],
    summary_now: Mapping[str, Any],
) -> tuple[list[Difference], int]:
    """Find the first difference in each column of metrics.csv and each test metric; also count the numbers compared."""
    found, num_numbers = [], 0
    for name in (name for name in metrics if name not in _OF_THE_CLOCK):
        before, now = metrics[name], metrics_now.get(name, [])
        length = max(len(before), len(now))
        num_numbers += length
        pairs = [
            (before[place] if place < len(before) else math.nan, now[place] if place < len(now) else math.nan)
            for place in range(length)
        ]
        differing = [place for place in range(length) if not _same(*pairs[place])]
        if differing:
            largest = max(_relative(*pairs[place]) for place in differing)
            found.append(Difference(name, differing[0] + 1, *pairs[differing[0]], largest))
    for name in (name for name in summary if name.startswith("test_")):
        one, other = (math.nan if value is None else value for value in (summary[name], summary_now.get(name)))
        num_numbers += 1
        if not _same(one, other):
            found.append(Difference(name, None, one, other, _relative(one, other)))
    return found, num_numbers


def _same(before: float, now: float) -> bool:
    return before == now or (math.isnan(before) and math.isnan(now))


def _relative(before: float, now: float) -> float:
    size = max(abs(before), abs(now))
    return abs(before - now) / size if math.isfinite(size) and size else math.inf


def _reasons(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    versions, versions_now = before.get("versions") or {}, now.get("versions") or {}
    for name in versions_now:
        if versions.get(name) != versions_now[name]:
            yield f"{name} was {versions.get(name)} and is now {versions_now[name]}"
    if before.get("data_sha256") not in (None, now.get("data_sha256")):
        yield "the data have changed"
    git, git_now = before.get("git") or {}, now.get("git") or {}
    if git.get("commit") != git_now.get("commit"):
        yield f"the git commit was {git.get('commit')} and is now {git_now.get('commit')}"
    elif not git.get("is_clean", True) or not git_now.get("is_clean", True):
        yield "files differ from the git commit"
