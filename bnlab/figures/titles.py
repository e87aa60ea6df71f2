"""Fits titles to the width of their figure."""

import textwrap

__all__ = ["SIZE", "filled", "wrapped"]

SIZE = 10  # points
_LETTER = 0.08  # inches per letter at that size


def wrapped(text: str, width: float) -> str:
    """Break a title at commas into lines of `width` inches, and shorten parts longer than half a line."""
    most = int(width / _LETTER)
    lines = [""]
    for part in text.split(", "):
        if len(part) > most // 2:
            part = f"{part[: most // 4 - 1]}…{part[1 - most // 4 :]}"
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > most and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def filled(text: str, width: float) -> str:
    """Break a sentence into lines of at most `width` inches."""
    return textwrap.fill(text, int(width / _LETTER))
