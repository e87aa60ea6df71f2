"""How much memory a stack takes, estimated before it starts, and how many networks fit."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from bnlab.errors import UserError

__all__ = ["CHUNK_SIZE", "available_memory", "bytes_per_network", "chunk_size"]

CHUNK_SIZE = 8  # the time per network is about the same for 4 to 16, and more below and above
USABLE = 0.7  # of the free memory: data, and what the allocator keeps, want their part
_EVALUATED_AT_ONCE = 1024


def bytes_per_network(config: Mapping[str, Any], num_features: int = 3072, num_classes: int = 10) -> int:
    """What a network adds to its stack, from above.

    Numbers: parameters 8 times (they, their gradients, up to two moments, a scratch, and the best and the last state on
    their way to disk), and for each layer 6 (batch, width) tensors: its result, its batch norm's, its activation's, and
    their gradients. Evaluation takes 1,024 samples at a time.

    Args:
        num_features: of a sample; the default is that of the largest data set here, 3 x 32 x 32.
    """
    widths = [num_features, *(config.get("model") or {}).get("hidden", (100, 100, 100)), num_classes]
    parameters = sum((fan_in + 4) * fan_out for fan_in, fan_out in pairwise(widths))
    batch_size = config["data"]["batch_size"]
    batch = _EVALUATED_AT_ONCE if batch_size == "full" else max(int(batch_size), _EVALUATED_AT_ONCE // 2)
    numbers = 8 * parameters + 6 * batch * sum(widths[1:]) + batch * num_features
    return numbers * (8 if (config.get("trainer") or {}).get("precision") == "64-true" else 4)


def chunk_size(config: Mapping[str, Any], num_workers: int) -> int:
    """How many networks of this config a worker stacks, so that all workers together fit into the free memory.

    Raises:
        UserError: not even one fits.
    """
    free = available_memory()
    if free is None:
        return CHUNK_SIZE
    need = bytes_per_network(config)
    if need > USABLE * free:
        raise UserError(
            f"A network must fit into {USABLE:.0%} of the free memory, {free / 2**20:.0f} MiB, but this one takes "
            f"about {need / 2**20:.0f} MiB: choose a smaller data.batch_size or fewer hidden units."
        )
    return max(1, min(CHUNK_SIZE, math.floor(USABLE * free / num_workers / need)))


def available_memory() -> int | None:
    """Bytes that this process and its children can still take; None where the system does not say."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:  # a container's own limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except OSError:
        pass
    return max(min(found), 0) if found else None
