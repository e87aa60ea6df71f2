"""Unreadable files of a trial, such as those that were being written when the machine died."""

import csv
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from bnlab.io.stored_file import read_text
from bnlab.io.yaml_text import read_yaml
from bnlab.runs.summary import read_summary
from bnlab.text.command_line import shown

__all__ = ["set_damaged_files_aside"]


def set_damaged_files_aside(folder: Path) -> bool:
    """Rename the unreadable files of a trial, with one line on stderr per file; return whether there were any."""
    damaged = [file for file, read in _READERS.items() if not _can_be_read(folder / file, read)]
    for file in damaged:
        path = folder / file
        aside = path.with_name(f"{file}.damaged")
        if aside.exists():
            aside = path.with_name(f"{file}.damaged-{secrets.token_hex(3)}")
        path.rename(aside)
        print(
            f"{shown(path)} is damaged: it was renamed {aside.name}, and the trial will be trained again.",
            file=sys.stderr,
        )
    return bool(damaged)


def _read_config(file: Path) -> None:
    config = read_yaml(file)
    is_whole = read_text(file).endswith("\n")  # part of a YAML file is often valid YAML
    if not (is_whole and isinstance(config, dict) and isinstance(config.get("data"), dict)):
        raise ValueError(f"{file.name} is damaged")


def _read_metrics(file: Path) -> None:
    text = read_text(file)
    header, *rows = csv.reader(text.splitlines(), strict=True)
    if "epoch" not in header or any(len(row) != len(header) for row in rows) or not text.endswith("\n"):
        raise ValueError(f"{file.name} is damaged")
    for row in rows:
        for cell in filter(None, row):
            float(cell)


_READERS: dict[str, Callable[[Path], object]] = {
    "summary.json": read_summary,
    "config.yaml": _read_config,
    "metrics.csv": _read_metrics,
}


def _can_be_read(file: Path, read: Callable[[Path], object]) -> bool:
    """Whether the file can be read or is missing."""
    try:
        read(file)
    except FileNotFoundError:
        return True
    except (ValueError, IsADirectoryError, csv.Error):
        return False
    return True
