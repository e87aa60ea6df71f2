"""Refuse to search the keys that must be the same in all trials."""

from bnlab.errors import UserError
from bnlab.text.concealing import is_named_secret

__all__ = ["check_is_no_secret", "check_is_no_setting_of_the_search", "is_of_search"]


def is_of_search(key: str) -> bool:
    return key == "search" or key.startswith(("search.", "search/"))


def check_is_no_setting_of_the_search(key: str, text: str) -> None:
    """Refuse to vary the settings of the search itself, of Hydra, and of the comparison between trials."""
    if key.startswith("search.space."):
        raise UserError(
            f"{text!r} is searched if it is given by itself: {text.lstrip('+').removeprefix('search.space.')}"
        )
    if is_of_search(key) or key.startswith(("hydra.", "hydra/")):
        raise UserError(
            f"`{key}` says how to search and has one value, but got {text!r}: run one sweep for each value, or quote a "
            "value that has a comma in it."
        )
    if key == "task":
        raise UserError("`task` says what trials are compared by: run one sweep for each task.")
    if key == "objective":
        raise UserError("`objective` is what trials are compared by: it cannot be searched itself.")


def check_is_no_secret(key: str) -> None:
    if is_named_secret(key):
        raise UserError(
            f"`{key}` is named like a secret, and the values of a search stand in its tables: give it one value, best "
            f"as {key}='${{oc.env:NAME}}', or rename it."
        )
