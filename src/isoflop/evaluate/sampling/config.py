"""How tokens are drawn: values only, without torch or numpy, so that configs are read at once."""

from dataclasses import dataclass

from isoflop.config import UserError

LEAST_TEMPERATURE = 1e-4
"""Above 0. Lower ones overflow float32 where logits are divided by them; chosen."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn."""

    max_new_tokens: int
    """A sample ends here if nothing ended it before."""
    temperature: float = 0.0
    """0: the most probable token always."""
    top_p: float = 1.0
    """Share of probability that is drawn from."""
    top_k: int | None = None
    """Most probable tokens that are drawn from; None: all."""
    stop: tuple[str, ...] = ()
    """Texts that end a sample; they are no part of it."""
    experts_per_token: int | None = None
    """k at inference; None: the trained one."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if self.temperature and not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"temperature={self.temperature} must be 0 (greedy) or at least {LEAST_TEMPERATURE}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1, or left out for all tokens")
        if "" in self.stop:
            raise UserError("an empty stop text would end every sample at once; leave it out")
