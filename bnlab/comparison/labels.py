"""Short labels of settings and their values, for columns and legends."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["on_one_line", "short_keys", "value_texts"]


_OF_TWO = ("momentum", "eps")  # both the optimizer and the norm have one


def short_keys(keys: Sequence[str]) -> list[str]:
    """Shorten each key to its last part if that is unambiguous; the two momentums are always distinguished."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return [
        key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 and key.rpartition(".")[2] not in _OF_TWO else key
        for key in keys
    ]


def value_texts(elements: Sequence[Any]) -> list[str]:
    """Write floats with four digits, or as many as distinguish them, and other values as in YAML."""
    floats = {element for element in elements if isinstance(element, float)}
    digits = 4
    while digits < 17 and len({f"{number:.{digits}g}" for number in floats}) < len(floats):
        digits += 1
    return [_text(element, digits) for element in elements]


def _text(element: Any, digits: int) -> str:
    if element is None or isinstance(element, bool):
        return {None: "null", True: "true", False: "false"}[element]
    return f"{element:.{digits}g}" if isinstance(element, float) else on_one_line(str(element))


def on_one_line(text: str) -> str:
    """Escape line breaks and other control characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
