"""The layers of a stacked MLP, forward and backward by hand: no graph is recorded, and large results are reused."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from bnlab.batch_norm import batch_norm
from bnlab.batch_norm.arithmetic import running
from bnlab.batch_norm.arithmetic.arguments import Settings
from bnlab.batch_norm.arithmetic.back_end import BackEnd, Saved
from bnlab.batch_norm.arithmetic.formulas import inverse_std
from bnlab.batch_norm.arithmetic.plain import are_in_memory
from bnlab.batch_norm.back_ends import in_place, kernel_by_pointers
from bnlab.batch_norm.back_ends.kernel_check import BACKWARD, FORWARD, Problem
from bnlab.stacked.compiled.c_functions import Kind
from bnlab.stacked.formulas.stack import Part

__all__ = ["BatchNorm", "Layer", "Linear", "NativeBatchNorm"]

aten = torch.ops.aten


class Layer(ABC):
    """A layer of K networks, whose parameters are a `Part` of their stack.

    `forward` and `evaluate` take x (K, N, C), or (N, C) that the networks share, and return y (K, N, C), which the next
    layer may overwrite. `backward` takes dL/dy of the newest forward, writes the gradients of the parameters to the
    stack, and returns dL/dx if `needs_x`.
    """

    @classmethod
    def takes(cls, module: nn.Module) -> bool:
        """Whether the settings of `module`, whose class is in the table, have a formula here."""
        return True

    @classmethod
    @abstractmethod
    def of(cls, modules: Sequence[nn.Module], part: Part) -> Self:
        """Make the layer of the K networks from one module per network."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def evaluate(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None: ...

    def kind_in_c(self) -> Kind | None:
        """The layer of step.c that does the same; None if there is none, as for subclasses."""
        return None

    def sync(self) -> None:  # noqa: B027  # most layers count nothing
        """Write what is counted once for all networks to their buffers."""


