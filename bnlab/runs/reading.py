"""A run read back from its folder."""

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.trust import check_settings, escape_machine_interpolations
from bnlab.errors import UserError
from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml
from bnlab.metrics import test_metric
from bnlab.runs.folder import RunFolder, reading
from bnlab.runs.notebook_table import as_html, as_markdown, as_pandas
from bnlab.runs.summary import Summary, metric_values
from bnlab.status import Status
from bnlab.task import task_of
from bnlab.text.command_line import shown
from bnlab.text.number_format import label, metric

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnlab.data import Normalization, Splits, TargetScale

__all__ = ["Run", "load", "read_metrics", "read_overrides", "read_rows", "read_settings"]


@dataclass(frozen=True)
class Run:
    """A run read back: `metrics` by the columns of metrics.csv, `network` in eval mode with its best weights.

    A run that diverged in its first epoch has no best weights: reading its `network` is an error that says so.

    `normalization` must be applied to a new sample before the network, unless it is None; `target_scale` converts the
    output of a regression to the unit of its targets, and is None for classes.
    """

    folder: RunFolder
    config: DictConfig
    overrides: list[str]
    metrics: dict[str, list[float]]
    summary: Summary
    best_network: "nn.Module | None"
    normalization: "Normalization | None"
    target_scale: "TargetScale | None" = None

    @property
    def network(self) -> "nn.Module":
        """Return the network with its best weights.

        Raises:
            UserError: it has no best weights.
        """
        if self.best_network is None:
            raise UserError(
                f"The run in {str(self.folder.path)!r} diverged in epoch {self.summary.get('diverged_epoch')}, before "
                "it had any best weights: a lower learning rate may help."
            )
        return self.best_network

    def table(self) -> str:
        """Return its results as Markdown."""
        return as_markdown(("result", "value"), self._rows())

    def to_pandas(self) -> Any:
        """`metrics` as a `pandas.DataFrame`, which needs pandas."""
        return as_pandas(self.metrics)

    def _rows(self) -> list[tuple[str, str]]:
        results = metric_values(self.summary).items()
        found = [(label(name), metric(name, value)) for name, value in results if not name.startswith("train_")]
        epochs = [("epochs", str(len(self.metrics["epoch"])))]
        return [("status", str(self.summary["status"])), *epochs, *found, ("folder", shown(self.folder.path))]

    def __repr__(self) -> str:
        tested = test_metric(self.summary)
        result = "" if tested is None else f", {label(tested)} {metric(tested, metric_values(self.summary)[tested])}"
        return f"Run({shown(self.folder.path)!r}, {self.summary['status']}{result})"

    def _repr_html_(self) -> str:
        return as_html(("result", "value"), self._rows(), caption=repr(self))

    def predict(self, x: "Tensor") -> "Tensor":
        """Predict the class of each sample (N,), int64, or in a regression its number (N,), in the unit of y.

        Args:
            x: (N, *sample_shape), as in the data set; "class_names" in summary.json has the names of the classes.
        """
        import torch

        dtype = next(self.network.parameters()).dtype
        with torch.no_grad():
            outputs = self.network((x if self.normalization is None else self.normalization(x)).to(dtype))
        return outputs.argmax(1) if self.target_scale is None else self.target_scale.invert(outputs.squeeze(1))

    def check_data(self, splits: "Splits", fingerprint: str) -> None:
        """Warn on stderr if the data have changed since the run was trained.

        Raises:
            UserError: they do not even have the same shapes.
        """
        found = list(splits.sample_shape), splits.num_classes
        trained = self.summary["sample_shape"], self.summary["num_classes"]
        if found != trained:
            raise UserError(
                f"The data of the run in {str(self.folder.path)!r} must have samples of the shape {tuple(trained[0])} "
                f"and {trained[1]} classes, but now have {tuple(found[0])} and {found[1]}: bring back those it was "
                "trained on."
            )
        if self.summary.get("data_sha256") not in (None, fingerprint):
            print(f"The data are not those that the run in {str(self.folder.path)!r} was trained on.", file=sys.stderr)


def load(path: str | Path, *, trust: bool = False, used: Sequence[str] = ("model", "norm")) -> Run:
    """Read the run in folder `path`.

    Args:
        trust: allow its network to be any code, not only parts of bnlab and torch (`bnlab.config.trust`). Whoever made
            the folder can then run code on this machine.
        used: the groups of its config that will be built, all of which need that trust.
    Raises:
        UserError: the folder holds no run with results, needs trust, or contains a damaged file.
    """
    folder = RunFolder(Path(path))
    missing = _missing(folder)
    if missing is not None:
        raise UserError(
            f"{str(folder.path)!r} is not the folder of a run with results: {_why_missing(folder, missing)}."
        )
    with reading(folder, folder.config):
        settings = read_settings(read_yaml(folder.config))
    if not trust:
        check_settings(settings, f"The run in {str(folder.path)!r}", used)
        settings = escape_machine_interpolations(settings)
    summary = folder.read_summary()
    with reading(folder, folder.summary):
        sample_shape, num_outputs = _checked_sizes(summary, task_of(settings))
    with reading(folder, folder.metrics):
        metrics = read_metrics(folder.metrics)
        _check_is_whole(metrics, summary.get("epochs"))
    with reading(folder, folder.overrides):
        overrides = read_overrides(read_yaml(folder.overrides))

    with reading(folder, folder.config):
        config = OmegaConf.create(settings)
    if not folder.best_checkpoint.exists():
        return Run(folder, config, overrides, metrics, summary, None, None)

    from bnlab.config.build import build_network

    with reading(folder, folder.config):
        network = build_network(config, sample_shape, num_outputs)
    with reading(folder, folder.best_checkpoint):
        normalization, scale = _load_checkpoint(folder.best_checkpoint, network, sample_shape)
        if normalization is None and settings["data"].get("normalize"):
            raise ValueError("it lacks the mean and the deviation of the data")
    target_scale = scale if summary["num_classes"] is None else None
    return Run(folder, config, overrides, metrics, summary, network.eval(), normalization, target_scale)


