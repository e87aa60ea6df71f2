"""The settings under `search`, checked."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from bnlab.errors import UserError
from bnlab.rules import Rule, boolean, integer, number, one_of, optional, string

__all__ = ["KINDS", "SearchSettings"]

KINDS = ("grid", "random", "quasi_random", "tpe", "coarse_to_fine")

_RULES: dict[str, Rule] = {
    "kind": one_of(*KINDS),
    "num_trials": optional(integer(minimum=1), "every point of the grid"),
    "seed": integer(minimum=0),
    "seeds": integer(minimum=1),
    "batch_size": optional(integer(minimum=1), "all trials that are independent"),
    "rounds": integer(minimum=1),
    "shrink": number(above=0, below=1),
    "keep": integer(minimum=1),
    "pruner": one_of("none", "median", "successive_halving"),
    "storage": optional(string(), "a file in the sweep's folder"),
    "study": optional(string(), "a name of its own"),
    "resume": optional(string(), "a new sweep"),
    "trust": boolean(),
    "retry_failed": boolean(),
}


@dataclass(frozen=True)
class SearchSettings:
    """What `conf/search/` and `search.key=value` say; the meaning of each is written there."""

    kind: str
    num_trials: int | None
    seed: int
    seeds: int
    batch_size: int | None
    pruner: str
    storage: str | None
    study: str | None
    resume: str | None
    trust: bool = False
    retry_failed: bool = False
    rounds: int = 1
    shrink: float = 0.5
    keep: int = 1

    @classmethod
    def read(cls, search: Mapping[str, Any]) -> "SearchSettings":
        """From the config's `search`.

        Raises:
            UserError: the first setting that breaks its rule.
        """
        known = {field.name: field for field in fields(cls)}
        for name in search:
            if name not in (*known, "space"):
                raise UserError(f"`search.{name}` is no setting of a search: it has {', '.join(known)} and space.")
        for name, field in known.items():
            if field.default is MISSING and name not in search:
                raise UserError(f"`search.{name}` is not there, without which no sweep runs: take nothing out of it.")
        named = {name: search[name] for name in known if name in search}
        for name, value in named.items():
            _RULES[name].check(f"search.{name}", value)
        settings = cls(**named)
        if settings.num_trials is None and settings.kind != "grid":
            raise UserError(
                f"`search.num_trials` must be a number with search={settings.kind}, which never runs out of points, "
                "but got null."
            )
        return settings
