"""The commands that a sweep and a run print or write, run as they are printed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from simulated_sweep import Left, smooth

import bnlab
from bnlab.composing import overrides_of
from bnlab.config.settings import plain
from bnlab.engines.fit import fit
from bnlab.internals.hydra_internals import initialized
from bnlab.stacked import train as train_stacked
from bnlab.text.command_line import command, differences, override, same, word

CHARACTERS = "ab\\'\"${}[](),:=# \t\n~é%1.e-+/nulltruef*?@|;&`!<>\u2028\N{SNOWMAN}"
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=12)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}", fullmatch=True).filter(
    lambda key: key.lower() not in ("null", "true", "false", "nan", "inf")
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)
RESOLVED = VALUES.filter(lambda value: "${" not in repr(value))  # what OmegaConf takes as it is


def composed(lines, before):
    """What Hydra makes of overrides."""
    config = OmegaConf.create(before)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(lines)), config)
    return OmegaConf.to_container(config, resolve=True)


bounded = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@bounded
@given(VALUES)
@example("a\\'${b}\\")
@example("null")
@example("1_000")
def test_a_value_that_is_written_is_read_again(value):
    line = override("key", value)
    assert not OverridesParser.create().parse_override(line).is_sweep_override()
    assert same(composed([line], {"key": 0})["key"], value)


def shared_items(a, b):
    """The values that two trees have at the same keys."""
    for key in a.keys() & b.keys():
        yield a[key], b[key]
        if isinstance(a[key], dict) and isinstance(b[key], dict):
            yield from shared_items(a[key], b[key])


@bounded
@given(st.dictionaries(KEYS, RESOLVED, max_size=3), st.dictionaries(KEYS, VALUES, max_size=3))
def test_differences_lead_from_one_config_to_the_other(before, after):
    try:
        lines = differences(before, after)
    except ValueError:
        assert any(isinstance(a, dict) != isinstance(b, dict) for a, b in shared_items(before, after))
    else:
        assert same(composed(lines, before), after)


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4)))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_shell_reads_the_words_that_were_written(lines):
    script = "\n".join(" ".join(["printf '%s\\0' x", *map(word, words)]) for words in lines)
    assert script.count("\n") == max(len(lines) - 1, 0)
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode().split("\0")
    assert printed == [text for words in lines for text in ["x", *words]] + [""]


# Each character that a shell, Hydra, OmegaConf or Rich reads as something else, and words that Hydra does.
FOLDERS = ["a=b(c{d[e,f'g", " é  $HOME :smile: [red]\\"]
FEWER = [
    "a=b",
    "a(b",
    "a'b",
    '"',
    "{a}",
    "[a",
    "a,b",
    "é",
    "a:b",
    "null",
    "1e3",
    "~a",
    "a\\",
    "a#%",
    "a\tb",
    "a\nb",
    "-x",
]


@pytest.fixture
def typed(train, monkeypatch):
    """Run a printed command with the words that a shell makes of it; `task` in place of the training."""

    def run(command, task=smooth):
        monkeypatch.setattr("bnlab.train.task", task)
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True, text=True
        ).stdout.split("\0")[:-1]
        assert words[:3] == ["python", "-m", "bnlab.train"]
        return train(*words[3:])

    return run


def interrupts_at_1(config):
    if HydraConfig.get().runtime.output_dir.endswith("/1"):
        signal.raise_signal(signal.SIGINT)
    return smooth(config)


@pytest.mark.parametrize("name", [*FOLDERS, *(pytest.param(name, marks=pytest.mark.slow) for name in FEWER)])
def test_an_interrupted_sweep_goes_on_by_the_command_it_printed(name, sweep, typed, tmp_path):
    arguments = ["optimizer.lr=0.1,0.01"]
    outcome, _ = sweep(*arguments, override("hydra.sweep.dir", name), task=interrupts_at_1, folder="unused")
    assert outcome.exit_code == 130, outcome.stderr
    again = typed(outcome.stdout.splitlines()[-1])
    assert again.exit_code == 0, again.stderr
    assert [row["status"] for row in Left(tmp_path / name).rows] == ["completed", "interrupted", "completed"]
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no other sweep was begun
    refused, _ = sweep(*arguments, override("hydra.sweep.dir", name), folder="unused")
    assert refused.exit_code == 2
    assert typed(refused.stderr[refused.stderr.index("python -m") :].rstrip("\n")).exit_code == 0


@pytest.fixture
def my_configs(tmp_path, monkeypatch):
    """Configs of a user's own in `conf` and `more (1)`, the current directory; the primary one brings a search."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "conf/my.yaml": "defaults: [train, override search: random, _self_]\n"
        "search: {num_trials: 2, space: {optimizer.lr: 'interval(0.1, 0.2)'}}\nmodel: {num_units: 5}\n",
        "conf/optimizer/mine.yaml": "_target_: torch.optim.SGD\nlr: 0.1\nmomentum: 0.5\n",
        "more (1)/data/mine.yaml": "defaults: [digits]\nnormalize: false\n",
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return [
        *("--config-dir", "conf", "-cn", "my"),
        override("hydra.searchpath", ["file://more (1)"]),
        *("data=mine", "optimizer=mine", "+hydra.job.env_set.BNLAB_TEST='a, b'"),
    ]


