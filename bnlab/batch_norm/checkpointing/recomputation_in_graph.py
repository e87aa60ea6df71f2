"""The functions of `recomputation.py` as operators, so that a graph of torch.compile asks at run time.

A graph can be recomputed in two ways. A checkpoint around compiled code runs the whole graph again, and then
`bnlab::is_recomputed` and `bnlab::as_at_first` find the same call stack as in eager mode. A checkpoint inside compiled
code runs nothing again: the compiler copies the parts of the forward that the backward needs. It does not need the
update of the statistics, and the values read from them are marked to be saved, never recomputed.

Only the operators are opaque to the compiler; the code that depends on their results is fused as before.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy

from bnlab.batch_norm.checkpointing.regions import is_in_compiled_backward, regions
from bnlab.internals.torch_internals import (
    checkpoint_dispatch_modes,
    graph_task,
    hooks_on_saved,
    is_traced,
    proxy_dispatch_mode,
    proxy_mode_getter,
)

__all__ = ["as_at_first", "is_tracing", "recomputing", "unknown"]

proxy_mode = proxy_mode_getter()

# A CUDA graph would replay the answer that it recorded.
TAGS = tuple(tag for tag in (getattr(torch.Tag, "cudagraph_unsafe", None),) if tag is not None)
KINDS = "CompositeExplicitAutograd"


def outside_regions() -> bool:
    return graph_task() == -1 and hooks_on_saved(True) is None


# ---- is this forward a recomputation? --------------------------------------------------------------------------------

torch.library.define("bnlab::is_recomputed", "(Tensor like) -> Tensor", tags=TAGS)


@torch.library.impl("bnlab::is_recomputed", KINDS)
def _(like: Tensor) -> Tensor:
    again = not outside_regions() and regions().recomputed is not None
    return torch.full((), again, dtype=torch.bool, device=like.device)


@torch.library.register_fake("bnlab::is_recomputed")
def _(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.bool)


@torch.library.register_vmap("bnlab::is_recomputed")
def _(info: Any, in_dims: tuple[int | None, ...], like: Tensor) -> tuple[Tensor, None]:
    return recomputing(like), None


def recomputing(like: Tensor) -> Tensor:
    """Whether the graph is being recomputed, as a bool scalar tensor on the device of `like`."""
    again: Tensor = torch.ops.bnlab.is_recomputed.default(like)
    return again


# ---- constants of the first forward ----------------------------------------------------------------------------------

torch.library.define("bnlab::as_at_first", "(Tensor seen, Tensor constants) -> Tensor", tags=TAGS)


class Recorded:
    """The values that graphs read from their layers' states in a region: per call, `seen` and the constants."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.graph_task = -1
        self.taken: set[int] = set()

    def again(self, seen: Tensor) -> Tensor | None:
        """Return the constants of the call that saw the same values; each call is returned once per backward.

        Calls of one layer keep their order, because each depends on the previous one. Calls of different layers may be
        reordered: a reentrant checkpoint first runs the graph without gradients, which differs from the one with them.
        """
        if graph_task() != self.graph_task:
            self.graph_task, self.taken = graph_task(), set()
        distances = {
            index: float((before - seen).abs().nan_to_num(0.0).max())
            for index, (before, _) in enumerate(self.calls)
            if index not in self.taken and before.shape == seen.shape and before.dtype == seen.dtype
        }
        if not distances:
            return None
        nearest = min(distances, key=distances.__getitem__)
        self.taken.add(nearest)
        return self.calls[nearest][1]


recorded: WeakKeyDictionary[object, Recorded] = WeakKeyDictionary()


@torch.library.impl("bnlab::as_at_first", KINDS)
def _(seen: Tensor, constants: Tensor) -> Tensor:
    if outside_regions() and torch.is_grad_enabled():
        return constants.clone()
    entered, recomputed = regions()
    if recomputed is not None:
        before = recorded.get(recomputed)
        again = None if before is None else before.again(seen)
        if again is None:
            raise unknown("compiled code")
        constants = again
    elif graph_task() != -1 and is_in_compiled_backward():
        raise RuntimeError(
            "The compiler computes again in backward what batch renormalization takes from its running statistics, "
            "which have moved: set `torch._functorch.config.activation_memory_budget` above 0, or run the layer in "
            "eager mode."
        )
    for region in entered:
        recorded.setdefault(region, Recorded()).calls.append((seen.clone(), constants.clone()))
    return constants.clone()


@torch.library.register_fake("bnlab::as_at_first")
def _(seen: Tensor, constants: Tensor) -> Tensor:
    return torch.empty_like(constants)


@torch.library.register_vmap("bnlab::as_at_first")
def _(info: Any, in_dims: tuple[int | None, ...], seen: Tensor, constants: Tensor) -> tuple[Tensor, int | None]:
    return torch.ops.bnlab.as_at_first.default(seen, constants), in_dims[1]


def as_at_first(seen: tuple[Tensor, ...], constants: Any) -> Any:
    """Return a tuple of constants, (*stack, C) each, as it was when the graph first ran."""
    kept = torch.ops.bnlab.as_at_first.default(torch.stack(seen), torch.stack(constants))
    return tuple(kept.unbind())


def unknown(name: str) -> RuntimeError:
    return RuntimeError(
        f"A checkpoint runs {name} again, which must use the constants of the first forward, but these are unknown: "
        "call it within `torch.utils.checkpoint.checkpoint`, both times compiled or both times not."
    )


# ---- rules for tracers -----------------------------------------------------------------------------------------------


def is_tracing() -> bool:
    """Whether operations are recorded as a graph, other than by TorchDynamo."""
    return is_traced() or proxy_mode() is not None


def unrecorded(mode: Any, operator: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """Keep selective checkpointing from saving or marking the answer, which differs in backward."""
    return operator(*args, **kwargs)


def marked_as_saved(mode: Any, operator: Any, types: Any, args: Any, kwargs: Any) -> Any:
    """Mark the result as selective checkpointing does, so that it is always saved, never recomputed in backward."""
    result = mode.__torch_dispatch__(operator, types, args, kwargs)
    next(iter(reversed(mode.tracer.graph.nodes))).meta["recompute"] = CheckpointPolicy.MUST_SAVE
    return result


for kind in checkpoint_dispatch_modes():
    for name in ("bnlab::is_recomputed", "bnlab::as_at_first"):
        torch.library.register_torch_dispatch(name, kind, unrecorded)
if (kind_of_proxies := proxy_dispatch_mode()) is not None:
    torch.library.register_torch_dispatch("bnlab::as_at_first", kind_of_proxies, marked_as_saved)
