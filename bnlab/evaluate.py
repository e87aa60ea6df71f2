"""`python -m bnlab.evaluate FOLDER`: compute the test metrics of a run again from its best weights."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bnlab.errors import UserError, one_line, report_user_errors
from bnlab.mistakes.argument_parser import ArgumentParser
from bnlab.process.lost_reader import outlast_readers
from bnlab.process.process_limit import report_process_limit, require_room
from bnlab.process.signals import interruptible
from bnlab.text.number_format import label, metric

if TYPE_CHECKING:
    from bnlab.data import Splits
    from bnlab.runs.reading import Run

__all__ = ["evaluate", "main"]


# The settings of the trainer that testing needs; the others are for training, and may name files or code.
_FOR_TESTING = ("_target_", "accelerator", "devices", "precision")


def evaluate(folder: str | Path, *, trust: bool = False) -> dict[str, float]:
    """Test the best weights of the run in `folder` again; return "test_loss", and "test_accuracy" or "test_r2".

    If the data have changed but still have the same shape, a line on stderr says so.

    Args:
        trust: allow the run to name any code; see `bnlab.load`.
    Raises:
        UserError: the folder holds no run, its data are missing or of another shape, or it needs trust.
    """
    from omegaconf import OmegaConf

    from bnlab.config.trainer import is_quick
    from bnlab.config.trust import check_settings
    from bnlab.engines.quick import why_lightning
    from bnlab.runs.reading import load

    run = load(folder, trust=trust, used=("data", "model", "norm", "metrics"))
    _ = run.network  # raises an error if there are no weights to test
    ready = _by_lightning
    if is_quick(run.config) and why_lightning(run.config) is None:
        ready = _quickly
    run.config.logger, run.config.callbacks = {"_target_": None}, {}  # these are for training
    run.config.trainer = {key: value for key, value in run.config.trainer.items() if key in _FOR_TESTING}
    if not trust:
        trainer_alone = {"trainer": OmegaConf.to_container(run.config.trainer)}
        check_settings(trainer_alone, f"The run in {str(run.folder.path)!r}", ["trainer"])
    try:
        splits, fingerprint, test = ready(run)
    except Exception as error:
        raise UserError(f"What {str(run.folder.config)!r} asks for cannot be built: {one_line(error)}") from error
    run.check_data(splits, fingerprint)
    return test()


Ready = tuple["Splits", str, Callable[[], dict[str, float]]]


def _by_lightning(run: "Run") -> Ready:
    """Return the data of the run, their fingerprint, and a function that tests on them."""
    from bnlab.config.trainer import by_lightning
    from bnlab.training.lightning.fit import build_data, build_learner, build_trainer, num_threads, test
    from bnlab.training.threads import use_threads

    trainer = build_trainer(by_lightning(run.config), run.folder)
    data = build_data(run.config)

    def of_best() -> dict[str, float]:
        with use_threads(num_threads(run.config, run.network, data)):
            return test(trainer, build_learner(run.config, run.network, data), data, run.folder.best_checkpoint)

    return data.splits, data.fingerprint, of_best


def _quickly(run: "Run") -> Ready:
    """Return what `_by_lightning` does, without importing Lightning, for a run that was trained without it."""
    from bnlab.engines.quick_training import NotQuickError, tester

    try:
        return tester(run.config, run.network)
    except NotQuickError:
        return _by_lightning(run)


def main() -> None:
    parser = ArgumentParser(prog="python -m bnlab.evaluate", description=__doc__)
    parser.add_argument("folder", help="the folder of a run, such as outputs/runs/2026-01-31/12-00-00-1a2b3c")
    parser.add_argument("--trust", action="store_true", help="allow the run to execute any code that its settings name")
    options = parser.parse_args()
    outlast_readers()
    with report_user_errors(), report_process_limit(), interruptible():
        require_room("bnlab")
        for name, value in evaluate(options.folder, trust=options.trust).items():
            print(f"{label(name)} {metric(name, value)}")


if __name__ == "__main__":
    main()
