"""Greedy decoding of many prompts at once, with a key-value cache.

Shapes in this file:
    batch     prompts decoded together
    position  tokens of the longest prompt
"""

import torch
from jaxtyping import Int
from torch import Tensor

from isoflop.config import UserError
from isoflop.model.attention import LayerCache
from isoflop.model.transformer import Transformer


@torch.inference_mode()
def generate_greedy(
    model: Transformer, prompts: list[list[int]], *, max_new_tokens: int, stop_token: int
) -> list[list[int]]:
    """The most probable continuation of each prompt, up to and without `stop_token`.

    Prompts may differ in length: each sequence stands at its own position, so an
    answer does not depend on the prompts decoded beside it. Generation also ends
    where the model's sequence length does.

    Raises:
        UserError: an empty prompt, or one that leaves no room to generate.
    """
    lengths = [len(prompt) for prompt in prompts]
    room = model.config.sequence_length
    if not prompts:
        return []
    if min(lengths) < 1 or max(lengths) >= room:
        raise UserError(
            f"prompts must hold 1 to {room - 1} tokens (sequence_length={room}), "
            f"got {min(lengths)} to {max(lengths)}"
        )
    device = model.embedding.device
    capacity = min(room, max(lengths) + max_new_tokens)
    like = torch.empty(0, dtype=model.compute_dtype, device=device)
    cache = [LayerCache.empty(model.config, len(prompts), capacity, like) for _ in model.layers]
    last = torch.tensor(lengths, device=device) - 1
    padded = _pad(prompts).to(device)
    places = torch.arange(padded.shape[1], device=device).expand_as(padded)
    logits = model.forward_cached(padded, places, cache).logits
    next_token = logits[torch.arange(len(prompts), device=device), last].argmax(dim=-1)
    answers: list[list[int]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    for _ in range(max_new_tokens):
        _extend(answers, running, next_token.tolist(), stop_token)
        last = last + 1
        running = [
            alive and end < capacity for alive, end in zip(running, last.tolist(), strict=True)
        ]
        if not any(running):
            break
        # A finished sequence keeps its place in the batch; its further tokens are not read.
        place = last.clamp(max=capacity - 1)[:, None]
        logits = model.forward_cached(next_token[:, None], place, cache).logits
        next_token = logits[:, -1].argmax(dim=-1)
    return answers


def _pad(prompts: list[list[int]]) -> Int[Tensor, "batch position"]:
    """Prompts side by side, filled up on the right, where causal attention never looks."""
    longest = max(len(prompt) for prompt in prompts)
    return torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])


def _extend(
    answers: list[list[int]], running: list[bool], tokens: list[int], stop_token: int
) -> None:
    """Append each running sequence's token, or stop the sequence."""
    for number, token in enumerate(tokens):
        if running[number] and token == stop_token:
            running[number] = False
        elif running[number]:
            answers[number].append(token)
