"""A sweep from the command line: define a new one or resume a stored one, lock its folder, and run it."""

import copy
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bnlab.config.confidential import learn, may_hold_secrets, restrict_to_owner, warn_of_literals
from bnlab.config.folder import config_folder
from bnlab.config.trust import refuse
from bnlab.errors import UserError, user_errors
from bnlab.internals.hydra_internals import raw_value
from bnlab.search.definition.composition import SweepConfigLoader, loader_for
from bnlab.search.definition.reading import read_search
from bnlab.search.definition.search import Search
from bnlab.search.definition.subdir import Subdirs, check_sweep_dir
from bnlab.search.study.address import anchored, portable
from bnlab.search.study.changes import Settings, changes, composed
from bnlab.search.study.definition import Definition
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.journal import mend
from bnlab.search.study.pruning import build_pruner
from bnlab.search.study.storage import close, open_storage
from bnlab.search.study.trials import Trial
from bnlab.search.sweeps.recorded_task import RecordedTask
from bnlab.search.sweeps.running import RunningSweep
from bnlab.search.sweeps.setup import Setup
from bnlab.search.sweeps.trust import TRUST, reasons_of_configs, reasons_of_definition
from bnlab.text.command_line import CONFIG_NAME, Origin, key_of, override, shown, without
from bnlab.text.concealing import is_masked, known

__all__ = ["sweep"]

log = logging.getLogger(__name__)

_MAY_CHANGE = ("search.num_trials", "search.batch_size", "search.storage", "search/pruner", "search.retry_failed")
_OF_PRUNER = "search.pruner."


