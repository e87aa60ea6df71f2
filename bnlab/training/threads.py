"""How many threads a step is worth: for small networks, waiting for each other costs them more than they do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bnlab.process.process_limit import require_room

__all__ = ["WORK_OF_A_THREAD", "suitable_num_threads", "use_threads"]

WORK_OF_A_THREAD = 2**22
"""Parameters times samples of a step for each thread. At 8.7 million (784-64-128-64-10, batch 128), 1, 2, 3 and 4
threads made 576, 635, 637 and 609 steps a second on four idle cores. More threads gain little there, and every one of
them is waited for when a neighbour has its core."""


def suitable_num_threads(wanted: int | str, num_parameters: int, batch_size: int) -> int:
    """`wanted`, or for "auto" one for each `WORK_OF_A_THREAD`, but no more than torch would take."""
    if wanted != "auto":
        return int(wanted)
    return max(1, min(torch.get_num_threads(), num_parameters * batch_size // WORK_OF_A_THREAD))


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Run the block with this many threads for torch's operations on the CPU.

    Raises:
        NoRoomError: so many cannot be started; libgomp would end the process.
    """
    if num_threads > 1:
        require_room(f"num_threads={num_threads}", num_threads - 1, "num_threads")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
