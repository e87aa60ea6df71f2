"""The start of a command, between Hydra's composing and the import of torch: a line says what follows or what is wrong.

Hydra calls `Start` before it makes the folder of a run, so that a refused run leaves no folder.
"""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from bnlab.config.checking import check
from bnlab.config.confidential import learn
from bnlab.config.folder import config_folder
from bnlab.config.settings import plain
from bnlab.config.trainer import is_quick
from bnlab.engines.first_line import of_a_run, of_a_sweep
from bnlab.errors import Refused, UserError, user_errors
from bnlab.io.folder_name import require_readable_name
from bnlab.mistakes.added import check_added
from bnlab.preflight import check_early
from bnlab.runs.folder import RunFolder
from bnlab.search.definition.settings import SearchSettings
from bnlab.stacked.grouping import why_alone
from bnlab.text.command_line import Origin, given_overrides, key_of, shown
from bnlab.text.concealing import conceal

__all__ = ["Start", "begin_run", "forget", "remove_traces"]

log = logging.getLogger(__name__)


class Start(Callback):
    """Hydra's callback that starts a run or a sweep (`hydra.callbacks`)."""

    def on_run_start(self, config: DictConfig, **named: Any) -> None:
        with _of_hydra(config):
            begin_run(_settings(config), Path(str(config.hydra.run.dir)), config.hydra)

    def on_multirun_start(self, config: DictConfig, **named: Any) -> None:
        resume = OmegaConf.select(config, "search.resume")
        with _of_hydra(config):
            if resume is not None:
                say(f"Resuming the sweep in {shown(str(resume))}; loading Optuna and torch ...")
                return
            _require_place(Path(str(config.hydra.sweep.dir)).absolute(), "sweep")
            given = _keys(given_overrides(config.hydra.overrides.task))
            kind = config.hydra.runtime.choices.get("search")
            with user_errors("`search`: "):
                search: Any = OmegaConf.to_container(config.search, resolve=True)
            SearchSettings.read(search, kind)
            say(of_a_sweep(_settings(config), kind, given, _searched(config), Path(str(config.hydra.sweep.dir))))


def _settings(config: DictConfig) -> DictConfig:
    """Return the config without Hydra's node, as a job gets it."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _keys(lines: Sequence[str]) -> frozenset[str]:
    return frozenset(map(key_of, lines))


def _searched(config: DictConfig) -> list[str]:
    """Return the keys that vary, those of the command line first."""
    overrides = OverridesParser.create().parse_overrides(given_overrides(config.hydra.overrides.task))
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    return list(dict.fromkeys([*swept, *map(str, config.search.get("space") or {})]))


@contextmanager
def _of_hydra(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` resolve as it does in a job."""
    of_hydra = HydraConfig.instance()
    before, is_readonly = of_hydra.cfg, OmegaConf.is_readonly(config.hydra)
    of_hydra.set_config(config)
    try:
        yield
    except UserError as error:
        raise Refused(error) from error
    except Exception:  # Hydra would turn it into a warning; the task will meet the same error
        log.debug("the start of a command", exc_info=True)
    finally:
        of_hydra.cfg = before
        OmegaConf.set_readonly(config.hydra, is_readonly)


_begun: tuple[Path, list[Path]] | None = None  # the folder of the run, and the folders made for it, innermost first


def begin_run(config: DictConfig, folder: Path, hydra: Any) -> None:
    """Say in one line what will be trained; later calls do nothing. `hydra` is Hydra's node of the config.

    Raises:
        UserError: the run is certain to fail, as far as this is known without torch.
    """
    global _begun
    if _begun is not None:
        return
    learn(config)
    check(config)
    lines = given_overrides(hydra.overrides.task)
    check_added(config, lines, hydra.runtime.choices, Origin.of(hydra, config_folder()), hydra)
    check_early(config)
    folder = folder.absolute()
    _require_place(folder, "run")
    RunFolder(folder).require_free()
    _begun = folder, [above for above in (folder, *folder.parents) if not above.exists()]
    is_without_lightning = is_quick(config) and why_alone(plain(config)) is None
    libraries = "torch" if is_without_lightning else "torch and Lightning"
    say(of_a_run(config, _keys(lines), folder, libraries))


def _require_place(folder: Path, kind: str) -> None:
    """
    Raises:
        UserError: a folder cannot be made there, or its name cannot be written.
    """
    require_readable_name(folder)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    error: OSError | None = None
    if not above.is_dir():
        error = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    elif not os.access(above, os.W_OK | os.X_OK):
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    if error is not None:
        raise UserError(f"A {kind}'s folder cannot be written ({error}): choose another with hydra.{kind}.dir=.")


def forget() -> None:
    """Reset the state, since one process may run several commands."""
    global _begun
    _begun = None


def say(line: str) -> None:
    print(conceal(line), flush=True)


def remove_traces() -> None:
    """Remove the folder of a run that has not begun to train, and the parent folders made for it."""
    if _begun is None:
        return
    folder, new_folders = _begun
    run = RunFolder(folder)
    if any(file.exists() for file in run.results if file != run.summary):
        return
    for file in (folder / "train.log", run.config, run.overrides, run.summary):
        with suppress(OSError):
            file.unlink()
    for made in (run.best_checkpoint.parent, *new_folders):
        try:
            made.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # it is not empty
            return
