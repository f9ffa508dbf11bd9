"""Prompts computed once, and what they share computed once for all.

Shapes in this file:
    prompts   prompts computed together
    position  tokens of the longest, without what all share
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.model.ops.cached import LayerCache
from isoflop.model.transformer import Transformer

LEAST_SHARED = 16
"""Shared tokens from which on they are computed apart. Chosen: copying has a cost too."""

PROMPT_TOKENS = 2**13
"""Tokens of prompts computed together, padding included. Chosen."""


def shared_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all of several prompts begin with, at most all but the last of each.

    0 where they are too few to be worth it.

    >>> shared_length([(1,) * 20, (1,) * 19 + (3, 4)]), shared_length([(1, 2), (1, 3)])
    (19, 0)
    """
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    most = min(len(prompt) for prompt in prompts) - 1
    # What the least and the greatest share, all between them share too.
    length = next((at for at in range(most) if first[at] != last[at]), max(0, most))
    return length if length >= LEAST_SHARED else 0


@dataclass(frozen=True)
class ComputedPrompt:
    """A prompt's keys and values, and what the model says after it."""

    cache: list[LayerCache]
    row: int
    """Its place in `cache`."""
    length: int
    logits: Tensor
    """After its last token, (vocabulary,)."""
    experts: Tensor
    """Chosen for its own tokens, those after `PromptComputer.prefix`: (layers, position, top_k)."""

    def copy_to(self, cache: list[LayerCache], rows: Sequence[int]) -> None:
        """Put its keys and values at the beginning of these rows."""
        # A slice, where they are one, is written without an index of each row.
        first, last = rows[0], rows[-1]
        together = list(rows) == list(range(first, last + 1))
        into = slice(first, last + 1) if together else list(rows)
        for theirs, ours in zip(cache, self.cache, strict=True):
            theirs.keys[into, :, : self.length] = ours.keys[self.row, :, : self.length]
            theirs.values[into, :, : self.length] = ours.values[self.row, :, : self.length]


class PromptComputer:
    """Computes prompts of one call, all of which are known beforehand."""

    def __init__(self, model: Transformer, prompts: Sequence[tuple[int, ...]]):
        self.model = model
        self.shared = shared_length(prompts)
        self.prefix: ComputedPrompt | None = None
        if self.shared:
            (self.prefix,) = self._together([prompts[0][: self.shared]], None)

    def all_experts(self, prompt: ComputedPrompt) -> Tensor:
        """Chosen for all of a prompt's tokens, shared ones included: (layers, position, top_k)."""
        parts = [prompt.experts] if self.prefix is None else [self.prefix.experts, prompt.experts]
        return torch.cat(parts, dim=1)

    def compute(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[ComputedPrompt]:
        """Each of these, in order."""
        begin = 0
        while begin < len(prompts):
            end, longest = begin, 0
            while end < len(prompts):
                longest = max(longest, len(prompts[end]) - self.shared)
                if end > begin and longest * (end + 1 - begin) > PROMPT_TOKENS:
                    break
                end += 1
            yield from self._together(prompts[begin:end], self.prefix)
            begin = end

    @torch.inference_mode()
    def _together(
        self, prompts: Sequence[tuple[int, ...]], prefix: ComputedPrompt | None
    ) -> list[ComputedPrompt]:
        """These in one forward pass, filled up on the right, where causal attention never looks."""
        model, device = self.model, self.model.embedding.device
        done = prefix.length if prefix else 0
        own = [len(prompt) - done for prompt in prompts]
        longest = max(own)
        cache = model.empty_cache(len(prompts), done + longest)
        if prefix:
            prefix.copy_to(cache, range(len(prompts)))
        padded = [[*prompt[done:], *[0] * (longest + done - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=device)
        positions = torch.arange(done, done + longest, device=device).expand_as(tokens)
        record: list[Tensor] = []
        hidden, _ = model.hidden_cached(tokens, positions, cache, record)
        last = torch.tensor(own, device=device) - 1
        logits = model.logits(hidden[torch.arange(len(prompts), device=device), last])
        if len(prompts) > 1 and not logits.isfinite().all():
            # Attention's zeros times a filling's NaN are NaN: alone, a prompt has no filling.
            return [self._together([prompt], prefix)[0] for prompt in prompts]
        experts = torch.stack(record)
        return [
            ComputedPrompt(cache, row, len(prompt), logits[row], experts[:, row, : own[row]])
            for row, prompt in enumerate(prompts)
        ]
