"""Is an answer right? One definition for evaluation and for rewards.

Every function takes any text at all, in time linear in its length: what cannot be read is
`Verdict.UNGRADABLE` with a reason, counted apart from what is wrong, never an error.

    exact.py         the probes: letter by letter
    final_answer.py  GSM8K and its kin: the number of a worked solution
    latex.py         MATH: expressions, by math-verify in a process of its own
    aliases.py       TriviaQA: any of several spellings
"""

from isoflop.graders.aliases import grade_aliases
from isoflop.graders.exact import final_answer_in, grade, grade_item
from isoflop.graders.final_answer import grade_math
from isoflop.graders.latex import grade_latex
from isoflop.graders.numbers import canonical_number
from isoflop.graders.verdict import Grade, Verdict, ungradable

__all__ = [
    "Grade",
    "Verdict",
    "canonical_number",
    "final_answer_in",
    "grade",
    "grade_aliases",
    "grade_item",
    "grade_latex",
    "grade_math",
    "ungradable",
]
