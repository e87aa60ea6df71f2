"""Activation checkpointing as a layer sees it: is this forward the first one, or is a backward running it again?

A checkpointed region drops its activations and is run again in backward. The batch has been counted by then, and what
the first forward took from the running statistics cannot be taken again, because they have moved. torch has no function
that says which of the two a forward is, so the call stack is asked (`regions.py`): it is walked only inside a backward,
under hooks on saved tensors and without gradients, so an ordinary forward does not pay for it.

Recognized are `torch.utils.checkpoint`, reentrant or not, and every autograd Function with "checkpoint" in its name,
as DeepSpeed's, fairscale's and Megatron's have. Another forward inside a backward, such as one in a hook, is a first
one. Code from torch.compile asks the same when it runs, by the operators of `recomputation_in_graph.py`. What
`torch.jit.script` compiles is torch's own layer and counts again, as that does.
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
    """Whether a backward runs this forward again; in code that is being compiled, `answered` says so."""
    return (
        not (is_compiling() or (graph_task() == -1 and hooks_on_saved(True) is None))
        and regions().recomputed is not None
    )


def answered(recomputed: bool, like: Tensor) -> bool | Tensor:
    """The answer of `recomputing`; where a graph is recorded a bool tensor, as only the graph's run can tell.

    Args:
        like: on the device that the tensor is to be on.
    """
    if not recomputed and (is_compiling() or in_graph.is_tracing()):
        return in_graph.recomputing(like)
    return recomputed


def as_at_first(owner: object, seen: tuple[Tensor, ...], take: Callable[[], Constants]) -> Constants:
    """`take()` in a first forward; in a recomputation, what it returned at the same call of the first forward.

    Nothing is kept outside of checkpointed regions, and what is kept goes with the region's graph.

    Args:
        seen: what a recomputation finds again, by which in a graph one call is told from another.
    Raises:
        RuntimeError: if the first forward was not seen.
    """
    if is_compiling():
        return in_graph.as_at_first(seen, take())
    if graph_task() == -1 and hooks_on_saved(True) is None and is_grad_enabled():
        return take()
    entered, recomputed = regions()
    # Taken in any case: selective checkpointing counts operations, see `running.move`.
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
