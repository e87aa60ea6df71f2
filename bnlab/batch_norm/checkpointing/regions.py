"""The checkpointed regions around a forward, which torch has no function to ask for: the call stack is asked."""

import sys
from types import FrameType
from typing import NamedTuple

from torch.autograd.function import FunctionCtx

from bnlab.internals.torch_internals import MODULE_OF_CHECKPOINTS, MODULE_OF_COMPILED_GRAPHS, MODULES_OF_BACKWARD

__all__ = ["Regions", "is_in_compiled_backward", "regions"]


class Regions(NamedTuple):
    """The checkpointed regions that the call stack is in; torch keeps each of these objects as long as its graph."""

    entered: list[object]  # those that a later backward may run again
    recomputed: object | None  # the one that is being run again


def regions() -> Regions:
    """The regions around the caller, from the inside out, up to one that is recomputed."""
    entered: list[object] = []
    inner: FrameType | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if name == "unpack_hook" and module_of(frame) == MODULE_OF_CHECKPOINTS:
            return Regions(entered, frame.f_locals.get("frame", object()))
        if name in ("checkpoint", "_checkpoint_impl") and module_of(frame) == MODULE_OF_CHECKPOINTS:
            generator = getattr(frame.f_locals.get("gen"), "gi_frame", None)
            region = None if generator is None else generator.f_locals.get("new_frame")
            if region is not None:
                entered.append(region)
        elif name in ("forward", "backward") and "checkpoint" in class_of(frame).lower():
            region = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
            is_function = isinstance(region, FunctionCtx)
            # Such a backward runs the region again, and then differentiates it, and that may run anything.
            if is_function and name == "backward" and not (inner and module_of(inner) in MODULES_OF_BACKWARD):
                return Regions(entered, region)
            if is_function and name == "forward":
                entered.append(region)
        inner, frame = frame, frame.f_back
    return Regions(entered, None)


def is_in_compiled_backward() -> bool:
    """Whether the caller is an operator in a compiled backward, copied there from the forward by the compiler."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if module_of(frame) == MODULE_OF_COMPILED_GRAPHS and frame.f_code.co_name in (
            "forward",
            "backward",
            "runtime_wrapper",
        ):
            return frame.f_code.co_name == "backward"
        frame = frame.f_back
    return False


def module_of(frame: FrameType) -> object:
    return frame.f_globals.get("__name__")


def class_of(frame: FrameType) -> str:
    return ".".join(frame.f_code.co_qualname.split(".")[-2:-1])
