"""Programs that run where private names of other libraries are gone: `python -m without_names PATHS PROGRAM ...`."""

import sys
from typing import Any

from bnlab.internals import private_name as asking

GONE = sys.argv[1].split(",")
before = asking.private_name
met: list[str] = []


def private_name(path: str, otherwise: Any) -> Any:
    if any(path == gone or path.startswith(f"{gone}.") for gone in GONE):
        met.append(path)
        return otherwise
    return before(path, otherwise)


asking.private_name = private_name


def take_attributes() -> None:
    """Let the attributes among what is gone be there for nobody in bnlab."""
    from bnlab.internals import hydra_internals, loky_internals, optuna_internals, torch_internals

    def has(owner: object, name: str) -> bool:
        return not is_gone(name) and hasattr(owner, name)

    def get(owner: object, name: str, *otherwise: Any) -> Any:
        return otherwise[0] if is_gone(name) else getattr(owner, name, *otherwise)

    for module in (hydra_internals, torch_internals, loky_internals, optuna_internals):
        vars(module).update(hasattr=has, getattr=get)


def is_gone(name: str) -> bool:
    if f"attribute:{name}" not in GONE:
        return False
    met.append(f"attribute:{name}")
    return True


def numbers() -> None:
    """Batch norm against torch's own in float64, in all the ways that private names decide on."""
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    from bnlab.batch_norm import BatchNorm1d, batch_norm
    from bnlab.internals.torch_internals import is_eager

    print("eager" if is_eager() else "not eager", *(f"asked for {path}" for path in met), sep="\n")
    torch.manual_seed(0)
    same = torch.testing.assert_close
    for shape in ((7, 5), (4, 5, 3)):
        for dtype in (torch.float64, torch.float32):
            x, g = (torch.randn(shape, dtype=dtype) * 3 + 2 for _ in range(2))
            layers = BatchNorm1d(5, dtype=dtype), nn.BatchNorm1d(5, dtype=dtype)
            results = []
            for layer in layers:
                leaf = x.clone().requires_grad_()
                y = layer(leaf)
                (grad,) = torch.autograd.grad(y, leaf, g, create_graph=True)
                (second,) = torch.autograd.grad(grad.square().sum(), leaf, retain_graph=True)
                y.backward(g)
                again = layer(leaf) if layer is layers[1] else checkpoint(layer, leaf, use_reentrant=False)
                again.backward(g)  # in which a checkpoint runs the layer again, and torch's would count that
                layer.eval()
                results.append((y, grad, second, leaf.grad, layer.weight.grad, layer(x), layer.state_dict()))
            same(*results)
            assert int(layers[0].num_batches_tracked) == 2
            frozen = batch_norm(x, None, None, training=True)
            same(frozen, nn.functional.batch_norm(x, None, None, training=True))
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    # A batch of gradients, a zero tensor as a gradient, vmap, and forward mode.
    leaf = x[0].clone().requires_grad_()
    y, expected = batch_norm(leaf, None, None, training=True), nn.functional.batch_norm(leaf, None, None, training=True)
    grads = torch.randn(2, *y.shape, dtype=torch.float64)
    same(*(torch.autograd.grad(each, leaf, grads, is_grads_batched=True, retain_graph=True) for each in (y, expected)))
    zero = torch._efficientzerotensor(y.shape, dtype=torch.float64)
    assert not torch.autograd.grad(y, leaf, zero)[0].any()
    same(
        torch.vmap(lambda each: batch_norm(each, None, None, training=True))(x),
        torch.stack([nn.functional.batch_norm(each, None, None, training=True) for each in x]),
    )
    same(
        torch.func.jvp(lambda each: batch_norm(each, None, None, training=True), (x[0],), (x[1],))[1],
        torch.func.jvp(lambda each: nn.functional.batch_norm(each, None, None, training=True), (x[0],), (x[1],))[1],
    )
    network = nn.Sequential(nn.Linear(4, 5), BatchNorm1d(5)).eval()
    same(torch.jit.trace(network, torch.randn(3, 4))(torch.ones(3, 4)), network(torch.ones(3, 4)))


def train() -> None:
    from bnlab.train import main

    if any(path.startswith("attribute:") for path in GONE):
        take_attributes()
    try:
        main()
    finally:
        print(*(f"asked for {path}" for path in sorted(set(met))), sep="\n")


def refused() -> None:
    """A mistake ends in one line and exit code 2."""
    import contextlib
    import io

    told = io.StringIO()
    code: object = 0
    with contextlib.redirect_stderr(told):
        try:
            train()
        except SystemExit as end:
            code = end.code
    assert code == 2, code
    lines = told.getvalue().strip().splitlines()
    assert len(lines) == 1, lines
    print("one line:", *lines)


if __name__ == "__main__":
    program, sys.argv[1:] = sys.argv[2], sys.argv[3:]
    {"numbers": numbers, "train": train, "refused": refused}[program]()
