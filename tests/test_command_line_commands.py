"""`python -m bnlab`, and what every command has in common."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import bnlab
from bnlab import __main__ as overview
from bnlab.bench.__main__ import BENCHMARKS
from bnlab.bench.__main__ import main as bench
from bnlab.commands import COMMANDS, commands

PACKAGE = Path(bnlab.__file__).parent


def typed(words: list[str], monkeypatch, capsys) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["bnlab", *words])
    code = 0
    try:
        overview.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_every_module_that_says_how_it_is_run_is_listed() -> None:
    said = {path.stem for path in PACKAGE.glob("*.py") if path.read_text().startswith('"""`python -m bnlab.')}
    assert {command.name for command in commands()} == said | {"bench"}
    assert [command.name for command in commands()] == [name for name in COMMANDS if name in said | {"bench"}]


@pytest.mark.parametrize("width", [80, 140])
def test_the_overview_has_each_command_with_what_it_does_and_fits(width, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, shown, _ = typed([], monkeypatch, capsys)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= width
    for command in commands():
        assert command.usage.startswith(f"python -m bnlab.{command.name}")
        assert command.usage in shown
        assert command.summary[:30] in shown


def test_every_command_has_help_which_costs_no_torch() -> None:
    code = (
        "import io, runpy, sys, contextlib\n"
        f"names = {[command.name for command in commands()]!r}\n"
        "for name in names:\n"
        "    sys.argv = [name, '--help']\n"
        "    told = io.StringIO()\n"
        "    with contextlib.redirect_stdout(told):\n"
        "        try:\n"
        "            runpy.run_module(f'bnlab.{name}', run_name='__main__', alter_sys=True)\n"
        "        except SystemExit as stop:\n"
        "            assert not stop.code, name\n"
        "    assert f'bnlab.{name}' in told.getvalue(), name\n"
        "    assert not {'torch', 'lightning', 'matplotlib'} & sys.modules.keys(), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_package(monkeypatch, capsys) -> None:
    assert typed(["--version"], monkeypatch, capsys) == (0, "bnlab 0.1.0\n", "")
    assert 'version = "0.1.0"' in (PACKAGE.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean python -m bnlab.train?"),
        (["lr=0.1"], "did you mean python -m bnlab.train lr=0.1?"),
        (["-m", "seed=0,1"], "did you mean python -m bnlab.train -m seed=0,1?"),
        (["nonsense"], "python -m bnlab lists the commands"),
    ],
)
def test_a_wrong_command_is_one_line(words, said, monkeypatch, capsys) -> None:
    code, shown, told = typed(words, monkeypatch, capsys)
    assert (code, shown) == (2, "")
    assert said in told
    assert told.count("\n") == 1


def test_a_command_runs_by_its_name() -> None:
    words = [sys.executable, "-m", "bnlab", "train", "lr=0.1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no setting `lr`: did you mean optimizer.lr=0.1?\n"


@pytest.mark.parametrize("name", [command.name for command in commands() if command.name not in ("train", "bench")])
@pytest.mark.parametrize(
    ("words", "said"),
    [([], "arguments are required: "), (["x", "--hep"], "did you mean --help?"), (["x", "-q"], "--help tells")],
    ids=["nothing", "slip", "unknown"],
)
def test_a_wrong_argument_is_one_line_too(name, words, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as stop:
        import_module(f"bnlab.{name}").main()
    shown, told = capsys.readouterr()
    assert (stop.value.code, shown) == (2, "")
    assert said in told
    assert told.startswith(f"python -m bnlab.{name}: ")
    assert told.count("\n") == 1


def test_bench_lists_its_benchmarks_and_asks_what_was_meant(capsys) -> None:
    bench(["--help"])
    shown = capsys.readouterr().out
    for name in BENCHMARKS:
        assert f"\n  {name} " in shown
    with pytest.raises(SystemExit) as stop:
        bench(["sweeep"])
    assert stop.value.code == 2
    assert "did you mean python -m bnlab.bench sweep?" in capsys.readouterr().err
