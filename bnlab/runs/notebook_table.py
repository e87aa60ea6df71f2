"""Shows rows as a table: text for a terminal, HTML for a notebook, or a pandas data frame."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bnlab.errors import UserError

__all__ = ["as_html", "as_markdown", "as_pandas"]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def as_html(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"

    head = f"<thead>{line(header, 'th')}</thead>"
    body = "".join(line(row, "td") for row in rows)
    title = f"<caption style='white-space: nowrap'>{escape(caption)}</caption>"
    return f"<table>{title}{head}<tbody>{body}</tbody></table>"


def as_pandas(columns: Mapping[str, Sequence[Any]]) -> Any:
    """Convert to a `pandas.DataFrame`.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError(
            "`to_pandas` must have pandas, which is not installed: pip install pandas, or use .metrics."
        ) from None
    return pandas.DataFrame(dict(columns))
