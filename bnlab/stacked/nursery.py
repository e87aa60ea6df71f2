"""`python -m bnlab.stacked.nursery`: the process that workers are forked from, so that torch is imported once.

It reads a line of JSON for each worker to fork: {"data": their key, "config": of a job that trains on them}. Data are
read before the fork, so that all workers share their memory. It ends, and with it its idle workers, when its standard
input is closed.
"""

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

__all__ = ["main"]


def main(address: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    sys.path[:] = json.loads(sys.stdin.readline())
    import torch
    from omegaconf import OmegaConf

    from bnlab.batch_norm import kernel
    from bnlab.stacked import data, worker

    torch.set_num_threads(1)
    kernel.is_available()
    _spare_the_compiler()
    for line in sys.stdin:
        wanted = json.loads(line)
        with suppress(Exception):  # the worker will meet it again, and can say so
            data.load_data(OmegaConf.create(wanted["config"]))
        gc.freeze()  # shared pages stay shared
        if os.fork() == 0:
            try:
                os.close(0)
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(address)
                pipe = Connection(connection.detach())
                pipe.send((os.getpid(), wanted["data"]))
                worker.serve(pipe)
            finally:
                os._exit(0)  # whatever happens, a worker does not go on as a nursery
    os._exit(0)  # Python's own way out takes half a second, and has nothing left to do


def _spare_the_compiler() -> None:
    """Keep an optimizer from importing torch's compiler, which takes a second, to say that it is not to be compiled."""
    from torch.optim import Optimizer

    for name in dir(Optimizer):
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner  # where torch keeps the answer


if __name__ == "__main__":
    main(sys.argv[1])
