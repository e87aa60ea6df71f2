"""A folder that somebody else made runs no code, reads nothing of this machine and fills no memory, unless trusted."""

import functools
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

import bnlab
from bnlab.config import trust
from bnlab.config.folder import config_folder
from bnlab.config.trust import known_by_name, known_target, reasons_of_interpolations, reasons_of_targets
from bnlab.engines.fit import fit
from bnlab.errors import UserError
from bnlab.evaluate import evaluate
from bnlab.evaluate import main as evaluate_main


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a") / "run"
    config = bnlab.compose(["trainer.max_steps=2", "trainer.accelerator=cpu", "model.num_units=4"])
    fit(config, folder, console=Console(quiet=True))
    return folder


@pytest.fixture
def strangers(a_run: Path, tmp_path: Path):
    """The run with its config.yaml replaced, or changed at a key."""

    def make(content: str | None = None, **changes: object) -> Path:
        config = OmegaConf.load(a_run / "config.yaml")
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
        folder = tmp_path / "strangers"
        folder.mkdir()
        for name in ("summary.json", "metrics.csv", "overrides.yaml", "checkpoints"):
            (folder / name).symlink_to(a_run / name)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config) if content is None else content)
        return folder

    return make


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "torch.load",
        "torch.ops.load_library",
        "torch.hub.load",
        "torch.nn.modules.module.torch.load",
        "torch.nn.init.constant_",
        "torch.nn.utils.parametrize.register_parametrization",
        "torch.optim.sgd.torch.load",
        "bnlab.batch_norm.back_ends.kernel.load",
        "bnlab.batch_norm.c_library.compiled",
        "bnlab.io.atomic_file.write_text",
        "bnlab.data.datasets.pickle.load",
        "bnlab.network.MLP.__init__",
        "bnlab.config.build.build_metric",
        "hydra.utils.instantiate",
        "hydra.utils.get_class",
        "lightning.pytorch.Trainer.fit",
        "no_such_package.Network",
        ["torch.nn.Linear"],
        {"_target_": "os.system"},
    ],
    ids=str,
)
def test_a_target_outside_the_list_is_not_even_imported(target, strangers) -> None:
    folder = strangers(model=OmegaConf.create({"_target_": target, "hidden": [4]}))
    for way in (bnlab.load, evaluate):
        with pytest.raises(UserError, match=r"asks for .* in `model`, which could run code .*: if you trust") as caught:
            way(folder)
        assert "\n" not in str(caught.value)


MARK = "import pathlib\ndef mark(*arguments, **named):\n    pathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("group", ["model", "norm", "data"])
def test_no_nested_target_runs_a_strangers_code(group, strangers, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "strangers_code.py").write_text(MARK)
    monkeypatch.syspath_prepend(tmp_path)
    attack = {"_target_": "strangers_code.mark"}
    folder = strangers(**{f"{group}__nested": [1, {"deeper": attack}]})
    monkeypatch.setattr("sys.argv", ["bnlab.evaluate", str(folder)])
    with pytest.raises(SystemExit) as stop:
        evaluate_main()
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"'strangers_code.mark' in `{group}.nested[1].deeper`" in told
    assert not (tmp_path / "ran").exists()


def test_what_is_not_needed_for_testing_is_not_built(strangers, tmp_path, monkeypatch) -> None:
    """Training with parts of one's own is no reason to ask for trust where only the network is wanted."""
    (tmp_path / "strangers_code.py").write_text(MARK)
    monkeypatch.syspath_prepend(tmp_path)
    attack = {"_target_": "strangers_code.mark"}
    groups = ("optimizer", "scheduler", "trainer", "logger", "callbacks")
    folder = strangers(**{f"{group}__attack": attack for group in groups})
    assert evaluate(folder).keys() == {"test_loss", "test_accuracy"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["_target_", "accelerator"])
def test_what_testing_takes_of_the_trainer_is_not_a_strangers_code(key, strangers, tmp_path, monkeypatch) -> None:
    (tmp_path / "strangers_code.py").write_text(MARK)
    monkeypatch.syspath_prepend(tmp_path)
    attack = "strangers_code.mark" if key == "_target_" else {"_target_": "strangers_code.mark"}
    with pytest.raises(UserError, match=r"asks for 'strangers_code\.mark' in `trainer"):
        evaluate(strangers(**{f"trainer__{key}": attack}))
    assert not (tmp_path / "ran").exists()


