"""Which keys a search may vary."""

from bnlab.errors import UserError
from bnlab.text.concealing import is_named_secret

__all__ = ["check_is_no_secret", "check_is_no_setting_of_the_search", "is_of_search"]


def is_of_search(key: str) -> bool:
    return key == "search" or key.startswith(("search.", "search/"))


def check_is_no_setting_of_the_search(key: str, text: str) -> None:
    """What says how to search, how the sweep runs and what it compares by has one value in all of its trials."""
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
