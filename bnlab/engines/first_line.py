"""The line that a command says at once: as full as the terminal is wide, and whole where it goes to a file."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from omegaconf import DictConfig

from bnlab.config.description import choices_of, describe
from bnlab.text.command_line import shown

__all__ = ["of_a_run", "of_a_sweep"]

_MORE = "..."  # which every terminal's encoding has


def of_a_run(config: DictConfig, given: AbstractSet[str], folder: Path, libraries: str) -> str:
    """What is trained, with what, where it goes, and what is loaded for it; `given` are the keys of the overrides."""
    opening = "Training "
    whole = f"{opening}{describe(config)}; the run goes to {shown(folder)}; loading {libraries} ..."
    return _fitting(whole, opening, choices_of(config, given), folder)


def of_a_sweep(config: DictConfig, kind: str, given: AbstractSet[str], searched: Sequence[str], folder: Path) -> str:
    """What is searched, by which kind of search, around what; where it goes, and what is loaded for it."""
    opening = f"Searching {', '.join(searched) or 'nothing'} ({kind})"
    whole = f"{opening} around {describe(config)}; results go to {shown(folder)}; loading Optuna and torch ..."
    return _fitting(whole, f"{opening}: ", choices_of(config, given - set(searched)), folder)


def _fitting(whole: str, opening: str, parts: Sequence[str], folder: Path) -> str:
    """`whole` where there is room for it, else a line of `parts` with the end of the folder's path, if need be."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(whole) < width:
        return whole
    brief = opening + ", ".join(parts)
    for place in _shorter(shown(folder)):
        end = f" in {place}; loading torch"
        if len(brief) + len(end) < width:
            return brief + end
    room = width - 1 - len(end) - len(_MORE)
    if room > len("Searching "):
        cut = brief[:room]
        return f"{(cut.rpartition(',')[0] or cut).rstrip(' ,:')}{_MORE}{end}"
    return f"{whole[: max(width - 1 - len(_MORE), 0)]}{_MORE}"


def _shorter(name: str) -> Iterator[str]:
    """A path, then with less and less of what is before its last part."""
    yield name
    first, *others = Path(name).parts
    if len(others) > 1:
        yield str(Path(first, _MORE, others[-1]))
    if others:
        yield str(Path(_MORE, others[-1]))
