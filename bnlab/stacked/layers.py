"""The layers of a stacked MLP, forward and backward by hand: no graph is recorded, and large results are reused.

Each layer takes (K, N, C) of K networks, or (N, C) that they share, in `forward`; `backward` takes dL/dy of the newest
forward, writes the gradients of its parameters to where they belong, and returns dL/dx.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bnlab.batch_norm import batch_norm, in_place, kernel
from bnlab.batch_norm.eager import kernel_takes
from bnlab.batch_norm.formulas import inverse_std
from bnlab.batch_norm.kernel_check import Problem
from bnlab.batch_norm.plain import are_in_memory

__all__ = ["ACTIVATIONS", "Activation", "BatchNorm", "Layer", "Linear", "NativeBatchNorm"]

aten = torch.ops.aten


class Layer(Protocol):
    def forward(self, x: Tensor) -> Tensor: ...

    def evaluate(self, x: Tensor) -> Tensor: ...

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None: ...


class Linear:
    """y = x W^T + b:  dL/dW = g^T x,  dL/db = sum(g),  dL/dx = g W.

    Args:
        weight, bias: (K, out, in) and (K, out) or None; views that see every update.
        grad_weight, grad_bias: where their gradients go.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, grad_weight: Tensor, grad_bias: Tensor | None) -> None:
        self.weight, self.bias, self.grad_weight, self.grad_bias = weight, bias, grad_weight, grad_bias
        self._transposed = weight.mT
        self._bias = None if bias is None else bias.unsqueeze(1)  # (K, 1, out)
        self._results: dict[int, tuple[Tensor, Tensor]] = {}  # by N: an epoch has at most two sizes of batch

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


class BatchNorm:
    """Batch norm by the formulas of `bnlab.batch_norm`, by its kernel where that runs.

    Args:
        affine, grad_affine: (K, A, C), weight and bias as they lie side by side in a row (A is 2, 1 or 0).
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
        # The kernel wants each parameter in one piece.
        self._affine = affine.transpose(0, 1)
        self._pieces = torch.empty_like(self._affine, memory_format=torch.contiguous_format)  # (A, K, C)
        self._weight, self._bias = [*self._pieces, None, None][:2]
        self._grad_affine = [*grad_affine.unbind(1)]
        self._in_place = [*self._affine, None, None][:2]  # of one network each is in one piece
        self.bias = self._in_place[1]
        self._grad_in_place = [*self._grad_affine, None, None][:2]
        self.running_mean, self.running_var = running_mean, running_var
        self._running = running_mean, running_var
        self._eps, self.momentum = eps.to(affine), None if momentum is None else momentum.to(affine)
        self._numbers = eps.tolist(), None if momentum is None else momentum.tolist()
        self.num_batches = torch.zeros((), dtype=torch.int64)
        self._by_kernel: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        self._pieces.copy_(self._affine)
        if self._by_kernel is None:
            self._by_kernel = kernel_takes(x, *self._running, self._weight, self._bias, self._eps, 1)
        settings = (*self._running, self.num_batches, self.momentum, self._eps, None, 1)
        if self._by_kernel:
            y, self._statistics = kernel.forward(x, self._weight, self._bias, settings)
            return y
        y, self._mean, mean, var, self._inv_std = in_place.normalize(x, self._weight, self._bias, self._eps, 1)
        in_place.update_running_statistics(x, mean, var, *self._running, self.num_batches, self.momentum, 1)
        return y

    def evaluate(self, x: Tensor) -> Tensor:
        self._pieces.copy_(self._affine)
        no_statistics = self._running[0] is None
        return batch_norm(x, *self._running, self._weight, self._bias, no_statistics, 0.0, self._eps, stack_dims=1)

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        if self._by_kernel:
            needs = needs_x, self._weight is not None, self._bias is not None
            grad_x, *gradients = kernel.backward(self._x, grad_y, self._weight, self._statistics, 1, *needs)
        else:
            grad_x, *gradients = in_place.backward(self._x, grad_y, self._weight, self._mean, self._inv_std, 1, needs_x)
        for target, gradient in zip(self._grad_affine, gradients, strict=False):
            assert gradient is not None
            target.copy_(gradient)
        return grad_x

    def is_in_memory(self) -> bool:
        """Whether C can read and write each network's parameters, gradients and statistics."""
        tensors = [tensor for tensor in (*self._in_place, *self._grad_in_place, *self._running) if tensor is not None]
        return are_in_memory(tensors, self._pieces.dtype) and all(tensor[0].is_contiguous() for tensor in tensors)

    def evaluation_scale(self, out: Tensor) -> None:
        """gamma / sqrt(running_var + eps), (K, C), for y = (x - running_mean) scale + beta."""
        assert self.running_var is not None
        scale = inverse_std(self.running_var, self._eps)
        out.copy_(scale if self._in_place[0] is None else scale * self._in_place[0])

    def problems(
        self, x: Tensor, y: Tensor, grad_y: Tensor, grad_x: Tensor, statistics: Tensor
    ) -> tuple[list[Problem], list[Problem], list[Problem]]:
        """Forward and backward of each network as the kernel takes them; all are (K, N, C), statistics (2, K, C).

        Last, backward once more where all networks leave their gradients in the first one's place.
        """
        eps, momenta = self._numbers
        assert momenta is not None
        _, num_samples, num_features = x.shape
        sizes = {"K": 1, "N": num_samples, "C": num_features, "L": 1, "threads": 1}  # of one network
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
                direction=kernel.FORWARD,
                **kept,
                bias=bias,
                out=y[k].data_ptr(),
                running_mean=running_mean,
                running_var=running_var,
                num_batches_tracked=self.num_batches.data_ptr() if k == 0 else None,  # the networks go in step
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
                problems.append(Problem(direction=kernel.BACKWARD, **kept, **results, **place, **sizes))
        return forward, backward, sharing


