"""The program of tests that kill it: bnlab.train with a simulated objective, which takes BNLAB_TEST_SECONDS a trial."""

import math
import os
import signal
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

import bnlab.train


class UnreadableError(Exception):
    def __str__(self):
        raise RuntimeError("no message")


class StuckError(Exception):
    """Cannot be pickled, nor made from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")
        self.lock = (value for value in ())


class End(BaseException):
    pass


def recurse():
    return recurse()


def fail(error):
    raise error


def lose_the_process():
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    sys.stdout.close()
    os.close(2)


def fork():
    if os.fork() == 0:
        raise ValueError("in the child")


def die_before_its_child():
    if os.fork() == 0:
        time.sleep(20)  # and holds what its parent had open
        os._exit(0)
    os._exit(6)


# What a job does by its number; those of DEADLY end their process.
MISDEEDS = {
    "exit": lambda: sys.exit(3),
    "exit_well": sys.exit,
    "interrupt": lambda: fail(KeyboardInterrupt()),
    "end": lambda: fail(End("the end")),
    "recurse": recurse,
    "memory": lambda: fail(MemoryError()),
    "unreadable": lambda: fail(UnreadableError()),
    "stuck": lambda: fail(StuckError(1, "\x1b[31m\ud800")),
    "lose": lose_the_process,
    "fork": fork,
    "os_exit": lambda: os._exit(0),
    "abort": os.abort,
    "orphan": die_before_its_child,
}


def task(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    number = int(folder.name)
    with (folder.parent / "ran.txt").open("a") as file:
        file.write(f"{number} {config.optimizer.lr!r} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    seconds = float(os.environ.get("BNLAB_TEST_SECONDS", "0"))
    (folder / "half.txt").write_text("begun")
    time.sleep(seconds)
    if str(number) in os.environ.get("BNLAB_TEST_KILL", "").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
    if str(number) in os.environ.get("BNLAB_TEST_RAISE", "").split(","):
        raise ValueError("on request")
    misdeeds = os.environ.get("BNLAB_TEST_MISDEEDS", "").split()
    if number < len(misdeeds):
        MISDEEDS[misdeeds[number]]()
    return 1 - (math.log10(config.optimizer.lr) + 2) ** 2 / 10


bnlab.train.task = task

if __name__ == "__main__":
    bnlab.train.main()
