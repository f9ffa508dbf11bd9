"""From logits to tokens, one number drawn a token, the same whatever stands beside it.

Shapes in this file:
    samples     sequences decoded together
    vocabulary  tokens of the model's vocabulary, padding included

Sources: nucleus sampling, Holtzman et al. (arXiv:1904.09751); the counter-based stream is
SplitMix64 (Steele, Lea and Flood 2014, OOPSLA, figure 13), one output a (seed, place).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from isoflop.evaluate.sampling.config import Sampling
from isoflop.model.ops.build import call, native_available

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def choose(
    logits: Float[Tensor, "samples vocabulary"],
    sampling: Sampling,
    uniform: Float[Tensor, " samples"],
    *,
    with_log_probs: bool = False,
) -> tuple[Int[Tensor, " samples"], Float[Tensor, " samples"] | None]:
    """The next token of each sample; at temperature 0 the most probable, of equals the first.

    -1 where a row holds a number that is not finite; its log-probability means nothing.

    `uniform` is in [0, 1): the token is the one at which the cumulative probability of the tokens
    that may be drawn passes it. Tokens as probable as the last of these may be drawn too.

    Args:
        with_log_probs: also tell each token's log-probability in nats at the temperature, before any
            token is excluded; at temperature 0, at temperature 1.
    """
    if logits.device.type == "cpu" and native_available():
        return _choose_native(logits, sampling, uniform, with_log_probs)
    chosen = choose_in_torch(logits, sampling, uniform)
    return chosen, _log_probs(logits, sampling, chosen) if with_log_probs else None


def _log_probs(logits: Tensor, sampling: Sampling, chosen: Tensor) -> Tensor:
    scaled = logits / (sampling.temperature or 1.0)
    return scaled.log_softmax(dim=-1).gather(1, chosen.clamp(min=0)[:, None])[:, 0]


def _choose_native(
    logits: Tensor, sampling: Sampling, uniform: Tensor, with_log_probs: bool
) -> tuple[Tensor, Tensor | None]:
    """One pass over each row by decode.c; -1 where it holds a number that is not finite."""
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.long)
    top_k = min(sampling.top_k or vocabulary, vocabulary)
    inverse = 1 / sampling.temperature if sampling.temperature else 0.0
    sizes = (rows, vocabulary, inverse, sampling.top_p, top_k)
    rooms = (*torch.empty(3, vocabulary).unbind(), torch.empty(vocabulary, dtype=torch.int32))
    given = (logits.float().contiguous(), uniform.double().contiguous())
    log_probs = torch.empty(rows) if with_log_probs else None
    call(torch.float32, "draw_tokens", *given, *sizes, *rooms, tokens, log_probs)
    return tokens, log_probs


def choose_in_torch(
    logits: Float[Tensor, "samples vocabulary"],
    sampling: Sampling,
    uniform: Float[Tensor, " samples"],
) -> Int[Tensor, " samples"]:
    """As `choose`, on every device; -1 where a row holds a number that is not finite."""
    finite = logits.isfinite().all(dim=-1)
    if sampling.temperature == 0.0:
        return torch.where(finite, logits.argmax(dim=-1), -1)
    probabilities = (logits / sampling.temperature).softmax(dim=-1)
    least = _least_probability(probabilities, sampling)
    # Summed in the order of the tokens: no sort, and equal probabilities need no order.
    kept = torch.where(probabilities >= least[:, None], probabilities, 0.0).double()
    cumulative = kept.cumsum(dim=-1)
    passed = (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(dim=-1)
    # Rounding of the product must not lead behind the last token that is kept.
    last = logits.shape[-1] - 1 - (kept > 0).flip(-1).byte().argmax(dim=-1)
    return torch.where(finite, torch.minimum(passed, last), -1)


FIRST_LOOK = 128
"""Most probable tokens among which the nucleus is looked for first; then four times as many."""


def _least_probability(
    probabilities: Float[Tensor, "samples vocabulary"], sampling: Sampling
) -> Float[Tensor, " samples"]:
    """Below this no token is drawn: that of the last of the `top_k` and of the nucleus.

    The nucleus is the fewest most probable tokens that hold `top_p` of what `top_k` leaves.
    """
    size = probabilities.shape[-1]
    most = size if sampling.top_k is None else min(sampling.top_k, size)
    if most == size and sampling.top_p == 1.0:
        return probabilities.new_zeros(len(probabilities))
    if most < size:
        ordered = probabilities.topk(most, dim=-1).values
        wanted = sampling.top_p * ordered.double().sum(dim=-1, keepdim=True)
        return _at_share(ordered, wanted)
    look = min(FIRST_LOOK, size)
    while True:
        ordered = probabilities.topk(look, dim=-1).values
        held = ordered.double().sum(dim=-1)
        if look == size or bool((held >= sampling.top_p).all()):
            return _at_share(ordered, held.new_full((len(held), 1), sampling.top_p))
        look = min(4 * look, size)


def _at_share(
    ordered: Float[Tensor, "samples kept"], wanted: Float[Tensor, "samples 1"]
) -> Float[Tensor, " samples"]:
    """Where falling probabilities first sum up to `wanted`, or the last of them."""
    place = (ordered.double().cumsum(dim=-1) < wanted).sum(dim=-1, keepdim=True)
    return ordered.gather(1, place.clamp(max=ordered.shape[-1] - 1))[:, 0]


def uniforms(seeds: NDArray[np.uint64], places: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair of a sample's seed and a token's place in it."""
    with np.errstate(over="ignore"):
        stream = _mix(seeds + _GOLDEN)
        mixed = _mix(stream + (places + np.uint64(1)) * _GOLDEN)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
