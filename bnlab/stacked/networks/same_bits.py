"""Test on random numbers whether the parts of `step.c` give the same bits as torch's operations.

The answer depends on the processor, the BLAS, the compiler of torch and the sizes, so it cannot be known in advance.
"""

import ctypes
from functools import cache

import torch

from bnlab.internals.torch_internals import fused_sgd
from bnlab.stacked.compiled.c_functions import Kind, LayerInC, LossInC, Of, UpdateInC, functions_of, of
from bnlab.stacked.formulas.layers import Linear
from bnlab.stacked.formulas.loss import cross_entropy_and_gradient

__all__ = ["same_loss", "same_products", "same_update"]

_DRAWS = 8  # sums in different orders can agree by chance, and the edge of a product has few of them


@cache
def same_products(
    dtype: torch.dtype, num_samples: int, num_in: int, num_out: int, biased: bool, num_threads: int
) -> list[bool]:
    """Test which of x W^T + b, g^T x, g W and sum(g) of a linear layer product.c and loss.c compute as `Linear` does.

    The BLAS sums in an order that depends on torch's number of threads at the time of the call.
    """
    functions = functions_of(dtype)
    assert functions is not None
    x, weight, g = (
        torch.empty(1, *shape, dtype=dtype)
        for shape in ((num_samples, num_in), (num_out, num_in), (num_samples, num_out))
    )
    bias, grad_bias = (torch.empty(1, num_out, dtype=dtype) if biased else None for _ in range(2))
    layer = Linear(weight, bias, torch.empty_like(weight), grad_bias)
    results = [torch.empty_like(g), torch.empty_like(weight), torch.empty_like(x)]
    results += [] if grad_bias is None else [torch.empty_like(grad_bias)]
    structure = LayerInC(Kind.LINEAR, num_in, num_out, True, True, True, True)
    structure.x, structure.weight, structure.bias, structure.grad_y = map(of, (x, weight, bias, g))
    structure.y, structure.grad_weight, structure.grad_x, structure.grad_bias = map(of, [*results, None][:4])
    scratch = torch.empty(num_in * num_out, dtype=dtype)
    generator = torch.Generator().manual_seed(0)  # its own, apart from that of the training
    same = [True] * 4
    for _ in range(_DRAWS):
        for tensor in (x, weight, g, *([] if bias is None else [bias])):
            tensor.normal_(generator=generator)
        y, grad_x = layer.forward(x), layer.backward(g, True)
        functions.linear(ctypes.byref(structure), num_samples, ctypes.byref(functions.elsewhere), scratch.data_ptr())
        for index, (a, b) in enumerate(zip(results, (y, layer.grad_weight, grad_x, grad_bias), strict=False)):
            assert b is not None
            same[index] = same[index] and torch.equal(a, b)
    return same


@cache
def same_loss(dtype: torch.dtype, num_samples: int, num_classes: int) -> bool:
    """Test whether the gradient of the loss equals that of `bnlab.stacked.formulas.loss`."""
    functions = functions_of(dtype)
    assert functions is not None
    logits, gradient = (torch.empty(1, num_samples, num_classes, dtype=dtype) for _ in range(2))
    classes = torch.arange(num_samples).remainder_(num_classes)
    loss, hits = torch.empty(1, dtype=dtype), torch.empty(1, dtype=torch.int64)
    last = LayerInC(Kind.LINEAR, 0, num_classes)
    last.y, last.grad_y = of(logits), of(gradient)
    batch = LossInC(Of(classes.data_ptr(), 0), loss.data_ptr(), hits.data_ptr())
    scratch = torch.empty(num_classes * functions.lanes, dtype=dtype)
    pointers = ctypes.byref(functions.elsewhere), scratch.data_ptr()
    generator = torch.Generator().manual_seed(0)
    for _ in range(_DRAWS):
        logits.normal_(0, 3, generator=generator)
        functions.loss(ctypes.byref(last), ctypes.byref(batch), num_samples, *pointers)
        if not torch.equal(gradient, cross_entropy_and_gradient(logits, classes)[1]):
            return False
    return True


@cache
def same_update(dtype: torch.dtype, sizes: tuple[int, ...], nesterov: bool) -> bool:
    """Test whether the update of parameters of these sizes equals that of torch's fused kernel."""
    functions = functions_of(dtype)
    assert functions is not None
    if fused_sgd is None:
        return False
    drawn = torch.empty(3, 1, sum(sizes), dtype=dtype).normal_(generator=torch.Generator().manual_seed(0))
    w, g, v = numbers = torch.empty_like(drawn)
    # torch accepts Nesterov only with a momentum and without dampening.
    for momentum, dampening in ((0.9, 0.0),) if nesterov else ((0.0, 0.0), (0.9, 0.0), (0.9, 0.1)):
        for weight_decay in (0.0, 0.01):
            settings = {"lr": 0.013, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
            of_networks = {name: [value] for name, value in settings.items()}
            update = UpdateInC.over(w, g, v, sizes, of_networks, nesterov=nesterov)
            for draw in range(_DRAWS):
                for index, tensor in enumerate(numbers):  # new pairs of numbers, cheaper than new numbers
                    tensor.copy_(drawn[index].roll(index * draw))
                expected = numbers.clone()
                rows, gradients, velocity = ([*tensor[0].split(sizes)] for tensor in expected)
                fused_sgd(
                    rows,
                    gradients,
                    velocity if momentum else [],
                    lr=settings["lr"],
                    momentum=momentum,
                    dampening=dampening,
                    weight_decay=weight_decay,
                    nesterov=nesterov,
                    maximize=False,
                    is_first_step=draw == 0,
                )
                update.is_first = draw == 0
                functions.descent(ctypes.byref(update))
                if not all(map(torch.equal, numbers, expected)):
                    return False
    return True
