"""The table of a sweep over several seeds: mean ± deviation in validation and test, and differences from a baseline."""

from collections.abc import Mapping
from typing import Any

from bnlab.comparison.arms import Result
from bnlab.comparison.formats import FORMATS, SUFFIXES
from bnlab.comparison.grouping import arms_of
from bnlab.comparison.settings import Settings
from bnlab.comparison.table import Table, make_table, metrics_of
from bnlab.io.atomic_file import write_text
from bnlab.runs.summary import metric_values, summary_in
from bnlab.search.results.leaderboard import Leaderboard
from bnlab.search.spaces.parameter import Choice
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.trials import Trial

__all__ = ["ablation_of", "write_ablation"]

_SEED = "seed"  # may be searched like any setting, as in seed=0,1,2


def write_ablation(leaderboard: Leaderboard, folder: SweepFolder) -> bool:
    """Write the table as Markdown, CSV and LaTeX, if there is one; return whether there is."""
    table = ablation_of(leaderboard)
    if table is None:
        return False
    for file in folder.ablation:
        write_text(file, FORMATS[SUFFIXES[file.suffix]](table))
    return True


def ablation_of(leaderboard: Leaderboard) -> Table | None:
    """Compute the table; None for a search with one seed, or before any trial has a result.

    A grid keeps its order, and its first configuration is the baseline. Drawn configurations have no meaningful order:
    they are sorted with the best first, which is the baseline.
    """
    results = [_result(trial, leaderboard) for trial in leaderboard.trials if trial.status.is_final]
    has_seeds = leaderboard.seeds > 1 or any(_SEED in trial.values for trial in leaderboard.trials)
    if not has_seeds or not any(result.values for result in results):
        return None
    keys, arms = arms_of(results)
    is_drawn = any(not isinstance(parameter.values, Choice) for parameter in leaderboard.space.parameters)
    if is_drawn:
        places = {
            trial.number: place for place, of_point in enumerate(leaderboard.ranking) for trial in of_point.trials
        }
        arms = sorted(arms, key=lambda arm: min(places.get(int(run.name), len(places)) for run in arm.results))
    return make_table(keys, arms, metrics_of(arms), [0] * len(arms), is_chosen=is_drawn)


def _result(trial: Trial, leaderboard: Leaderboard) -> Result:
    elements: Mapping[str, Any] = {key: value for key, value in trial.values.items() if key != _SEED}
    seed = int(trial.values.get(_SEED, leaderboard.base_seed + trial.repeat))
    values = {} if trial.objective is None else {leaderboard.objective_name: trial.objective}
    if trial.test is not None:
        name, score = trial.test
        values[name] = score
    return Result(
        name=str(trial.number),
        owner="",
        settings=Settings(elements),
        seed=seed,
        status=trial.status,
        error=trial.error,
        values=_all_values(trial) | values,
        objective_name=leaderboard.objective_name,
        minimize=leaderboard.minimize,
    )


def _all_values(trial: Trial) -> dict[str, float]:
    """Return the metrics in the trial's summary, if it is on this machine."""
    if trial.folder is None:
        return {}
    try:
        summary = summary_in(trial.folder)
    except (OSError, ValueError):
        return {}
    return {} if summary is None or summary.get("objective") != trial.objective else metric_values(summary)
