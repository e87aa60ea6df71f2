"""The import path: the current folder comes last, so that no file in it is mistaken for a library.

`python -m` and `python -c` look there first, and it may be a shared folder of data that holds somebody's `json.py`.
"""

import json
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["current_folder_last", "python", "restore_environment", "safe_environment", "safe_for_children"]

_PACKAGE = Path(__file__).resolve().parent.parent
_VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH")

Environment = Mapping[str, str | None]


def current_folder_last() -> list[str]:
    """Return `sys.path`, made absolute, with the current folder at its end, where a user's own modules are still found.

    If bnlab itself is imported from the current folder, the folder keeps its place.
    """
    try:
        entries = list(dict.fromkeys(map(os.path.abspath, sys.path)))
    except FileNotFoundError:  # it was removed
        return [entry for entry in sys.path if os.path.isabs(entry)]
    return sorted(entries, key=_is_current_folder)


def _is_current_folder(entry: str) -> bool:
    try:
        current = os.path.realpath(os.getcwd())
    except FileNotFoundError:
        return False
    return os.path.realpath(entry) == current != str(_PACKAGE.parent)


def safe_environment() -> dict[str, str]:
    """Return the variables to set for a new Python, without PYTHONPATH entries that mean the current folder.

    The new Python receives the removed entries with its import path.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    elsewhere = [entry for entry in entries if os.path.isabs(entry) and not _is_current_folder(entry)]
    return {"PYTHONPATH": os.pathsep.join(elsewhere), "PYTHONSAFEPATH": "1"}


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` as `python -m` does, with the bnlab and the import path of this process.

    Start it with `safe_environment`; processes that it starts in turn get the original environment.
    """
    told = json.dumps([current_folder_last(), _environment()])
    return [sys.executable, __file__, told, module, *arguments]


@contextmanager
def safe_for_children() -> Iterator[Environment]:
    """Let every `python -m` or `python -c` that is started within use the import path of this process.

    Yields:
        the original environment, for the started process to restore with `restore_environment`.
    """
    path, before = list(sys.path), _environment()
    os.environ |= safe_environment()
    sys.path[:] = current_folder_last()
    try:
        yield before
    finally:
        sys.path[:] = path
        restore_environment(before)


def restore_environment(before: Environment) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _environment() -> Environment:
    return {name: os.environ.get(name) for name in _VARIABLES}


def _run(told: str, module: str, *arguments: str) -> None:
    path, environment = json.loads(told)
    restore_environment(environment)
    sys.path[:] = path
    # Another bnlab may come before this one on the path.
    spec = spec_from_file_location("bnlab", _PACKAGE / "__init__.py", submodule_search_locations=[str(_PACKAGE)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["bnlab"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run(*sys.argv[1:])
