"""`python -m bnlab.train [overrides]`: train one network; with -m, sweep.

The imports here are few, because they run before Ctrl-C can end the program in one line.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bnlab.engines.train import task

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["main"]


def main() -> None:
    from bnlab.process.signals import interruptible

    with interruptible(before_end=_leave_no_trace):
        from bnlab.errors import report_user_errors
        from bnlab.process.import_path import current_folder_last
        from bnlab.process.lost_reader import outlast_readers
        from bnlab.process.process_limit import report_process_limit, require_room
        from bnlab.stacked.processes.fork_server import early_fork_server
        from bnlab.text.concealing import hide_from_process_list, print_concealed

        sys.path[:] = current_folder_last()
        outlast_readers()
        sys.excepthook = print_concealed
        hide_from_process_list(sys.argv)
        with report_user_errors(), report_process_limit():
            require_room("bnlab")  # before NumPy, whose import starts threads
            with early_fork_server(sys.argv):
                _main()


def _leave_no_trace() -> None:
    start = sys.modules.get("bnlab.engines.start")
    if start is not None and hasattr(start, "remove_traces"):
        start.remove_traces()


def _main() -> None:
    import os
    import re
    from contextlib import nullcontext

    from bnlab.config.folder import config_folder
    from bnlab.errors import UserError
    from bnlab.hydra_plugins.known_mode import known_mode
    from bnlab.hydra_plugins.register import register
    from bnlab.hydra_plugins.showing import MULTIRUN, is_shown, showing_a_sweep, shows_something
    from bnlab.internals.hydra_internals import application, register_resolver, run_hydra
    from bnlab.mistakes.explaining import (
        origin_of,
        read_command_line,
        refuse_what_a_run_ignores,
        refuse_what_hydra_merges,
    )
    from bnlab.text.command_line import CONFIG_NAME, key_of

    # Two runs that start in the same second must not share a folder.
    register_resolver("unique", lambda: os.urandom(3).hex(), use_cache=True, replace=True)
    register()
    if (start := sys.modules.get("bnlab.engines.start")) is not None:  # left by an earlier command of this process
        start.forget()
    parser, arguments = read_command_line(sys.argv[1:])
    multirun = arguments.multirun or MULTIRUN in arguments.overrides
    with _errors_of_hydra(arguments, multirun):
        if "${" in os.getcwd():
            raise UserError(
                f"Hydra would resolve the ${{ in the path of the current folder, {os.getcwd()!r}: go to another, "
                "with hydra.run.dir= or hydra.sweep.dir=."
            )
        for line in arguments.overrides:
            # Hydra would resolve an escaped interpolation when it reads the folder's name again.
            if key_of(line) == "hydra.run.dir" and re.search(r"(?<!\\)\\(?:\\\\)*\$\{", line):
                raise UserError(f"A run's folder must not have ${{ in its path, which Hydra would resolve: {line!r}.")
        if arguments.experimental_rerun is not None:
            application(task, config_folder(), CONFIG_NAME)()
            return
        if arguments.help:
            arguments.overrides = [line for line in arguments.overrides if key_of(line) not in ("resume", "trust")]
            from bnlab.hydra_plugins.own_help import own_help

            with own_help(), showing_a_sweep(arguments) if is_shown(arguments) else nullcontext(arguments) as shown:
                run_hydra(shown, parser, task, config_folder(), CONFIG_NAME)
            return
        resumes = any(key_of(line) == "resume" for line in arguments.overrides)
        if resumes and shows_something(arguments):
            raise UserError("resume=FOLDER continues a run, whose settings are in its config.yaml: show that instead.")
        if is_shown(arguments):
            with showing_a_sweep(arguments) as shown:
                run_hydra(shown, parser, task, config_folder(), CONFIG_NAME)
            return
        refuse_what_hydra_merges(arguments.overrides, origin_of(arguments))
        if not multirun and not shows_something(arguments):
            refuse_what_a_run_ignores(arguments.overrides)
        if resumes:
            _resume(arguments, multirun)
            return
        if multirun:
            from bnlab.search.definition.left_out import add_missing_choices

            arguments.overrides = add_missing_choices(arguments.overrides, origin_of(arguments))
        with known_mode(arguments):
            run_hydra(arguments, parser, task, config_folder(), CONFIG_NAME)


def _resume(arguments: "Namespace", multirun: bool) -> None:
    from bnlab.engines.resuming import resume_as_told
    from bnlab.errors import UserError
    from bnlab.mistakes.explaining import origin_of
    from bnlab.process.signals import EXIT_INTERRUPTED
    from bnlab.status import Status

    if multirun:
        raise UserError("resume=FOLDER continues one run: leave -m out. search.resume=FOLDER resumes a sweep.")
    if origin_of(arguments).flags():
        raise UserError(f"resume=FOLDER takes its configs from the run: leave {origin_of(arguments).flags()[0]} out.")
    if resume_as_told(arguments.overrides)["status"] == Status.INTERRUPTED:
        raise SystemExit(EXIT_INTERRUPTED)


@contextmanager
def _errors_of_hydra(arguments: "Namespace", multirun: bool) -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf, which are mistakes in the overrides or configs, into a `UserError`.

    The error says what was probably meant. A folder that cannot be written is a `UserError`, too. Hydra itself would
    print an error over several lines and exit with 1, unless HYDRA_FULL_ERROR makes it raise the error.
    """
    import errno
    import os
    import re
    import traceback

    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bnlab.errors import Refused, UserError, one_line
    from bnlab.mistakes.explaining import explain, origin_of
    from bnlab.process.shared_process import leave_removed_folder

    def explained(error: BaseException) -> str:
        told = explain(arguments.overrides, origin_of(arguments), multirun=multirun)
        # Hydra's advice to add an unknown key is removed.
        return re.sub(r"\. To append to your config use .*", ".", one_line(error)) if told is None else told

    asked_for = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    except Refused as refused:
        raise refused.error from None
    except (HydraException, OmegaConfBaseException) as error:
        told = explained(error)
        if told.startswith("Sweeping over Hydra's configuration"):
            told += ": run one sweep for each value, or quote a value that has a comma in it."
        raise UserError(told) from error
    except UserError as error:
        if isinstance(error.__cause__, HydraException | OmegaConfBaseException):
            raise UserError(explained(error)) from error
        raise
    except OSError as error:
        if any(frame.f_code is task.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise  # the training raised it, not the creation of the folder
        if leave_removed_folder():
            raise UserError("The current folder was removed: change to another, and run the command again.") from error
        kind = "sweep" if multirun else "run"
        way_out = f"choose another with hydra.{kind}.dir=."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            way_out = "free some space, and run the command again."
        raise UserError(f"A {kind}'s folder cannot be written ({error}): {way_out}") from error
    except ValueError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].partition(".")[0] != "hydra":
            raise
        raise UserError(explained(error)) from error  # raised for example by `norm=1`, whose value names no config
    finally:
        if asked_for is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = asked_for


if __name__ == "__main__":
    from bnlab.train import main as main_of_the_module  # not from __main__, which another process could not import

    try:
        main_of_the_module()
    finally:
        from bnlab.process.signals import exit_silently

        exit_silently()
