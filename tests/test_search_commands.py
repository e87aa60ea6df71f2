"""The commands that a sweep and a run print or write, run as they are printed."""

import signal
import subprocess

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from simulated_sweep import Left, smooth

from bnlab.command_line import differences, override, same, word

CHARACTERS = "ab\\'\"${}[](),:=# \t\n~é%1.e-+/nulltruef*?@|;&`!<>\u2028\N{SNOWMAN}"
TEXTS = st.text(st.sampled_from(CHARACTERS), max_size=12)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,5}", fullmatch=True).filter(
    lambda key: key.lower() not in ("null", "true", "false", "nan", "inf")
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)


def composed(lines, before):
    """What Hydra makes of overrides."""
    config = OmegaConf.create(before)
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(lines)), config)
    return OmegaConf.to_container(config, resolve=True)


bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(KEYS, VALUES, max_size=3))
def test_differences_lead_from_one_config_to_the_other(before, after):
    try:
        lines = differences(before, after)
    except ValueError:
        assert any(isinstance(a, dict) != isinstance(b, dict) for a, b in shared_items(before, after))
    else:
        assert same(composed(lines, before), after)


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4)))
@settings(max_examples=10, deadline=None)
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
    assert [row["state"] for row in Left(tmp_path / name).rows] == ["completed", "interrupted", "completed"]
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no other sweep was begun
    refused, _ = sweep(*arguments, override("hydra.sweep.dir", name), folder="unused")
    assert refused.exit_code == 2
    assert typed(refused.stderr[refused.stderr.index("python -m") :].rstrip("\n")).exit_code == 0
