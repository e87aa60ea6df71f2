"""Train one network into a folder, by Lightning or by the engine of stacks, and import only the one that is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from bnlab.config.trainer import is_quick
from bnlab.runs.summary import Owner, Summary

if TYPE_CHECKING:
    from lightning import Callback
    from rich.console import Console

    from bnlab.runs.folder import RunFolder
    from bnlab.search.study.pruning import Pruning

__all__ = ["fit"]


def fit(
    config: DictConfig,
    folder: str | Path,
    *,
    overrides: Sequence[str] | None = None,
    command: str | None = None,
    sweep: Owner | None = None,
    console: "Console | None" = None,
    callbacks: "Sequence[Callback]" = (),
    pruning: "Pruning | None" = None,
    resumes: "RunFolder | None" = None,
) -> Summary:
    """Train the network of `config`, test its best weights, and write the folder of a run (see `bnlab.runs`).

    Args:
        config: a config from `bnlab.compose`.
        folder: the folder of the run, created if it does not exist.
        overrides: the overrides that made the config, stored so that the run can be repeated; None to derive them
            (summary.json's "command" is null if no overrides give the config, which config.yaml contains).
        command: the command that repeats the run, if it takes more than the overrides.
        sweep: the sweep that the run belongs to.
        console: the console for the progress bar and the closing table; None for stdout.
        callbacks: Lightning callbacks in addition to those of the config; one that ends the training sets `stopped`.
        pruning: the rule of a sweep that may end the training.
        resumes: the folder of a run that this one continues after its newest whole epoch: `folder` itself, or another.
    Returns:
        the content of summary.json; its "status" is completed, diverged, pruned or interrupted.
    Raises:
        UserError: a setting cannot work, which is found before any training, or the folder is no longer writable; the
            summary then has the status failed and the reason. If another run is using the folder, nothing is written.
    """
    about: dict[str, Any] = {
        "overrides": overrides,
        "command": command,
        "sweep": sweep,
        "console": console,
        "resumes": resumes,
    }
    if is_quick(config):
        from bnlab.engines.quick import fit_quickly

        return fit_quickly(config, folder, callbacks=callbacks, pruning=pruning, **about)
    from bnlab.training.lightning.fit import fit_by_lightning

    return fit_by_lightning(config, folder, callbacks=callbacks, pruning=pruning, **about)
