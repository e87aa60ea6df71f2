"""Checks whether a `_target_` can exist by the source of its module, whose import may take seconds."""

import difflib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bnlab.errors import UserError

__all__ = ["check_target", "is_mentioned", "is_missing"]

# A module that does one of these may have any name.
_MAY_HAVE_ANY = re.compile(r"^(?:def )?__getattr__\b|\bglobals\(\)|\bsys\.modules\[|\bexec\(|lazy", re.MULTILINE)
_STAR = re.compile(r"^\s*from\s+(\.*[\w.]*)\s+import\s+\*", re.MULTILINE)
_DEFINED = re.compile(
    r"^(?:class|def)\s+(\w+)|^\s*from\s+[\w.]+\s+import[ \t]+(?:\(([^)]*)\)|([\w, \t]+))", re.MULTILINE
)
_OURS = Path(__file__).parent.parent
_DEPTH = 5  # limit for chains of star imports


def check_target(key: str, name: str) -> None:
    """Check that the target `name` of the group `key` may exist.

    Raises:
        UserError: no module, or no class or function in it, has this name.
    """
    first, *rest = name.split(".")
    if not rest or not all(part.isidentifier() for part in (first, *rest)):
        raise UserError(f"`{key}` must name a class or a function as package.module.name, but got {name!r}.")
    found = _missing(first, rest)
    if found is None:
        return
    module, file, part = found
    if file is _NOWHERE:
        raise UserError(f"`{key}` is {name!r}, but there is no module {module!r}: install it, or correct the name.")
    near = difflib.get_close_matches(part, sorted(_names(file)), 1, 0.75)
    way_out = f"did you mean {module}.{near[0]}?" if near else "correct the name."
    raise UserError(f"`{key}` is {name!r}, but {module} has no {part!r}: {way_out}")


def is_missing(name: str) -> bool:
    """Whether it is certain that nothing has this name."""
    first, *rest = name.split(".")
    return _missing(first, rest) is not None


def is_mentioned(module: str, name: str) -> bool:
    """Whether the source of `module`, a package of packages, contains the word `name` or is unavailable."""
    file = _file_of(module.partition(".")[0])
    for part in module.split(".")[1:]:
        file = None if file is None or file is _NOWHERE else _below(file.parent, part)
    text = None if file is None else _text_of(file)
    return text is None or re.search(rf"\b{re.escape(name)}\b", text) is not None


def _missing(module: str, rest: Sequence[str]) -> tuple[str, Path, str] | None:
    """Return the last existing module of the name, its source, and the part of the name that it lacks."""
    file = _file_of(module)
    if file is _NOWHERE:
        return module, file, module
    for part in rest:
        if file is None:  # it has no Python source
            return None
        below = _below(file.parent, part) if file.name == "__init__.py" else None
        if below is None:
            return None if _may_have(file, part) else (module, file, part)
        module, file = f"{module}.{part}", below if below.suffix == ".py" else None
    return None


_NOWHERE = Path()


def _file_of(name: str) -> Path | None:
    """Return the source of a top-level module; `_NOWHERE` if it does not exist, None if it has no source."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a loaded module may lack a spec
        return None
    if spec is None:
        return None if name in sys.modules else _NOWHERE
    return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None


def _below(package: Path, name: str) -> Path | None:
    """Return the source of a module in `package`, or its path if it has another form."""
    for file in (package / name / "__init__.py", package / f"{name}.py"):
        if file.is_file():
            return file
    if (package / name).is_dir() or any(
        (package / f"{name}{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES
    ):
        return package / name
    return None


def _may_have(file: Path, name: str, depth: int = 0) -> bool:
    text = _text_of(file)
    if text is None or depth > _DEPTH or re.search(rf"\b{name}\b", text):
        return True
    if _MAY_HAVE_ANY.search(text) and not file.is_relative_to(_OURS):
        return True
    if name in _names_on_first_use(file, text):
        return True
    return any(_may_have(other, name, depth + 1) for other in _imported_whole(file, text))


def _names(file: Path, depth: int = 0) -> set[str]:
    text = _text_of(file)
    if text is None or depth > _DEPTH:
        return set()
    found = {word for parts in _DEFINED.findall(text) for part in parts for word in re.findall(r"\w+", part)}
    found |= _names_on_first_use(file, text)
    for other in _imported_whole(file, text):
        found |= _names(other, depth + 1)
    return {word for word in found if not word.startswith("_")}


def _names_on_first_use(file: Path, text: str) -> set[str]:
    """Return the names that a package of bnlab imports on first use; the package itself is quick to import."""
    if file.name != "__init__.py" or not file.is_relative_to(_OURS) or "\ndef __getattr__" not in text:
        return set()
    return set(dir(import_module(".".join(file.parent.relative_to(_OURS.parent).parts))))


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _imported_whole(file: Path, text: str) -> list[Path]:
    """Return the modules that the source star-imports; one that is not found counts as one without a source."""
    found = []
    for name in _STAR.findall(text):
        relative = name.lstrip(".")
        folder = file.parent
        parts = relative.split(".") if relative else []
        if name.startswith("."):
            for _ in range(len(name) - len(relative) - 1):
                folder = folder.parent
        else:
            top = _file_of(parts[0])
            if top is None or top is _NOWHERE or top.name != "__init__.py":
                found.append(_NOWHERE)
                continue
            folder, parts = top.parent, parts[1:]
        source: Path | None = folder / "__init__.py"
        for part in parts:
            source = None if source is None else _below(source.parent, part)
        found.append(_NOWHERE if source is None else source)
    return found
