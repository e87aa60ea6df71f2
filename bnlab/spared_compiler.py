"""Optimizers without torch's compiler, which each imports for a second to say that it is not to be compiled."""

__all__ = ["spare_the_compiler"]


def spare_the_compiler() -> None:
    """Keep an optimizer from importing torch's compiler, which takes a second, to say that it is not to be compiled."""
    from torch.optim import Optimizer

    for name in dir(Optimizer):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner  # where torch keeps the answer
