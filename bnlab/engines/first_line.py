"""The first line of a command: shortened to the width of the terminal, and complete where it goes to a file."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from omegaconf import DictConfig

from bnlab.config.description import choices_of, describe
from bnlab.text.command_line import shown

__all__ = ["of_a_run", "of_a_sweep"]

_MORE = "..."  # plain ASCII, which every terminal can show


def of_a_run(config: DictConfig, given: AbstractSet[str], folder: Path, libraries: str) -> str:
    """Say what is trained, with what, into which folder, and what is loaded; `given` are the keys of the overrides."""
    opening = "Training "
    whole = f"{opening}{describe(config)}; the run goes to {shown(folder)}; loading {libraries} ..."
    return _fitting(whole, opening, choices_of(config, given), folder)


def of_a_sweep(config: DictConfig, kind: str, given: AbstractSet[str], searched: Sequence[str], folder: Path) -> str:
    """Say what is searched, how, around which config, into which folder, and what is loaded."""
    opening = f"Searching {', '.join(searched) or 'nothing'} ({kind})"
    whole = f"{opening} around {describe(config)}; results go to {shown(folder)}; loading Optuna and torch ..."
    return _fitting(whole, f"{opening}: ", choices_of(config, given - set(searched)), folder)


def _fitting(whole: str, opening: str, parts: Sequence[str], folder: Path) -> str:
    """Return `whole` if it fits, else as many of `parts` as fit, with a shortened path of the folder if need be."""
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
    """Yield a path, then ever shorter forms of it that keep its last part."""
    yield name
    first, *others = Path(name).parts
    if len(others) > 1:
        yield str(Path(first, _MORE, others[-1]))
    if others:
        yield str(Path(_MORE, others[-1]))
