"""The ranking of a search: trials.csv, leaderboard.md, best.yaml, and the table on screen at its end."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bnlab.comparison.labels import short_keys, value_texts
from bnlab.comparison.statistics import estimate
from bnlab.io.atomic_file import write_text
from bnlab.io.yaml_text import to_yaml
from bnlab.search.spaces.parameter import Choice, Parameter, Point
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.trials import Configuration, Trial, rank
from bnlab.status import Status
from bnlab.text.command_line import Origin, key_of, shown
from bnlab.text.command_line import command as command_line
from bnlab.text.concealing import override_to_write
from bnlab.text.number_format import mean_and_deviation

__all__ = ["Leaderboard", "axis_of"]

NUM_ON_SCREEN = 10
NUM_IN_FILE = 100


@dataclass(frozen=True)
class _Column:
    """A quantity of each trial beside its objective.

    Attributes:
        name: its name in trials.csv and in the headings of the tables.
        value: returns its value for a trial, or None.
        is_shown: whether the tables show it, too, as the mean over seeds.
    """

    name: str
    value: Callable[[Trial], float | None]
    is_shown: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """The ranking of `trials`, and the commands that run them again.

    Attributes:
        space: the space of the search.
        fixed: the overrides of all trials.
        objective_name: the metric, such as val_accuracy.
        minimize: whether a lower objective is better.
        seeds: the number of runs per configuration.
        base_seed: the seed of the first of these runs, if there are several.
        num_threads: the number of torch's threads in a trial if it is not the default, as rounding depends on it.
        origin: the sources of the configs beside the overrides of their settings.
        names: settings that only name the folders of trials; a single run would refuse them.
    """

    trials: Sequence[Trial]
    space: Space
    fixed: Sequence[str]
    objective_name: str
    minimize: bool
    seeds: int
    base_seed: int
    num_threads: int | None
    origin: Origin
    names: frozenset[str] = frozenset()

    @property
    def ranking(self) -> list[Configuration]:
        return rank(self.trials, self.minimize, self.seeds)

    @property
    def best(self) -> Configuration | None:
        """Return the best configuration; None while no configuration has all its seeds."""
        ranking = self.ranking
        return ranking[0] if ranking and ranking[0].is_complete else None

    def overrides(self, point: Point) -> list[str]:
        lines = [*self.fixed, *self.space.overrides(point)]
        return [line for line in lines if key_of(line) not in self.names]

    def command(self, configuration: Configuration) -> str:
        """Return the command that runs `configuration` again with all its seeds, and gives the same objective."""
        overrides = self.overrides(configuration.values)
        if self.seeds > 1:
            # The user's own configs may define a search and a space.
            alone = [] if self.origin.is_default else ["search=grid", "search.num_trials=null", "search.space=null"]
            overrides = [*alone, f"search.seeds={self.seeds}", *overrides]
        threads = f"OMP_NUM_THREADS={self.num_threads} " if self.num_threads is not None else ""
        return threads + command_line(overrides, self.origin.of_a_run(), multirun=self.seeds > 1)

    def write(self, folder: SweepFolder) -> None:
        write_text(folder.trials, self._csv(folder))
        write_text(folder.leaderboard, self._markdown(folder))
        best = self.best
        if best is not None:
            write_text(folder.best, self._best(best, folder))

    def table(self, width: int) -> Table | None:
        """Return the ten best, with as many of the first parameters as fit into `width` characters."""
        ranking = self.ranking
        if not ranking:
            return None
        number = min(NUM_ON_SCREEN, len(ranking))
        table = Table(
            title=f"The {number} best of {len(ranking)}" if number > 1 else "The best",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        # Long names are folded at their underscores, which become spaces.
        columns = [column.replace("_", " ") for column in self._columns()]
        rows = self._rows(ranking[:NUM_ON_SCREEN])
        left = width - 2  # the edges
        for index, column in enumerate(columns):
            longest = max(cell_len(text) for text in (*column.split(" "), *(row[index] for row in rows)))
            left -= longest + 2
            if left < 0:
                columns, rows = columns[:index], [row[:index] for row in rows]
                table.caption = f"The other {len(self._columns()) - index} columns are in the files."
                table.caption_justify = "left"
                break
            table.add_column(Text(column), justify="right", min_width=longest, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # not as markup, since [relu] would be taken for a tag
        return table

    def counts(self) -> Counter[Status]:
        return Counter(trial.status for trial in self.trials)

    def _columns(self) -> list[str]:
        keys = [parameter.key for parameter in self.space.parameters]
        return ["", "trial", self.objective_name, *(column.name for column in self._shown), *short_keys(keys)]

    @property
    def _measured(self) -> list[_Column]:
        """Return the columns of trials.csv after the settings, from what is kept of summaries (`trials.KEPT`)."""
        tested = next((trial.test[0] for trial in self.trials if trial.test is not None), None)
        return [
            _Column(tested or "test_accuracy", lambda trial: trial.test and trial.test[1], is_shown=tested is not None),
            _Column("seconds", lambda trial: trial.kept.get("seconds")),
        ]

    @property
    def _shown(self) -> list[_Column]:
        return [column for column in self._measured if column.is_shown]

    def _rows(self, ranking: Sequence[Configuration]) -> list[list[str]]:
        parameters = [
            _labels([configuration.values.get(parameter.key) for configuration in ranking])
            for parameter in self.space.parameters
        ]
        return [
            [*self._first_cells(place, configuration), *labels]
            for place, (configuration, *labels) in enumerate(zip(ranking, *parameters, strict=True), 1)
        ]

    def _first_cells(self, place: int, configuration: Configuration) -> list[str]:
        trials = configuration.trials
        cells = [
            str(place),
            _numbers([trial.number for trial in trials]),
            mean_and_deviation(self.objective_name, configuration.mean, configuration.deviation)
            + ("" if configuration.is_complete else f" ({configuration.num_seeds} of {self.seeds} seeds)"),
        ]
        for column in self._shown:
            found = estimate([value for trial in trials if (value := column.value(trial)) is not None])
            cells.append("" if found is None else mean_and_deviation(column.name, found.mean, found.deviation))
        return cells

    def _csv(self, folder: SweepFolder) -> str:
        keys = [parameter.key for parameter in self.space.parameters]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        seed = ["seed"] if self.seeds > 1 else []
        measured = self._measured
        names = [column.name for column in measured]
        writer.writerow(["number", "status", self.objective_name, *keys, *seed, *names, "folder", "error"])
        for trial in self.trials:
            texts = [self._text(key, trial.values.get(key)) if key in trial.values else "" for key in keys]
            writer.writerow(
                [
                    trial.number,
                    trial.status,
                    trial.objective,
                    *texts,
                    *([self.base_seed + trial.repeat] if seed else []),
                    *(column.value(trial) for column in measured),
                    _inside(trial, folder),
                    trial.error,
                ]
            )
        return buffer.getvalue()

    def _text(self, key: str, value: Any) -> str:
        return self.space[key].override(value).partition("=")[2]

    def _best(self, configuration: Configuration, folder: SweepFolder) -> str:
        return to_yaml(
            {
                "objective": configuration.mean,
                "objective_name": self.objective_name,
                "trials": [trial.number for trial in configuration.trials],
                "folder": _inside(configuration.trials[0], folder),
                "overrides": list(map(override_to_write, self.overrides(configuration.values))),
                "command": self.command(configuration),
            }
        )

    def _markdown(self, folder: SweepFolder) -> str:
        ranking = self.ranking
        counts = self.counts()
        lines = [
            "# Leaderboard",
            "",
            f"{len(self.trials)} trials: "
            + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            + ".",
            f"Ranked by {'the mean ' if self.seeds > 1 else ''}{self.objective_name}, "
            f"the {'lowest' if self.minimize else 'highest'} first"
            + (f"; ± is the standard deviation over {self.seeds} seeds." if self.seeds > 1 else "."),
            "",
        ]
        if ranking:
            if ranking[0].is_complete:
                lines += ["Run the best again:", "", "```", self.command(ranking[0]), "```", ""]
            lines += _markdown_table(self._columns(), self._rows(ranking[:NUM_IN_FILE]))
            if len(ranking) > NUM_IN_FILE:
                lines += ["", f"{len(ranking) - NUM_IN_FILE} more are in {folder.trials.name}."]
        others = [trial for trial in self.trials if trial.status.is_of_a_run and trial.status is not Status.COMPLETED]
        if others:
            rows = [[str(trial.number), trial.status, trial.error, _inside(trial, folder)] for trial in others]
            lines += ["", "## Not completed", "", *_markdown_table(["trial", "status", "error", "folder"], rows), ""]
            lines += [f"- {status}: {status.meaning}" for status in sorted({trial.status for trial in others})]
        return "\n".join(lines) + "\n"


_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\|<*$"})  # characters that Markdown would interpret


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.translate(_MARKDOWN) for cell in row] for row in [columns, *rows]]
    return [f"| {' | '.join(row)} |" for row in (cells[0], ["---"] * len(columns), *cells[1:])]


def _inside(trial: Trial, folder: SweepFolder) -> str:
    if trial.folder is None:
        return ""
    inside = trial.folder.is_relative_to(folder.path)
    return str(trial.folder.relative_to(folder.path)) if inside else shown(trial.folder)


def axis_of(parameter: Parameter) -> str | list[str]:
    """Return the scale's name, or the texts of the choices: finite numbers in ascending order, others as given."""
    if isinstance(parameter.values, Choice):
        if parameter.values.step is not None:
            return "linear"
        texts = list(parameter.values.texts)
        return sorted(texts, key=parameter.value) if all(map(_is_finite, parameter.values.values)) else texts
    assert isinstance(parameter.values, Scale)
    return {"OneMinusLog": "one_minus_log", "Log": "log", "LogIntegers": "log"}.get(
        type(parameter.values).__name__, "linear"
    )


def _numbers(numbers: Sequence[int]) -> str:
    """Return "3 to 5" if the numbers are consecutive; a trial that was tried again leaves a gap."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _labels(elements: Sequence[Any]) -> list[str]:
    """Return labels of the values, empty for None, which marks a missing parameter."""
    texts = iter(value_texts([element for element in elements if element is not None]))
    return ["" if element is None else next(texts) for element in elements]
