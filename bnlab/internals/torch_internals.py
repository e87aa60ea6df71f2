"""Look up all private names of torch; the substitute for a missing one may be slower, but is never wrong.

The substitutes are conservative. If torch cannot say which transforms are active, batch norm uses the Functions that
serve every case. If torch cannot say what a tensor is, no pointer is taken from it.
"""

import ctypes
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

from bnlab.internals.private_name import private_name

__all__ = [
    "CONVOLUTIONS",
    "MODULES_CALL_IMPL",
    "MODULES_OF_BACKWARD",
    "MODULE_OF_CHECKPOINTS",
    "MODULE_OF_COMPILED_GRAPHS",
    "NORMS",
    "BatchNormBase",
    "c_tensor",
    "c_tensor_is_reliable",
    "checkpoint_dispatch_modes",
    "efficient_zeros",
    "empty_strided",
    "fast_apply",
    "fused_adam",
    "fused_adamw",
    "fused_sgd",
    "graph_task",
    "has_forward_hooks",
    "has_storage",
    "hooks_on_saved",
    "is_batched",
    "is_eager",
    "is_traced",
    "is_zero_tensor",
    "log_softmax_backward",
    "mark_as_stepped",
    "negated_view",
    "parts_of_schedule",
    "proxy_dispatch_mode",
    "proxy_mode_getter",
    "public_empty_strided",
    "requires_plain_operations",
    "skip_compiler_import",
    "untraced",
]


def always(*_: Any) -> bool:
    return True


# ---- transforms that are active around an operation ------------------------------------------------------------------

is_compiling = torch.compiler.is_compiling
transforms_active = private_name("torch:_C._are_functorch_transforms_active", always)
dispatch_modes = private_name("torch:_C._len_torch_dispatch_stack", always)
tracing_state = private_name("torch:_C._get_tracing_state", None)
set_tracing_state = private_name("torch:_C._set_tracing_state", None)
interpreter_stack = private_name("torch:_C._functorch.get_interpreter_stack", None)
transform_types = private_name("torch:_C._functorch.TransformType", None)


def _is_eager() -> bool:
    """Whether operations run at once on real tensors: no compiler, no functorch, no forward mode, no tracing."""
    return not (
        is_compiling()
        or transforms_active()
        or forward_ad._current_level >= 0
        or dispatch_modes()
        or tracing_state() is not None
    )


def _assume_not_eager() -> bool:
    return False


_knows = tracing_state is not None and private_name("torch.autograd.forward_ad:_current_level", None) is not None
is_eager = _is_eager if _knows else _assume_not_eager


def is_traced() -> bool:
    """Whether `torch.jit.trace` is active."""
    return torch.jit.is_tracing() if tracing_state is None else tracing_state() is not None


@contextmanager
def untraced() -> Iterator[None]:
    """Suspend `torch.jit.trace`, which would warn that its graph omits the checks in this block."""
    if tracing_state is None or set_tracing_state is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            yield
        return
    state = tracing_state()
    set_tracing_state(None)
    try:
        yield
    finally:
        set_tracing_state(state)


def requires_plain_operations() -> bool:
    """Whether a transform of functorch is active that a Function cannot pass, so that plain operations must be used.

    In nested forward-mode derivatives torch silently takes a Function's tangent for 0 (pytorch#197867), and
    `functionalize` refuses a Function.
    """
    if interpreter_stack is None or transform_types is None:
        return True
    keys = [level.key() for level in interpreter_stack() or []]
    return keys.count(transform_types.Jvp) > 1 or transform_types.Functionalize in keys


# ---- in a backward, and in activation checkpointing ------------------------------------------------------------------

is_batched = private_name("torch:_C._functorch.is_legacy_batchedtensor", always)  # gradients: `is_grads_batched=True`

# Without these two, every forward walks the call stack.
graph_task: Callable[[], int] = private_name("torch:_C._current_graph_task_id", lambda: 0)
hooks_on_saved = private_name("torch:_C._autograd._top_saved_tensors_default_hooks", always)


# Functions of these are on the call stack when a region runs, when it is recomputed, and when a graph runs.
MODULE_OF_CHECKPOINTS = "torch.utils.checkpoint"
MODULE_OF_COMPILED_GRAPHS = "torch._functorch._aot_autograd.runtime_wrappers"
MODULES_OF_BACKWARD = {"torch.autograd", "torch._tensor"}


def fast_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return `function.apply` without its search for functorch's wrappers, of which there are none if `is_eager()`."""
    if private_name("torch:_C._FunctionBase.apply", None) is None:
        return function.apply
    applied: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return applied


def proxy_mode_getter() -> Callable[[], Any]:
    """Return a function that gives the active mode that records a graph of proxies, or None."""
    found: Callable[[], Any] = private_name("torch.fx.experimental.proxy_tensor:get_proxy_mode", always)
    return found


