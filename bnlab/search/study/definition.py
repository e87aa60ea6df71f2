"""The definition of a sweep, as stored in sweep.yaml."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.errors import UserError, user_errors
from bnlab.io.yaml_text import to_yaml
from bnlab.search.study.address import anchored
from bnlab.text.command_line import Origin
from bnlab.text.concealing import conceal_address, is_masked, override_to_write, remember_address, revealed

__all__ = ["Definition"]


@dataclass(frozen=True)
class Definition:
    """The definition of a sweep, by which it can be resumed.

    Attributes:
        id: drawn when the sweep was defined; its trials and summaries contain it.
        overrides: those of settings, including the space and the settings under `search`.
        origin: Hydra's flags and the overrides of Hydra itself, such as the launcher.
        study: the name of the study in the storage.
        storage: the address of the storage as given, with `${oc.env:NAME}` unresolved; None for the file in the folder.
            A password in it is not stored.
        pruner: `_target_` and its settings; None for none.
        minimize: whether a lower objective is better.
        num_points: the number of configurations to try when it was defined, which a sampler may divide into rounds.
    """

    id: str
    overrides: list[str]
    origin: Origin
    study: str
    storage: str | None
    pruner: dict[str, Any] | None
    minimize: bool
    num_points: int

    def storage_url(self, folder: Path) -> str | None:
        """Resolve `storage` by the environment, and a relative file against `folder`, the sweep's."""
        if self.storage is None:
            return None
        with user_errors("`search.storage`: "):
            url: str = OmegaConf.create({"url": revealed(self.storage)}).url
        if is_masked(url):
            raise UserError(
                f"`search.storage` was {url}, whose password was not stored: give search.storage=ADDRESS again, "
                "best as search.storage='${oc.env:NAME}'; or leave the password to PGPASSWORD or ~/.pgpass."
            )
        remember_address(url)
        return anchored(url, Path() if "${" in self.storage else folder)

    def text(self) -> str:
        """Return the content of sweep.yaml, which `of` reads back."""
        plain = asdict(self)
        plain["origin"]["overrides"] = list(map(override_to_write, plain["origin"]["overrides"]))
        plain["overrides"] = list(map(override_to_write, plain["overrides"]))
        if plain["storage"] is not None:
            plain["storage"] = conceal_address(plain["storage"])
        return to_yaml(plain)

    @classmethod
    def of(cls, stored: Any) -> "Definition | None":
        """Invert `text`; None if the value is no definition."""
        if not _is_definition(stored):
            return None
        origin = stored.pop("origin")
        return cls(**stored, origin=Origin(**origin | {"overrides": tuple(origin["overrides"])}))


def _is_definition(stored: Any) -> bool:
    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    if not isinstance(stored, dict) or not isinstance(stored.get("origin"), dict):
        return False
    origin = stored["origin"]
    return (
        set(stored) == {field.name for field in fields(Definition)}
        and set(origin) <= {field.name for field in fields(Origin)}
        and is_texts(stored["overrides"])
        and is_texts(origin.get("overrides", []))
        and isinstance(origin.get("config_name", ""), str)
        and all(isinstance(origin.get(name), str | None) for name in ("config_dir", "config_path"))
        and all(isinstance(stored[name], str) for name in ("id", "study"))
        and isinstance(stored["pruner"], dict | None)
        and isinstance(stored["storage"], str | None)
        and isinstance(stored["minimize"], bool)
        and isinstance(stored["num_points"], int)
    )
