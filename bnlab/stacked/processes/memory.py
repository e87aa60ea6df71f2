"""The memory that a stack takes, estimated before it starts, and the number of networks that fit."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bnlab.data_sets import num_features
from bnlab.errors import UserError

__all__ = ["CHUNK_SIZE", "available_memory", "bytes_per_network", "chunk_size"]

CHUNK_SIZE = 16  # a larger stack saves nothing more: enough networks share Python's overhead per step
# What a step reads and writes of all networks should stay in a core's share of the last cache, or a larger stack takes
# longer per network (bnlab/bench/records/sweep.md).
CACHE = 6 * 2**20
USABLE = 0.7  # share of the free memory; the data and the allocator's reserves need the rest
_EVALUATED_AT_ONCE = 1024


def bytes_per_network(config: Mapping[str, Any], num_classes: int = 10) -> int:
    """Return an upper bound, in bytes, on the memory that one network adds to its stack.

    It counts the parameters 14 times (in the stack and in the original module, their gradients, up to two moments,
    scratch memory, the parameters and moments after the best and after the newest epoch, and two copies on their way to
    disk), and for each layer 6 tensors of (batch, width): the outputs of the linear layer, the batch norm and the
    activation, and their gradients. Evaluation takes 1,024 samples at a time.
    """
    widths = _widths(config, num_classes)
    parameters = _num_parameters(widths)
    batch_size = config["data"]["batch_size"]
    batch = _EVALUATED_AT_ONCE if batch_size == "full" else max(int(batch_size), _EVALUATED_AT_ONCE // 2)
    numbers = 14 * parameters + 6 * batch * sum(widths[1:]) + batch * widths[0]
    return numbers * _itemsize(config)


def bytes_per_update(config: Mapping[str, Any], num_classes: int = 10) -> int:
    """Return the bytes of parameters, gradients and one moment of a network, all of which a step traverses."""
    return 3 * _num_parameters(_widths(config, num_classes)) * _itemsize(config)


def _widths(config: Mapping[str, Any], num_classes: int) -> list[int]:
    hidden = (config.get("model") or {}).get("hidden", (100, 100, 100))
    return [num_features(config["data"]), *hidden, num_classes]


def _num_parameters(widths: Sequence[int]) -> int:
    return sum((fan_in + 4) * fan_out for fan_in, fan_out in pairwise(widths))


def _itemsize(config: Mapping[str, Any]) -> int:
    return 8 if (config.get("trainer") or {}).get("precision") == "64-true" else 4


def chunk_size(config: Mapping[str, Any], num_workers: int) -> int:
    """Return how many networks of this config a worker stacks: a power of two that fits its cache, limited so that
    all workers together fit into the free memory.

    Raises:
        UserError: not even one fits.
    """
    in_cache = max(1, CACHE // bytes_per_update(config))
    size = min(CHUNK_SIZE, 2 ** math.floor(math.log2(in_cache)))
    free = available_memory()
    if free is None:
        return size
    need = bytes_per_network(config)
    if need > USABLE * free:
        raise UserError(
            f"A network must fit into {USABLE:.0%} of the free memory, {free / 2**20:.0f} MiB, but this one takes "
            f"about {need / 2**20:.0f} MiB: choose a smaller data.batch_size or fewer hidden units."
        )
    return max(1, min(size, math.floor(USABLE * free / num_workers / need)))


def available_memory() -> int | None:
    """Return the bytes that this process and its children can still allocate; None if unknown."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:  # the limit of a container
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except OSError:
        pass
    return max(min(found), 0) if found else None
