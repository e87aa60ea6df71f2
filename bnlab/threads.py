"""How many threads a step is worth: for small networks, waiting for each other costs them more than they do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["SMALL_STEP", "suitable_num_threads", "use_threads"]

SMALL_STEP = 2**24
"""Parameters times samples of a step up to which one thread serves. At 9 million (784-64-128-64-10, batch 128) four
threads on four idle cores are 1.1 times as fast as one; with a neighbour on one of the cores, ten times slower."""


def suitable_num_threads(wanted: int | str, num_parameters: int, batch_size: int) -> int:
    """`wanted`, or for "auto" one for a small step and as many as torch would take for any other."""
    if wanted != "auto":
        return int(wanted)
    return 1 if num_parameters * batch_size <= SMALL_STEP else torch.get_num_threads()


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Run the block with this many threads for torch's operations on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