class NativeBatchNorm(BatchNorm):
    """torch's own batch norm, network by network: what norm=torch is there to compare with."""

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


# Of each activation: the function and its derivative, as the operations that torch's own autograd calls. The flag says
# which of x and y the derivative is taken from; one that needs only y is written over x.
_Function = Callable[..., Any]
ACTIVATIONS: dict[type[nn.Module], tuple[bool, _Function, _Function]] = {
    nn.ReLU: (True, lambda x: x.relu_(), lambda g, y: aten.threshold_backward(g, y, 0)),
    nn.Tanh: (True, lambda x: x.tanh_(), lambda g, y: aten.tanh_backward(g, y)),
    nn.Sigmoid: (True, lambda x: x.sigmoid_(), lambda g, y: aten.sigmoid_backward(g, y)),
    nn.LeakyReLU: (
        False,
        lambda x: nn.functional.leaky_relu(x),
        lambda g, x: aten.leaky_relu_backward(g, x, 0.01, False),
    ),
    nn.ELU: (False, lambda x: nn.functional.elu(x), lambda g, x: aten.elu_backward(g, 1.0, 1, 1, False, x)),
    nn.GELU: (False, lambda x: nn.functional.gelu(x), lambda g, x: aten.gelu_backward(g, x)),
    nn.SiLU: (False, lambda x: nn.functional.silu(x), lambda g, x: aten.silu_backward(g, x)),
}


class Activation:
    """y = f(x) and dL/dx = f'(x) g, for the activations of `bnlab.network.ACTIVATIONS`."""

    def __init__(self, module: nn.Module) -> None:
        self.kind = type(module)
        self._from_y, self._function, self._derivative = ACTIVATIONS[self.kind]

    def forward(self, x: Tensor) -> Tensor:
        y = self._function(x)
        self._kept = y if self._from_y else x
        return y

    def evaluate(self, x: Tensor) -> Tensor:
        return self._function(x)

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        return self._derivative(grad_y, self._kept) if needs_x else None
