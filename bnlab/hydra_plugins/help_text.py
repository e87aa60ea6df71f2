"""The page of `python -m bnlab.train --help`: the settings with their comments in the YAML, the syntax, the options."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.commands import commands
from bnlab.internals.hydra_internals import raw_value
from bnlab.text.command_line import override, typed

__all__ = ["comments_of", "help_text"]

_FIRST = (
    "bnlab trains a network with batch norm, and writes a run folder under outputs/runs; with -m it sweeps, and writes "
    "a folder under outputs/sweeps."
)

EXAMPLES = (
    ("python -m bnlab.train", "one run, with the settings below"),
    ("python -m bnlab.train optimizer=momentum optimizer.lr=0.1", "a choice from a group, and a setting"),
    ("python -m bnlab.train norm=none data.batch_size=full seed=1", ""),
    ("python -m bnlab.train -m norm=batch,none optimizer.lr=0.1,0.01", "a sweep: a run for each combination"),
    ("python -m bnlab.train -m search=random search/space=learning_rate", "a search"),
    ("python -m bnlab.train --help norm=ghost", "the settings of other choices"),
)

SYNTAX = (
    ("optimizer.lr=0.1,0.01", "each of these"),
    ("'optimizer.lr=interval(0.001,0.1)'", "uniform; the quotes are for the shell"),
    ("'optimizer.lr=tag(log,interval(1e-4,1))'", "uniform in the exponent: learning rates, weight decay"),
    ("'optimizer.beta1=tag(one_minus_log,interval(0.9,0.999))'", "uniform in the exponent of 1 - β"),
    ("'data.batch_size=int(interval(16,512))'", "whole numbers"),
    ("'model.hidden=[100],[100,100]'", "lists"),
    ("\"optimizer.beta1=tag('optimizer=adam|adamw',interval(0.8,0.99))\"", "only where the condition holds"),
)

LAUNCHERS = {
    "basic": "one run after another",
    "joblib": "one process per core; hydra.launcher.n_jobs=4 takes four",
    "stacked": "networks that differ in numbers only train as one, far faster where there are many small ones",
}

OPTIONS = (
    ("-m, --multirun", "sweep"),
    ("--cfg job", "show the config of a run as YAML instead of training; --resolve shows interpolated values"),
    ("--config-dir FOLDER", "a folder of configs of your own beside bnlab's"),
    ("hydra.run.dir=FOLDER", "the folder of a run; hydra.sweep.dir=FOLDER sets that of a sweep"),
    ("resume=FOLDER", "continue a run after its last whole epoch; with further overrides, as a branch in a new folder"),
    ("+notes.NAME=TEXT", "a note on the run, which config.yaml keeps and bnlab.compare shows"),
    ("--hydra-help", "Hydra's other options"),
    ("--version", "the version of bnlab"),
)


def help_text(config: DictConfig, groups: Mapping[str, Sequence[str]], folders: Sequence[Path], width: int) -> str:
    """Return the page.

    Args:
        config: the composed config, with its `hydra` node.
        groups: the choices of each group.
        folders: the folders of configs; the first that has a file wins.
        width: the width of the terminal, in columns.
    """
    page = _Page(max(min(width, 140), 40))
    page.paragraph(_FIRST)
    page.blank()
    page.rows(EXAMPLES)
    choices = config.hydra.runtime.choices
    own = [group for group in groups if group.partition("/")[0] != "hydra"]
    of_runs = [group for group in own if group != "search" and not group.startswith("search/")]
    page.title("Groups: group=choice (what is chosen now stands first)")
    page.rows([(group, ", ".join(_first(choices.get(group), groups[group]))) for group in of_runs])
    page.title("Settings: key=value")
    alone = comments_of(_find(folders, f"{config.hydra.job.config_name}.yaml"))[1]
    top = [key for key in config if key not in (*own, "hydra") or not OmegaConf.is_dict(config[key])]
    page.rows(_settings(config, top, "", alone))
    for group in of_runs:
        if group in config and OmegaConf.is_dict(config[group]):
            about, comments = comments_of(_find(folders, f"{group}/{choices.get(group)}.yaml"))
            page.blank()
            page.paragraph(f"{group}={choices.get(group)}: {about}" if about else f"{group}={choices.get(group)}")
            names = [name for name in config[group] if name != "_target_"]
            page.rows(_settings(config[group], names, f"{group}.", alone | _under(group, comments)))
    page.title("Sweeps: -m, and values to try")
    page.rows(SYNTAX)
    for group in (group for group in own if group not in of_runs):
        page.blank()
        page.rows([(f"{group}={one}", _about(folders, group, one)) for one in groups[group]])
    page.blank()
    about, comments = comments_of(_find(folders, f"search/{choices.get('search')}.yaml"))
    names = [name for name in config.get("search", {}) if name not in ("_target_", "space", "pruner")]
    page.rows(_settings(config.get("search", {}), names, "search.", alone | _under("search", comments)))
    pruner = config.get("search", {}).get("pruner") or {}
    _, comments = comments_of(_find(folders, f"search/pruner/{choices.get('search/pruner')}.yaml"))
    names = [name for name in pruner if name != "_target_"]
    page.rows(_settings(pruner, names, "search.pruner.", _under("search/pruner", comments)))
    page.title("Launchers: how a sweep trains")
    page.rows([(f"hydra/launcher={one}", LAUNCHERS.get(one, "")) for one in groups.get("hydra/launcher", ())])
    page.title("Options")
    page.rows(OPTIONS)
    page.title("Other commands")
    page.rows([(command.usage, command.summary) for command in commands() if command.name != "train"])
    return page.text()


def comments_of(file: Path | None) -> tuple[str, dict[str, str]]:
    """Return the comment at the top of a YAML file, and the comments of its keys by full name."""
    if file is None:
        return "", {}
    lines = file.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "@package" not in line:
            head.append(line.lstrip("# "))
    comments: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in lines:
        found = re.match(r"( *)([\w.]+):(.*?)(?:\s#\s*(.*))?$", line)
        if found is None:
            continue
        indent, key = len(found[1]), found[2]
        above = [(depth, name) for depth, name in above if depth < indent]
        full = ".".join([*(name for _, name in above), key])
        above.append((indent, key))
        if found[4]:
            comments[full] = found[4].strip()
    return " ".join(head), comments


def _under(group: str, comments: Mapping[str, str]) -> dict[str, str]:
    return {f"{group.replace('/', '.')}.{key}": comment for key, comment in comments.items()}


def _about(folders: Sequence[Path], group: str, choice: str) -> str:
    """Return the first sentence of the comment at the top of a choice's file."""
    about, _ = comments_of(_find(folders, f"{group}/{choice}.yaml"))
    return re.split(r"\.(?:\s|$)", about)[0]


