"""Explain in one line why a command line cannot work, and what was probably meant."""

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from bnlab.commands import version
from bnlab.errors import UserError
from bnlab.mistakes.flags import UnknownOptionError, parser_of_options, read_options
from bnlab.mistakes.vocabulary import vocabulary_of
from bnlab.text.command_line import CONFIG_NAME, Origin, key_of, typed
from bnlab.text.concealing import MASK, is_named_secret
from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["explain", "origin_of", "read_command_line", "refuse_what_a_run_ignores", "refuse_what_hydra_merges"]

_OF_A_SWEEP = ("search", "search/space", "search/pruner", "hydra/launcher", "hydra/sweeper")


def read_command_line(argv: Sequence[str]) -> tuple[ArgumentParser, Namespace]:
    """Return Hydra's parser, and the options and overrides that it reads.

    Raises:
        UserError: an option does not exist.
    """
    parser = parser_of_options(version() if "--version" in argv else "")
    try:
        return parser, read_options(parser, argv)
    except UnknownOptionError as error:
        known, _ = parser.parse_known_intermixed_args(list(argv))
        raise UserError(_explain_option(error, known.overrides, origin_of(known))) from None


def origin_of(arguments: Namespace) -> Origin:
    """Return the origin of the configs that the options name."""
    return Origin(arguments.config_name or CONFIG_NAME, arguments.config_dir, arguments.config_path)


def explain(lines: Sequence[str], origin: Origin, *, multirun: bool) -> str | None:
    """Return what is wrong with the overrides or the options; None if these rules find nothing."""
    if origin.config_dir is not None and not os.path.isdir(origin.config_dir):
        return f"--config-dir must be a folder of configs, but {origin.config_dir!r} is none."
    from bnlab.mistakes.overrides import Overrides

    vocabulary = vocabulary_of(origin)
    if not vocabulary.is_known:
        return None
    if vocabulary.primary:
        names = vocabulary.primary
        if origin.config_name.removesuffix(".yaml") not in names:
            likely = [f"--config-name {name}" for name in closest(origin.config_name, names)]
            return (
                f"--config-name must be {' or '.join(names)}, but got {origin.config_name!r}: "
                f"{did_you_mean(likely) or 'leave it out.'}"
            )
    told = Overrides(lines, vocabulary, multirun).explain()
    return told and _without_secrets(told, lines)


def _without_secrets(told: str, lines: Sequence[str]) -> str:
    """Mask the secrets among the overrides, which bnlab does not know before a config is composed."""
    for line in lines:
        key, _, value = line.partition("=")
        if value and is_named_secret(key.strip("-+~")):
            told = told.replace(value, MASK)
    return told


def _explain_option(error: UnknownOptionError, lines: Sequence[str], origin: Origin) -> str:
    """Explain an option that stands for an override, such as `--lr 0.1`."""
    from bnlab.mistakes.overrides import Overrides

    vocabulary = vocabulary_of(origin)
    overrides = Overrides([line for line in lines if line != error.value], vocabulary)
    key, value = error.meant, error.value
    is_known = vocabulary.has(key, overrides.chosen) or key in vocabulary.choices
    likely = [typed(f"{key}={value}")] if is_known else overrides.suggestions(key, value or "VALUE")
    told = f"Settings are given without --: {did_you_mean(likely)}" if likely else str(error)
    return _without_secrets(told, [f"{key}={value}"])


def refuse_what_hydra_merges(lines: Sequence[str], origin: Origin) -> None:
    """Refuse overrides that Hydra would merge into one value.

    Raises:
        UserError: several choices of a group are a list, which Hydra merges, or widths are a single number.
    """
    from bnlab.mistakes.overrides import Overrides

    for line in lines:
        group, _, value = line.partition("=")
        if group == "hydra.run.dir" and not value:
            raise UserError("hydra.run.dir must name the folder of the run, but is empty: . is the current one.")
        if key_of(line) == "model.hidden" and re.search(r"\d_\d", value):
            listed, joined = (typed(f"{group}={re.sub(r'(?<=[0-9])_(?=[0-9])', sign, value)}") for sign in (",", ""))
            raise UserError(
                f"{typed(line)} has a _, which joins two numbers into one: did you mean {listed} or {joined}?"
            )
        if "." not in group and value.startswith("[") and "," in value:
            vocabulary = vocabulary_of(origin)
            if group in vocabulary.defaults:
                raise UserError(Overrides(lines, vocabulary).of_several(group, line))


def refuse_what_a_run_ignores(lines: Sequence[str]) -> None:
    """Refuse overrides that have no effect on a single run.

    Raises:
        UserError: an override is for sweeps only.
    """
    for line in lines:
        key, _, value = line.partition("=")
        key = key_of(line)
        if key == "hydra.launcher":
            raise UserError(f"A launcher is chosen with a slash: did you mean -m hydra/launcher={value}?")
        if key in _OF_A_SWEEP or key.startswith(("search.", "hydra.launcher.", "hydra.sweep.")):
            raise UserError(f"{typed(line)} is for a sweep, and this is a single run: add -m.")