class Linear(Layer):
    """y = x W^T + b:  dL/dW = g^T x,  dL/db = sum(g),  dL/dx = g W.

    Args:
        weight, bias: (K, out, in) and (K, out) or None; views into the stack, which see every update.
        grad_weight, grad_bias: the tensors that their gradients are written to.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, grad_weight: Tensor, grad_bias: Tensor | None) -> None:
        self.weight, self.bias, self.grad_weight, self.grad_bias = weight, bias, grad_weight, grad_bias
        self._transposed = weight.mT
        self._bias = None if bias is None else bias.unsqueeze(1)  # (K, 1, out)
        self._results: dict[int, tuple[Tensor, Tensor]] = {}  # by N: an epoch has at most two batch sizes

    @classmethod
    def of(cls, modules: Sequence[nn.Module], part: Part) -> Self:
        parameters, gradients = part.parameters, part.gradients
        return cls(parameters["weight"], parameters.get("bias"), gradients["weight"], gradients.get("bias"))

    def kind_in_c(self) -> Kind | None:
        return Kind.LINEAR if type(self) is Linear else None

    def forward(self, x: Tensor) -> Tensor:
        num_samples = x.shape[-2]
        if num_samples not in self._results:
            K, num_out, num_in = self.weight.shape
            self._results[num_samples] = (
                self.weight.new_empty(K, num_samples, num_out),
                self.weight.new_empty(K, num_samples, num_in),
            )
        self._x = x if x.dim() == 3 else x.expand(len(self.weight), *x.shape)
        y = self._results[num_samples][0]
        if self._bias is None:
            return torch.bmm(self._x, self._transposed, out=y)
        return torch.baddbmm(self._bias, self._x, self._transposed, out=y)

    def evaluate(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, self._transposed)
        return y if self._bias is None else y.add_(self._bias)

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        torch.bmm(grad_y.mT, self._x, out=self.grad_weight)
        if self.grad_bias is not None:
            torch.sum(grad_y, 1, out=self.grad_bias)
        if not needs_x:
            return None
        return torch.bmm(grad_y, self.weight, out=self._results[grad_y.shape[1]][1])


class BatchNorm(Layer):
    """Batch norm by the formulas of `bnlab.batch_norm`, or by its kernel where that runs.

    Args:
        affine, grad_affine: (K, A, C), weight and bias, which are adjacent in a row (A is 2, 1 or 0).
        running_mean, running_var: (K, C), updated in place, or None.
        eps: (K,), float64.
        momentum: (K,), float64, or None to average all batches.
    """

    def __init__(
        self,
        affine: Tensor,
        grad_affine: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: Tensor,
        momentum: Tensor | None,
    ) -> None:
        # The kernel needs each parameter contiguous.
        self._affine = affine.transpose(0, 1)
        self._pieces = torch.empty_like(self._affine, memory_format=torch.contiguous_format)  # (A, K, C)
        self._weight, self._bias = [*self._pieces, None, None][:2]
        self._grad_affine = [*grad_affine.unbind(1)]
        self._in_place = [*self._affine, None, None][:2]  # contiguous for a single network
        self.bias = self._in_place[1]
        self._grad_in_place = [*self._grad_affine, None, None][:2]
        self.running_mean, self.running_var = running_mean, running_var
        self._running = running_mean, running_var
        self._eps, self.momentum = eps.to(affine), None if momentum is None else momentum.to(affine)
        self._numbers = eps.tolist(), None if momentum is None else momentum.tolist()
        self.num_batches = torch.zeros((), dtype=torch.int64)
        self._back_end: BackEnd | None = None
        self._for_backward: Saved = ()  # what the newest forward hands to its backward
        self._counts: Tensor | None = None  # shared: the networks train in lockstep

    @classmethod
    def takes(cls, module: nn.Module) -> bool:
        return not getattr(module, "frozen", False)

    @classmethod
    def of(cls, modules: Sequence[Any], part: Part) -> Self:
        first = modules[0]
        affine = len(part.parameters), first.num_features
        running_mean, running_var = (part.buffers.get(f"running_{statistic}") for statistic in ("mean", "var"))
        eps = torch.tensor([module.eps for module in modules], dtype=torch.float64)
        momentum = None
        if first.momentum is not None:
            momentum = torch.tensor([module.momentum for module in modules], dtype=torch.float64)
        layer = cls(
            part.rows.unflatten(1, affine),
            part.row_gradients.unflatten(1, affine),
            running_mean,
            running_var,
            eps,
            momentum,
        )
        layer._counts = part.buffers.get("num_batches_tracked")
        if layer._counts is not None:
            layer.num_batches.copy_(layer._counts[0])
        return layer

    def kind_in_c(self) -> Kind | None:
        is_served = type(self) is BatchNorm and self.momentum is not None and self._is_in_memory()
        return Kind.BATCH_NORM if is_served else None

    def sync(self) -> None:
        if self._counts is not None:
            self._counts.fill_(self.num_batches)

    def forward(self, x: Tensor) -> Tensor:
        self._pieces.copy_(self._affine)
        settings = Settings(*self._running, self.num_batches, self.momentum, self._eps, None, 1)
        if self._back_end is None:
            takes = kernel_by_pointers.takes(x, self._weight, self._bias, settings)
            self._back_end = kernel_by_pointers if takes else in_place
        y, self._for_backward, found = self._back_end.forward(x, self._weight, self._bias, settings)
        if found is not None:
            mean, var = found
            running.move(mean, var, settings, by_lerp=True)
        return y

    def evaluate(self, x: Tensor) -> Tensor:
        self._pieces.copy_(self._affine)
        no_statistics = self._running[0] is None
        return batch_norm(x, *self._running, self._weight, self._bias, no_statistics, 0.0, self._eps, stack_dims=1)

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        assert self._back_end is not None
        needs = needs_x, self._weight is not None, self._bias is not None
        found = self._back_end.backward(self._for_backward, grad_y, 1, needs)
        assert found is not None
        grad_x, *gradients = found
        for target, gradient in zip(self._grad_affine, gradients, strict=False):
            assert gradient is not None
            target.copy_(gradient)
        return grad_x

    def _is_in_memory(self) -> bool:
        """Whether C can read and write each network's parameters, gradients and statistics."""
        tensors = [tensor for tensor in (*self._in_place, *self._grad_in_place, *self._running) if tensor is not None]
        return are_in_memory(tensors, self._pieces.dtype) and all(tensor[0].is_contiguous() for tensor in tensors)

    def evaluation_scale(self, out: Tensor) -> None:
        """Write scale = gamma / sqrt(running_var + eps), (K, C), to `out`, for y = (x - running_mean) scale + beta."""
        assert self.running_var is not None
        scale = inverse_std(self.running_var, self._eps)
        out.copy_(scale if self._in_place[0] is None else scale * self._in_place[0])

    def problems(
        self, x: Tensor, y: Tensor, grad_y: Tensor, grad_x: Tensor, statistics: Tensor
    ) -> tuple[list[Problem], list[Problem], list[Problem]]:
        """Describe forward and backward of each network for the kernel; tensors are (K, N, C), statistics (2, K, C).

        The last list is backward again, with the gradients of all networks written to the first one's row.
        """
        eps, momenta = self._numbers
        assert momenta is not None
        _, num_samples, num_features = x.shape
        sizes = {"K": 1, "N": num_samples, "C": num_features, "L": 1, "threads": 1}  # per network
        forward: list[Problem] = []
        backward: list[Problem] = []
        sharing: list[Problem] = []
        for k in range(len(x)):
            weight, bias, grad_weight, grad_bias, running_mean, running_var = (
                None if tensor is None else tensor[k].data_ptr()
                for tensor in (*self._in_place, *self._grad_in_place, *self._running)
            )
            kept = {
                "x": x[k].data_ptr(),
                "weight": weight,
                "mean": statistics[0, k].data_ptr(),
                "inv_std": statistics[1, k].data_ptr(),
            }
            problem = Problem(
                direction=FORWARD,
                **kept,
                bias=bias,
                out=y[k].data_ptr(),
                running_mean=running_mean,
                running_var=running_var,
                num_batches_tracked=self.num_batches.data_ptr() if k == 0 else None,  # counted once for all
                eps_number=eps[k],
                momentum_number=momenta[k],
                **sizes,
            )
            forward.append(problem)
            gradients = {"grad_weight": grad_weight, "grad_bias": grad_bias}
            if k == 0:
                of_first = gradients
            results = {"grad_y": grad_y[k].data_ptr(), "out": grad_x[k].data_ptr()}
            for problems, place in ((backward, gradients), (sharing, of_first)):
                problems.append(Problem(direction=BACKWARD, **kept, **results, **place, **sizes))
        return forward, backward, sharing


