"""Explain what is wrong with an override that Hydra refuses, and what was probably meant."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bnlab.mistakes.signature import arguments_of_target
from bnlab.mistakes.syntax import explain_syntax_error
from bnlab.mistakes.vocabulary import Vocabulary
from bnlab.rules import RULES
from bnlab.text.command_line import typed
from bnlab.text.resemblance import closest, did_you_mean, plain

__all__ = ["Overrides"]

_AT_MOST = 3
_HINTS = {
    "earlystopping patience earlystop": "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping and "
    "+callbacks.stop.monitor=val_loss stop early.",
    "bn usebn batchnorm usebatchnorm normalize": "norm=batch and norm=none turn batch norm on and off.",
    "note comment remark description tag tags label author": "+notes.NAME=TEXT keeps a note on the run.",
    "callback callbacks": "a callback is added with +callbacks.NAME._target_=CLASS.",
    "metric metrics": "a metric is added with +metrics.NAME._target_=CLASS +metrics.NAME.higher_is_better=true.",
    "figure figures plot plots": "a figure of a run is added with +figures.NAME._target_=FUNCTION.",
}
_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.launcher.n_jobs")  # candidates for suggestions


@dataclass
class Overrides:
    """The overrides of a command line, in order.

    Attributes:
        lines: the overrides as given.
        vocabulary: the names that exist.
        multirun: whether -m was given.
    """

    lines: Sequence[str]
    vocabulary: Vocabulary
    multirun: bool = False
    chosen: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.chosen = dict(self.vocabulary.defaults)
        for line in self.lines:
            key, _, value = line.partition("=")
            if key in self.vocabulary.choices:
                self.chosen[key] = value

    def explain(self) -> str | None:
        """Return the first mistake and the way out, in one line; None if these rules find none."""
        parsed: list[tuple[str, Override]] = []
        for index, line in enumerate(self.lines):
            try:
                parsed.append((line, OverridesParser.create().parse_override(line)))
            except HydraException as error:
                return explain_syntax_error(self.lines, index, error, self)
        for line, override in parsed:
            told = (
                self._of_a_list(line, override) or self._of_a_choice(line, override) or self._of_a_key(line, override)
            )
            if told:
                return told
        return None

    # What an override means

    def _of_a_list(self, line: str, override: Override) -> str | None:
        if self.multirun or not override.is_sweep_override():
            return None
        key, text = override.key_or_group, line.partition("=")[2]
        if not self._is_there(key) and key not in self.vocabulary.choices:
            return None  # it is reported first
        if override.is_interval_sweep():
            return f"{typed(line)} is a range to search: add -m search=random."
        default = self._default(key)
        if isinstance(default, list) or "a list" in getattr(RULES.get(key), "text", ""):
            listed = typed(f"{key}=[{text}]")
            return (
                f"{key} is a list, which has brackets: did you mean {listed}? With -m and no brackets, each value has "
                "a run of its own."
            )
        decimal = re.fullmatch(r"(-?\d+),(\d+)", text)
        if decimal and isinstance(default, float):
            return (
                f"{typed(line)} lists two values: did you mean {key}={decimal[1]}.{decimal[2]}? To train with each of "
                "the two, add -m."
            )
        return f"{typed(line)} lists values to compare, each with a run of its own: add -m."

    def _of_a_choice(self, line: str, override: Override) -> str | None:
        group = override.key_or_group
        options = self.vocabulary.choices.get(group)
        if options is None or override.is_delete():
            return None
        if override.is_add() and group in self.vocabulary.defaults:
            return f"{line} adds a choice that exists already: write {line.lstrip('+')}, without the +."
        wanted = [text for text in self._texts(line, override) if text not in options and "/" not in text]
        if not wanted or isinstance(override.value(), dict):
            return None
        likely = [f"{group}={option}" for option in closest(wanted[0], options)][:_AT_MOST]
        if len(options) == 1:
            return f"{group}={wanted[0]} does not exist: the only choice is {group}={options[0]}."
        suffix = wanted[0].rpartition(".")[2]
        if suffix in options and self.vocabulary.of_choices.get(f"{group}.path", ("", {}))[1].keys() & {suffix}:
            likely = [f"{group}={suffix} {typed(f'{group}.path={wanted[0]}')}"]
        meant = did_you_mean(likely) or f"choose one of them, such as {group}={options[0]}."
        return f"{group}={wanted[0]} is not one of the choices {_listed(options, 'and')}: {meant}"

    def _of_a_key(self, line: str, override: Override) -> str | None:
        key = override.key_or_group
        if key in self.vocabulary.choices or self._is_there(key) or override.is_add():
            return None
        if "@" in override.get_key_element():
            return None
        return self.unknown(key, line.partition("=")[2], deletes=override.is_delete())

    def of_several(self, group: str, line: str) -> str:
        """Explain a list of choices, which Hydra would merge."""
        values = line.partition("=")[2].strip("[] ")
        return f"{group} has one choice at a time, but got {line}: did you mean -m {group}={values}?"

    def unknown(self, key: str, value: str, *, deletes: bool = False) -> str:
        """Explain a key that does not exist, and what was probably meant."""
        if not key.strip():
            return f"={value} names no setting: write it like optimizer.lr=0.01, without spaces."
        if key.partition(".")[0] == "notes" and not deletes:
            return f"A note on a run is added with a +: did you mean {typed(f'+{key}={value}')}?"
        if key in self.vocabulary.of_choices:
            return self._elsewhere(key)
        likely = [] if deletes else self.suggestions(key, value or "VALUE")
        if likely:
            return f"There is no setting `{key}`: {did_you_mean(likely)}"
        if key in RULES and not deletes:  # an argument of the group's target
            return f"`{key}` has no value yet and is added with a +: did you mean {typed(f'+{key}={value}')}?"
        group, _, name = key.rpartition(".")
        hint = next((hint for words, hint in _HINTS.items() if plain(name) in words.split()), None)
        hint = hint or next((hint for words, hint in _HINTS.items() if key.partition(".")[0] in words.split()), None)
        if hint:
            return f"There is no setting `{key}`: {hint}"
        if group in self.vocabulary.choices and name:
            there = self.vocabulary.of_group(group, self.chosen)
            choice = self.chosen.get(group)
            has = f"{group}={choice} has {_listed(there, 'and')}." if there else f"{group}={choice} has no settings."
            target = self.vocabulary.target(group, self.chosen)
            if target and not deletes:
                taken = arguments_of_target(target)
                if taken is None or name in taken:
                    meant = typed(f"+{key}={value}")
                    return f"`{key}` has no value yet and is added with a +: did you mean {meant}?"
            return f"There is no setting `{key}`: {has}"
        return f"There is no setting `{key}`: python -m bnlab.train --help lists the settings."

    def _elsewhere(self, key: str) -> str:
        group, by_choice = self.vocabulary.of_choices[key]
        choice = self.chosen.get(group)
        name = key.rpartition(".")[2]
        alternatives = _listed([f"{group}={option}" for option in by_choice])
        other = [k for k in self._likely(name, always=False) if k != key and self._is_there(k)]
        also = f" ({group}={choice} has {other[0]}.)" if other and other[0].startswith(f"{group}.") else ""
        return f"`{key}` does not exist with {group}={choice}: leave it out, or choose {alternatives}.{also}"

    def suggestions(self, key: str, value: str) -> list[str]:
        """Return the overrides that `key=value` probably means."""
        lines: list[str] = []
        likely = self._likely(key)[:_AT_MOST]
        items = re.fullmatch(r"\[([^\[\]]+)\]", value)
        if items and len(items[1].split(",")) == len(likely) > 1:  # betas=[0.9,0.999]
            return [" ".join(f"{name}={item.strip()}" for name, item in zip(likely, items[1].split(","), strict=True))]
        for name in likely:
            if name in self.vocabulary.choices:
                options = self.vocabulary.choices[name]
                picked = [next(iter(closest(text, options)), None) for text in value.split(",")]
                if None not in picked:
                    lines.append(f"{self._m(name)}{name}={','.join(map(str, picked))}")
                continue
            group, by_choice = self.vocabulary.of_choices.get(name, ("", {}))
            needs = "" if self._is_there(name) else f"{group}={next(iter(by_choice))} "
            lines.append(f"{self._m(name)}{needs}{typed(f'{name}={value}')}")
        return lines

    def _m(self, name: str) -> str:
        is_of_a_sweep = name.startswith(("search.", "search/", "hydra/launcher", "hydra.launcher", "hydra.sweep"))
        return "-m " if not self.multirun and (is_of_a_sweep or name == "search") else ""

    def _likely(self, key: str, *, always: bool = True) -> list[str]:
        """Return settings and groups that `key` may mean: by its whole name, by its last part, then by similarity."""
        settings = [
            name
            for name in self.vocabulary.settings
            if not name.startswith("hydra.") or name in _OF_HYDRA or key.startswith("hydra")
        ]
        names = [*self.vocabulary.choices, *settings]
        same = [name for name in names if plain(name) == plain(key) and name != key]
        if same:
            return same
        above, _, last = key.replace("/", ".").rpartition(".")
        if not above and (groups := closest(key, self.vocabulary.choices, slips=False)):
            exact = [name for name in settings if name.rpartition(".")[2] == last]
            if not exact:
                return groups
        of_last: dict[str, list[str]] = {}
        for name in settings:
            of_last.setdefault(name.rpartition(".")[2], []).append(name)
        found = [name for one in closest(last, of_last) for name in of_last[one] if name != key]
        if above:
            heads = closest(above, [name.rpartition(".")[0].replace("/", ".") for name in names if "." in name])
            inside = [name for name in found if name.rpartition(".")[0] in heads]
            found = inside or ([] if above in self.vocabulary.choices else found)
        here = [name for name in found if self._is_there(name)]
        of_training = [name for name in found if not name.startswith(("hydra.", "search."))]
        found = [name for name in found if name in of_training] or found
        found = [name for name in found if name in here] + [name for name in found if name not in here]
        return found or ([] if above or not always else closest(key, self.vocabulary.choices))

    # What exists

    def _is_there(self, key: str) -> bool:
        return self.vocabulary.has(key, self.chosen) or key.rpartition(".")[2] == "_target_"

    def _default(self, key: str) -> Any:
        try:
            return self.vocabulary.value(key, self.chosen)
        except KeyError:
            return None

    def _texts(self, line: str, override: Override) -> list[str]:
        if override.is_sweep_override():
            return [] if override.is_interval_sweep() else list(map(str, override.sweep_string_iterator()))
        value = override.value()
        if isinstance(value, list):
            return [str(item) for item in value]
        if value is None and override.key_or_group not in self.vocabulary.defaults:
            return []  # a group that is optional
        return [line.partition("=")[2].strip("'\"")]


def _listed(names: Sequence[str], last: str = "or") -> str:
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final
