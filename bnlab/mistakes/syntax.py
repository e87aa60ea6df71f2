"""Explain an override that does not parse, by looking for the usual slips."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnlab.commands import COMMANDS
from bnlab.errors import one_line
from bnlab.text.command_line import typed
from bnlab.text.resemblance import closest, did_you_mean, plain

if TYPE_CHECKING:
    from bnlab.mistakes.overrides import Overrides

__all__ = ["explain_syntax_error"]

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_ODD = {"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "−": "-", "\xa0": " "}
_ODD_TEXT = "which word processors write"
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "lr", "λ": "weight_decay", "μ": "momentum"},
    **{"µ": "momentum", "₁": "1", "₂": "2"},
}


def explain_syntax_error(lines: Sequence[str], index: int, error: Exception, overrides: "Overrides") -> str:
    line = lines[index]
    odd = next((char for char in line if char in _ODD), None)
    if odd is not None:
        meant = line
        for char, usual in _ODD.items():
            meant = meant.replace(char, usual)
        return f"{typed(line)} has a {odd!r}, {_ODD_TEXT}: did you mean {typed(meant)}?"
    key, equals, value = line.partition("=")
    if not equals:
        return _without_equals(lines, index, overrides)
    if not key.strip("+~ "):
        return f"{typed(line)} names no setting before the =: write it like optimizer.lr=0.01, without spaces."
    foreign = next((char for char in key if not char.isascii()), None)
    if foreign is not None:
        spelled = "".join(_GREEK.get(char, char) for char in key.lstrip("+~"))
        is_known = spelled in overrides.vocabulary.settings
        likely = [f"{spelled}={value}"] if is_known else overrides.suggestions(spelled, value)
        meant = did_you_mean(likely) or "python -m bnlab.train --help lists them."
        return f"{typed(line)} has a {foreign!r} before the =, and no setting has: {meant}"
    if value.startswith("="):
        meant = f"{key}={value.lstrip('=')}"
        return f"{typed(line)} has two =: did you mean {typed(meant)}?"
    items = re.fullmatch(r"[\[{]\s*(\d+(?:[\s,;x]+\d+)*)\s*[\]}]", value)
    if items:
        meant = f"{key}=[{','.join(re.findall(r'[0-9]+', items[1]))}]"
        return f"{typed(line)}: a list has square brackets and commas, did you mean {typed(meant)}?"
    tuple_ = re.fullmatch(r"\((.*)\)", value)
    if tuple_:
        return f"{typed(line)}: a list has square brackets, did you mean {typed(f'{key}=[{tuple_[1]}]')}?"
    distribution = re.fullmatch(r"(\w+)\((.*)\)", value)
    if distribution and (scale := _scale(distribution[1], distribution[2])):
        return f"{typed(line)} is not a search space: did you mean {typed(f'{key}={scale}')}?"
    unclosed = _unclosed(value)
    if unclosed:
        return f"{typed(line)} has a {unclosed} that nothing closes."
    if value.rstrip().endswith(",") or value.lstrip().startswith(",") or ",," in value:
        values = ",".join(part.strip() for part in value.split(",") if part.strip())
        return f"{typed(line)} has a comma without a value: did you mean {typed(f'{key}={values}')}?"
    if "=" in value and not re.search(r"[(\[{]", value):
        quoted = f"{key}='{value}'"
        return f"{typed(line)} has more than one =: a value with a = in it is quoted, such as {typed(quoted)}."
    unknown = re.search(r"token recognition error at: '(.)", one_line(error))
    evaluated = re.search(r"while evaluating '.*': (.*)", one_line(error))
    if evaluated:
        return f"{typed(line)} cannot be evaluated: {evaluated[1].removesuffix('.')}."
    quoted = typed(f"{key}='{value}'")
    if unknown:
        return f"{typed(line)} has a {unknown[1]!r}, and a text with such characters is quoted: did you mean {quoted}?"
    told = re.sub(r"\s*(expecting \{.*\}|See https?://\S+ for details)", "", one_line(error))
    return f"{typed(line)} cannot be read ({told}): a text with such characters is quoted, as {quoted}."


def _scale(function: str, arguments: str) -> str | None:
    """Return bnlab's notation for `loguniform(1e-4,1)` and the like."""
    numbers = [part.strip() for part in arguments.split(",")]
    name = plain(function)
    if name == "tag" and len(numbers) == 3 and numbers[0] in ("log", "one_minus_log"):
        return f"tag({numbers[0]},interval({numbers[1]},{numbers[2]}))"
    if len(numbers) != 2:
        return None
    between = f"interval({numbers[0]},{numbers[1]})"
    if name in ("log", "loguniform", "logspace", "loginterval", "reciprocal"):
        return f"tag(log,{between})"
    if name in ("randint", "integer", "intuniform", "integers", "qrandint", "intinterval"):
        return f"int({between})"
    return between if name in ("uniform", "rand", "random", "linspace", "between") else None


def _without_equals(lines: Sequence[str], index: int, overrides: "Overrides") -> str:
    line = lines[index]
    following = lines[index + 1] if index + 1 < len(lines) else ""
    if following.startswith("=") or (line == "=" and index):
        value = following[1:] or (lines[index + 2] if index + 2 < len(lines) else "")
        return f"An override has no spaces around its =: did you mean {_meant(line, value, overrides)}?"
    vocabulary = overrides.vocabulary
    groups = [group for group, options in vocabulary.choices.items() if line in options]
    is_known = line in vocabulary.settings or line in vocabulary.choices
    if following and "=" not in following and (is_known or overrides.suggestions(line, following)):
        return f"A setting and its value are joined by a =: did you mean {_meant(line, following, overrides)}?"
    if line in vocabulary.choices:
        return f"{line} has no choice: write {line}={vocabulary.choices[line][0]}, or another of its choices."
    if is_known:
        return f"{line} has no value: write {line}=VALUE."
    programs = ("help", "version", "multirun", "resume")
    if line in programs:
        meant = {"multirun": "-m", "resume": "-m search.resume=FOLDER"}.get(line, f"--{line}")
        return f"'{line}' is not an override such as optimizer.lr=0.01: did you mean python -m bnlab.train {meant}?"
    if groups:
        likely = [f"{group}={line}" for group in groups]
        return f"'{line}' is not an override such as optimizer.lr=0.01: {did_you_mean(likely)}"
    names = closest(line, [name for name in COMMANDS if name != "train"])
    likely = [f"python -m bnlab.{name}" for name in names]
    if likely:
        return f"{typed(line)} is not an override such as optimizer.lr=0.01: {did_you_mean(likely)}"
    return (
        f"{typed(line)} is not an override: settings are key=value, such as optimizer.lr=0.01, and --help lists them."
    )


def _meant(key: str, value: str, overrides: "Overrides") -> str:
    vocabulary = overrides.vocabulary
    if key in vocabulary.settings or key in vocabulary.choices:
        return typed(f"{key}={value}")
    return next(iter(overrides.suggestions(key, value)), typed(f"{key}={value}"))


def _unclosed(value: str) -> str | None:
    """Return the bracket or quote that is not closed."""
    open_: list[str] = []
    quote = ""
    escaped = False
    for char in value:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _PAIRS:
            open_.append(char)
        elif char in _PAIRS.values() and open_ and _PAIRS[open_[-1]] == char:
            open_.pop()
    return quote or (open_[-1] if open_ else None)
