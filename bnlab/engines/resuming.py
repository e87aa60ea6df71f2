"""`resume=FOLDER`: continue a run that was interrupted or killed, or that has ended and is to train longer."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bnlab.composing import compose
from bnlab.config.confidential import written
from bnlab.config.trust import check_settings, escape_machine_interpolations
from bnlab.engines.fit import fit
from bnlab.engines.repetition import BUILT
from bnlab.engines.start import say
from bnlab.errors import UserError
from bnlab.io.log_file import logging_to
from bnlab.io.output_files import new_folder
from bnlab.io.yaml_text import read_yaml
from bnlab.mistakes.explaining import refuse_what_a_run_ignores
from bnlab.runs.folder import RunFolder, reading
from bnlab.runs.reading import read_overrides, read_rows, read_settings
from bnlab.runs.summary import Summary, summary_in
from bnlab.status import Status
from bnlab.text.command_line import command, key_of, override, shown, typed

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["resume", "resume_as_told"]

_FOLDER, _TRUST, _INTO = "resume", "trust", "hydra.run.dir"


def resume_as_told(lines: Sequence[str]) -> Summary:
    """Do `resume` for the overrides of `python -m bnlab.train`, and write train.log.

    Raises:
        UserError: as `resume`; or an override has no meaning here.
    """
    told: dict[str, str] = {}
    changes = []
    for line in lines:
        key = key_of(line)
        if key in (_FOLDER, _TRUST, _INTO):
            if line.startswith("~") or key in told:
                raise UserError(f"`{key}` must be given once, as {key}=VALUE.")
            told[key] = _value_of(line)
        elif key.startswith("hydra"):
            raise UserError(f"resume=FOLDER takes no setting of Hydra but {_INTO}: leave {typed(line)} out.")
        else:
            changes.append(line)
    for key in (_FOLDER, _INTO):
        if key in told and (not told[key] or "${" in told[key]):
            raise UserError(f"`{key}` must be the name of a folder, but got {told[key]!r}.")
    refuse_what_a_run_ignores(changes)
    if told.get(_TRUST, "false") not in ("true", "false"):
        raise UserError(f"`{_TRUST}` must be true or false, but got {told[_TRUST]!r}.")
    return resume(told[_FOLDER], changes, told.get(_INTO), trust=told.get(_TRUST) == "true", logs=True)


def _value_of(line: str) -> str:
    """Return the text of a value, with or without the quotes that Hydra's grammar wants around some texts."""
    raw = line.partition("=")[2]
    try:
        value = OverridesParser.create().parse_override(line).value()
    except (HydraException, ValueError):
        return raw
    return value if isinstance(value, str) else raw  # a folder may be called 1e3


def resume(
    folder: str | Path,
    changes: Sequence[str] = (),
    into: str | Path | None = None,
    *,
    trust: bool = False,
    console: "Console | None" = None,
    logs: bool = False,
) -> Summary:
    """Continue the run in `folder` after its newest whole epoch.

    Without changes its curve is that of a run that never stopped, bit for bit. It continues in its own folder, but as a
    branch in a folder of its own if `changes` or `into` are given, or if it is a trial, whose folder is the sweep's.

    Args:
        changes: overrides of its settings. A changed rate or schedule is that of a training that had it from its start.
        into: the folder of the branch; None for a new one in outputs/runs.
        trust: allow the run to name code of any kind; see `bnlab.load`.
        console: the console for the progress bar and the closing table; None for stdout.
        logs: write train.log.
    Returns:
        the content of summary.json.
    Raises:
        UserError: the folder has no run, its run is in progress, has ended or diverged, or cannot be changed like that.
    """
    source = RunFolder(Path(folder))
    config, overrides, settings = _config_of(source, changes, trust)
    source.require_idle()
    rows = _rows(source)
    num_epochs = len(rows)
    _require_more(source, config, rows, bool(changes))
    _require_whole_epoch(source, settings, rows, bool(changes))
    _require_same_data(config, settings)
    is_branch = bool(changes) or into is not None or (source.path.resolve().parent / "sweep.yaml").exists()
    place = source if not is_branch else RunFolder(Path(into if into is not None else new_folder("runs")).absolute())
    if is_branch:
        place.require_free()
    after = f"after epoch {num_epochs} of {config.trainer.max_epochs}" if num_epochs else "from its beginning"
    goes_to = f"; the branch goes to {shown(place.path)}" if is_branch else ""
    say(f"Continuing the run in {shown(source.path)} {after}{goes_to}; loading torch ...")
    line = command([override(_FOLDER, str(source.path.absolute())), *changes]) if is_branch else None
    above = [folder for folder in (place.path, *place.path.parents) if not folder.exists()]
    try:
        with logging_to(place.path / "train.log") if logs else nullcontext():
            return fit(config, place.path, overrides=overrides, command=line, console=console, resumes=source)
    except UserError:
        if above and len(_rows(place)) <= num_epochs:  # nothing was trained
            shutil.rmtree(place.path, ignore_errors=True)
            for folder in above[1:]:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
        raise


