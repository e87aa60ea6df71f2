"""Look up the names of Hydra and OmegaConf that differ between versions: private ones, and a few public ones.

If a private name is missing, something takes longer or is reported in Hydra's words. Methods of Hydra are replaced
temporarily where Hydra has no option for the purpose.
"""

import io
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, suppress
from functools import cache
from importlib import import_module
from inspect import signature
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.internals.private_name import private_name

__all__ = [
    "application",
    "composing_for_multirun",
    "end_of_failed_sweep",
    "error_of",
    "get_object",
    "initialized",
    "instantiate",
    "loader_of",
    "options_in",
    "parser_of_options",
    "raw_value",
    "register_resolver",
    "replacing_help",
    "repository_of",
    "run_hydra",
    "setter_of_values",
    "skipping_mode_composition",
    "store",
]

_HYDRA = "hydra._internal.hydra:Hydra"
_LOADER = "hydra._internal.config_loader_impl:ConfigLoaderImpl"

# ---- what differs between versions -----------------------------------------------------------------------------------


def _is_before_1_4() -> bool:
    import hydra

    major, minor = map(int, hydra.__version__.split(".")[:2])
    return (major, minor) < (1, 4)


def _of_version() -> dict[str, Any]:
    """Return the `version_base` for Hydra 1.3; Hydra 1.4 has one behavior and warns of the argument."""
    return {"version_base": "1.3"} if _is_before_1_4() else {}


def end_of_failed_sweep(hydra_context: Any, config: DictConfig) -> None:
    """Call `on_multirun_end` after a sweep that raises, as Hydra 1.4 does itself."""
    if _is_before_1_4():
        hydra_context.callbacks.on_multirun_end(config=config, config_name=config.hydra.job.config_name)


def application(task: Callable[..., Any], folder: str, name: str | None) -> Callable[[], Any]:
    """Apply `hydra.main` to `task`, with the config `name` in `folder`."""
    import hydra

    made: Callable[[], Any] = hydra.main(config_path=folder, config_name=name, **_of_version())(task)
    return made


def initialized(folder: str) -> AbstractContextManager[Any]:
    """Call `hydra.initialize_config_dir`."""
    from hydra import initialize_config_dir

    return initialize_config_dir(folder, **_of_version())


def register_resolver(name: str, resolver: Callable[..., Any], **settings: bool) -> None:
    """Call `OmegaConf.register_new_resolver`, which is `register_resolver` since OmegaConf 2.4."""
    is_new = "replace" in signature(OmegaConf.register_resolver).parameters
    (OmegaConf.register_resolver if is_new else OmegaConf.register_new_resolver)(name, resolver, **settings)


def store(group: str, name: str, node: Mapping[str, Any]) -> None:
    """Call `ConfigStore.store`; to store a node again, Hydra 1.4 needs `replace`."""
    from hydra.core.config_store import ConfigStore

    again: Any = {"replace": True} if "replace" in signature(ConfigStore.store).parameters else {}
    ConfigStore.instance().store(group=group, name=name, node=dict(node), provider="bnlab", **again)


def instantiate(config: Any, **named: Any) -> Any:
    """Call `hydra.utils.instantiate` with a config that the user wrote or trusts (`bnlab.config.trust`)."""
    import hydra.utils

    with _allowing(_targets_in(config)):
        return hydra.utils.instantiate(config, **named)


def get_object(target: str) -> Any:
    """Call `hydra.utils.get_object` with a name in such a config."""
    import hydra.utils

    with _allowing(_names_of(target)):
        return hydra.utils.get_object(target)


def _allowing(targets: Iterable[str]) -> AbstractContextManager[Any]:
    """Let Hydra 1.4 use these targets, except those that it calls dangerous.

    It also asks where the class of a callable result is defined, which may be in any package that is imported.
    """
    whitelist = private_name("hydra.utils:execution_whitelist", None)
    if whitelist is None:
        return nullcontext()
    allowed = list(targets)  # which imports them
    packages = {name.partition(".")[0] for name in sys.modules}
    allowed += (f"{package}.*" for package in packages if package.isidentifier())
    made: AbstractContextManager[Any] = whitelist(allowed, reset=True)
    return made


