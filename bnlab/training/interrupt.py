"""Lets Ctrl-C, SIGTERM or SIGHUP end a training between two steps, so that the saved state is one it was in."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from bnlab.process.signals import UserInterrupt, answer_by_raising, to_answer

__all__ = ["InterruptRequest", "Interrupted"]


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """The user asked the training to end."""


class InterruptRequest:
    """Within `with`, the first signal is a request, for the training to be looked at; a second one ends it at once.

    Attributes:
        is_requested: whether there was one.
    """

    is_requested = False

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            answer_by_raising()  # when this is over: from now on there is something to be saved
            for number in to_answer():
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise UserInterrupt
        self.is_requested = True

    def raise_if_requested(self) -> None:
        """
        Raises:
            Interrupted: there was one.
        """
        if self.is_requested:
            raise Interrupted