def _missing(folder: RunFolder) -> Path | None:
    """Return the first missing file of a run with results."""
    for needed in (folder.config, folder.overrides, folder.summary, folder.metrics, folder.best_checkpoint):
        with reading(folder, needed):
            is_there = needed.is_file()
        if not is_there and not (needed == folder.best_checkpoint and _has_diverged_at_once(folder)):
            return needed
    return None


def _has_diverged_at_once(folder: RunFolder) -> bool:
    summary = folder.read_summary()
    return summary["status"] == Status.DIVERGED and summary.get("best_epoch") is None


def _why_missing(folder: RunFolder, missing: Path) -> str:
    if missing in (folder.metrics, folder.best_checkpoint):
        summary = folder.read_summary()
        if summary["status"] == Status.FAILED:
            return f"it failed ({summary.get('error')})"
        if summary["status"] == Status.INTERRUPTED:
            return "it was interrupted before its first epoch ended"
    return f"it has no {missing.name}"


def read_settings(settings: Any) -> dict[str, Any]:
    """Return the content of a config.yaml.

    Raises:
        ValueError: it is not that of a run.
    """
    for group in ("data", "model", "norm", "trainer"):
        if not (isinstance(settings, dict) and isinstance(settings.get(group), dict)):
            raise ValueError(f"it has no settings of `{group}`")
    return settings


def read_overrides(overrides: Any) -> list[str]:
    """Return the content of an overrides.yaml.

    Raises:
        ValueError: it is not a list of overrides.
    """
    if not (isinstance(overrides, list) and all(isinstance(override, str) for override in overrides)):
        raise ValueError("it is not a list of overrides")
    return overrides


def _checked_sizes(summary: Mapping[str, Any], task: str) -> tuple[tuple[int, ...], int]:
    """Return the shape of a sample and the number of outputs: one per class, or 1 for a regression."""
    shape, num_classes = summary.get("sample_shape"), summary.get("num_classes")
    if not (isinstance(shape, list) and shape and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError(f"`sample_shape` must be a list of sizes, but is {shape!r}")
    if task == "regression" and num_classes is None:
        return tuple(shape), 1
    if not (type(num_classes) is int and num_classes > 0):
        raise ValueError(f"`num_classes` must be a number of classes, but is {num_classes!r}")
    return tuple(shape), num_classes


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Read the columns of a metrics.csv; a missing value is NaN.

    Raises:
        ValueError, OSError: it is not a metrics.csv, or damaged.
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    header, *rows = csv.reader(lines, strict=True) if lines else [[]]
    if not {"epoch", "step"} <= set(header):
        raise ValueError("it has no columns `epoch` and `step`")
    if not lines[-1].endswith("\n"):
        raise ValueError("its end is missing")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"its row {number} has {len(row)} values for {len(header)} columns")
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return {
        name: [float(value) if value else math.nan for value in column]
        for name, column in zip(header, columns, strict=True)
    }


def read_rows(path: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics.csv as `bnlab.runs.history.History` has them.

    Raises:
        ValueError, OSError: it is not a metrics.csv, or damaged.
    """
    columns = read_metrics(path)
    rows: list[dict[str, float]] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for number, row in enumerate(rows, start=1):
        if row["epoch"] != number or not row["step"].is_integer():
            raise ValueError(f"its row {number} is not that of epoch {number}")
        row |= {"epoch": number, "step": int(row["step"])}
    return rows


def _check_is_whole(metrics: Mapping[str, Sequence[float]], num_epochs: Any) -> None:
    found = len(metrics["epoch"])
    if found != num_epochs:
        raise ValueError(f"its end is missing: it has {found} epochs, where summary.json says {num_epochs!r}")


def _load_checkpoint(
    path: Path, network: "nn.Module", sample_shape: tuple[int, ...]
) -> "tuple[Normalization | None, TargetScale]":
    """Load the weights into the network, and return the normalization of its inputs and the scale of its outputs."""
    import torch

    from bnlab.data import Normalization, TargetScale

    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        state, statistics = checkpoint["state_dict"], checkpoint.get("DataModule")
        weights: dict[str, torch.Tensor] = {key.removeprefix("network."): value for key, value in state.items()}
    except Exception as error:  # its text would advise the user to load it less safely
        raise ValueError(f"it is damaged, or no checkpoint ({type(error).__name__})") from None
    # Half types are evaluated in fp32, which represents them exactly; fp64 stays, since fp32 would round it.
    try:
        is_double = any(value.dtype == torch.float64 for value in weights.values())
        dtype = torch.float64 if is_double else torch.float32
        network.to(dtype).load_state_dict(weights)
    except Exception:
        raise ValueError("its weights are not those of the network that the config describes") from None
    found = statistics or {}
    for names, shape in ((("mean", "std"), sample_shape), (("target_mean", "target_std"), ())):
        for name in names if any(name in found for name in names) else ():
            values = found.get(name) if isinstance(found, dict) else None
            if not (isinstance(values, torch.Tensor) and values.shape == shape and values.is_floating_point()):
                raise ValueError(f"its `{name}` of the data is not that of a {'sample' if shape else 'target'}")
    scale = TargetScale(float(found["target_mean"]), float(found["target_std"])) if "target_mean" in found else None
    normalization = Normalization(found["mean"], found["std"], dtype=dtype) if "mean" in found else None
    return normalization, scale or TargetScale()
