"""The order of the house: what may import what, the linter, the type checker, the wheel."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "bnlab"

# Who may import the large libraries, by the start of the module's name.
HOMES = {
    "lightning": (
        *(
            "data.module",
            "training.lightning.learner",
            "training.lightning.callbacks",
            "training.lightning.fit",
            "training.lightning.recorder",
            "training.lightning.progress_callback",
            "training.lightning.interrupt_callback",
        ),
        *("bench", "search"),
    ),
    "hydra": (
        *(
            "engines",
            "train",
            "engines.start",
            "hydra_plugins.known_mode",
            "config",
            "composing",
            "config.target",
            "training.lightning.callbacks",
            "training.lightning.fit",
            "search",
            "launchers",
            "stacked",
            "bench",
        ),
        *("mistakes", "hydra_plugins.own_help", "internals.hydra_internals"),
    ),
    "optuna": ("search", "bench"),
    "matplotlib": ("figures",),
    "torchvision": ("data.datasets", "bench"),
    "sklearn": ("data",),
}
# These know torch alone.
TORCH_ALONE = ("internals.torch_internals", "batch_norm", "network")
# Nobody below imports from above.
LAYERS = (
    "internals.private_name",
    "errors",
    "rules",
    "internals.torch_internals",
    "batch_norm",
    "network",
    "data",
    "training.lightning.learner",
    "search",
    "train",
)


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports_of(path: Path) -> set[str]:
    """Every module that running the file, or a function of it, imports: what is there for type checkers is left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        waiting += ast.iter_child_nodes(node)
    return found


def starts_with(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


@pytest.mark.parametrize(("name", "path"), modules().items())
def test_imports_point_one_way(name: str, path: Path) -> None:
    imported = imports_of(path)
    for library, homes in HOMES.items():
        if any(starts_with(module, (library,)) for module in imported):
            assert starts_with(name, homes), f"bnlab.{name} imports {library}"
    layer = next((index for index, part in enumerate(LAYERS) if starts_with(name, (part,))), None)
    if layer is not None:
        above = tuple(f"bnlab.{part}" for part in LAYERS[layer + 1 :])
        assert not [module for module in imported if starts_with(module, above)]
    if starts_with(name, TORCH_ALONE):
        foreign = {module.partition(".")[0] for module in imported} - set(sys.stdlib_module_names) - {"bnlab"}
        assert foreign <= {"torch"}


def test_importing_bnlab_or_its_command_costs_no_torch() -> None:
    for module in (
        "bnlab",
        "bnlab.train",
        "bnlab.evaluate",
        "bnlab.runs.reading",
        "bnlab.rules",
        "bnlab.compare",
        "bnlab.look",
    ):
        code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, module


def test_public_names_are_where_they_are_said_to_be() -> None:
    import bnlab

    for name in bnlab.__all__:
        assert getattr(bnlab, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bnlab.nonsense


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
