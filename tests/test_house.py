"""The order of the house: what may import what, the linter, the type checker, the wheel."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "bnlab"

# From the ground up: a module imports from its own room and from those before it. What a floor has in a line, in any
# order, does not know of each other.
FLOORS = (
    ("internals", "task", "curves", "data_sets", "own_version", "status"),
    ("metrics",),
    ("text",),
    ("errors", "commands"),
    ("io", "process", "rules", "search"),
    (
        *("batch_norm.c_library", "batch_norm.arithmetic", "batch_norm.checkpointing"),
        *("network", "data", "figures", "preflight", "search.spaces"),
    ),
    ("batch_norm.back_ends",),
    ("batch_norm", "config"),
    ("runs", "mistakes", "stacked.compiled", "search.samplers"),
    ("composing", "comparison", "search.study", "stacked.formulas"),
    ("search.definition", "search.results", "training", "inside"),
    ("search.sweeps", "training.lightning", "stacked.networks"),
    ("stacked",),
    ("stacked.processes",),
    ("engines",),
    ("launchers",),
    ("hydra_plugins",),
    ("__main__", "train", "evaluate", "repeat", "compare", "look", "calling"),
    ("bench", "bench.chaos"),
)
# Who may import the large libraries, by the start of the module's name.
HOMES = {
    "lightning": ("data.module", "training.lightning", "bench"),
    "hydra": (
        *("internals", "config", "composing", "mistakes", "training.lightning", "search", "stacked", "engines"),
        *("launchers", "hydra_plugins", "train", "bench"),
    ),
    "optuna": ("internals", "config.trust", "search", "bench"),
    "matplotlib": ("figures",),
    "torchvision": ("data.datasets", "bench"),
    "sklearn": ("data",),
}
# These know torch alone.
TORCH_ALONE = ("internals.torch_internals", "batch_norm", "network")
COSTS_NO_TORCH = (
    *("", "rules", "composing", "runs.reading", "comparison.comparison", "search.spaces.scales"),
    *("__main__", "train", "evaluate", "repeat", "compare", "look", "calling"),
)


def name_of(path: Path) -> str:
    """Without the name of the package: such as data.module, data for data/__init__.py, and nothing for the topmost."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that running the file, or a function of it, makes: what is there for type checkers is left out."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        waiting += ast.iter_child_nodes(node)


@cache
def imports_of(name: str) -> frozenset[str]:
    """The modules that `name` imports, `from package import module` among them, and the packages around them.

    Those of bnlab are without its name, but for their first dot: .data.module.
    """
    found: set[str] = set()
    for node in statements(modules()[name]):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"bnlab.{name} has a relative import"
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        for each in imported:
            top, _, below = each.partition(".")
            if top != "bnlab":
                found.add(each)
                continue
            while below and below not in modules():
                below = below.rpartition(".")[0]  # a name in a module
            while below:
                if not f"{name}.".startswith(f"{below}."):  # it is running already
                    found.add(f".{below}")
                below = below.rpartition(".")[0]
    return frozenset(found)


def graph() -> dict[str, set[str]]:
    return {name: {each[1:] for each in imports_of(name) if each.startswith(".")} for name in modules()}


def room_of(name: str) -> str:
    """The folder, or the file itself where it is at the top."""
    is_folder = modules()[name].name == "__init__.py"
    return name if is_folder or "." not in name else name.rpartition(".")[0]


def starts_with(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def test_no_module_imports_itself_in_the_end() -> None:
    """Imports within functions count: what they hide is a circle all the same."""
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(f"bnlab.{name}" for name in reversed(error.args[1])))


def test_each_room_imports_from_below() -> None:
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms} | {"": -1}
    assert {room_of(name) for name in modules()} <= floors.keys(), "a new room needs a floor"
    upward = [
        f"bnlab.{name} imports bnlab.{imported}"
        for name, others in graph().items()
        for imported in others
        if room_of(imported) != room_of(name) and floors[room_of(imported)] >= floors[room_of(name)]
    ]
    assert not upward


