"""An import of torch that a signal cut short: after it, this process can neither import torch again nor end as usual.

Python forgets `torch` but keeps its parts. To import those again raises whatever comes of it, and the libraries' own
ending, on a state that was never whole, may be a segmentation fault.
"""

import os
import sys

__all__ = ["end_if_cut_short", "is_cut_short"]


def is_cut_short() -> bool:
    return "torch" not in sys.modules and "torch._C" in sys.modules


def end_if_cut_short(exit_code: int) -> None:
    """End the process with `exit_code` if it can end in no other way; all that it holds must be closed."""
    if is_cut_short():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # nobody reads it
                continue
        os._exit(exit_code)
