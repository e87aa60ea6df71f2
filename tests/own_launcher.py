"""A launcher of a user's own, which knows nothing of bnlab: it runs the jobs in this process, the last one first.

Put into a folder `hydra_plugins` on the import path, it is `hydra/launcher=own`.
"""

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class OwnLauncher(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = list(enumerate(job_overrides, initial_job_idx))
        return [self.run(number, list(overrides)) for number, overrides in reversed(jobs)][::-1]

    def run(self, number: int, overrides: list[str]) -> JobReturn:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return run_job(self.task_function, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.hydra_context)


if __name__.startswith("hydra_plugins."):
    ConfigStore.instance().store("own", {"_target_": f"{__name__}.OwnLauncher"}, "hydra/launcher")
