"""Titles that say what the compared runs have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnlab.comparison.arms import Arm
from bnlab.comparison.labels import value_texts

__all__ = ["parts_of", "title_of"]


def title_of(arms: Sequence[Arm]) -> str:
    """Join what all runs share: "digits, 100-100-100 relu, optimizer momentum, 15 epochs, 5 seeds"."""
    runs = [result.settings.values for arm in arms for result in arm.results]
    shared = {key: value for key, value in runs[0].items() if all(run.get(key) == value for run in runs)}
    return ", ".join([*parts_of(shared), seeds_of(arms)])


def parts_of(shared: Mapping[str, Any]) -> list[str]:
    """Describe the data, the network and its training, as far as these settings define them."""
    hidden = shared.get("model.hidden")
    shape = "-".join(map(str, hidden)) if isinstance(hidden, list) else ""
    network = " ".join(filter(None, [shape, str(shared.get("model.activation") or "")]))
    lr = f" lr {value_texts([shared['optimizer.lr']])[0]}" if "optimizer.lr" in shared else ""
    parts = [
        str(shared.get("data", "")),
        network,
        _named("norm", shared),
        _named("optimizer", shared) + lr if "optimizer" in shared else lr.strip(),
        f"batch {shared['data.batch_size']}" if "data.batch_size" in shared else "",
        f"{shared['trainer.max_epochs']} epochs" if "trainer.max_epochs" in shared else "",
    ]
    return list(filter(None, parts))


def seeds_of(arms: Sequence[Arm]) -> str:
    """Return "5 seeds", "2 to 5 seeds" or "seed 0"."""
    numbers = {len(arm.results) for arm in arms}
    if numbers == {1}:
        seeds = {arm.results[0].seed for arm in arms}
        return f"seed {seeds.pop()}" if len(seeds) == 1 else "a seed each"
    low, high = min(numbers), max(numbers)
    return f"{high} seeds" if low == high else f"{low} to {high} seeds"


def _named(group: str, shared: Mapping[str, Any]) -> str:
    return f"{group} {shared[group]}" if group in shared else ""
