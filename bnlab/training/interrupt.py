"""Let Ctrl-C, SIGTERM or SIGHUP end a training between two steps, so that a consistent state is saved."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from bnlab.process.signals import UserInterrupt, handled_signals, raise_on_signals

__all__ = ["InterruptRequest", "Interrupted"]


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """The user asked the training to end."""


class InterruptRequest:
    """Within `with`, the first signal is a request that the training polls; a second one ends it at once.

    Attributes:
        is_requested: whether a signal has arrived.
    """

    is_requested = False

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread handles signals
            raise_on_signals()  # afterwards, too: from now on there is something to save
            for number in handled_signals():
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
        """Raise if a signal has arrived.

        Raises:
            Interrupted: the user asked the training to end.
        """
        if self.is_requested:
            raise Interrupted
