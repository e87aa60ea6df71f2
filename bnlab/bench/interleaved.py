"""Time alternatives in turn, round after round, so that other load on the machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["interleaved_medians", "time_interleaved"]


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]], *, num_rounds: int, num_warmups: int = 1
) -> dict[str, list[float]]:
    """Run every candidate once per round, in alternating order; return the seconds of each candidate by round."""
    for _ in range(num_warmups):
        for candidate in candidates.values():
            candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for round_index in range(num_rounds):
        for name in names if round_index % 2 == 0 else reversed(names):
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def interleaved_medians(
    candidates: Mapping[str, Callable[[], object]], *, num_rounds: int, num_warmups: int = 1
) -> dict[str, float]:
    """Return the median seconds of each candidate; see `time_interleaved`."""
    timed = time_interleaved(candidates, num_rounds=num_rounds, num_warmups=num_warmups)
    return {name: median(seconds) for name, seconds in timed.items()}
