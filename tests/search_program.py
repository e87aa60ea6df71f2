"""The program of tests that kill it: bnlab.train with a simulated objective, which takes BNLAB_TEST_SECONDS a trial."""

import math
import os
import signal
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

import bnlab.train


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
    return 1 - (math.log10(config.optimizer.lr) + 2) ** 2 / 10


bnlab.train.task = task

if __name__ == "__main__":
    bnlab.train.main()
