"""What a worker makes of the jobs that it is sent."""

from pathlib import Path

from omegaconf import OmegaConf

from bnlab.stacked.job import Job
from bnlab.stacked.processes.worker import _jobs


def test_each_job_has_its_own_config() -> None:
    first = {"seed": 1, "optimizer": {"lr": 1, "betas": [0.9, 0.99]}, "callbacks": {"stop": {"patience": 3}}}
    plain = [
        first,
        first | {"optimizer": {"lr": 1.0, "betas": [0.9, 0.99]}},
        first | {"seed": 2, "callbacks": {}, "scheduler": None},
        {"seed": 1, "optimizer": {"lr": 0.1}},
        first,
    ]
    jobs = _jobs(
        [Job(number, config, Path(f"runs/{number}"), (f"seed={number}",)) for number, config in enumerate(plain)]
    )
    for number, (job, config) in enumerate(zip(jobs, plain, strict=True)):
        assert repr(OmegaConf.to_container(job.config)) == repr(config)
        assert (job.number, str(job.folder), job.overrides) == (number, f"runs/{number}", (f"seed={number}",))
    jobs[0].config.optimizer.lr = 5
    assert jobs[4].config.optimizer.lr == 1
