"""Ctrl-C, SIGTERM and SIGHUP: all three ask a command to save its state and end."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from bnlab.process.torch_import import exit_if_interrupted

__all__ = [
    "ASK_TO_END",
    "EXIT_INTERRUPTED",
    "REQUESTS",
    "UserInterrupt",
    "answering_parent",
    "exit_silently",
    "handled_signals",
    "interruptible",
    "is_handled_here",
    "is_interrupt",
    "leave_to_parent",
    "raise_interrupt",
    "raise_on_signals",
]

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ASK_TO_END = signal.SIGUSR2  # sent by a process to its workers, since REQUESTS may have reached the whole group
EXIT_INTERRUPTED = 130  # the shell's code for SIGINT, used for all three

INTERRUPTED = "Interrupted."

_MOMENT_S = 0.01


class UserInterrupt(KeyboardInterrupt):
    """Raised on one of the signals; any code may raise a plain KeyboardInterrupt."""


def is_interrupt(error: BaseException | None) -> bool:
    """Whether `error` is a `UserInterrupt`, or was raised while one was handled, as by a library's failing clean-up."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if isinstance(error, UserInterrupt):
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            waiting += [error.__cause__, error.__context__]
    return False


@contextmanager
def interruptible(before_end: Callable[[], None] | None = None) -> Iterator[None]:
    """Let each of the signals raise `UserInterrupt` in the main thread, and end the program with 130.

    An ignored signal, such as SIGHUP under nohup, stays ignored.

    Args:
        before_end: if given, a signal calls it and ends the process at once, until `raise_on_signals` is called. This
            is for the start of a program, where an exception during an import may have any effect, or none.
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach no other thread
        yield
        return
    previous = {number: signal.getsignal(number) for number in REQUESTS}
    try:
        for number in REQUESTS:
            if is_handled_here(number):
                signal.signal(number, raise_interrupt if before_end is None else _Ending(before_end))
        with _asked_again():
            yield
    except SystemExit as stop:
        if isinstance(stop.code, int):
            exit_if_interrupted(stop.code)
        raise
    except (Exception, UserInterrupt) as error:
        if not is_interrupt(error):
            raise
        print(INTERRUPTED, file=sys.stderr)
        exit_if_interrupted(EXIT_INTERRUPTED)
        raise SystemExit(EXIT_INTERRUPTED) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def raise_on_signals() -> None:
    """Let each of the signals raise from now on, within `interruptible`: there is now something to save."""
    if threading.current_thread() is threading.main_thread():
        for number in REQUESTS:
            if isinstance(signal.getsignal(number), _Ending):
                signal.signal(number, raise_interrupt)


class _Ending:
    """A handler that prints one line and ends the process; it calls nothing that the interrupted code may be using."""

    def __init__(self, before_end: Callable[[], None]) -> None:
        self._before_end = before_end

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        with suppress(Exception):
            self._before_end()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        with suppress(OSError):
            os.write(2, f"{INTERRUPTED}\n".encode())
        os._exit(EXIT_INTERRUPTED)


def exit_silently() -> None:
    """Let Ctrl-C end the process silently from now on: everything is written, and Python would print a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_handled_here(number: signal.Signals) -> bool:
    """Whether this process answers the signal: it is neither ignored nor left to the parent."""
    return signal.getsignal(number) not in (signal.SIG_IGN, _leave)


def leave_to_parent() -> None:
    """Let a worker ignore signals sent to the whole process group, which its parent answers.

    A process that the worker forks answers signals as usual.
    """
    for number in REQUESTS:
        signal.signal(number, _leave)
    _answer_in_forks()


@contextmanager
def answering_parent() -> Iterator[None]:
    """Let the parent's `ASK_TO_END` raise `UserInterrupt` in a worker; outside of the block it is ignored."""
    signal.signal(ASK_TO_END, raise_interrupt)
    try:
        with _asked_again():
            yield
    finally:
        signal.signal(ASK_TO_END, signal.SIG_IGN)


def handled_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end and that it answers."""
    from_parent = [ASK_TO_END] if signal.getsignal(ASK_TO_END) is raise_interrupt else []
    return [*filter(is_handled_here, REQUESTS), *from_parent]


@functools.cache
def _answer_in_forks() -> None:
    os.register_at_fork(after_in_child=_answer_again)


def _answer_again() -> None:
    for number in REQUESTS:
        if signal.getsignal(number) is _leave:
            signal.signal(number, signal.SIG_DFL)


def raise_interrupt(signum: int, frame: FrameType | None) -> None:
    raise UserInterrupt(signal.Signals(signum).name)


@contextmanager
def _asked_again() -> Iterator[None]:
    """Within, ask again where Python swallowed a `UserInterrupt`, as it does in a `__del__` or a weakref's callback."""
    before = sys.unraisablehook

    def ask_again(swallowed: "sys.UnraisableHookArgs") -> None:
        if not isinstance(swallowed.exc_value, UserInterrupt):
            before(swallowed)
            return
        # By another thread, a moment after this function: raised in it, the request would be swallowed again.
        has_returned = threading.Event()
        number = signal.Signals[str(swallowed.exc_value)]
        threading.Thread(target=_send_again, args=(number, has_returned), daemon=True).start()
        has_returned.set()

    sys.unraisablehook = ask_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _send_again(number: signal.Signals, has_returned: threading.Event) -> None:
    has_returned.wait()
    time.sleep(_MOMENT_S)
    if signal.getsignal(number) is raise_interrupt:  # and nothing has ended meanwhile
        os.kill(os.getpid(), number)


def _leave(signum: int, frame: FrameType | None) -> None:
    pass
