"""What a setting may be, as `bnlab.config.checking.check` holds every config to it."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from bnlab.composing import compose
from bnlab.config.checking import check
from bnlab.errors import UserError


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return compose()


def with_setting(base: DictConfig, key: str, value: Any) -> DictConfig:
    config = base.copy()
    with open_dict(config):
        OmegaConf.update(config, key, value, merge=False)
    return config


@pytest.mark.parametrize(
    ("key", "refused", "accepted"),
    [
        ("num_threads", [0, -1, 1.5, 1025, 100000, "all", None], [1, 2, 1024, "auto"]),
        ("trainer.devices", [2, "0,1", [0, 1], -1, 0, True, "2", ",", None], [1, "1", "auto", [1], "1,"]),
        ("trainer.num_nodes", [2, 0], [1]),
        ("trainer.strategy", ["ddp", "ddp_spawn", "fsdp", "deepspeed", {"_target_": "a.Strategy"}], ["auto"]),
        ("trainer.sync_batchnorm", [True], [False]),
        ("trainer.check_val_every_n_epoch", [2, None, 0], [1]),
        ("trainer.val_check_interval", [0.5, 1, 17, "00:00:01:00", {"minutes": 1}], [1.0, None]),
        ("trainer.limit_train_batches", [0, 0.0, 1.5, -1, True, "all"], [1, 7, 0.5, 1.0, None]),
        ("trainer.limit_val_batches", [0, 0.0], [1, 0.5]),
        ("trainer.limit_test_batches", [0, 0.0], [1, 0.5]),
        ("trainer.overfit_batches", [1, 0.1], [0, 0.0]),
        ("trainer.fast_dev_run", [True, 3, 0.5, "yes"], [False, 0]),
        ("trainer.accumulate_grad_batches", [0, 1.5, {0: 2}], [1, 4]),
        ("trainer.gradient_clip_algorithm", ["Value", "nothing"], ["norm", "value", None]),
        ("trainer.min_epochs", [-1, 0.5], [0, 3, None]),
        ("trainer.enable_checkpointing", [False], [True, None]),
        ("trainer.barebones", [True], [False]),
        ("trainer.logger", [True, False, None], []),
        ("trainer.callbacks", [None, []], []),
        ("trainer.default_root_dir", ["here", None], []),
        ("optimizer.differentiable", [True], [False]),
        ("optimizer.maximize", ["no", 1], [True, False]),
        ("optimizer.fused", ["yes", 0], [True, False, None]),
        ("optimizer.dampening", ["much", None], [0, 0.5]),
        ("callbacks", [None, "none", [1]], [{}]),
        ("callbacks.own", [None, {"monitor": "val_loss"}, "EarlyStopping"], [{"_target_": "a.Callback"}]),
    ],
)
def test_a_setting_that_bnlab_does_not_serve_is_refused_and_its_harmless_values_are_not(
    key: str, refused: list[Any], accepted: list[Any], base: DictConfig
) -> None:
    for value in refused:
        with pytest.raises(UserError) as error:
            check(with_setting(base, key, value))
        assert str(error.value).startswith(f"`{key}`")
        assert ("null" if value is None and key != "callbacks.own" else repr(value)) in str(error.value)
        assert "\n" not in str(error.value)
    for value in accepted:
        check(with_setting(base, key, value))
