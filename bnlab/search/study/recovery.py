"""Resumes a killed sweep: the trials that it had taken are recorded, retried or started."""

from optuna.trial import FrozenTrial, TrialState

from bnlab.runs.summary import Summary
from bnlab.search.samplers.place import POINT
from bnlab.search.study.damage import set_damaged_files_aside
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.plan import Plan
from bnlab.search.study.trials import REPEAT, folder_name, result_of
from bnlab.status import Status

__all__ = ["MOST_ENDS", "recover"]

MOST_ENDS = 5  # times that the process may end within the same trial
_PROCESS_DIED = "its process was killed or ended; its values are tried again"


def recover(own: OwnStudy, plan: Plan, folder: SweepFolder) -> None:
    """Continue the trials that the killed sweep had taken, as their folders require.

    A trial that ended is recorded; one that had not started is taken again; an unfinished one is retried. If the only
    unfinished trial ended with its process `MOST_ENDS` times, it is considered the cause and recorded as failed, unless
    it wrote a state to continue from. A trial whose values were lost with a damaged journal is retried, too.
    """
    goes_on = any(folder.unfinished.glob("*.ckpt"))
    again = Summary(status=Status.INTERRUPTED, error="interrupted; its values are tried again")
    half_done: list[FrozenTrial] = []
    for trial in own.trials((TrialState.RUNNING,)):
        owner = own.owner(trial)
        if owner is None:  # its sweep was killed between taking and signing it
            own.tell(trial.number, again)
        elif owner == own.sweep_id:
            name = folder_name(trial)
            if set_damaged_files_aside(folder.trial(name)):
                own.tell(trial.number, again)
                continue
            result = folder.own_result(name, own.sweep_id)
            if result is not None and result["status"] != Status.INTERRUPTED and plan.has_values(trial):
                own.tell(trial.number, result)
            elif result is not None:
                own.tell(trial.number, again)
            elif folder.has_started(name):
                half_done.append(trial)
            else:
                plan.take_over(trial)
    for trial in half_done:
        if len(half_done) > 1 or goes_on:
            own.tell(trial.number, again)
        elif _num_process_deaths(own, trial) + 1 >= MOST_ENDS:
            error = f"its process was killed or ended, {MOST_ENDS} times"
            own.tell(trial.number, {"status": Status.FAILED, "error": error})
        else:
            own.tell(trial.number, {"status": Status.INTERRUPTED, "error": _PROCESS_DIED})


def _num_process_deaths(own: OwnStudy, trial: FrozenTrial) -> int:
    """Count the unfinished tries of this trial that ended with their process."""
    return sum(
        result_of(earlier).get("error") == _PROCESS_DIED
        and [earlier.user_attrs.get(key) for key in (POINT, REPEAT)]
        == [trial.user_attrs.get(key) for key in (POINT, REPEAT)]
        for earlier in own.trials((TrialState.FAIL,))
    )
