"""What a run that continues another one in a folder of its own says of it."""

from typing import Any, TypedDict, cast

__all__ = ["Branch", "checked_branch"]


class Branch(TypedDict):
    """The content of branch.yaml, and of "branch" in summary.json.

    The folder of the other run, the last epoch taken over from it, and the command that makes the branch again.
    """

    folder: str
    epoch: int
    command: str


def checked_branch(branch: Any) -> Branch:
    """Return the content of a branch.yaml.

    Raises:
        ValueError: it is none.
    """
    types = {"folder": str, "epoch": int, "command": str}
    if not (isinstance(branch, dict) and {name: type(value) for name, value in branch.items()} == types):
        raise ValueError("it must name a folder, an epoch and a command")
    return cast(Branch, branch)
