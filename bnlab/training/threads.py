"""Choose the number of threads: in small networks, threads spend more time waiting than computing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bnlab.process.process_limit import require_room

__all__ = ["WORK_PER_THREAD", "suitable_num_threads", "use_threads"]

WORK_PER_THREAD = 2**22
"""Parameters times samples per step that justify one more thread.

Below it, further threads gain little, and the step waits for each of them when another process has its core. Figures:
bnlab/bench/records/threads.md.
"""


def suitable_num_threads(wanted: int | str, num_parameters: int, batch_size: int) -> int:
    """Return `wanted` or, for "auto", one thread per `WORK_PER_THREAD`, at most as many as torch would use."""
    if wanted != "auto":
        return int(wanted)
    return max(1, min(torch.get_num_threads(), num_parameters * batch_size // WORK_PER_THREAD))


@contextmanager
def use_threads(num_threads: int) -> Iterator[None]:
    """Run the block with this many threads for torch's operations on the CPU.

    Raises:
        NoRoomError: not that many can be started; libgomp would end the process.
    """
    if num_threads > 1:
        require_room(f"num_threads={num_threads}", num_threads - 1, "num_threads")
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
