"""The version of the code of a run: the commit of the git repository around the current folder."""

import functools
import os
import re
import subprocess
from collections.abc import Sequence

__all__ = ["git_state"]

_PATIENCE_S = 5.0


@functools.cache
def git_state() -> dict[str, object] | None:
    """Return {"commit", "is_clean"} (all tracked files are as committed), or None without git or a repository.

    The state is determined once per process. Programs that the repository's own settings name (monitors, filters) are
    not run, because the repository may be somebody else's.
    """
    try:
        commit = _git("rev-parse", "--verify", "HEAD").strip()
        if not re.fullmatch("[0-9a-f]{40,64}", commit):  # with SIGCHLD ignored, Python considers every exit a success
            return None
        named = _git("config", "--get-regexp", "--name-only", r"^filter\..*\.(clean|process)$", may_fail=True)
        without_filters = [word for name in named.split() for word in ("-c", f"{name}=")]
        changed = _git(
            *("-c", "core.fsmonitor=false", *without_filters),
            *("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all"),
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_clean": not changed}


def _git(*arguments: str, may_fail: bool = False) -> str:
    command: Sequence[str] = ("git", "--no-optional-locks", *arguments)
    outcome = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=not may_fail,
        timeout=_PATIENCE_S,
        env={**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
    )
    return outcome.stdout
