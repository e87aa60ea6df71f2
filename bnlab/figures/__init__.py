"""Make matplotlib figures from tables; nothing is shown or saved here."""

from bnlab.figures.comparison import Series, compare
from bnlab.figures.files import DPI, file_of, picture
from bnlab.figures.many import pictures_of_many
from bnlab.figures.training import curves
from bnlab.figures.trials import search

__all__ = ["DPI", "Series", "compare", "curves", "file_of", "picture", "pictures_of_many", "search"]
