"""Refuse to search a parameter that makes no difference to any trial."""

import logging
from collections.abc import Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bnlab.config.folder import config_folder
from bnlab.config.read_settings import is_unread, read_settings
from bnlab.errors import UserError
from bnlab.mistakes.added import is_interpolated, is_note, refuse_unread, refuse_untaken
from bnlab.search.definition.composition import SweepConfigLoader
from bnlab.search.definition.effects import without_effect
from bnlab.search.definition.jobs import check_jobs
from bnlab.search.definition.search import Search
from bnlab.search.spaces.parameter import Point
from bnlab.search.spaces.space import Space
from bnlab.text.command_line import Origin

__all__ = ["drop_ineffective"]

log = logging.getLogger(__name__)


def drop_ineffective(
    search: Search, given: Sequence[Override], config: DictConfig, loader: SweepConfigLoader, *, is_new: bool
) -> Space:
    """Drop the parameters that make no difference to any trial, each with a warning.

    Raises:
        UserError: such a parameter was given on the command line and is no note, or a job cannot work.
    """

    def compose(point: Point) -> DictConfig:
        return loader.load_sweep_config(config, search.overrides(point, search.settings.seeds - 1))

    jobs = check_jobs(search, config, loader)
    added = [override for override in given if override.is_add() or override.is_force_add()]
    lines, origin = [str(override.input_line) for override in given], Origin.of(config.hydra, config_folder())
    for override in added:
        for point, job in jobs:
            if override.key_or_group in point or str(override.input_line) in search.fixed:
                refuse_untaken(str(override.input_line), job, origin)
    kept = list(search.space.parameters)
    for key, reason in without_effect(search.space, jobs, compose).items():
        line = next((str(override.input_line) for override in added if override.key_or_group == key), None)
        if line is not None:
            if is_new and not is_note(key) and not is_interpolated(key, config.hydra):
                refuse_unread(line, lines, origin, reason)
            log.warning("`%s` has no effect: %s.", key, reason)
        elif any(override.key_or_group == key for override in given):
            raise UserError(f"`{key}` has no effect on any trial, as {reason}: take it out of the search.")
        else:
            log.warning("`%s` is not searched: it has no effect, as %s.", key, reason)
            kept.remove(search.space[key])
    point, job = jobs[0]
    overrides = search.overrides(point, 0)
    for override in added:
        line, key = str(override.input_line), override.key_or_group
        why = is_unread(job, key)
        if line in search.fixed and why and not (is_note(key) or is_interpolated(key, config.hydra)):
            without = [other for other in overrides if other != line]
            try:
                is_used = read_settings(loader.load_sweep_config(config, without)) != read_settings(compose(point))
            except (ConfigCompositionException, OmegaConfBaseException):
                is_used = True  # composing needs it
            if not is_used:
                if is_new:
                    refuse_unread(line, lines, origin, why)
                log.warning("%r has no effect: %s.", line, why)
    return Space(tuple(kept), search.space.constants)
