"""Tell a layer under activation checkpointing whether its forward is the first one or a recomputation in backward.

A checkpointed region drops its activations and is recomputed in backward. By then the batch has been counted, and the
running statistics that the first forward read have changed. torch has no function that tells the two forwards apart, so
the call stack is inspected (`regions.py`), but only inside a backward, under hooks on saved tensors or without
gradients: an ordinary forward does not pay for it.

This recognizes `torch.utils.checkpoint`, reentrant or not, and every autograd Function with "checkpoint" in its name,
such as those of DeepSpeed, fairscale and Megatron. Any other forward inside a backward, such as one in a hook, is a
first one. Code from torch.compile asks at run time, by the operators of `recomputation_in_graph.py`. `torch.jit.script`
compiles torch's own layer, which counts a recomputed batch again.
"""

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bnlab.batch_norm.checkpointing import recomputation_in_graph as in_graph
from bnlab.batch_norm.checkpointing.regions import regions
from bnlab.internals.torch_internals import graph_task, hooks_on_saved

__all__ = ["as_at_first", "recomputing"]

Constants = TypeVar("Constants", bound=tuple[Tensor, ...])

is_compiling = torch.compiler.is_compiling
is_grad_enabled = torch.is_grad_enabled


class Recorded:
    """The values that a layer read from its state at each of its calls in a region, in order."""

    def __init__(self) -> None:
        self.constants: list[tuple[Tensor, ...]] = []
        self.graph_task = -1
        self.next = 0

    def again(self) -> tuple[Tensor, ...] | None:
        """Return the values of the next call: each backward repeats the calls of a region once, in the same order."""
        if graph_task() != self.graph_task:
            self.graph_task, self.next = graph_task(), 0
        index, self.next = self.next, self.next + 1
        return self.constants[index] if index < len(self.constants) else None


recorded: WeakKeyDictionary[object, WeakKeyDictionary[object, Recorded]] = WeakKeyDictionary()


def recomputing() -> bool:
    """Whether a backward is recomputing this forward; code that is being compiled asks `answered` instead."""
    return (
        not (is_compiling() or (graph_task() == -1 and hooks_on_saved(True) is None))
        and regions().recomputed is not None
    )


def answered(recomputed: bool, like: Tensor) -> bool | Tensor:
    """Return the answer of `recomputing`, as a bool tensor if a graph is recorded, since only its run can tell.

    Args:
        like: a tensor on the device that the result must be on.
    """
    if not recomputed and (is_compiling() or in_graph.is_tracing()):
        return in_graph.recomputing(like)
    return recomputed


def as_at_first(owner: object, seen: tuple[Tensor, ...], take: Callable[[], Constants]) -> Constants:
    """Return `take()` in a first forward; in a recomputation, what it returned at the same call of the first forward.

    Values are kept only in checkpointed regions, and are freed with the region's graph.

    Args:
        seen: values that are the same in a recomputation; a graph identifies the call by them.
    Raises:
        RuntimeError: if there is no record of the first forward.
    """
    if is_compiling():
        return in_graph.as_at_first(seen, take())
    if graph_task() == -1 and hooks_on_saved(True) is None and is_grad_enabled():
        return take()
    entered, recomputed = regions()
    # `take` is always called, because selective checkpointing counts operations; see `running.move`.
    constants = take()
    if recomputed is not None:
        of_owners = recorded.get(recomputed)
        of_owner = None if of_owners is None else of_owners.get(owner)
        again = None if of_owner is None else of_owner.again()
        if again is None:
            raise in_graph.unknown(type(owner).__name__)
        constants = again  # type: ignore[assignment]
    elif in_graph.is_tracing():
        constants = in_graph.as_at_first(seen, constants)
    for region in entered:
        recorded.setdefault(region, WeakKeyDictionary()).setdefault(owner, Recorded()).constants.append(constants)
    return constants