def _targets_in(config: Any) -> Iterator[str]:
    """List every `_target_` in a config, and the module that defines it if the named one only imports it."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)
    if isinstance(config, Mapping):
        if isinstance(target := config.get("_target_"), str):
            yield from _names_of(target)
        config = list(config.values())
    if isinstance(config, list | tuple):
        for each in config:
            yield from _targets_in(each)


def _names_of(target: str) -> Iterator[str]:
    yield target
    with suppress(Exception):  # Hydra reports it
        found = _named(target)
        yield f"{found.__module__}.{found.__qualname__}"


def _named(target: str) -> Any:
    """Resolve a name as Hydra does: an attribute comes before a submodule of the same name."""
    path, *rest = target.split(".")
    found: Any = import_module(path)
    for part in rest:
        path = f"{path}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(path)
    return found


def _trusting() -> AbstractContextManager[Any]:
    """Let Hydra build the callbacks and loggers that a config names; Hydra 1.4 requires a whitelist for them."""
    whitelist = private_name("hydra.utils:execution_whitelist", None)
    everything = private_name("hydra.utils:UNSAFE_DISABLE_EXECUTION_CHECKS", None)
    return nullcontext() if whitelist is None or everything is None else whitelist(everything)


# ---- the command line ------------------------------------------------------------------------------------------------

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--help", "-h"), {"action": "store_true"}),
    (("--hydra-help",), {"action": "store_true"}),
    (("--version",), {"action": "version", "version": ""}),
    (("--cfg", "-c"), {"choices": ["job", "hydra", "all"]}),
    (("--resolve",), {"action": "store_true"}),
    (("--package", "-p"), {}),
    (("--run", "-r"), {"action": "store_true"}),
    (("--multirun", "-m"), {"action": "store_true"}),
    (("--shell-completion", "-sc"), {"action": "store_true"}),
    (("--config-path", "-cp"), {}),
    (("--config-name", "-cn"), {}),
    (("--config-dir", "-cd"), {}),
    (("--experimental-rerun",), {}),
    (("--info", "-i"), {"const": "all", "nargs": "?"}),
)


def parser_of_options() -> ArgumentParser:
    """Return Hydra's parser, or one with the options in its manual."""
    of_hydra = private_name("hydra._internal.utils:get_args_parser", None)
    if of_hydra is not None:
        parser: ArgumentParser = of_hydra()
        return parser
    parser = ArgumentParser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names, settings in _OPTIONS:
        parser.add_argument(*names, **settings)
    return parser


def run_hydra(arguments: Namespace, parser: ArgumentParser, task: Callable[..., Any], folder: str, name: str) -> None:
    """Run `task` as `hydra.main` would, with parsed arguments that differ from those of the process."""
    plainly = application(task, folder, name)  # this also tells Hydra 1.3 its version
    run = private_name("hydra._internal.utils:_run_hydra", None)
    if run is not None:
        with _trusting():
            run(arguments, parser, task, config_path=folder, config_name=name)
        return
    given = sys.argv[1:]
    sys.argv[1:] = _typed(arguments)
    try:
        with _trusting():
            plainly()
    finally:
        sys.argv[1:] = given


def _typed(arguments: Namespace) -> list[str]:
    """Return the command line that is parsed into these arguments."""
    words: list[str] = []
    for (name, *_), _settings in _OPTIONS:
        value = getattr(arguments, name.lstrip("-").replace("-", "_"), None)
        if value is True:
            words.append(name)
        elif value:
            words += [name, str(value)]
    return [*words, *arguments.overrides]


# ---- what Hydra composes ---------------------------------------------------------------------------------------------


@contextmanager
def _replaced(owner: str, name: str, replacement: Any) -> Iterator[bool]:
    """Replace `owner.name` by `replacement` within, if it exists; yield whether it does."""
    target = private_name(owner, None)
    before = private_name(f"{owner}.{name}", None)
    if target is None or before is None:
        yield False
        return
    setattr(target, name, replacement)
    try:
        yield True
    finally:
        setattr(target, name, before)


def replacing_help(get_help: Callable[..., str]) -> AbstractContextManager[bool]:
    """Let `get_help(hydra, help_config, config, ...)` return the text of `--help` within, instead of a template."""
    return _replaced(_HYDRA, "get_help", get_help)


