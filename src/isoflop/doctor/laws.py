"""Every law, in the order of the report, and a model examined by all of them."""

from collections.abc import Callable

from isoflop.doctor.forward_laws import FORWARD_LAWS
from isoflop.doctor.law import Law, LawRow, judge
from isoflop.doctor.router_laws import ROUTER_LAWS
from isoflop.doctor.state_laws import STATE_LAWS
from isoflop.doctor.subject import Subject
from isoflop.doctor.training_laws import TRAINING_LAWS

LAWS: tuple[Law, ...] = (*ROUTER_LAWS, *TRAINING_LAWS, *FORWARD_LAWS, *STATE_LAWS)

LARGEST_TRAINED = 200_000_000
"""Parameters above which laws that need gradients run on a small model of the same class: float32
gradients and copies of more would not fit a desk's memory. Chosen, not tuned."""


def examine(
    subject: Subject, seed: int, progress: Callable[[Law], None] = lambda law: None
) -> list[LawRow]:
    """A row for each law; `progress` is told each law before it is measured."""
    size = sum(parameter.numel() for parameter in subject.model.parameters())
    trained = subject.reduced() if size > LARGEST_TRAINED else subject
    rows = []
    for law in LAWS:
        progress(law)
        rows.append(judge(law, trained if law.trains else subject, seed))
    return rows
