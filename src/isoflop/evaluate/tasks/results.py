"""Rows of a benchmark on a checkpoint, kept by `run`. Apart from `records`: no other stage reads them yet.

A figure that was not measured is None, never 0.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskItemRow:
    """One problem of a benchmark on one checkpoint. Written by evaluate.tasks."""

    task: str
    item: str
    num_shots: int
    """Worked examples in the prompt as it was asked."""
    num_cut_shots: int
    """Worked examples left out for want of context."""
    refused: bool
    """Whether the problem does not fit even without shots. Then nothing was measured."""
    bits: float | None
    """Of the gold answer, given the prompt; None also where the logits are not finite."""
    num_answer_tokens: int | None
    num_answer_bytes: int
    joined: bool | None
    """Whether a token spans the join of prompt and answer."""
    reference_bits: float | None
    """As the reference cuts: the prompt encoded alone, the rest of the whole taken as the answer."""
    reference_tokens: int | None
    """Tokens behind that cut."""
    choice_bits: tuple[float, ...] | None
    """Of each choice; None for a task without choices."""
    gold_choice: int | None
    """Place of the right choice, from 0."""
    generated: str | None
    """None: nothing was generated."""
    finish: str | None
    """Why generation ended: "stop", "end_of_text", "length" or "not_finite"."""
    answer: str | None
    """What was extracted and graded; None where nothing could be."""
    correct: bool | None
    """None: not gradable, or not asked for."""
    reason: str | None
    """Why it is not gradable, or not correct, in a few words."""
    answer_flexible: str | None
    """The same with the flexible extraction, for answers that are numbers; else None."""
    correct_flexible: bool | None
    parted: bool = True
    """False where a token without bytes spans the join: no bits, but an answer and its grade."""

    @property
    def not_finite(self) -> bool:
        """Whether logits that were asked for are not finite. Then the item enters no mean."""
        return not self.refused and (
            (self.bits is None and self.parted) or self.finish == "not_finite"
        )


@dataclass(frozen=True, kw_only=True)
class TaskScoreRow:
    """One benchmark on one checkpoint. Written by evaluate.tasks.

    Means are over the problems that fit the context and whose logits are finite; each has its
    standard error.
    """

    task: str
    version: int
    style: str
    num_shots: int
    """Asked worked examples; some items may have fewer, see num_cut_shots."""
    data_digest: str
    """Of the problems as they were asked."""
    num_items: int
    num_set_aside: int
    """Rows of the data that cannot be asked."""
    num_refused: int
    """Problems that do not fit the context even without shots."""
    num_cut_shots: int
    """Problems asked with fewer worked examples than were asked for."""
    num_scored: int
    """Problems in the means: num_items - num_refused - num_not_finite."""
    num_ungradable: int | None
    """Answers without anything a grader could read, which count as wrong, and the num_not_finite."""
    accuracy: float | None
    accuracy_standard_error: float | None
    num_ungradable_flexible: int | None
    accuracy_flexible: float | None
    """With the flexible extraction, for answers that are numbers."""
    accuracy_flexible_standard_error: float | None
    accuracy_per_character: float | None
    """The choice with the fewest bits per character; lm-evaluation-harness's acc_norm."""
    accuracy_per_character_standard_error: float | None
    accuracy_per_byte: float | None
    """The choice with the fewest bits per UTF-8 byte; lm-evaluation-harness's acc_bytes."""
    accuracy_per_byte_standard_error: float | None
    bits_per_byte: float | None
    """Mean over items of the gold answer's bits / its UTF-8 bytes."""
    bits_per_byte_standard_error: float | None
    bits_per_token: float | None
    bits_per_token_standard_error: float | None
    num_joined: int
    """Items in which a token spans the join of prompt and answer."""
    num_miscut: int
    """Items in which the reference's cut does not fall on the join, or a token spans it."""
    reference_bits_per_byte: float | None
    """As the reference cuts, over the same items."""
    reference_bits_per_token: float | None
    """Over the items in which its cut leaves a token."""
    largest_reference_difference: float | None
    """Bits of one item, by absolute value."""
    num_not_finite: int = 0
    """Problems whose logits are not finite: ungradable, and in no mean."""
    num_not_parted: int = 0
    """Problems without task loss, since a token without bytes spans the join; their answers are
    graded, choices among them ungradable."""
