"""One job of a sweep: compose its config and run it in this process."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

__all__ = ["compose_job", "run_here"]


def compose_job(hydra_context: HydraContext, config: DictConfig, number: int, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of job `number` of the sweep whose config is `config`."""
    job_config = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.id = str(number)
        job_config.hydra.job.num = number
    return job_config


def run_here(
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    number: int,
    overrides: Sequence[str],
) -> JobReturn:
    """Run the job in this process, as Hydra's own launcher does; its return holds what it raises."""
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=compose_job(hydra_context, config, number, overrides),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
