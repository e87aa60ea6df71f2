"""Find the checkpointed regions around a forward on the call stack, because torch has no function that names them."""

import sys
from types import FrameType
from typing import NamedTuple

from torch.autograd.function import FunctionCtx

from bnlab.internals.torch_internals import MODULE_OF_CHECKPOINTS, MODULE_OF_COMPILED_GRAPHS, MODULES_OF_BACKWARD

__all__ = ["Regions", "is_in_compiled_backward", "regions"]


class Regions(NamedTuple):
    """The checkpointed regions on the call stack; torch keeps each of these objects as long as its graph."""

    entered: list[object]  # regions that a later backward may recompute
    recomputed: object | None  # the region that is being recomputed


def regions() -> Regions:
    """Return the regions around the caller, innermost first, up to one that is being recomputed."""
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
            # Such a backward recomputes the region and then differentiates it, which may run any code.
            if is_function and name == "backward" and not (inner and module_of(inner) in MODULES_OF_BACKWARD):
                return Regions(entered, region)
            if is_function and name == "forward":
                entered.append(region)
        inner, frame = frame, frame.f_back
    return Regions(entered, None)


def is_in_compiled_backward() -> bool:
    """Whether the caller is an operator in a compiled backward, which the compiler copied from the forward."""
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
