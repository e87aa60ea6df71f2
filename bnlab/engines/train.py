"""The task that Hydra runs for `python -m bnlab.train` and for each job of its sweeps, which it names after this file.

Torch is imported inside the task only, so that the processes of a stacked sweep can begin to start before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

__all__ = ["task"]


def task(config: "DictConfig") -> float | None:
    """Train the network of `config` into Hydra's output folder.

    Returns:
        the objective at the best epoch, for a sweeper; None if no epoch had a finite loss.
    """
    from contextlib import nullcontext
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from bnlab.config.checking import check
    from bnlab.config.confidential import conceal_files_of_hydra, learn, warn_of_literals
    from bnlab.config.folder import config_folder
    from bnlab.process.signals import EXIT_INTERRUPTED, UserInterrupt
    from bnlab.status import Status
    from bnlab.text.command_line import Origin, command, given_overrides

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    # In a sweep, the sweeper gets the error; in a single run, Hydra would print a line of its own before it.
    with _refusing(folder, config, hydra_config) if hydra_config.mode == RunMode.RUN else nullcontext():
        learn(config)
        check(config)  # before the slow imports
        if hydra_config.mode == RunMode.RUN:
            warn_of_literals(config)
        conceal_files_of_hydra(hydra_config)
        with open_dict(config):
            config.pop("search", None)  # the run itself does not depend on the search
        from bnlab.engines.fit import fit

        overrides = given_overrides(hydra_config.overrides.task)
        origin = Origin.of(hydra_config, config_folder()).of_a_run()
        arguments: dict[str, Any] = {"overrides": overrides, "command": command(overrides, origin)}
        if hydra_config.mode == RunMode.MULTIRUN:
            from io import StringIO

            from rich.console import Console

            from bnlab.search.study.trial_folder import TrialFolder

            # The sweep shows the progress and the result of its trials itself.
            arguments["console"] = Console(file=StringIO())
            trial = TrialFolder.of(hydra_config)
            if trial.sweep.definition.is_file():  # missing if another sweeper made the job
                from bnlab.search.study.pruning import pruning_of

                definition = trial.sweep.read_definition()
                arguments["sweep"] = trial.identity(definition.id)
                arguments["pruning"] = pruning_of(trial, definition, config.objective)
        summary = fit(config, folder, **arguments)
    if summary["status"] == Status.INTERRUPTED:
        if hydra_config.mode == RunMode.MULTIRUN:
            raise UserInterrupt  # a SystemExit of a job would not end the sweep
        raise SystemExit(EXIT_INTERRUPTED)
    return summary["objective"]


@contextmanager
def _refusing(folder: "Path", config: "DictConfig", hydra: Any) -> Iterator[None]:
    """Begin the run; report a user's mistake in one line, and leave no folder if nothing was trained."""
    from bnlab.engines.start import begin_run, remove_traces
    from bnlab.errors import UserError, report_user_errors

    with report_user_errors():
        try:
            begin_run(config, folder, hydra)  # unless Hydra's callback has done so
            yield
        except UserError:
            remove_traces()
            raise