@pytest.mark.parametrize("library", HOMES)
def test_large_libraries_have_homes(library: str) -> None:
    strangers = [
        name
        for name in modules()
        if not starts_with(name, HOMES[library]) and any(starts_with(each, (library,)) for each in imports_of(name))
    ]
    assert not strangers


@pytest.mark.parametrize("name", [name for name in modules() if starts_with(name, TORCH_ALONE)])
def test_the_layer_and_the_network_know_torch_alone(name: str) -> None:
    foreign = {each.partition(".")[0] for each in imports_of(name)} - {""} - set(sys.stdlib_module_names)
    assert foreign <= {"torch"}


def test_importing_bnlab_or_its_commands_costs_no_torch() -> None:
    """One after the other in one process, where whoever imports it first is seen."""
    names = [f"bnlab.{name}".rstrip(".") for name in COSTS_NO_TORCH]
    code = (
        "import sys\nfrom importlib import import_module\nfor name in sys.argv[1:]:\n    import_module(name)\n"
        "    if not {'torch', 'lightning', 'optuna', 'matplotlib'}.isdisjoint(sys.modules):\n        sys.exit(name)"
    )
    outcome = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def comments_and_docstrings(path: Path) -> Iterator[str]:
    text = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


# A figure that somebody measured: a time, a size, a ratio of times. It belongs to bnlab/bench/records, with its date.
MEASURED = re.compile(
    r"\b\d[\d.,]* ?(?:ns|us|µs|ms|s|seconds?|minutes?|[KkMG]i?B)\b"
    r"|\b(?:half|thirds?|quarters?|fifths?|tenths?) (?:of )?(?:the|its|their) time\b"
    r"|\btimes (?:as (?:fast|slow|long)|faster|slower|longer)\b"
)
NOT_MEASURED = "called every 0.2 s"  # a period that the code sets


def test_figures_that_were_measured_are_in_the_records() -> None:
    said = [
        f"bnlab.{name}: {text}"
        for name, path in modules().items()
        for text in comments_and_docstrings(path)
        if MEASURED.search(text) and NOT_MEASURED not in text
    ]
    assert not said


def test_each_module_says_in_its_first_line_what_it_is_for() -> None:
    first = {
        name: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for name, path in modules().items()
    }
    assert not {name: line for name, line in first.items() if not line.endswith((".", "?"))}


MOST_LINES = 400  # of a file
MOST_FILES = 20  # in a folder, without those of its sub-folders


def test_files_and_folders_stay_small() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    files = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in modules().values())
    assert not {name: number for name, number in lines.items() if number > MOST_LINES}
    assert not {folder: number for folder, number in files.items() if number > MOST_FILES}


def test_public_names_are_where_they_are_said_to_be() -> None:
    import bnlab
    import bnlab.data
    import bnlab.search
    import bnlab.stacked

    for package in (bnlab, bnlab.data, bnlab.search, bnlab.stacked):
        for name in package.__all__:
            assert getattr(getattr(package, name), "__name__", name) == name  # a table has none
            assert (
                f"{package.__name__}.{name}".removeprefix("bnlab.") not in modules()
            )  # its import would hide the name
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = package.nonsense


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["lint", "format", "types"],
)
def test_code_is_clean(command: tuple[str, ...]) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_an_installed_wheel_brings_its_configs(tmp_path: Path) -> None:
    """Without the repository, from another folder."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, REPOSITORY],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("bnlab-*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", installed, wheel],
        check=True,
        capture_output=True,
    )
    code = (
        "import bnlab, sys, runpy; assert bnlab.__file__.startswith(sys.argv.pop(1)), bnlab.__file__; "
        "runpy.run_module('bnlab.train', run_name='__main__')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, installed, "--cfg", "job", "optimizer=nesterov"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nesterov: true" in shown.stdout
    entry_points = next(installed.glob("bnlab-*.dist-info/entry_points.txt")).read_text()
    assert "bnlab-train = bnlab.train:main" in entry_points