def skipping_mode_composition() -> AbstractContextManager[bool]:
    """Let Hydra assume that no config sets `hydra.mode`; to find out, Hydra 1.3 composes everything twice."""
    return _replaced(_HYDRA, "get_mode", lambda *_, **__: None)


def composing_for_multirun() -> AbstractContextManager[bool]:
    """Let Hydra always compose for RunMode.MULTIRUN within; yield whether that is possible."""
    from hydra.types import RunMode

    load = private_name(f"{_LOADER}.load_configuration", None)

    def load_configuration(
        self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode, *arguments: Any, **named: Any
    ) -> Any:
        return load(self, config_name, overrides, RunMode.MULTIRUN, *arguments, **named)

    return _replaced(_LOADER, "load_configuration", load_configuration)


def options_in(loader: Any, config_name: str, overrides: list[str]) -> Callable[[str, Any], list[str]]:
    """Return a function that lists the names in a group that have a given `hydra.core.object_type.ObjectType`.

    It uses the loader's repository if it can, because the loader itself copies all configs for each call.
    """
    if hasattr(loader, "_parse_overrides_and_create_caching_repo"):
        _, repository = loader._parse_overrides_and_create_caching_repo(config_name, overrides)
        options: Callable[[str, Any], list[str]] = repository.get_group_options
        return options
    return lambda group, kind: loader.get_group_options(group, kind, config_name, overrides)


def repository_of(folder: str, config_dir: str | None) -> Any | None:
    """Return all configs of `folder`, of `config_dir` and of Hydra; None if this Hydra cannot list them."""
    from hydra.core.config_search_path import SearchPathQuery

    loader = private_name(_LOADER, None)
    create = private_name("hydra._internal.utils:create_config_search_path", None)
    if loader is None or create is None:
        return None
    path = create(folder)
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
    return getattr(loader(config_search_path=path), "repository", None)


@cache
def setter_of_values() -> Callable[[DictConfig, Sequence[Any], Sequence[Any]], None] | None:
    """Return Hydra's function that sets overridden values in a composed config, or None if it has none.

    Its arguments are the config, the values and all overrides of the task. Without it, each job is composed anew.
    """
    apply = private_name(f"{_LOADER}._apply_overrides_to_config", None)
    dirname = private_name("hydra._internal.config_loader_impl:get_overrides_dirname", None)
    if apply is None:
        return None

    def set_values(config: DictConfig, values: Sequence[Any], of_task: Sequence[Any]) -> None:
        apply(list(values), config)
        if OmegaConf.is_interpolation(config.hydra.job, "override_dirname"):  # Hydra 1.4 computes it on demand
            return
        named = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = dirname(
            overrides=list(of_task),
            kv_sep=named.kv_sep,
            item_sep=named.item_sep,
            exclude_keys=named.exclude_keys,
        )

    if dirname is None and not _computes_dirname_on_demand():
        return None
    return set_values


def _computes_dirname_on_demand() -> bool:
    from hydra.conf import HydraConf

    return OmegaConf.is_interpolation(OmegaConf.structured(HydraConf).job, "override_dirname")


def loader_of(path: Any, like: Any) -> Any:
    """Return a config loader of Hydra's own class for a search path."""
    return private_name(_LOADER, type(like))(config_search_path=path)


# ---- what Hydra and OmegaConf hold -----------------------------------------------------------------------------------


def error_of(job_return: Any) -> BaseException | None:
    """Return what a failed job raised; the public property would print and raise it."""
    if hasattr(job_return, "_return_value"):
        error: BaseException | None = job_return._return_value
        return error
    try:
        with redirect_stderr(io.StringIO()):
            _ = job_return.return_value
    except BaseException as raised:
        return raised
    return None


def raw_value(config: DictConfig, key: str) -> Any:
    """Return what is written at `key`, unresolved: a config or a plain value."""
    if not hasattr(config, "_get_node"):
        return OmegaConf.to_container(OmegaConf.masked_copy(config, [key]), resolve=False)[key]  # type: ignore[index,call-overload]
    node: Any = config._get_node(key)
    return node if OmegaConf.is_config(node) else node._value()
