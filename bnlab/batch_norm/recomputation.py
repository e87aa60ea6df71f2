"""Activation checkpointing as a layer sees it: is this forward the first one, or is a backward running it again?

A checkpointed region drops its activations and is run again in backward. The batch has been counted by then, and what
the first forward took from the running statistics cannot be taken again, because they have moved. torch has no function
that says which of the two a forward is, so the call stack is asked: it is walked only inside a backward, under hooks on
saved tensors and without gradients, so an ordinary forward does not pay for it.

Recognized are `torch.utils.checkpoint`, reentrant or not, and every autograd Function with "checkpoint" in its name,
as DeepSpeed's, fairscale's and Megatron's have. Another forward inside a backward, such as one in a hook, is a first
one. In code from torch.compile every forward is a first one, so a compiled layer in a checkpoint counts twice, as
torch's own does, and a checkpoint in compiled code computes batch renormalization's r and d again.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

__all__ = ["as_at_first", "recomputing"]


@torch.library.custom_op("bnlab::kept_for_backward", mutates_args=())
def kept_for_backward(values: Tensor) -> Tensor:
    """A copy that a compiler keeps, as it does not know how to compute it again from statistics that have moved."""
    return values.clone()


@kept_for_backward.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


Constants = TypeVar("Constants", bound=tuple[Tensor, ...])

is_compiling = torch.compiler.is_compiling
is_grad_enabled = torch.is_grad_enabled
# Without them every forward looks at the call stack.
graph_task: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: 0)
hooks_on_saved = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)

MODULE = "torch.utils.checkpoint"
DIFFERENTIATING = {"torch.autograd", "torch._tensor"}


class Regions(NamedTuple):
    """The checkpointed regions that the call stack is in; torch keeps each of these objects as long as its graph."""

    entered: list[object]  # those that a later backward may run again
    recomputed: object | None  # the one that is being run again


class Recorded:
    """What a layer took from its state at each of its calls in a region, in order."""

    def __init__(self) -> None:
        self.constants: list[tuple[Tensor, ...]] = []
        self.graph_task = -1
        self.next = 0

    def again(self) -> tuple[Tensor, ...] | None:
        """A recomputation makes the same calls in the same order, and each backward runs a region again once."""
        if graph_task() != self.graph_task:
            self.graph_task, self.next = graph_task(), 0
        index, self.next = self.next, self.next + 1
        return self.constants[index] if index < len(self.constants) else None


recorded: WeakKeyDictionary[object, WeakKeyDictionary[object, Recorded]] = WeakKeyDictionary()


def recomputing() -> bool:
    """Whether a backward runs this forward again."""
    return (
        not (is_compiling() or (graph_task() == -1 and hooks_on_saved(True) is None))
        and regions().recomputed is not None
    )


def as_at_first(owner: object, take: Callable[[], Constants]) -> Constants:
    """`take()` in a first forward; in a recomputation, what it returned at the same call of the first forward.

    Nothing is kept outside of checkpointed regions, and what is kept goes with the region's graph.

    Raises:
        RuntimeError: if the first forward was not seen.
    """
    if is_compiling():
        return tuple(kept_for_backward(values) for values in take())  # type: ignore[return-value]
    if graph_task() == -1 and hooks_on_saved(True) is None and is_grad_enabled():
        return take()
    entered, recomputed = regions()
    # Taken in any case: selective checkpointing counts operations, see `formulas.move`.
    constants = take()
    if recomputed is not None:
        seen = recorded[recomputed].get(owner) if recomputed in recorded else None
        again = None if seen is None else seen.again()
        if again is None:
            raise RuntimeError(
                f"A checkpoint runs {type(owner).__name__} again, which must use the constants of the first forward, "
                "but these are unknown: call it within `torch.utils.checkpoint.checkpoint`."
            )
        constants = again  # type: ignore[assignment]
    for region in entered:
        recorded.setdefault(region, WeakKeyDictionary()).setdefault(owner, Recorded()).constants.append(constants)
    return constants


def regions() -> Regions:
    """The regions around the caller, from the inside out, up to one that is recomputed."""
    entered: list[object] = []
    inner: FrameType | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if name == "unpack_hook" and module_of(frame) == MODULE:
            return Regions(entered, frame.f_locals.get("frame", object()))
        if name in ("checkpoint", "_checkpoint_impl") and module_of(frame) == MODULE:
            generator = getattr(frame.f_locals.get("gen"), "gi_frame", None)
            region = None if generator is None else generator.f_locals.get("new_frame")
            if region is not None:
                entered.append(region)
        elif name in ("forward", "backward") and "checkpoint" in class_of(frame).lower():
            region = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
            is_function = isinstance(region, FunctionCtx)
            # Such a backward runs the region again, and then differentiates it, and that may run anything.
            if is_function and name == "backward" and not (inner and module_of(inner) in DIFFERENTIATING):
                return Regions(entered, region)
            if is_function and name == "forward":
                entered.append(region)
        inner, frame = frame, frame.f_back
    return Regions(entered, None)


def module_of(frame: FrameType) -> object:
    return frame.f_globals.get("__name__")


def class_of(frame: FrameType) -> str:
    return ".".join(frame.f_code.co_qualname.split(".")[-2:-1])
