"""Opens the study of a sweep, with every trial that it still needs enqueued."""

from bnlab.search.study.changes import shared_settings
from bnlab.search.study.design import Design
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.plan import Plan
from bnlab.search.study.recovery import recover
from bnlab.search.study.storage import declare_planned, join_or_create
from bnlab.search.sweeps.setup import Setup

__all__ = ["open_study"]


def open_study(setup: Setup) -> tuple[OwnStudy, Plan]:
    """Create, join or resume the study, and enqueue the missing trials.

    Raises:
        UserError: the study does not exist or searches something else, or the folder has trials of others.
    """
    search, definition, folder, resumes = setup.search, setup.definition, setup.folder, setup.resumes
    study, is_new = join_or_create(
        setup.storage,
        definition.study,
        search.minimize,
        search.signature(),
        shared_settings(setup.settings),
        resumes=resumes,
        must_exist=resumes and not folder.lost_trials and (folder.trials.is_file() or bool(folder.numbered())),
    )
    own = OwnStudy(study, setup.storage, sweep_id=definition.id, folder=folder.path, worst=search.worst)
    plan = Plan(own, Design(search.space, search.num_points, search.settings.seeds, search.points))
    if resumes:
        folder.check_is_own(own.folders(), definition.id)
        recover(own, plan, folder)
    if is_new or resumes:
        plan.add_missing(search.settings.retry_failed)
        declare_planned(study)
    return own, plan
