"""What users' own code may do: a data set that ends its process, callbacks of Hydra's that take down their calls."""

import os
import sys
import time

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from bnlab.data import Split, Splits


def data(misdeed, **settings):
    if misdeed == "exit":
        sys.exit(3)
    elif misdeed == "os_exit":
        os._exit(0)
    elif misdeed == "orphan":
        if os.fork() == 0:
            time.sleep(30)  # and holds what its parent had open
            os._exit(0)
        os._exit(6)
    elif misdeed == "fork" and os.fork() == 0:
        raise ValueError("in the child")
    elif misdeed == "chdir":
        os.chdir("/")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 5, generator=generator)
    split = Split(x, (x[:, 0] > 0).long())
    return Splits(split, split, split, num_classes=2)


class Recorder(Callback):
    """Writes a line for each call to `file`."""

    def __init__(self, file):
        self.file = file

    def write(self, *words):
        with open(self.file, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def on_multirun_start(self, config, **kwargs):
        self.write("multirun_start")

    def on_multirun_end(self, config, **kwargs):
        self.write("multirun_end")

    def on_job_start(self, config, **kwargs):
        self.write("start", *self.of(config))

    def on_job_end(self, config, job_return, **kwargs):
        value = job_return._return_value
        self.write("end", *self.of(config), job_return.status.name, value if isinstance(value, float) else "failed")
        self.write("overrides", *job_return.overrides, job_return.working_dir, job_return.task_name)
        self.write("configs", list(job_return.cfg), list(job_return.hydra_cfg), job_return.hydra_cfg.hydra.job.num)

    def of(self, config):
        hydra = HydraConfig.get()
        return config.data.batch_size, hydra.job.num, os.path.basename(hydra.runtime.output_dir), config.hydra.job.num
