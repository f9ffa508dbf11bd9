"""The table inside the page: every column of every checkpoint, for pointing, filtering, downloading.

Numbers are rounded to seven digits, which a reader of figures cannot see; table.csv beside the page
has them exactly. A column is a list; columns of one value are written once.
"""

import json
import math
from collections.abc import Sequence

from isoflop.analysis.table import Value, table
from isoflop.records import CheckpointRow
from isoflop.stage_records import StageRow

DIGITS = 7


def island(rows: Sequence[CheckpointRow], stages: Sequence[StageRow] = ()) -> str:
    """The data as JSON that may stand in a <script> element: {"columns", "rows"}.

    Lines are in the order of `table`, which the charts' marks name.
    """
    names, lines = table(rows, stages)
    columns: dict[str, object] = {}
    for place, name in enumerate(names):
        values = [_short(line[place]) for line in lines]
        one = len(set(map(repr, values))) == 1
        columns[name] = {"all": values[0]} if one else values
    text = json.dumps(
        {"rows": len(lines), "columns": columns},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    # "</script>" in a name would end the element.
    return text.replace("<", "\\u003c")


def _short(value: Value) -> Value:
    if isinstance(value, float):
        rounded = float(f"{value:.{DIGITS}g}")
        return int(rounded) if rounded == math.trunc(rounded) and abs(rounded) < 1e15 else rounded
    return value
