"""Tables of runs: ours, a laboratory's files, a tracker's exports; one typed table inside."""

from isoflop.analysis.tables.columns import COLUMNS, Column
from isoflop.analysis.tables.read import read_table
from isoflop.analysis.tables.run_table import RunTable

__all__ = ["COLUMNS", "Column", "RunTable", "read_table"]
