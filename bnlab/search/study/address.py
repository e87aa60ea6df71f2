"""The address of a study's database; a relative SQLite file is resolved against the sweep's folder."""

import re
from pathlib import Path

__all__ = ["anchored", "portable"]


def anchored(url: str, folder: Path) -> str:
    """Return `url`, with the file of an SQLite database, if relative, resolved against `folder`.

    Only a relative file in a relative folder asks for the current folder, which may be gone.
    """
    scheme, file, options = _sqlite_file(url)
    return f"{scheme}{(folder / file).absolute()}{options}" if file else url


def portable(url: str, folder: Path) -> str:
    """Return `url`, with an SQLite file in `folder` made relative to it, so that both can be moved together."""
    scheme, file, options = _sqlite_file(url)
    inside = bool(file) and Path(file).is_relative_to(folder)
    return f"{scheme}{Path(file).relative_to(folder)}{options}" if inside else url


def _sqlite_file(url: str) -> tuple[str, str, str]:
    """Split `url` into the part before the file, the file, and the rest; the file is empty for other databases."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", url)
    if found is None or found[2] == ":memory:" or found[2].startswith("file:"):
        return url, "", ""
    return found[1], found[2], found[3]