def _config_of(source: RunFolder, changes: Sequence[str], trust: bool) -> tuple[DictConfig, list[str], dict[str, Any]]:
    """Return the config with which the run continues, its overrides, and the settings so far."""
    path = str(source.path)
    if (source.path / "sweep.yaml").exists():
        raise UserError(f"{path!r} is the folder of a sweep: python -m bnlab.train -m search.resume=FOLDER resumes it.")
    if not source.config.is_file():
        raise UserError(f"{path!r} is not the folder of a run: it has no {source.config.name}.")
    with reading(source, source.config):
        settings = read_settings(read_yaml(source.config))
    if not trust:
        with _advising_trust():
            check_settings(settings, f"The run in {path!r}", BUILT)
        settings = escape_machine_interpolations(settings)
    with reading(source, source.overrides):
        overrides = read_overrides(read_yaml(source.overrides))
    if not changes:
        return OmegaConf.create(settings), overrides, settings
    if _of_run(written(compose(overrides))[0]) != _of_run(settings):
        raise UserError(
            f"The settings of the run in {path!r} cannot be changed, because its overrides.yaml does not give its "
            "config.yaml: configs have changed since, or it used others. It can be resumed without changes."
        )
    config = compose([*overrides, *changes])
    if not trust:
        with _advising_trust():
            check_settings(written(config)[0], f"The run in {path!r}", BUILT)
    return config, [*overrides, *changes], settings


def _of_run(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "search"}


@contextmanager
def _advising_trust() -> Iterator[None]:
    """Name the way out that this command has: it has no option --trust."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("--trust", "trust=true")) from error


def _rows(source: RunFolder) -> list[dict[str, float]]:
    if not source.metrics.is_file():
        return []
    with reading(source, source.metrics):
        return read_rows(source.metrics)


def _require_more(source: RunFolder, config: DictConfig, rows: Sequence[dict[str, float]], is_changed: bool) -> None:
    """Refuse a run that has nothing left to do.

    Raises:
        UserError: it has ended or diverged, or ended amid an epoch.
    """
    with reading(source, source.summary):
        is_completed = (summary_in(source.path) or {}).get("status") == Status.COMPLETED
    path, num_epochs, max_epochs = str(source.path), len(rows), config.trainer.max_epochs
    if rows and not all(math.isfinite(rows[-1][name]) for name in ("train_loss", "val_loss")):
        raise UserError(
            f"The run in {path!r} diverged in epoch {num_epochs}, from which it cannot continue: train again with a "
            "lower optimizer.lr."
        )
    if is_completed and not is_changed:
        raise UserError(
            f"The run in {path!r} is completed: trainer.max_epochs={2 * num_epochs}, for example, extends it."
        )
    if max_epochs != -1 and num_epochs >= max_epochs and is_changed:
        raise UserError(
            f"`trainer.max_epochs` must be more than {num_epochs}, as the run in {path!r} has trained so many epochs, "
            f"but got {max_epochs}."
        )
    max_steps = config.trainer.max_steps
    if max_steps != -1 and is_changed and rows and rows[-1]["step"] >= max_steps:
        raise UserError(
            f"`trainer.max_steps` must be more than {rows[-1]['step']}, as the run in {path!r} has trained so many "
            f"steps, but got {max_steps}."
        )


def _require_whole_epoch(
    source: RunFolder, settings: Mapping[str, Any], rows: Sequence[dict[str, float]], is_changed: bool
) -> None:
    """Refuse to extend a run whose last epoch was, or may have been, cut short by `trainer.max_steps`.

    Raises:
        UserError: it was.
    """
    steps = [row["step"] for row in rows]
    if not is_changed or not steps or settings["trainer"].get("max_steps") != steps[-1]:
        return
    *_, before_that, before, last = [0, 0, *steps]
    if len(steps) == 1 or last - before < before - before_that:
        raise UserError(
            f"The run in {str(source.path)!r} ended amid epoch {len(rows)}, by trainer.max_steps, from where it cannot "
            "continue."
        )


def _require_same_data(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Refuse other data: what was trained on could be tested on, and the best epoch chosen by several measures.

    Raises:
        UserError: a setting of `data` differs that is neither the batch size nor a place.
    """
    now = written(config)[0]["data"]
    for name in dict.fromkeys([*settings["data"], *now]):
        if name not in ("batch_size", "root") and now.get(name) != settings["data"].get(name):
            raise UserError(
                f"`data.{name}` must stay {settings['data'].get(name)!r} in a run that continues, but got "
                f"{now.get(name)!r}: train on other data from the beginning."
            )
