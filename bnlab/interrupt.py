"""Ctrl-C ends a training between two steps, so that what is saved is a state the training was really in."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

__all__ = ["InterruptBetweenSteps", "Interrupted"]


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """The user asked the training to end."""


class InterruptBetweenSteps(L.Callback):
    """Within `with`, the first SIGINT raises `Interrupted` after the step in hand; a second one ends it at once."""

    def __init__(self) -> None:
        self._requested = False
        self._previous: Any = None

    def __enter__(self) -> "InterruptBetweenSteps":
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True

    def _raise_if_requested(self, *arguments: Any, **named: Any) -> None:
        if self._requested:
            raise Interrupted

    on_train_batch_end = _raise_if_requested
    on_validation_batch_end = _raise_if_requested
    on_test_batch_end = _raise_if_requested
