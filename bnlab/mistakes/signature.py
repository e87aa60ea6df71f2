"""Read the argument names of a class or function from its source, because importing torch takes seconds."""

import ast
import functools
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["arguments_of_target"]


@functools.cache
def arguments_of_target(target: str) -> frozenset[str] | None:
    """Return the argument names of `package.module.Class`; None if they are unknown or arbitrary (`**kwargs`)."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        file = _file(parts[:length])
        if file is not None:
            return _in_file(file, parts[:length], parts[length:], depth=0)
    return None


def _file(module: list[str]) -> Path | None:
    """Find the source of a plain package as the import system does, without importing it."""
    for folder in sys.path:
        path = Path(folder, *module)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    return None


@functools.cache
def _statements(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_bytes()).body


def _in_file(file: Path, module: list[str], names: list[str], depth: int) -> frozenset[str] | None:
    if len(names) != 1 or depth > 8:
        return None
    (name,) = names
    try:
        statements = _statements(file)
    except (SyntaxError, ValueError, OSError):
        return None
    for statement in reversed(list(_flat(statements))):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return _arguments(statement)
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            for inner in statement.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    return _arguments(inner, leave_out=1)
            if len(statement.bases) == 1 and isinstance(statement.bases[0], ast.Name):
                return _in_file(file, module, [statement.bases[0].id], depth + 1)
            return None
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) not in (name, "*"):
                    continue
                origin = _absolute(statement, module, is_package=file.name == "__init__.py")
                source = _file(origin)
                wanted = name if alias.name == "*" else alias.name
                found = None if source is None else _in_file(source, origin, [wanted], depth + 1)
                if found is not None or alias.name != "*":
                    return found
    return None


def _flat(statements: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Include what is inside an `if` or `try`, such as imports for type checkers."""
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _flat([*statement.body, *statement.orelse])


def _absolute(statement: ast.ImportFrom, module: list[str], *, is_package: bool) -> list[str]:
    named = statement.module.split(".") if statement.module else []
    if not statement.level:
        return named
    up = statement.level - (1 if is_package else 0)
    return [*module[: len(module) - up], *named]


def _arguments(function: ast.FunctionDef, leave_out: int = 0) -> frozenset[str] | None:
    arguments = function.args
    if arguments.kwarg is not None:
        return None
    named = [*arguments.posonlyargs, *arguments.args][leave_out:]
    return frozenset(argument.arg for argument in [*named, *arguments.kwonlyargs])