def _find(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _first(choice: Any, options: Sequence[str]) -> list[str]:
    return [*(option for option in options if option == choice), *(option for option in options if option != choice)]


def _settings(node: Any, names: Sequence[Any], above: str, comments: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in names:
        key = f"{above}{name}"
        try:
            value = node[name]
        except Exception:  # an interpolation that this machine cannot resolve
            value = raw_value(node, name)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
        try:
            line = typed(override(key, value))
        except ValueError:
            line = f"{key}=..."
        yield line, comments.get(key, "")


class _Page:
    """Lines of text; rows have two columns, and the second is wrapped."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 34 if width < 100 else 46
        self._lines: list[str] = []

    def blank(self) -> None:
        self._lines.append("")

    def title(self, text: str) -> None:
        self._lines += ["", text]

    def paragraph(self, text: str) -> None:
        self._lines += textwrap.wrap(text, self._width)

    def rows(self, rows: Any) -> None:
        for left, right in rows:
            beside = f"  {left}"
            indent = " " * self._column
            wrapped = textwrap.wrap(right, self._width, initial_indent=indent, subsequent_indent=indent)
            if wrapped and len(beside) < self._column - 1:
                wrapped[0] = f"{beside:{self._column}}{wrapped[0].lstrip()}"
                self._lines += wrapped
            else:
                self._lines += [beside, *wrapped]

    def text(self) -> str:
        return "\n".join(self._lines)
