"""Configs as YAML text are those of OmegaConf, letter by letter, and read back as what they were."""

from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf._utils import YAML_BOOL_TYPES

from bnlab import compose
from bnlab.io.yaml_text import to_yaml

TEXTS = [
    *YAML_BOOL_TYPES,
    *("", "1", "1.5", "1e3", "1e-3", ".5", "5.", "1_000", "inf", "-inf", "nan", "0x1F", "0o17", "017", "+1", "1:30"),
    *(
        "null",
        "~",
        "None",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "[1,2]",
        "{a: 1}",
        "'a'",
        '"a"',
        "a'b",
        " a",
        "a ",
        "a\nb",
        "\t",
    ),
    *(
        "tRue",
        "é",
        "雪",
        "\u2028",
        "2026-11-21",
        "%a",
        "@a",
        "`a",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "?",
        ":",
        "=",
        "<<",
        "x" * 200,
    ),
    "model.hidden=[100,100,100] and many words after it, so many of them that a line of text would have to be folded",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_written_as_omegaconf_writes_it(text: str) -> None:
    container: dict[str, Any] = {"key": text, "list": [text, {"inner": text}]}
    assert to_yaml(container) == OmegaConf.to_yaml(container)
    assert OmegaConf.to_container(OmegaConf.create(to_yaml(container))) == container


@pytest.mark.parametrize(
    "overrides", [[], ["optimizer=adam", "norm=none"], ["scheduler=cosine"], ["model.hidden=[]", "optimizer.lr=1e-7"]]
)
def test_a_config_is_written_as_omegaconf_writes_it(overrides: list[str]) -> None:
    config = compose(overrides)
    assert to_yaml(config) == OmegaConf.to_yaml(config, resolve=True)


@pytest.mark.parametrize(
    "values", [[], ["a=1", "b=[1,2]"], [1, 2.5, 1e-7, 1e20, True, None, float("inf"), float("nan")]]
)
def test_values_are_written_as_omegaconf_writes_them(values: list[Any]) -> None:
    assert to_yaml(values) == OmegaConf.to_yaml(values)
    assert to_yaml({"values": values}) == OmegaConf.to_yaml({"values": values})
