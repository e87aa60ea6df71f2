"""Ctrl-C, SIGTERM or SIGHUP ends a training between two steps, so that what is saved is a state it was really in."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from bnlab.signals import REQUESTS, UserInterrupt, is_for_us

__all__ = ["InterruptBetweenSteps", "Interrupted"]


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """The user asked the training to end."""


class InterruptBetweenSteps(L.Callback):
    """Within `with`, the first signal raises `Interrupted` after the step in hand; a second one ends it at once.

    Attributes:
        is_requested: whether there was one.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "InterruptBetweenSteps":
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in filter(is_for_us, REQUESTS):
                self._previous[number] = signal.signal(number, self._request)
            self._terminate = signal.getsignal(signal.SIGTERM)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise UserInterrupt
        self.is_requested = True

    def _raise_if_requested(self, *arguments: Any, **named: Any) -> None:
        if self.is_requested:
            raise Interrupted

    on_train_batch_end = _raise_if_requested
    on_validation_batch_end = _raise_if_requested
    on_test_batch_end = _raise_if_requested

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning puts a handler of its own before ours for SIGTERM, which a worker leaves to its parent."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    on_test_start = on_fit_start
