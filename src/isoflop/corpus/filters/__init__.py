"""Filters for code: first every text is measured, then thresholds decide.

One pass of measuring serves many thresholds.
"""

from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.filters.decide import decide

__all__ = ["FilterConfig", "decide"]
