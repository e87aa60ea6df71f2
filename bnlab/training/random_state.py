"""The state of the random number generators that layers draw from, such as dropout, as a checkpoint keeps it."""

from typing import Any

import torch

__all__ = ["is_same", "random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """Return the states of torch's generators: that of the CPU, and one for each CUDA device in use."""
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": of_cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Set them to what `random_state` returned; those of devices that are not there are ignored."""
    torch.set_rng_state(state["cpu"])
    for device, of_device in enumerate(state["cuda"]):
        if device < torch.cuda.device_count():
            torch.cuda.set_rng_state(of_device, device)


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = zip([one["cpu"], *one["cuda"]], [other["cpu"], *other["cuda"]], strict=False)
    return len(one["cuda"]) == len(other["cuda"]) and all(torch.equal(*pair) for pair in pairs)
