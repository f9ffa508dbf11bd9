"""A problem in tokens, made to fit the model's context: shots are cut first, then it is refused.

What must fit is the prompt with the longest of its gold answers; what is left of the context is
what a generated answer may fill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.evaluate.losses import Question, encode_question, fits
from isoflop.evaluate.tasks.problem import Problem
from isoflop.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A problem as the model is asked it."""

    problem: Problem
    """With the shots that fit."""
    num_cut_shots: int
    questions: tuple[Question, ...]
    """The gold answer's, or one for each choice."""
    prompt: tuple[int, ...]
    """The prompt encoded alone, after the start, as for generation."""

    @property
    def gold(self) -> Question:
        """The gold answer's."""
        return self.questions[self.problem.gold_choice or 0]

    @property
    def parted(self) -> bool:
        """Whether every answer's bits can be told, see `Question`."""
        return all(question.parted for question in self.questions)


def fit(
    tokenizer: Tokenizer, problem: Problem, sequence_length: int, *, start: tuple[int, ...]
) -> Fitted | None:
    """The problem with as many of its last shots as fit; None if it does not fit without any.

    Raises:
        UserError: an empty answer.
    """
    for number in range(len(problem.shots), -1, -1):
        asked = problem.with_last_shots(number)
        prompt = (*start, *tokenizer.encode(asked.prompt))
        if not 1 <= len(prompt) < sequence_length:
            continue
        answers: Sequence[str] = asked.choices or (asked.answer,)
        questions = tuple(
            encode_question(tokenizer, asked.prompt, answer, start=start) for answer in answers
        )
        if all(fits(question, sequence_length) for question in questions):
            return Fitted(
                problem=asked,
                num_cut_shots=len(problem.shots) - number,
                questions=questions,
                prompt=prompt,
            )
    return None