def test_trust_lets_a_run_name_code_of_the_users_own(strangers, tmp_path, monkeypatch) -> None:
    (tmp_path / "own_code.py").write_text("import bnlab\nclass Network(bnlab.MLP):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = strangers(model___target_="own_code.Network")
    with pytest.raises(UserError, match=r"own_code\.Network"):
        bnlab.load(folder)
    assert type(bnlab.load(folder, trust=True).network).__module__ == "own_code"
    assert evaluate(folder, trust=True).keys() == {"test_loss", "test_accuracy"}
    monkeypatch.setattr("sys.argv", ["bnlab.evaluate", "--trust", str(folder)])
    evaluate_main()


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HOME}",
        "a ${oc.decode:'1'}",
        "${${seed}:HOME}",
        "${oc.${x}:HOME}",
        "${ oc.env :HOME}",
        "${oc.create:{}}",
        "${my:1}",
    ],
)
def test_an_interpolation_that_reads_this_machine_is_refused(value, strangers) -> None:
    folder = strangers(data__root=value)
    with pytest.raises(UserError, match=r"has the interpolation .* in `data\.root`"):
        bnlab.load(folder)


def test_interpolations_of_settings_are_no_reason_to_distrust() -> None:
    harmless = ["${seed}", "${.lr}", "${..a.b}", "${repeat:${.n},3}", "${now:%Y}", "${hydra:job.num}", "$5", "{a}"]
    assert list(reasons_of_interpolations({"a": harmless})) == []


NINE_TIMES_NINE = "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + NINE_TIMES_NINE,
    "a circle": "a: &a [*a]\n",
    "depth": "a: " + "[" * 100_000,
    "depth of blocks": "".join(" " * depth + "a:\n" for depth in range(1200)),
    "size": "a: [" + "1," * 2_000_000 + "1]\n",
    "binary": "\0\1\2",
    "no mapping": "- 1\n",
    "nothing": "",
    "a class of Python's": "model: !!python/object/apply:os.system ['true']\n",
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_file_that_is_no_config_is_refused_in_one_line(content, strangers) -> None:
    folder = strangers(content)
    start = time.process_time()
    with pytest.raises(UserError, match=r"The run in .* cannot be read: ") as caught:
        bnlab.load(folder)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 20  # a bomb would not come to an end


def test_what_the_configs_of_the_package_name_is_trusted_but_for_loggers_that_talk_to_servers() -> None:
    """So that whoever adds a part decides about it; and so that no folder of plain settings is ever refused."""
    needs_trust = []
    for path in sorted(Path(config_folder()).rglob("*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        settings.pop("hydra", None)  # of a command, not of a folder
        needs_trust += [path.stem for _ in (*reasons_of_targets(settings), *reasons_of_interpolations(settings))]
    assert needs_trust == ["mlflow", "wandb"]


def test_a_class_of_the_house_is_known_once_a_config_of_the_package_chooses_it(tmp_path, monkeypatch) -> None:
    """But not by its name alone, nor where Hydra builds it for itself, nor by a config of somebody else."""
    sampler, launcher, callback = (
        "bnlab.search.samplers.tpe.TPESampler",
        "bnlab.launchers.joblib_launcher.JoblibLauncher",
        "bnlab.engines.start.Start",
    )
    names = (sampler, launcher, callback, "os.system")
    assert [known_by_name(name) for name in names] == [False] * 4
    for group, text in (
        ("search", f"# A sampler.\n_target_: {sampler}   # drawn\nrounds: 3\n"),
        ("search/pruner", "_target_: os.system\n"),
        ("hydra/launcher", f"_target_: {launcher}\n"),
        ("task", f"callbacks:\n  start:\n    _target_: {callback}\n"),
    ):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "added.yaml").write_text(text)
    monkeypatch.setattr(trust, "config_folder", lambda: str(tmp_path))
    for cached in (trust._ours, known_target):
        monkeypatch.setattr(trust, cached.__name__, functools.cache(cached.__wrapped__))
    assert [known_by_name(name) for name in names] == [True, False, False, False]
    assert trust.known_target(sampler).__name__ == "TPESampler"


def test_a_known_target_is_itself() -> None:
    import torch

    assert known_target("torch.nn.Linear") is known_target("torch.nn.modules.linear.Linear") is torch.nn.Linear
    assert known_target("torch.optim.lr_scheduler.StepLR") is torch.optim.lr_scheduler.StepLR
    assert known_target("bnlab.BatchNorm1d") is bnlab.BatchNorm1d
