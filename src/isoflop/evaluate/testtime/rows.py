"""Rows of test-time compute, kept by `samples` and made by `curves`. What was not measured is None."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampleRow:
    """One sample of one problem on one checkpoint. Written by evaluate.testtime."""

    task: str
    item: str
    sample: int
    """Place among the problem's samples, from 0."""
    seed: int
    """Of its stream of random numbers: the same for every checkpoint, so that they can be paired."""
    num_tokens: int
    """Generated, the end of text not counted."""
    finish: str
    """Why it ended: "stop", "end_of_text", "length" or "not_finite"."""
    text: str
    answer: str | None
    """In one spelling, by which equal answers vote together; None: none could be read."""
    correct: bool | None
    """None: not gradable."""
    reason: str | None
    """Why it is not gradable, or not correct, in a few words."""
    answer_flexible: str | None
    """The same with the flexible extraction, for answers that are numbers; else None."""
    correct_flexible: bool | None
    num_cut_shots: int | None = None
    """Worked examples left out of the prompt for want of context; None: not recorded then."""


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """What `num_samples` of a problem's samples buy, over the problems of a task.

    Each figure is the mean over problems of what is expected of so many samples drawn without
    replacement from all of a problem's; its standard error is over problems.
    """

    num_samples: int
    num_problems: int
    """With at least so many samples for which the logits were finite."""
    coverage: float | None
    """Share of problems of which at least one sample is right: pass@k, the unbiased estimator."""
    coverage_standard_error: float | None
    majority: float | None
    """Share of problems whose most frequent answer is right: self-consistency, maj@k."""
    majority_standard_error: float | None
    majority_in_order: float | None
    """The same of the first so many samples as they were drawn, ties to the earliest: the
    procedure of arXiv:2508.18672, one draw instead of an expectation."""
    best_of: float | None
    """Share of problems whose sample of highest score is right; None: no scores."""
    best_of_standard_error: float | None
    weighted_majority: float | None
    """As `majority`, each answer weighing the sum of its samples' scores; None: no scores, or
    some below 0."""
    weighted_majority_standard_error: float | None


@dataclass(frozen=True, kw_only=True)
class ExtractionRow:
    """How many samples a grader could read, by why they ended."""

    finish: str
    """"stop", "end_of_text", "length", "not_finite", or "all"."""
    num_samples: int
    num_ungradable: int
    num_ungradable_flexible: int | None
    reasons: dict[str, int]
    """Of the ungradable ones, with the strict reading."""
