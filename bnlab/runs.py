"""A run's folder: what is in it, writing it, and reading it back."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from bnlab.atomic_file import write_bytes, write_text
from bnlab.errors import UserError, user_errors
from bnlab.trust import check_settings
from bnlab.yaml_text import read_yaml, to_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from bnlab.data import Normalization

__all__ = ["Run", "RunFolder", "load"]


@dataclass(frozen=True)
class RunFolder:
    """The names and formats of a run's files.

    config.yaml (resolved), overrides.yaml, metrics.csv (a row an epoch), summary.json, checkpoints/best.ckpt and
    last.ckpt, curves.png, train.log.
    """

    path: Path

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        return self.path / "overrides.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def results(self) -> tuple[Path, ...]:
        """The files that a training writes."""
        return self.summary, self.metrics, self.best_checkpoint, self.last_checkpoint, self.curves

    @property
    def holds_results(self) -> bool:
        """Whether a run has written here; whoever did not begin it keeps off."""
        return any(file.exists() for file in self.results)

    def require_free(self) -> None:
        """
        Raises:
            UserError: the folder already holds a run.
        """
        if self.holds_results:
            raise UserError(f"{str(self.path)!r} already holds a run: choose another folder, or delete it.")

    def create(self, config: DictConfig, overrides: Sequence[str] | None) -> None:
        """Make the folder and write what the run is to do.

        Raises:
            UserError: the folder already holds a run, or cannot be written.
        """
        self.require_free()
        with user_errors(f"The run folder {str(self.path)!r} cannot be written: "):
            self.best_checkpoint.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.config, to_yaml(config))
            write_text(self.overrides, to_yaml(list(overrides or ())))

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """One row an epoch; numbers at full precision, so that reading gives back the same floats."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics, buffer.getvalue())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """JSON; a number that is not finite becomes null, which every reader of JSON takes."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in summary.items()
        }
        write_text(self.summary, json.dumps(finite, indent=2) + "\n")

    def write_figure(self, figure: "Figure") -> None:
        from bnlab.figures import picture  # matplotlib takes half a second

        write_bytes(self.curves, picture(figure))


@dataclass(frozen=True)
class Run:
    """A run read back. `metrics` has a list a column of metrics.csv; `network` is in eval mode with its best weights.

    `normalization` is what a new sample goes through before the network, None where inputs are not normalized.
    """

    folder: RunFolder
    config: DictConfig
    overrides: list[str]
    metrics: dict[str, list[float]]
    summary: dict[str, Any]
    network: "nn.Module"
    normalization: "Normalization | None"


def load(path: str | Path, *, trust: bool = False, used: Sequence[str] = ("model", "norm")) -> Run:
    """Read the run in folder `path`.

    Args:
        trust: let its network be code of any kind, not only parts of bnlab and torch (`bnlab.trust`). Whoever made the
            folder can then run code on this machine.
        used: the groups of its config that are going to be built, all of which need that trust.
    Raises:
        UserError: the folder holds no run, one without a checkpoint, or one that needs trust.
    """
    folder = RunFolder(Path(path))
    for needed in (folder.config, folder.summary, folder.metrics, folder.best_checkpoint):
        if not needed.is_file():
            raise UserError(f"{str(folder.path)!r} is not the folder of a run with results: it has no {needed.name}.")
    import torch

    from bnlab.build import build_network
    from bnlab.data import Normalization

    with user_errors(f"The run in {str(folder.path)!r} cannot be read: "):
        settings = read_yaml(folder.config)
        if not trust:
            check_settings(settings, f"The run in {str(folder.path)!r}", used)
        config = OmegaConf.create(settings)
        assert isinstance(config, DictConfig)
        summary = json.loads(folder.summary.read_text())
        checkpoint = torch.load(folder.best_checkpoint, weights_only=True, map_location="cpu")
        network = build_network(config, tuple(summary["sample_shape"]), summary["num_classes"])
        weights = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
        # Half types are computed with in fp32, which holds them; fp64 would be rounded.
        is_double = any(value.dtype == torch.float64 for value in weights.values())
        dtype = torch.float64 if is_double else torch.float32
        network.to(dtype).load_state_dict(weights)
        statistics = checkpoint.get("DataModule")
        return Run(
            folder=folder,
            config=config,
            overrides=list(read_yaml(folder.overrides)),
            metrics=_read_metrics(folder.metrics),
            summary=summary,
            network=network.eval(),
            normalization=Normalization(**statistics, dtype=dtype) if statistics else None,
        )


def _read_metrics(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) if row[key] else math.nan for row in rows] for key in (rows[0] if rows else ())}