def proxy_dispatch_mode() -> type | None:
    """Return the class of the mode that records a graph of proxies."""
    found: type | None = private_name("torch.fx.experimental.proxy_tensor:ProxyTorchDispatchMode", None)
    return found


def checkpoint_dispatch_modes() -> list[type]:
    """Return the classes of the modes by which selective checkpointing counts operations."""
    found = [
        private_name("torch.utils.checkpoint:_CachingTorchDispatchMode", None),
        private_name("torch.utils.checkpoint:_CachedTorchDispatchMode", None),
    ]
    return [mode for mode in found if mode is not None]


# ---- what a tensor is ------------------------------------------------------------------------------------------------


def _has_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return True


is_zero_tensor = private_name("torch:Tensor._is_zerotensor", always)
has_storage = private_name("torch:_C._has_storage", _has_storage)
negated_view: Callable[..., Tensor] | None = private_name("torch:_neg_view", None)
efficient_zeros: Callable[..., Tensor] | None = private_name("torch:_efficientzerotensor", None)


def public_empty_strided(size: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, strides, dtype=dtype, device="cpu")


# The allocation that Inductor's code uses skips argument parsing and the dispatcher, which cost as much as the rest.
empty_strided: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = private_name(
    "torch:_C._dynamo.guards._empty_strided_cpu", public_empty_strided
)

c_tensor: Callable[[Tensor], int] = attrgetter("_cdata")  # the address of the C++ tensor; see `c_tensor_is_reliable`


def c_tensor_is_reliable(tensor: Tensor) -> bool:
    """Check on a tensor that torch makes for the purpose that `c_tensor` returns the address of the C++ tensor."""
    allocate = private_name("torch:_C._aoti.unsafe_alloc_void_ptr_from_tensor", None)
    free = private_name("torch:_C._aoti.alloc_tensor_by_stealing_from_void_ptr", None)
    if allocate is None or free is None or private_name("torch:Tensor._cdata", None) is None:
        return False
    made = allocate(tensor)
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    pointer = get(("PyCapsule_GetPointer", ctypes.pythonapi))
    found = ctypes.c_void_p.from_address(pointer(made, None)).value
    free(made)
    return found == c_tensor(tensor)


# ---- modules ---------------------------------------------------------------------------------------------------------

Classes: TypeAlias = type[nn.Module] | tuple[type[nn.Module], ...]

_BATCH_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
)
_INSTANCE_NORMS = (
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
)
_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
else:  # for isinstance and annotations
    BatchNormBase = private_name("torch.nn.modules.batchnorm:_BatchNorm", _BATCH_NORMS)
NORMS: Classes = private_name("torch.nn.modules.batchnorm:_NormBase", (*_BATCH_NORMS, *_INSTANCE_NORMS))
CONVOLUTIONS: Classes = private_name("torch.nn.modules.conv:_ConvNd", _CONVOLUTIONS)


# Whether `nn.Module.__call__` still does what it did when its body was copied into `BatchNorm1d.__call__`.
MODULES_CALL_IMPL = not any(
    private_name(f"torch.nn:Module.{name}", always) is always for name in ("_call_impl", "_compiled_call_impl")
)


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether any hook that a forward calls is registered; attributes are matched by name, to include new kinds."""
    found = [hooks for name, hooks in vars(module).items() if "_forward_" in name and "hooks" in name]
    return not found or any(found)


# ---- optimizers and schedules ----------------------------------------------------------------------------------------


def _log_softmax_backward(gradient: Tensor, log_p: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return (gradient - log_p.exp() * gradient.sum(dim, keepdim=True)).to(dtype)


log_softmax_backward: Callable[[Tensor, Tensor, int, torch.dtype], Tensor] = private_name(
    "torch:ops.aten._log_softmax_backward_data", _log_softmax_backward
)
fused_sgd: Callable[..., None] | None = private_name("torch:_fused_sgd_", None)
fused_adam: Callable[..., None] | None = private_name("torch:_fused_adam_", None)
fused_adamw: Callable[..., None] | None = private_name("torch:_fused_adamw_", None)


def parts_of_schedule(scheduler: LRScheduler) -> list[LRScheduler] | None:
    """Return the schedules in a sequence or a chain, an empty list for any other schedule, or None if unknown."""
    if not isinstance(scheduler, SequentialLR | ChainedScheduler):
        return []
    parts = getattr(scheduler, "_schedulers", None)
    return None if parts is None else list(parts)


def mark_as_stepped(optimizer: Optimizer) -> None:
    """Mark the optimizer as stepped; otherwise schedules warn that no step was taken."""
    optimizer._opt_called = True  # type: ignore[attr-defined]


def skip_compiler_import() -> None:
    """Keep an optimizer from importing torch's compiler, which is slow, only to mark itself as not compiled."""
    for name in dir(Optimizer):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner  # where torch caches the answer
