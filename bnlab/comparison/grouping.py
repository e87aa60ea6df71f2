"""Groups runs that are equal but for the seed into arms, and labels these."""

from collections.abc import Mapping, Sequence

from bnlab.comparison.arms import Arm, Result
from bnlab.comparison.labels import short_keys, value_texts
from bnlab.comparison.settings import differing
from bnlab.status import Status

__all__ = ["arms_of"]

_LONGEST = 60  # characters of a label that consists of settings


def arms_of(results: Sequence[Result]) -> tuple[list[str], list[Arm]]:
    """Return the keys that differ between the runs, and the arms in the order of their first runs.

    Runs with the same settings and the same seed differ in something outside the settings, such as the code or the
    data. If they come from several folders, each folder becomes an arm of its own. Within one folder, the run that got
    furthest counts: the others are earlier attempts.
    """
    keys = differing([result.settings for result in results])
    texts = {key: _texts(key, results) for key in keys}
    groups: dict[tuple[str | None, ...], list[Result]] = {}
    for index, result in enumerate(results):
        groups.setdefault(tuple(texts[key][index] for key in keys), []).append(result)
    arms = []
    for group, members in groups.items():
        settings = {key: text for key, text in zip(keys, group, strict=True) if text is not None}
        for name, part in _parts(members):
            arms.append(Arm(_label(settings, name), settings, tuple(part)))
    return keys, _with_unique_labels(arms)


def _texts(key: str, results: Sequence[Result]) -> list[str | None]:
    """Return the value of `key` in each run as text; None if the run has no such setting."""
    having = [index for index, result in enumerate(results) if key in result.settings.values]
    values = [results[index].settings.values[key] for index in having]
    texts: list[str | None] = [None] * len(results)
    for index, text in zip(having, value_texts(values), strict=True):
        texts[index] = text
    return texts


def _parts(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Split the runs by owner if seeds repeat, each part with a name; otherwise, return one part without a name."""
    owners: dict[str, dict[int, Result]] = {}
    for result in results:
        of_owner = owners.setdefault(result.owner, {})
        known = of_owner.get(result.seed)
        of_owner[result.seed] = result if known is None else max(known, result, key=_progress)
    together = [result for of_owner in owners.values() for result in of_owner.values()]
    if len({result.seed for result in together}) == len(together):
        return [("", together)]
    return [(owner, list(of_owner.values())) for owner, of_owner in owners.items()]


_PROGRESS = (
    *(Status.UNFINISHED, Status.RUNNING, Status.FAILED, Status.INTERRUPTED),
    *(Status.PRUNED, Status.DIVERGED, Status.COMPLETED),
)


def _progress(result: Result) -> int:
    return _PROGRESS.index(result.status) if result.status in _PROGRESS else -1


def _label(settings: Mapping[str, str], name: str) -> str:
    """Return a label such as `norm=none, lr=0.1`, with only the last parts of the keys where these are distinct."""
    parts = [f"{key}={text}" for key, text in zip(short_keys(list(settings)), settings.values(), strict=True)]
    return ", ".join(filter(None, [*parts, name]))


def _with_unique_labels(arms: Sequence[Arm]) -> list[Arm]:
    """Replace labels that are empty or too long for a legend by the names of the folders."""
    taken: dict[str, int] = {}
    named = []
    for arm in arms:
        label = arm.label if 0 < len(arm.label) <= _LONGEST else arm.results[0].name
        taken[label] = number = taken.get(label, 0) + 1
        named.append(Arm(label if number == 1 else f"{label} ({number})", arm.settings, arm.results))
    return named
