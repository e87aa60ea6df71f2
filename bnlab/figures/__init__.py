"""Tables in, matplotlib figures out; nothing is shown or saved here."""

from bnlab.figures.files import DPI, picture
from bnlab.figures.many import pictures_of_many
from bnlab.figures.training import curves
from bnlab.figures.trials import search

__all__ = ["DPI", "curves", "picture", "pictures_of_many", "search"]
