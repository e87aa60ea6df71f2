"""What is ranked: whole configurations first, whatever a few of their seeds say."""

import math
import re

from simulated_sweep import LR, smooth

from bnlab.search.study.trials import Trial, rank
from bnlab.status import Status
from bnlab.text.number_format import percent


def trial(number: int, point: int | None, repeat: int, objective: float | None, status: str = "completed") -> Trial:
    return Trial(number, point, repeat, Status(status), objective, {}, {}, None, "", None)


def ranked(trials, minimize: bool = False, seeds: int = 3) -> list[tuple[int | None, bool]]:
    return [(of_point.trials[0].point, of_point.is_complete) for of_point in rank(trials, minimize, seeds)]


WHOLE = [trial(number, 0, number, 0.5 + number / 100) for number in range(3)]


def test_a_configuration_with_seeds_to_come_does_not_rank_above_whole_ones() -> None:
    for rest in (
        [],
        [trial(4, 1, 1, None, "running")],
        [trial(4, 1, 1, None, "failed"), trial(5, 1, 2, 0.9)],
        [trial(4, 1, 1, 0.9, "pruned"), trial(5, 1, 2, 0.9)],
        [trial(4, 1, 1, 0.9, "interrupted"), trial(5, 1, 2, 0.9)],
        [trial(4, 1, 1, None, "diverged"), trial(5, 1, 2, 0.9)],
        [trial(4, 1, 0, 0.9)],  # the same seed twice is one
    ):
        trials = [trial(3, 1, 0, 0.9), *WHOLE, *rest]
        assert ranked(trials) == [(0, True), (1, False)]
    assert ranked([trial(3, 1, 0, 0.1), *WHOLE], minimize=True) == [(0, True), (1, False)]


def test_a_seed_that_was_tried_again_completes_its_configuration() -> None:
    again = [trial(3, 1, 0, 0.9), trial(4, 1, 1, 0.9, "interrupted"), trial(5, 1, 2, 0.9), trial(6, 1, 1, 0.9)]
    assert ranked([*WHOLE, *again]) == [(1, True), (0, True)]


def test_without_a_whole_one_the_others_are_ranked_by_their_means_and_ties_go_to_the_earlier() -> None:
    trials = [trial(0, 0, 0, 0.5), trial(1, 1, 0, 0.7), trial(2, 2, 0, 0.7), trial(3, 3, 0, None, "failed")]
    assert ranked(trials) == [(1, False), (2, False), (0, False)]
    assert ranked(trials, seeds=1) == [(1, True), (2, True), (0, True)]
    assert ranked([trial(0, None, 0, 0.5), trial(1, None, 0, 0.7)], seeds=1) == [(None, True), (None, True)]


def fails_at_a_good_rate(config) -> float:
    """The better the learning rate, the sooner a seed of it fails."""
    if abs(math.log10(config.optimizer.lr) + 2) < 0.7 and config.seed == 2:
        raise ValueError("no")
    return smooth(config)


def test_a_sweep_names_a_whole_configuration_as_its_best(sweep) -> None:
    outcome, left = sweep(
        *("search=random", "search.num_trials=10", "search.seeds=3", LR, "objective=val_accuracy"),
        task=fails_at_a_good_rate,
    )
    of_rate: dict[str, list[dict]] = {}
    for row in left.rows:
        of_rate.setdefault(row["optimizer.lr"], []).append(row)
    whole = {
        lr: sum(float(row["val_accuracy"]) for row in rows) / 3
        for lr, rows in of_rate.items()
        if all(row["status"] == "completed" for row in rows)
    }
    best = max(whole, key=whole.get)
    assert 0 < len(whole) < 10
    assert max(of_rate, key=lambda lr: max(float(row["val_accuracy"] or 0) for row in of_rate[lr])) not in whole
    assert left.best.objective == whole[best]
    assert f"optimizer.lr={best}" in left.best.overrides
    before, _, after = outcome.stdout.partition("Run the best again:")
    assert f"optimizer.lr={best}" in after
    assert re.search(r"^Picture: .*search\.png$", before, re.MULTILINE)
    table = left.leaderboard.partition("## Not completed")[0]
    places = ["of 3 seeds" in line for line in table.splitlines() if line.startswith("|")][2:]
    assert places == sorted(places)
    assert places.count(True) == 10 - len(whole)
    (last,) = [line for line in outcome.stdout.splitlines() if line.startswith("30/30 done")]
    numbers = ", ".join(row["number"] for row in of_rate[best])
    assert f"best val_accuracy {percent(whole[best])} (trials {numbers})" in last


def test_a_sweep_without_a_whole_configuration_names_no_best(sweep) -> None:
    def task(config):
        if config.seed == 0:
            raise ValueError("no")
        return smooth(config)

    outcome, left = sweep("search=random", "search.num_trials=2", "search.seeds=2", LR, task=task)
    assert outcome.exit_code == 1
    assert not (left.folder / "best.yaml").exists()
    assert left.leaderboard.count("(1 of 2 seeds)") == 2
    assert "Run the best again" not in outcome.stdout + left.leaderboard
