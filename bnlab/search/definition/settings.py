"""Read and check the settings under `search`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bnlab.errors import UserError
from bnlab.mistakes.signature import arguments_of_target
from bnlab.preflight.targets import check_target
from bnlab.rules import Rule, boolean, integer, mapping, optional, string

__all__ = ["GIVEN_TO_SAMPLERS", "SearchSettings"]

_RULES: dict[str, Rule] = {
    "num_trials": optional(integer(minimum=1), "every point of the grid"),
    "seed": integer(minimum=0),
    "seeds": integer(minimum=1),
    "batch_size": optional(integer(minimum=1), "all trials that are independent"),
    "storage": optional(string(), "a file in the sweep's folder"),
    "study": optional(string(), "a name of its own"),
    "resume": optional(string(), "a new sweep"),
    "trust": boolean(),
    "retry_failed": boolean(),
    "figures": mapping("a mapping of names to figures of your own, {} for none"),
}
_TARGET = "_target_"
GIVEN_TO_SAMPLERS = ("seed", "num_done", "names", "num_points", "seeds")  # if the target takes them


@dataclass(frozen=True)
class SearchSettings:
    """The settings in `conf/search/` and on the command line; conf/train.yaml explains each.

    Attributes:
        sampler: `_target_` and its settings; None for a grid.
        pruner: `_target_` and its settings; None for none.
    """

    sampler: dict[str, Any] | None
    num_trials: int | None
    seed: int
    seeds: int
    batch_size: int | None
    pruner: dict[str, Any] | None
    storage: str | None
    study: str | None
    resume: str | None
    trust: bool
    retry_failed: bool
    figures: Mapping[str, Any]

    @classmethod
    def read(cls, search: Mapping[str, Any], kind: str = "random") -> "SearchSettings":
        """Read the config's `search`; `kind` is the choice of that group.

        Raises:
            UserError: a setting breaks its rule, or nothing accepts it.
        """
        own = [field.name for field in fields(cls) if field.name != "sampler"]
        for name in (_TARGET, *own):
            if name not in search:
                raise UserError(
                    f"`search.{name}` must not be removed, because every sweep needs it: keep it in the config."
                )
        for name, rule in _RULES.items():
            rule.check(f"search.{name}", search[name])
        for name, figure in search["figures"].items():
            _check_figure(name, figure)
        of_sampler = {name: value for name, value in search.items() if name not in (*own, "space")}
        settings = cls(
            sampler=_target("search", of_sampler, own),
            pruner=_pruner(search["pruner"]),
            **{name: search[name] for name in _RULES},
        )
        if settings.num_trials is None and settings.sampler is not None:
            raise UserError(
                f"`search.num_trials` must be a number with search={kind}, which never runs out of points, but got "
                "null."
            )
        return settings


def _check_figure(name: str, node: Any) -> None:
    if not isinstance(node, Mapping) or not isinstance(node.get(_TARGET), str):
        raise UserError(f"`search.figures.{name}` must name a function as `_target_`, but got {node!r}.")
    if name == "search":
        raise UserError("`search.figures.search` must have another name: a sweep draws search.png itself.")
    check_target(f"search.figures.{name}.{_TARGET}", node[_TARGET])


def _pruner(node: Any) -> dict[str, Any] | None:
    if not isinstance(node, Mapping):
        chosen = "none" if node is None else node
        raise UserError(f"A pruner is chosen with a slash: did you mean search/pruner={chosen}?")
    if _TARGET not in node:
        raise UserError("`search.pruner._target_` is missing: search/pruner=none prunes nothing.")
    return _target("search.pruner", node, [])


def _target(key: str, node: Mapping[str, Any], own: list[str]) -> dict[str, Any] | None:
    """Check that the target exists and accepts the other settings, as far as its source shows; None without a target.

    Args:
        own: the settings under the same `key` that the sweep itself reads.
    """
    target = node[_TARGET]
    if target is not None and not isinstance(target, str):
        raise UserError(f"`{key}.{_TARGET}` must name a class or a function, but got {target!r}.")
    settings = [name for name in node if name != _TARGET]
    if target is None:
        if settings:
            there = (
                f"a search without a sampler has {', '.join(own)} and space" if own else "search/pruner=none has none"
            )
            raise UserError(f"`{key}.{settings[0]}` is not a setting of a search: {there}.")
        return None
    check_target(f"{key}.{_TARGET}", target)
    taken = arguments_of_target(target)
    for name in settings:
        if taken is not None and name not in taken and not name.startswith("_"):
            known = [*sorted(taken - set(GIVEN_TO_SAMPLERS)), *own]
            there = f": there are {', '.join(known)}" if known else ", which takes none"
            raise UserError(f"`{key}.{name}` is not a setting of {target}{there}.")
    return dict(node)
