"""The rules that settings must obey, each with its sentence, for configs and constructors alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnlab.errors import UserError
from bnlab.task import TASKS
from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["RULES", "Rule", "boolean", "either", "integer", "literal", "number", "one_of", "optional", "sequence_of"]

_MOST_THREADS = 1024  # systems limit the threads of a process, and OpenMP ends one that has reached the limit


@dataclass(frozen=True)
class Rule:
    """`holds(value)` decides; `text` completes the sentence "`key` must be ..."; `words` are the allowed texts."""

    text: str
    holds: Callable[[Any], bool]
    words: tuple[str, ...] = ()

    def check(self, key: str, value: Any) -> None:
        if not self.holds(value):
            shown = "null" if value is None else repr(value)
            likely = [f"{key}={word}" for word in closest(str(value), self.words)]
            if isinstance(value, list) and len(value) > 1 and all(map(self.holds, value)):
                likely = [f"-m {key}={','.join(map(str, value))}"]
            meant = f": {did_you_mean(likely)}" if likely else "."
            raise UserError(f"`{key}` must be {self.text}, but got {shown}{meant}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range_text(minimum: float | None, above: float | None, maximum: float | None, below: float | None) -> str:
    parts = [
        f"{sign} {bound if isinstance(bound, int) else format(bound, 'g')}"
        for sign, bound in ((">=", minimum), (">", above), ("<=", maximum), ("<", below))
        if bound is not None
    ]
    return " " + " and ".join(parts) if parts else ""


def number(
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> Rule:
    def holds(value: Any) -> bool:
        return (
            _is_number(value)
            and (minimum is None or value >= minimum)
            and (above is None or value > above)
            and (maximum is None or value <= maximum)
            and (below is None or value < below)
        )

    return Rule("a finite number" + _range_text(minimum, above, maximum, below), holds)


def integer(*, minimum: int | None = None, maximum: int | None = None) -> Rule:
    in_range = number(minimum=minimum, maximum=maximum)
    return Rule(
        "a whole number" + _range_text(minimum, None, maximum, None),
        lambda value: isinstance(value, int) and in_range.holds(value),
    )


def one_of(*choices: Any) -> Rule:
    shown = [repr(choice) for choice in choices]
    text = f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]
    return Rule(
        text,
        lambda value: any(value == choice and type(value) is type(choice) for choice in choices),
        tuple(choice for choice in choices if isinstance(choice, str)),
    )


def literal(choice: Any, meaning: str) -> Rule:
    return replace(one_of(choice), text=f"{choice!r} ({meaning})")


def boolean() -> Rule:
    return Rule("true or false", lambda value: isinstance(value, bool), ("true", "false"))


def optional(rule: Rule, meaning: str) -> Rule:
    return Rule(f"{rule.text}, or null ({meaning})", lambda value: value is None or rule.holds(value), rule.words)


def either(*rules: Rule) -> Rule:
    return Rule(
        " or ".join(rule.text for rule in rules),
        lambda value: any(rule.holds(value) for rule in rules),
        tuple(word for rule in rules for word in rule.words),
    )


def sequence_of(rule: Rule) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(map(rule.holds, value))

    return Rule(f"a list such as [100,100], each item {rule.text}", holds)


def string() -> Rule:
    return Rule("a text", lambda value: isinstance(value, str))


def mapping(text: str) -> Rule:
    return Rule(text, lambda value: isinstance(value, Mapping))


def fixed(*values: Any, why: str) -> Rule:
    """Return a rule that allows only the default of a library's setting that bnlab does not support.

    All of `values` mean that default.
    """
    return Rule(f"{values[0]!r} ({why})", one_of(*values).holds)


def left_out(instead: str) -> Rule:
    return Rule(f"left out: {instead}", lambda value: False)


_UNLIMITED = literal(-1, "no limit")
_FRACTION = number(above=0, below=1)
_BETA = number(minimum=0, below=1)

_ROW = "metrics.csv has one row per epoch, whose validation metrics are those of the weights in best.ckpt"


def _is_one_device(value: Any) -> bool:
    """Whether it is one device to Lightning: a number counts devices, a list or a text with a comma names them."""
    if isinstance(value, list):
        return len(value) == 1
    if isinstance(value, str):
        first, comma, rest = value.partition(",")
        return value in ("auto", "1") or bool(comma and first.strip() and not rest.strip())
    return value == 1 and not isinstance(value, bool)


def _part_of(split: str) -> Rule:
    def holds(value: Any) -> bool:
        return _is_number(value) and (value >= 1 if isinstance(value, int) else 0 < value <= 1)

    return optional(Rule(f"a whole number >= 1 of {split} batches, or a share > 0.0 and <= 1.0", holds), "all")


_T_MAX = integer(minimum=1)
_EPOCHS_OF_COSINE = Rule(f"{_T_MAX.text} (where trainer.max_epochs is -1, set it or scheduler=constant)", _T_MAX.holds)

# Precisions as Lightning names them.
_PRECISIONS = (
    *("32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"),
    *("transformer-engine", "transformer-engine-float16"),
    *("64", "32", "16", "bf16", 64, 32, 16),
)

RULES: dict[str, Rule] = {
    "seed": integer(minimum=0, maximum=2**32 - 1),
    "num_threads": either(
        integer(minimum=1, maximum=_MOST_THREADS), literal("auto", "one for a small network, more for larger ones")
    ),
    "task": one_of(*TASKS),
    "metrics": mapping("a mapping of names to metrics of your own, {} for none"),
    "figures": mapping("a mapping of names to figures of your own, {} for none"),
    "callbacks": mapping("a mapping of names to callbacks, {} for none"),
    "data.batch_size": either(integer(minimum=1), literal("full", "the whole training set")),
    "data.normalize": boolean(),
    "data.normalize_target": boolean(),
    "data.split_seed": integer(minimum=0, maximum=2**32 - 1),
    "data.root": string(),
    "data.path": Rule("the path of a file", lambda value: isinstance(value, str) and value != ""),
    "data.target": Rule("the name of a column", lambda value: isinstance(value, str) and value != ""),
    "data.drop": sequence_of(string()),
    "data.delimiter": optional(string(), "found in the first line"),
    "data.val_fraction": _FRACTION,
    "data.test_fraction": _FRACTION,
    "model.num_layers": integer(minimum=0),
    "model.num_units": integer(minimum=1),
    "model.hidden": sequence_of(integer(minimum=1)),
    "model.bias": either(boolean(), one_of("auto")),
    "norm.placement": one_of("before", "after"),
    "norm.eps": number(above=0),
    "norm.momentum": optional(number(minimum=0, maximum=1), "the average of all batches"),
    "norm.affine": boolean(),
    "norm.track_running_stats": boolean(),
    "optimizer.lr": number(minimum=0),
    "optimizer.momentum": _BETA,
    "optimizer.beta1": _BETA,
    "optimizer.beta2": _BETA,
    "optimizer.alpha": _BETA,
    "optimizer.eps": number(minimum=0),
    "optimizer.weight_decay": number(minimum=0),
    "optimizer.dampening": number(),
    "optimizer.nesterov": boolean(),
    "optimizer.maximize": boolean(),
    "optimizer.amsgrad": boolean(),
    "optimizer.centered": boolean(),
    "optimizer.decoupled_weight_decay": boolean(),
    "optimizer.foreach": optional(boolean(), "torch chooses"),
    "optimizer.fused": optional(boolean(), "torch chooses"),
    "optimizer.differentiable": fixed(False, why="an update is never differentiated here"),
    "trainer.devices": Rule("1, or a list of one index: training runs in one process", _is_one_device),
    "trainer.num_nodes": fixed(1, why="training runs in one process"),
    "trainer.strategy": fixed("auto", why="training runs in one process; trainer.accelerator says where"),
    "trainer.sync_batchnorm": fixed(False, why="training runs in one process"),
    "trainer.precision": optional(one_of(*_PRECISIONS), "32-true"),
    "trainer.max_epochs": either(integer(minimum=1), _UNLIMITED),
    "trainer.max_steps": either(integer(minimum=1), _UNLIMITED),
    "trainer.min_epochs": optional(integer(minimum=0), "none"),
    "trainer.min_steps": optional(integer(minimum=0), "none"),
    "trainer.gradient_clip_val": optional(number(above=0), "no clipping"),
    "trainer.gradient_clip_algorithm": optional(one_of("norm", "value"), "'norm'"),
    "trainer.accumulate_grad_batches": integer(minimum=1),
    "trainer.limit_train_batches": _part_of("training"),
    "trainer.limit_val_batches": _part_of("validation"),
    "trainer.limit_test_batches": _part_of("test"),
    "trainer.overfit_batches": fixed(0, 0.0, why="trainer.limit_train_batches trains on a part of the batches"),
    "trainer.check_val_every_n_epoch": fixed(1, why=_ROW),
    "trainer.val_check_interval": fixed(1.0, None, why=_ROW),
    "trainer.num_sanity_val_steps": optional(integer(minimum=-1), "two"),
    "trainer.reload_dataloaders_every_n_epochs": integer(minimum=0),
    "trainer.fast_dev_run": fixed(
        False, 0, why="it makes no complete run; trainer.max_steps or trainer.limit_train_batches make a short one"
    ),
    "trainer.enable_checkpointing": fixed(True, None, why="every run writes best.ckpt and last.ckpt"),
    "trainer.enable_progress_bar": optional(boolean(), "true"),
    "trainer.enable_model_summary": optional(boolean(), "true"),
    "trainer.barebones": fixed(False, why="a run without metrics and checkpoints has no results"),
    "trainer.logger": left_out("choose one with logger="),
    "trainer.callbacks": left_out("add one with +callbacks.NAME._target_="),
    "trainer.default_root_dir": left_out("the run folder is hydra.run.dir"),
    "scheduler.gamma": number(above=0),
    "scheduler.step_size": integer(minimum=1),
    "scheduler.decay_rate": number(minimum=0),
    "scheduler.eta_min": number(minimum=0),
    "scheduler.T_max": _EPOCHS_OF_COSINE,
}
"""The rules of the settings in `conf/` that bnlab checks, by key; their class checks the others."""
