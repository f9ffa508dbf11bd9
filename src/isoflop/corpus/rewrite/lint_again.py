"""New texts measured as `isoflop corpus filter` measures: pylint's score, shares, languages."""

from isoflop.config import UserError
from isoflop.corpus.filters.config import FilterConfig
from isoflop.corpus.filters.measure import MeasureJob
from isoflop.corpus.filters.run import measured, measuring_tools
from isoflop.corpus.pool import Pool
from isoflop.corpus.rewrite.code_rules import TIDY_CODE
from isoflop.corpus.rewrite.stages import STAGES
from isoflop.corpus.rows import TextRow

CONFIG = FilterConfig().measuring_only


def lint_tools(stage: str) -> dict[str, str]:
    """Versions on which the measures of a stage's texts depend.

    Raises:
        UserError: the stage makes no Python.
    """
    makes_python = stage == TIDY_CODE or (
        stage in STAGES and STAGES[stage].language == "python" and STAGES[stage].makes == "code"
    )
    if not makes_python:
        raise UserError(f"--lint: stage {stage} makes no Python that pylint could score")
    return measuring_tools(CONFIG)


class LintAgain:
    """Measures one row after the other in a process of its own."""

    def __init__(self) -> None:
        """Start the process.

        Raises:
            UserError: pylint is not installed.
        """
        self._pool = Pool(MeasureJob(config=CONFIG), 1, CONFIG.limits)

    def __call__(self, row: TextRow) -> TextRow:
        """The row with its measures; one that costs too much has them up to there, and its problem."""
        ((found, changes),) = self._pool.run([row])
        found = measured(found, changes)
        return TextRow(**{**vars(found), "rejected_by": None, "reason": None, "detail": None})

    def close(self) -> None:
        """End the process."""
        self._pool.close()
