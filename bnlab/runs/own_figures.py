"""The user's own figures: functions, named in the config, of a run or a sweep that was read back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bnlab.errors import error_text
from bnlab.internals.hydra_internals import instantiate
from bnlab.io.atomic_file import write_bytes

__all__ = ["draw_own_figures"]


def draw_own_figures(figures: Any, folder: Path, read: Callable[[], Any]) -> Iterator[str]:
    """Draw each figure into NAME.png, and yield one line per figure that failed.

    Args:
        figures: {NAME: {_target_, arguments}}; the target receives the run or sweep and returns a matplotlib Figure.
        folder: where the pictures are written.
        read: reads the run or sweep back.
    """
    if not figures:
        return
    from bnlab.figures import picture  # matplotlib takes half a second

    subject: Any = None
    plain: Any = OmegaConf.to_container(OmegaConf.create(figures), resolve=True)
    for name, settings in plain.items():
        try:
            draw = instantiate({**settings, "_partial_": True}, _convert_="all")
            subject = read() if subject is None else subject
            figure = draw(subject)
            if not hasattr(figure, "savefig"):
                raise TypeError(f"it must return a matplotlib Figure, but returned {figure!r}")
            write_bytes(folder / f"{name}.png", picture(figure))
        except Exception as error:
            yield f"`figures.{name}` is not drawn: {error_text(error)}"
