"""Published scaling laws as pure functions, with their sources, ranges and coefficients."""

from isoflop.analysis.laws.catalogue import LAWS, find_law
from isoflop.analysis.laws.law import Law, Published

__all__ = ["LAWS", "Law", "Published", "find_law"]
