"""Draws a search into search.png, .svg and .pdf."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnlab.comparison.settings import read_settings
from bnlab.comparison.title import parts_of
from bnlab.io.atomic_file import write_bytes
from bnlab.io.yaml_text import read_yaml
from bnlab.search.results.leaderboard import Leaderboard, axis_of
from bnlab.search.results.rounds import Box
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.trials import Configuration, Trial
from bnlab.status import Status

__all__ = ["points_of", "write_figure"]


def write_figure(
    leaderboard: Leaderboard, folder: SweepFolder, rounds: Sequence[Sequence[Box]] = (), trials_per_round: int = 0
) -> None:
    """Draw the objective against each parameter, if there is anything to show.

    Args:
        rounds: in a coarse-to-fine search, the boxes of each round.
        trials_per_round: in a coarse-to-fine search; 0 in another kind of search.
    """
    points = points_of(leaderboard, trials_per_round)
    if not leaderboard.space.parameters or not any(point["objective"] is not None for point in points):
        return
    from bnlab.figures import file_of, search  # matplotlib takes half a second

    axes = {parameter.key: axis_of(parameter) for parameter in leaderboard.space.parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks, or numbers at the ends of the range
        figure = search(
            points,
            axes,
            leaderboard.objective_name,
            minimize=leaderboard.minimize,
            title=_title(leaderboard),
            rounds=rounds,
        )
        for file in folder.figures:
            write_bytes(file, file_of(figure, file.suffix))


def points_of(leaderboard: Leaderboard, trials_per_round: int = 0) -> list[dict[str, Any]]:
    """Return a point per configuration that has ended: its parameters, its (mean) objective, and its status.

    A configuration with several seeds is `incomplete` while it lacks some, `diverged` if one of its runs did, and
    `failed` if none has an objective.
    """
    configurations: dict[int | tuple[int], list[Trial]] = {}
    for trial in leaderboard.trials:
        if trial.status.is_final:
            configurations.setdefault(trial.number if trial.point is None else (trial.point,), []).append(trial)
    points = []
    for trials in configurations.values():
        placed = [trial for trial in trials if trial.objective is not None and math.isfinite(trial.objective)]
        point: dict[str, Any] = {**trials[0].values, "objective": None, "status": _status(trials, leaderboard.seeds)}
        if placed:
            found = Configuration(tuple(placed), leaderboard.seeds)
            point |= {"objective": found.mean, "deviation": found.deviation}
        if trials_per_round and trials[0].point is not None:
            point["round"] = trials[0].point // trials_per_round
        points.append(point)
    return points


def _status(trials: Sequence[Trial], seeds: int) -> Status:
    statuses = {trial.status for trial in trials}
    if len(statuses) == 1 and (seeds == 1 or len(trials) >= seeds):
        return statuses.pop()
    if Status.DIVERGED in statuses:
        return Status.DIVERGED
    return Status.FAILED if statuses == {Status.FAILED} else Status.INCOMPLETE


def _title(leaderboard: Leaderboard) -> str:
    """Describe the data and other common settings, from the config of one trial, and the seeds."""
    keys = [parameter.key for parameter in leaderboard.space.parameters]
    shared: dict[str, Any] = {}
    for trial in leaderboard.trials:
        if trial.folder is not None and (config := _config(trial.folder)) is not None:
            values = read_settings(config).values
            shared = {
                key: value
                for key, value in values.items()
                if not any(key == name or key.startswith(f"{name}.") for name in keys)
            }
            break
    if any(key.startswith("model.") for key in keys):
        shared.pop("model.hidden", None)  # follows from the number of units
    if leaderboard.seeds > 1:
        seeds = [f"{leaderboard.seeds} seeds"]
    else:
        seeds = [] if "seed" in keys else [f"seed {leaderboard.base_seed}"]
    return ", ".join([*parts_of(shared), *seeds])


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = read_yaml(folder / "config.yaml")
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
