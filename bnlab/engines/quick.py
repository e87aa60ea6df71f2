"""`trainer=quick`: a single run by the engine of stacks, with one network in the stack and without Lightning."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from bnlab.config.trainer import by_lightning
from bnlab.engines.run_plotter import RunPlotter
from bnlab.errors import UserError
from bnlab.runs.summary import Owner, Summary
from bnlab.stacked.grouping import why_alone
from bnlab.training.single_run import carry_out

if TYPE_CHECKING:
    from bnlab.runs.folder import RunFolder
    from bnlab.search.study.pruning import Pruning
    from bnlab.training.resumed import Resumed

__all__ = ["QuickTrainer", "fit_quickly", "why_lightning"]

log = logging.getLogger(__name__)


class QuickTrainer:
    """The `_target_` of `trainer=quick`, which is never built: `fit_quickly` reads the settings beside it.

    Raises:
        UserError: always; if Lightning trains, its own Trainer replaces this class (`bnlab.config.trainer`).
    """

    def __init__(self, **settings: Any) -> None:
        raise UserError(
            "`trainer` must be a Lightning Trainer, but got bnlab.engines.quick.QuickTrainer: set trainer=default."
        )


def why_lightning(config: DictConfig, callbacks: Sequence[Any] = ()) -> str | None:
    """Say why a run of this config needs Lightning; None if it does not."""
    if callbacks:
        return f"{type(callbacks[0]).__name__} is a callback of Lightning's"
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return why_alone(settings)


def fit_quickly(
    config: DictConfig,
    folder: str | Path,
    *,
    overrides: Sequence[str] | None = None,
    command: str | None = None,
    sweep: Owner | None = None,
    console: Console | None = None,
    callbacks: Sequence[Any] = (),
    pruning: "Pruning | None" = None,
    resumes: "RunFolder | None" = None,
) -> Summary:
    """Do `bnlab.engines.fit.fit` for `trainer=quick`; if that lacks what a run needs, say so and use Lightning."""
    console = console or Console()
    reason = why_lightning(config, callbacks)
    plotter = RunPlotter() if reason is None else None  # it loads matplotlib while this process loads torch
    train = partial(_train, config, console, callbacks, pruning, reason, plotter)
    about: dict[str, Any] = {"overrides": overrides, "command": command, "sweep": sweep, "resumes": resumes}
    return carry_out(config, folder, train, console=console, **about)


def _train(
    config: DictConfig,
    console: Console,
    callbacks: Sequence[Any],
    pruning: "Pruning | None",
    reason: str | None,
    plotter: RunPlotter | None,
    run: "RunFolder",
    summary: Summary,
    resumed: "Resumed | None",
) -> None:
    if plotter is not None:
        from bnlab.engines.quick_training import NotQuickError, train_quickly

        try:
            with plotter:
                train_quickly(config, run, console, pruning, summary, plotter, resumed)
            return
        except NotQuickError as error:
            reason = str(error)
    line = f"trainer=quick lacks what this run needs, so Lightning trains it: {reason}"
    log.info(line)
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    from bnlab.training.lightning.fit import fit_and_test

    fit_and_test(by_lightning(config), console, callbacks, pruning, run, summary, resumed)
