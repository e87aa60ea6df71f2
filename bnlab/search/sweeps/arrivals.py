"""Detects which of many expected folders have been created, at a cost that depends only on the new ones."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Arrivals"]

_LISTINGS_PER_STATE = 10  # since more entries may come within one tick of the file system's clock
_LISTED_AT_ONCE = 5000  # a folder with more entries is listed less often


@dataclass
class _Parent:
    """A folder, and the entries expected in it.

    Attributes:
        expected: by name in this folder, what is expected below the entry, and whether the entry itself is awaited.
    """

    expected: dict[str, "_Parent"] = field(default_factory=dict)
    name: str | None = None  # under which it is awaited
    changed: int | None = None  # st_mtime_ns at the last listing
    num_listings: int = 0  # in that state
    num_skips: int = 0  # until it may be listed again


class Arrivals:
    """Watches for the folders `names`, relative to `root`, to be created.

    A parent folder is listed only if its modification time has changed. No missing path is tried, so that folders still
    to come cost nothing.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        top = _Parent()
        for name in names:
            parent = top
            for part in Path(name).parts:
                parent = parent.expected.setdefault(part, _Parent())
            parent.name = name
        self._parents = {str(root): top}

    def new(self) -> list[str]:
        """Return the folders created since the last call."""
        found: list[str] = []
        waiting = list(self._parents)
        while waiting:
            path = waiting.pop()
            parent = self._parents[path]
            for part in _changed(path, parent):
                child_path = f"{path}{os.sep}{part}"
                if not os.path.isdir(child_path):
                    continue
                child = parent.expected.pop(part)
                if child.name is not None:
                    found.append(child.name)
                if child.expected:
                    self._parents[child_path] = child
                    waiting.append(child_path)
            if not parent.expected:
                del self._parents[path]
        return found


def _changed(path: str, parent: _Parent) -> list[str]:
    """List the expected entries that are in `parent`, if it may have changed since it was last listed."""
    try:
        changed = os.stat(path).st_mtime_ns
        if changed != parent.changed:
            parent.num_listings = 0
        if parent.num_skips:
            parent.num_skips -= 1
            return []
        if parent.num_listings >= _LISTINGS_PER_STATE:
            return []
        there = os.listdir(path)
    except OSError:  # it is missing, perhaps only for now
        return []
    parent.changed = changed
    parent.num_listings += 1
    parent.num_skips = len(there) // _LISTED_AT_ONCE
    return list(parent.expected.keys() & there)