def sweep(hydra_context: HydraContext, task: TaskFunction, config: DictConfig, arguments: Sequence[str]) -> list[Trial]:
    """Run a search from Hydra's multirun config and the overrides of its settings.

    Returns:
        the trials, if all of them have a result.
    Raises:
        UserError: something cannot work; this is found before any job.
        SystemExit: 1 if a trial failed, or some wait to be retried after a full disk, a lost database or killed
            processes; 130 if the sweep was interrupted. The results are written in any case.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    OmegaConf.set_readonly(config.hydra, False)  # Hydra 1.4 passes it read-only
    resume = OmegaConf.select(config, "search.resume")
    stored: Definition | None = None
    keeps_storage = False
    if resume is not None:
        folder = SweepFolder(Path(str(resume)).resolve())
        keeps_storage = "search.storage" not in map(key_of, arguments)
        stored = folder.read_definition()
        trusts = bool(OmegaConf.select(config, TRUST))
        if not trusts:
            _refuse_unless_trusted(folder, reasons_of_definition(_as_read(stored, keeps_storage)))
        loader = SweepConfigLoader(loader_for(stored.origin, hydra_context.config_loader))
        called = set(config.hydra.callbacks or ())
        config, arguments = _resumed(config, arguments, stored, loader)
        _warn_of_skipped_callbacks(set(config.hydra.callbacks or ()) - called)
        if not trusts:
            _refuse_unless_trusted(folder, reasons_of_configs(config))
    else:
        loader = SweepConfigLoader(hydra_context.config_loader)
        with user_errors("`hydra.sweep.dir`, the folder of the whole sweep: "):
            folder = SweepFolder(Path(str(config.hydra.sweep.dir)).resolve())
        folder.check_is_free()
    if "${" in str(folder.path):
        raise UserError(
            f"A sweep's folder must not have ${{ in its path, which Hydra would resolve: {str(folder.path)!r}."
        )
    learn(config)
    as_given = copy.deepcopy(config)
    origin = _fix_folder(config, folder)
    search = read_search(config, arguments, loader, is_new=stored is None)
    if stored is None:
        if search.settings.retry_failed:
            raise UserError(
                "`search.retry_failed` needs search.resume, because a new sweep has no failed trial: leave it out."
            )
        check_sweep_dir(search, as_given, loader)
    search.sampler(num_done=0)  # an impossible sampler is refused before a folder is created
    if search.settings.pruner is not None:
        build_pruner(search.settings.pruner)
    settings = composed(search, config, loader)
    subdirs = Subdirs(search, config, loader)
    subdirs.check(folder)
    if stored is not None:
        _check_unchanged(folder, settings)
    sweep_id = secrets.token_hex(8) if stored is None else stored.id
    context = replace(hydra_context, config_loader=loader)
    HydraConfig.instance().set_config(config)
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=context, task_function=RecordedTask(task, sweep_id, known())
    )
    if stored is None:
        warn_of_literals(config)
    with folder.lock():
        if may_hold_secrets(config):
            restrict_to_owner(folder.path)
        mend(folder.journal)
        address = stored.storage if stored and keeps_storage else _storage(search, config, folder)
        definition = _definition(search, arguments, folder, sweep_id, origin, address, stored)
        storage = open_storage(definition.storage_url(folder.path), folder.journal)
        try:
            if stored is None:
                folder.write_settings(settings)
            folder.write_definition(definition)
            try:
                setup = Setup(
                    search, definition, settings, folder, storage, config, loader, subdirs, resumes=stored is not None
                )
                running = RunningSweep(setup)
            except UserError:
                if stored is None:
                    folder.forget()
                raise
            return running.run(launcher)
        finally:
            close(storage)


def _warn_of_skipped_callbacks(names: set[str]) -> None:
    """Warn of stored callbacks, since Hydra made its callbacks before they were read."""
    if names:
        log.warning(
            "%s is not called, because Hydra makes its callbacks from the command line: give it again.",
            ", ".join(f"`hydra.callbacks.{name}`" for name in sorted(names)),
        )


def _as_read(stored: Definition, keeps_storage: bool) -> Definition:
    """Return the stored definition, without its storage if the user gives a new one."""
    if keeps_storage:
        return stored
    return replace(stored, storage=None, overrides=without(stored.overrides, "search.storage"))


def _refuse_unless_trusted(folder: SweepFolder, reasons: Iterable[str]) -> None:
    refuse(f"The sweep in {shown(folder.path)!r}", reasons, f"{TRUST}=true`")


def _resumed(
    config: DictConfig, arguments: Sequence[str], stored: Definition, loader: SweepConfigLoader
) -> tuple[DictConfig, list[str]]:
    """Compose the config and overrides of the stored sweep, with the new launcher and the settings that may change."""
    given = Origin.of(config.hydra, config_folder())
    new = without(arguments, "search.resume", TRUST)
    masked = [key_of(line) for line in stored.overrides if is_masked(line.partition("=")[2])]  # to be given again
    refused = [line for line in new if key_of(line) not in (*_MAY_CHANGE, *masked)]
    refused = [line for line in refused if not key_of(line).startswith(_OF_PRUNER)]
    refused += [line for line in given.overrides if key_of(line).startswith("hydra.sweep.")]
    if given.config_name not in (CONFIG_NAME, stored.origin.config_name):
        refused.append(f"--config-name {given.config_name}")
    if refused:
        raise UserError(
            f"A resumed sweep keeps its settings, so that {refused[0]!r} cannot be given: only the launcher, "
            f"{', '.join(_MAY_CHANGE)} may change."
        )
    kept_of_task = without(stored.overrides, TRUST, *map(key_of, new))
    if any(key_of(line) == "search/pruner" for line in new):  # which has settings of its own
        kept_of_task = [line for line in kept_of_task if not key_of(line).startswith(_OF_PRUNER)]
    task = [*kept_of_task, *new]
    kept = without(stored.origin.overrides, *map(key_of, given.overrides))
    if any(key_of(line) == "hydra/launcher" for line in given.overrides):  # which has settings of its own
        kept = [line for line in kept if not key_of(line).startswith("hydra.launcher.")]
    return (
        loader.load_configuration(
            stored.origin.config_name, [*kept, *given.overrides, *task], run_mode=RunMode.MULTIRUN
        ),
        task,
    )


def _fix_folder(config: DictConfig, folder: SweepFolder) -> Origin:
    """Place every job below `folder`, whatever the current directory of its process.

    Returns:
        the origin of the config, without that folder.
    """
    origin = Origin.of(config.hydra, config_folder())
    origin = replace(origin, overrides=tuple(without(origin.overrides, "hydra.sweep.dir")))
    config.hydra.sweep.dir = str(folder.path)
    with open_dict(config.hydra):
        config.hydra.overrides.hydra = [*origin.overrides, override("hydra.sweep.dir", str(folder.path))]
    return origin


def _check_unchanged(folder: SweepFolder, settings: Settings) -> None:
    """
    Raises:
        UserError: the config files have changed since the sweep began.
    """
    changed = changes(folder.read_settings(), settings)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"The configs have changed since the sweep in {shown(folder.path)!r} began: {', '.join(changed[:3])}{more}."
            " Its trials would not be comparable: undo that, or start a new sweep."
        )


def _storage(search: Search, config: DictConfig, folder: SweepFolder) -> str | None:
    """Return the address as it is stored: unresolved if it comes from the environment, as it may hold a password."""
    url = search.settings.storage
    if url is None:
        return None
    unresolved = str(raw_value(config.search, "storage"))
    return unresolved if "${" in unresolved else portable(anchored(url, Path()), folder.path)


def _definition(
    search: Search,
    arguments: Sequence[str],
    folder: SweepFolder,
    sweep_id: str,
    origin: Origin,
    storage: str | None,
    stored: Definition | None,
) -> Definition:
    settings = search.settings
    name = "-".join(folder.path.parts[-2:])
    if settings.storage is not None:
        name += f"-{sweep_id}"  # a study is joined only by naming it
    return Definition(
        id=sweep_id,
        overrides=without(arguments, "search.retry_failed"),
        origin=origin,
        study=stored.study if stored else settings.study or name,
        storage=storage,
        pruner=settings.pruner,
        minimize=search.minimize,
        num_points=stored.num_points if stored else search.num_points,
    )