class NativeBatchNorm(BatchNorm):
    """torch's own batch norm, network by network, which norm=torch chooses for comparison."""

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        self._pieces.copy_(self._affine)
        self.num_batches += 1
        y = torch.empty_like(x)
        self._saved = []
        for network, eps, momentum in self._each():
            x_k, weight, bias, running_mean, running_var, y_k = self._of(network, x, *self._running, y)
            result, *saved = torch.native_batch_norm(x_k, weight, bias, running_mean, running_var, True, momentum, eps)
            y_k.copy_(result)
            self._saved.append(saved)
        return y

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        grad_x = torch.empty_like(self._x)
        mask = needs_x, self._weight is not None, self._bias is not None
        for network, eps, _ in self._each():
            x, weight, _, running_mean, running_var, g = self._of(network, self._x, *self._running, grad_y)
            result, *gradients = aten.native_batch_norm_backward(
                g, x, weight, running_mean, running_var, *self._saved[network], True, eps, mask
            )
            if needs_x:
                grad_x[network].copy_(result)
            for target, gradient in zip(self._grad_affine, gradients, strict=False):
                target[network].copy_(gradient)
        return grad_x if needs_x else None

    def _each(self) -> Iterator[tuple[int, float, float]]:
        eps, momenta = self._numbers
        if momenta is None:
            momenta = [1.0 / max(int(self.num_batches), 1)] * len(eps)
        yield from zip(range(len(eps)), eps, momenta, strict=True)

    def _of(
        self, network: int, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, y: Tensor
    ) -> list[Any]:
        tensors = (x, self._weight, self._bias, running_mean, running_var, y)
        return [None if tensor is None else tensor[network] for tensor in tensors]
