"""Where modules are looked for: in the current folder last, so that no file that lies about there passes for a library.

`python -m` and `python -c` look there first. That may be a shared folder of data, with somebody's `json.py` in it.
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
    """`sys.path`, absolute, with the current folder at its end: a user's own modules there are found all the same.

    Where bnlab itself is imported from the current folder, that one stays: all that is run is there anyway.
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
    """What is to be set for a Python that starts: an empty or relative entry of PYTHONPATH is the current folder, too.

    What it so loses comes with the path that it is told.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    elsewhere = [entry for entry in entries if os.path.isabs(entry) and not _is_current_folder(entry)]
    return {"PYTHONPATH": os.pathsep.join(elsewhere), "PYTHONSAFEPATH": "1"}


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` of bnlab as `python -m` does, with the bnlab and the path of this process.

    It is for `safe_environment`, which does not reach what it starts in turn.
    """
    told = json.dumps([current_folder_last(), _environment()])
    return [sys.executable, __file__, told, module, *arguments]


@contextmanager
def safe_for_children() -> Iterator[Environment]:
    """Within, what others start as `python -m` or `python -c` looks for modules where this process does then.

    Yields:
        the environment before, for what is started to `restore_environment`: what that starts is no matter of ours.
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
