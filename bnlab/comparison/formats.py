"""A table of an ablation as text: Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Callable

from bnlab.comparison.labels import short_keys
from bnlab.comparison.latex_text import latex_text, unsupported_letters
from bnlab.comparison.statistics import CONFIDENCE, Difference
from bnlab.comparison.table import Row, Table
from bnlab.status import Status
from bnlab.text.number_format import difference as difference_text
from bnlab.text.number_format import is_share, label, mean_and_deviation

__all__ = ["FORMATS", "SUFFIXES", "cells", "columns", "to_csv", "to_latex", "to_markdown"]


def columns(table: Table) -> list[str]:
    """Return the headings of `cells`."""
    names = [label(metric) for metric in table.metrics]
    differences = [f"{name} difference" for name in names] if table.baseline else []
    return ["", *short_keys(table.keys), "runs", *names, *differences]


def cells(table: Table, index: int) -> list[str]:
    """Return row `index` as text: its number, settings, runs, metrics and differences."""
    row = table.rows[index]
    settings = [row.arm.settings.get(key, "") for key in table.keys]
    metrics = [_metric(table, row, metric) for metric in table.metrics]
    differences = [_difference(row, metric) for metric in table.metrics] if table.baseline else []
    return [str(index + 1), *settings, row.arm.runs(), *metrics, *differences]


def _metric(table: Table, row: Row, metric: str) -> str:
    found = row.estimates.get(metric)
    if found is None:
        return "none"
    text = mean_and_deviation(metric, found.mean, found.deviation)
    return text if found.number == table.seeds else f"{text} ({found.number} of {table.seeds})"


def _difference(row: Row, metric: str) -> str:
    found = row.differences.get(metric)
    if found is None:
        return "baseline" if row.is_baseline else "none"
    text = difference_text(metric, found.mean)
    if found.low is None or found.high is None:
        return text
    unit = " pp" if is_share(metric) else ""
    low, high = (difference_text(metric, end).removesuffix(unit) for end in (found.low, found.high))
    return f"{text.removesuffix(unit)} [{low}, {high}]{unit}"


_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\|<*$_"})  # characters that Markdown would interpret


def to_markdown(table: Table) -> str:
    """Write a GitHub table with the best values in bold; the notes below it explain the signs."""
    rows = [[text.translate(_MARKDOWN) for text in columns(table)]]
    for index in range(len(table.rows)):
        texts = [text.translate(_MARKDOWN) for text in cells(table, index)]
        for place, metric in enumerate(table.metrics, start=2 + len(table.keys)):
            if index in table.best[metric]:
                texts[place] = f"**{texts[place]}**"
        rows.append(texts)
    marks = ["---:"] + ["---"] * (len(table.keys) + 1) + ["---:"] * (len(rows[0]) - len(table.keys) - 2)
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], marks, *rows[1:])]
    return "\n".join([*lines, "", *table.notes()]).rstrip() + "\n"


_COUNTED = (Status.COMPLETED, Status.DIVERGED, Status.FAILED, Status.INTERRUPTED)


def to_csv(table: Table) -> str:
    """Write one row per arm, with numbers at full precision and shares as fractions of 1."""
    interval = f"{CONFIDENCE:.0%}"
    heading = [*table.keys, "runs", *_COUNTED, "seeds"]
    for metric in table.metrics:
        heading += [f"{metric}_{part}" for part in ("mean", "deviation", "number")]
        heading += [f"{metric}_{part}" for part in ("difference", f"low_{interval}", f"high_{interval}", "pairs")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heading)
    for row in table.rows:
        line: list[object] = [row.arm.settings.get(key, "") for key in table.keys]
        line += [len(row.arm.results), *(row.arm.statuses[status] for status in _COUNTED)]
        line.append(" ".join(str(result.seed) for result in row.arm.results))
        for metric in table.metrics:
            found = row.estimates.get(metric)
            line += ["", "", 0] if found is None else [found.mean, found.deviation, found.number]
            apart: Difference | None = row.differences.get(metric)
            line += [""] * 4 if apart is None else [apart.mean, apart.low, apart.high, apart.pairs]
        writer.writerow(line)
    return buffer.getvalue()


_SIGNS = str.maketrans({"±": "$\\pm$", "+": "$+$", "-": "$-$"})  # in numbers


def to_latex(table: Table) -> str:
    """Write a tabular in booktabs style with the best values in bold; comments explain the signs."""
    shown = [latex_text(label(metric)) for metric in table.metrics]
    are_shares = list(map(is_share, table.metrics))
    names = [name + (r" (\%)" if share else "") for name, share in zip(shown, are_shares, strict=True)]
    apart = [f"$\\Delta$ {name}" + (" (pp)" if share else "") for name, share in zip(shown, are_shares, strict=True)]
    heading = [*map(latex_text, short_keys(table.keys)), "runs", *names]
    heading += apart if table.baseline else []
    rows = [heading]
    for index, row in enumerate(table.rows):
        texts = [_latex_setting(row.arm.settings.get(key, "")) for key in table.keys]
        texts.append(latex_text(row.arm.runs()))
        for metric in table.metrics:
            text = _latex_metric(table, row, metric)
            texts.append(rf"\textbf{{{text}}}" if index in table.best[metric] else text)
        texts += [_latex_difference(row, metric) for metric in table.metrics] if table.baseline else []
        rows.append(texts)
    first, *others = [" & ".join(texts) + r" \\" for texts in rows]
    lines = [
        r"% \usepackage{booktabs}",
        r"% Where it is too wide: \usepackage{graphicx} and \resizebox{\textwidth}{!}{the tabular}.",
        *(f"% {note}" for note in table.notes()),
    ]
    strange = unsupported_letters([first, *others])
    if strange:
        lines.append(f"% LuaLaTeX or XeLaTeX, and a font that has them, for these letters: {strange}")
    num_texts = len(table.keys) + 1
    lines += [
        rf"\begin{{tabular}}{{{'l' * num_texts}{'r' * (len(heading) - num_texts)}}}",
        *(r"\toprule", first, r"\midrule", *others, r"\bottomrule"),
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_setting(text: str) -> str:
    """Return a setting with the minus sign of a number typeset as such."""
    is_number = re.fullmatch(r"-?[0-9.]+(e[-+][0-9]+)?", text) is not None
    return text.translate(_SIGNS) if is_number else latex_text(text)


def _latex_metric(table: Table, row: Row, metric: str) -> str:
    """Return a metric without its unit, which is in the heading."""
    return _metric(table, row, metric).replace(" %", "").translate(_SIGNS) if metric in row.estimates else "--"


def _latex_difference(row: Row, metric: str) -> str:
    if metric not in row.differences:
        return "baseline" if row.is_baseline else "--"
    return _difference(row, metric).removesuffix(" pp").translate(_SIGNS)


FORMATS: dict[str, Callable[[Table], str]] = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
