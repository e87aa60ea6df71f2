"""Leave a setting out of the trials whose choice of a searched group does not have it."""

from collections.abc import Sequence
from dataclasses import replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bnlab.mistakes.signature import arguments_of_target
from bnlab.mistakes.vocabulary import vocabulary_of
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.spaces.from_override import fixed_parameter
from bnlab.search.spaces.parameter import Choice, Condition, Parameter
from bnlab.text.command_line import Origin

__all__ = ["add_missing_choices", "conditional_on_choices"]


def add_missing_choices(lines: Sequence[str], origin: Origin) -> list[str]:
    """Rewrite the overrides of a sweep so that Hydra can compose them, which it does before it calls the sweeper.

    Hydra applies an override with one value to the default choice of each searched group: with optimizer=sgd,momentum,
    `optimizer.momentum=0.9` would be refused, because Adam has none. It does not apply a choice, even of one value.
    """
    searched = [line.partition("=")[0] for line in lines if _is_searched(line)]
    inside = [f"{key.replace('/', '.')}." for key in searched if "." not in key]
    if not any(line.startswith(tuple(inside)) and not _is_searched(line) for line in lines if inside):
        return list(lines)
    vocabulary = vocabulary_of(origin)
    found = []
    for line in lines:
        key, equals, value = line.partition("=")
        group, by_choice = vocabulary.of_choices.get(key, ("", {}))
        is_absent = group in searched and vocabulary.defaults.get(group) not in by_choice
        found.append(f"{key}{equals}choice({value})" if is_absent and not _is_searched(line) else line)
    return found


def _is_searched(line: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(line).is_sweep_override())
    except HydraException:
        return False


def conditional_on_choices(
    parameters: Sequence[Parameter], fixed: Sequence[Override], config: DictConfig, loader: SweepConfigLoader
) -> tuple[tuple[Parameter, ...], list[str], list[str]]:
    """Restrict each setting to the choices that have it: with `norm=batch,none`, `norm.placement` to norm=batch.

    A setting that has one value, such as optimizer.beta1=0.95 with optimizer=sgd,adam, becomes a parameter with that
    value where it exists. A setting that no choice has is refused elsewhere.

    Args:
        fixed: the overrides of all jobs.
    Returns:
        the parameters, the overrides that every job can have, and a sentence for each setting that is left out.
    """
    searched = {
        parameter.key: parameter.values.texts
        for parameter in parameters
        if isinstance(parameter.values, Choice) and loader.is_group(parameter.key, config)
    }
    chosen = [str(override.input_line) for override in fixed if loader.is_group(override.key_or_group, config)]
    kept: list[str] = []
    found: list[Parameter] = []
    notes: list[str] = []

    def where(key: str, *, added: bool) -> Condition | None:
        """Return the condition under which `key` exists; None if it always or never does."""
        group = next((group for group in searched if key.startswith(f"{group.replace('/', '.')}.")), None)
        if group is None:
            return None
        options = searched[group]
        has = [_has(loader.load_sweep_config(config, [*chosen, f"{group}={text}"]), key, added) for text in options]
        if all(has) or not any(has):
            return None
        without = [f"{group}={text}" for text, there in zip(options, has, strict=True) if not there]
        of_them = "which has" if len(without) == 1 else "which have"
        notes.append(f"`{key}` is left out with {' and '.join(without)}, {of_them} no such setting.")
        return Condition(group, tuple(text for text, there in zip(options, has, strict=True) if there))

    for parameter in parameters:
        if parameter.condition is None and "@" not in parameter.override_key:
            condition = where(parameter.key, added=parameter.override_key.startswith("+"))
            found.append(replace(parameter, condition=condition))
        else:
            found.append(parameter)
    for override in fixed:
        line = str(override.input_line)
        condition = None
        if not override.is_delete() and override.package is None and line not in chosen:
            condition = where(override.key_or_group, added=override.is_add() or override.is_force_add())
        if condition is None:
            kept.append(line)
        else:
            found.append(replace(fixed_parameter(override), condition=condition))
    return tuple(found), kept, notes


def _has(job: DictConfig, key: str, added: bool) -> bool:
    above, _, name = key.rpartition(".")
    node = OmegaConf.select(job, above)
    if not OmegaConf.is_dict(node):
        return False
    if name in node or not added or "." in above:
        return name in node
    target = node.get("_target_")
    taken = arguments_of_target(target) if isinstance(target, str) else None
    return target is not None and (taken is None or name in taken)
