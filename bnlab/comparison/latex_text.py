"""Escapes text so that LaTeX sets it as it is written."""

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["latex_text", "unsupported_letters"]

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "'": "\\textquotesingle{}",  # otherwise two of them would become one quotation mark, as below
    "`": "\\textasciigrave{}",
    "±": "$\\pm$",
    "²": "$^2$",
    "−": "$-$",
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # which a line break before them would take as its argument
}
_TO_LATEX = str.maketrans(_LATEX)
_DRAWN_TOGETHER = re.compile(r"([-,])(?=\1)")  # ligatures: two hyphens become a dash, two commas a quotation mark
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?([A-Z]+)")
_CAPITALS = (
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Pi",
    "Sigma",
    "Upsilon",
    "Phi",
    "Psi",
    "Omega",
)  # no Latin ones
_LAST_OF_LATIN = "\u017f"
_OTHERS = "–—‘’“”„…→"


def latex_text(text: str) -> str:
    return "".join(map(_greek, _DRAWN_TOGETHER.sub(r"\1{}", unicodedata.normalize("NFC", text).translate(_TO_LATEX))))


def unsupported_letters(texts: Iterable[str]) -> str:
    """Return the letters in `texts`, which `latex_text` returned, that pdfLaTeX cannot typeset."""
    return "".join(sorted({sign for text in texts for sign in text if sign > _LAST_OF_LATIN} - set(_OTHERS)))


def _greek(letter: str) -> str:
    """Return a Greek letter such as β as a math symbol, which every document has; return any other letter unchanged."""
    found = _GREEK.fullmatch(unicodedata.name(letter, ""))
    if found is None:
        return letter
    size, final, name = found.groups()
    name = {"LAMDA": "lambda"}.get(name, name.lower())
    if size == "CAPITAL":
        return f"$\\{name.title()}$" if name.title() in _CAPITALS else letter
    if name == "omicron":
        return "$o$"
    return f"$\\{'var' if final else ''}{name}$"