def settings_of(seen):
    return lambda config: seen.append((plain(config), os.environ.get("BNLAB_TEST"))) or smooth(config)


@pytest.mark.parametrize("seeds", [1, 2])
def test_commands_bring_the_flags_that_the_configs_need(seeds, my_configs, train, typed, monkeypatch, tmp_path):
    seen = []

    def task(config):
        settings_of(seen)(config)
        return interrupts_at_1(config)

    monkeypatch.setattr("bnlab.train.task", task)
    outcome = train(*my_configs[:4], "-m", "hydra.sweep.dir=s", f"search.seeds={seeds}", *my_configs[4:])
    assert outcome.exit_code == 130, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "python -m bnlab.train -m search.resume=s search.trust=true"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    resumed = typed("python -m bnlab.train -m search.resume=../s search.trust=true", settings_of(seen))
    assert resumed.exit_code == 0, resumed.stderr
    left = Left(tmp_path / "s")
    command = resumed.stdout.splitlines()[-1]
    assert command == left.best.command
    assert f"```\n{command}\n```" in left.leaderboard
    again = []
    assert typed(command, settings_of(again)).exit_code == 0
    assert len(again) == seeds
    assert all(run in seen for run in again)
    assert {name for _, name in seen} == {"a, b"}
    assert {(settings["model"]["num_units"], settings["data"]["normalize"]) for settings, _ in seen} == {(5, False)}


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_command_of_the_best_leaves_out_what_only_names_folders(seeds, train, typed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["+who=me,you", "+width=5", "model.num_units=${width}", "hydra.sweep.subdir=${who}/${hydra.job.num}"]
    monkeypatch.setattr("bnlab.train.task", smooth)
    outcome = train("-m", "hydra.sweep.dir=s", f"search.seeds={seeds}", *words)
    assert outcome.exit_code == 0, outcome.stderr
    command = outcome.stdout.splitlines()[-1]
    assert "who" not in command
    assert "+width=5" in command
    again = typed(command, smooth)
    assert again.exit_code == 0, again.stderr


def test_the_command_of_a_run_brings_the_flags_that_its_configs_need(my_configs, train, typed, monkeypatch, tmp_path):
    quick = ["trainer.max_epochs=1", "trainer.accelerator=cpu"]
    assert train(*my_configs, *quick, "hydra.run.dir='a, b'").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    first = json.loads((tmp_path / "a, b" / "summary.json").read_text())
    seen = []
    assert typed(first["command"], settings_of(seen)).exit_code == 0
    assert same(seen[0][0], OmegaConf.to_container(OmegaConf.load(tmp_path / "a, b" / "config.yaml")))
    assert seen[0][1] == "a, b"


def changed():
    config = bnlab.compose(["optimizer=momentum"])
    config.optimizer.momentum = 0.25
    config.model.activation = "a = 'b', \\${c}"
    OmegaConf.set_struct(config, False)
    del config.trainer["gradient_clip_val"]
    config.callbacks = {"stop": {"_target_": "my.Callback", "values": [1, 1.0, None, {"a": "1"}]}}
    return config


def by_hand():
    return OmegaConf.create(OmegaConf.to_container(changed(), resolve=False))


@pytest.mark.parametrize("config", [lambda: bnlab.compose(["optimizer=momentum", "seed=3"]), changed, by_hand])
def test_a_config_from_python_has_overrides_that_make_it(config):
    settings = plain(config())
    overrides = overrides_of(settings)
    assert same(plain(compose_unchecked(overrides)), settings)


def compose_unchecked(overrides):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnlab.composing.check", lambda config: None)
        return bnlab.compose(overrides)


def test_a_run_from_python_says_what_repeats_it(tmp_path):
    given = ["model.num_units=3", "trainer.max_epochs=1", "trainer.accelerator=cpu", "model.num_layers=1"]
    config = bnlab.compose(given)
    quiet = Console(file=io.StringIO())
    summary = fit(config, tmp_path / "given", console=quiet)
    assert summary["command"] == command(given)
    assert bnlab.load(tmp_path / "given").overrides == given
    config.seed = 7
    (stacked,) = train_stacked([config], tmp_path / "stacked", num_workers=1)
    assert stacked["command"].startswith("python -m bnlab.train ")
    assert "seed=7" in stacked["command"]
    config.callbacks = {"a name": {"_target_": "lightning.pytorch.callbacks.Timer"}}
    assert fit(config, tmp_path / "none", console=quiet)["command"] is None


def test_composing_leaves_the_hydra_of_a_program_around_it(my_configs):
    with initialized(str(Path("conf").absolute())):
        outer = GlobalHydra.instance().hydra
        bnlab.compose()
        assert GlobalHydra.instance().hydra is outer


NAMES = st.text(st.sampled_from("ab 1e\\'\"{}[](),:=~é%.-+#*?@|;&`!<>"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and not name.startswith("-")
)
SPACES = st.lists(
    st.sampled_from(
        [
            "model.hidden=[3],[4,4]",
            "norm.momentum=0.1,null",
            "norm=batch,none",
            "optimizer.lr=0.1,0.01",
            "optimizer.lr=choice(0.1,0.10000000000000002)",
            "trainer.gradient_clip_val=null,1",
            "model.bias=auto,true",
            "optimizer=momentum,adam optimizer.momentum=tag('optimizer=momentum',choice(0.5,0.9))",
        ]
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda line: line.partition("=")[0].partition(".")[0],
)


@st.composite
def sweeps(draw):
    """Flags and overrides, the folder of the sweep, and whether it is interrupted."""
    folder = draw(NAMES)
    lines = [override("hydra.sweep.dir", folder), *(part for line in draw(SPACES) for part in line.split(" "))]
    lines += ["data=mine"] if (has_flags := draw(st.booleans())) else []
    lines += [f"search.seeds={draw(st.sampled_from([1, 2]))}", f"seed={draw(st.integers(0, 9))}"]
    if draw(st.booleans()):
        lines += ["search=random", "search.num_trials=2"]
    if draw(st.booleans()):
        lines.append(override("search.storage", "sqlite:///study.db"))
    return (["--config-dir", "my (conf)"] if has_flags else []), lines, folder, draw(st.booleans())


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("BNLAB_TEST_EXAMPLES", "6")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(sweeps())
def test_the_commands_of_any_sweep_run_as_they_are_printed(tmp_path_factory, drawn):
    flags, lines, name, is_interrupted = drawn
    home = tmp_path_factory.mktemp("home")
    (home / "my (conf)" / "data").mkdir(parents=True)
    (home / "my (conf)" / "data" / "mine.yaml").write_text("defaults: [digits]\nnormalize: false\n")
    quick = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "model.num_units=4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def type_in(line, interrupts=False):
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if interrupts:
            while process.poll() is None and not list(home.glob("*/0/config.yaml")):
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
        return process.returncode, stdout.decode(), stderr.decode()

    line = " ".join(map(word, ["python", "-m", "bnlab.train", *flags, "-m", *lines, *quick]))
    code, stdout, stderr = type_in(line, is_interrupted)
    if code == 130:
        code, stdout, stderr = type_in(stdout.splitlines()[-1])
    assert code == 0, line + stderr
    left = Left(home / name)
    assert left.best.command == stdout.splitlines()[-1]
    code, stdout, stderr = type_in(left.best.command)
    assert code == 0, left.best.command + stderr
    again = [*home.glob("outputs/*/*/*/best.yaml"), *home.glob("outputs/runs/*/*/summary.json")]
    assert [OmegaConf.load(file).objective for file in again] == [left.best.objective]
    first = json.loads((left.folder / left.best.folder / "summary.json").read_text())
    assert type_in(first["command"] + " hydra.run.dir=alone")[0] == 0
    assert json.loads((home / "alone" / "summary.json").read_text())["objective"] == first["objective"]
