"""Parameters and floating-point operations of a decoder, counted on its config alone.

Letters in the formulas below:
    L, d, h, V   layers, width, hidden width of one expert, rows of the embedding
    E, k         experts of a layer, experts that see one token
    s            tokens in one sequence

One layer has attention matrices of A parameters (4 d^2 where every head has its
own keys and values; keys and values shrink when heads share them), a d x E router, E experts of three
d x h matrices (SwiGLU) and two norms of d. Outside the layers stand the
embedding and the head, V x d each (untied), and one norm. A multiply-add
counts as two floating-point operations (FLOPs).

Sources: shapes and the two meanings of "active", the optimal-sparsity study
(arXiv:2508.18672, section 3.1) and the names of its 65 released checkpoints;
the training count, Megatron-LM's `num_floating_point_operations`; the 6N count,
Kaplan et al. 2020 (arXiv:2001.08361), section 2.1.
"""

from isoflop.model.config import ModelConfig

EXPERT_MATRICES = 3
"""Gate, up and down of a SwiGLU expert (Shazeer 2020, arXiv:2002.05202)."""

FLOPS_PER_MULTIPLY_ADD = 2

TRAIN_PASSES = 3
"""Matrix products of training / of the forward pass: the backward pass makes two for each one,
for the gradient of the input and of the weight."""


def embedding_params(config: ModelConfig) -> int:
    """Parameters of the embedding and of the head together, 2Vd.

    >>> embedding_params(_example())
    101974016
    """
    return 2 * config.vocabulary_size * config.d_model


def attention_params(config: ModelConfig) -> int:
    """Parameters of one layer's attention: queries, keys, values and output.

    d (d + 2 d m/n) + d^2 for n heads that share m heads of keys and values.

    >>> attention_params(_example())
    1048576
    """
    return config.d_model * (config.query_key_value_width + config.d_model)


def router_params(config: ModelConfig) -> int:
    """Parameters of all routers, L d E.

    >>> router_params(_example())
    65536
    """
    return config.num_layers * config.d_model * config.num_experts


def total_params(config: ModelConfig) -> int:
    """All parameters: L (A + 3dhE + dE + 2d) + 2Vd + d.

    >>> total_params(_example())
    320160256
    """
    all_experts = _expert_params(config) * config.num_experts * config.num_layers
    return _shared_params(config) + all_experts + router_params(config)


def active_params(config: ModelConfig) -> int:
    """Parameters that touch one token, embedding and head included, router left out.

    L (A + 3dhk + 2d) + 2Vd + d. Without the router the count does not depend
    on E, and the names of all 65 released checkpoints come out right; with the
    router three of them do not.

    >>> active_params(_example())
    169099776
    """
    return _shared_params(config) + _expert_params(config) * config.top_k * config.num_layers


def active_params_without_embeddings(config: ModelConfig) -> int:
    """Parameters that touch one token, without embedding, head and router.

    >>> active_params_without_embeddings(_example())
    67125760
    """
    return active_params(config) - embedding_params(config)


def forward_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of every matrix product of the forward pass, router included.

    2 [L (A + 3dhk + dE) + Vd] + 4Lsd: what PyTorch's `FlopCounterMode` counts
    on the built model, with `sequence_length` keys for every query.

    >>> forward_flops_per_token(_example(), sequence_length=4096)
    370540544
    """
    router = FLOPS_PER_MULTIPLY_ADD * router_params(config)
    return _forward_flops_without_router(config, sequence_length) + router


def train_flops_per_token_with_router(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of every matrix product of forward and backward pass, router included.

    The work that is really done: in a small model with many experts the router
    is no trifle, so comparisons are checked by this count.

    >>> train_flops_per_token_with_router(_example(), sequence_length=4096)
    1111621632
    """
    return TRAIN_PASSES * forward_flops_per_token(config, sequence_length)


def train_flops_per_token_megatron(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of forward and backward pass by Megatron-LM's count, for any `d_expert`.

    Attention projections, full (not causal) attention scores, k experts, head;
    neither router nor embedding. With h = 2d and own keys and values for every head it is
    12 L d^2 [2 + s/d + 3k + V/(2Ld)].

    >>> train_flops_per_token_megatron(_example(), sequence_length=4096)
    1111228416
    """
    return TRAIN_PASSES * _forward_flops_without_router(config, sequence_length)


def train_flops_per_token_6n(config: ModelConfig) -> int:
    """FLOPs of forward and backward pass as 6 x active parameters.

    The embedding is counted as if it were multiplied, attention scores are not
    counted: the usual rule of thumb, kept apart from the exact counts.

    >>> train_flops_per_token_6n(_example())
    1014598656
    """
    return TRAIN_PASSES * FLOPS_PER_MULTIPLY_ADD * active_params(config)


def _shared_params(config: ModelConfig) -> int:
    """Parameters that touch every token: attention, norms, embedding and head."""
    d_model = config.d_model
    layer = attention_params(config) + 2 * d_model
    return config.num_layers * layer + embedding_params(config) + d_model


def _expert_params(config: ModelConfig) -> int:
    """Parameters of one expert of one layer."""
    return EXPERT_MATRICES * config.d_model * config.d_expert


def _forward_flops_without_router(config: ModelConfig, sequence_length: int) -> int:
    d_model = config.d_model
    layer_weights = attention_params(config) + config.top_k * _expert_params(config)
    weights = config.num_layers * layer_weights + config.vocabulary_size * d_model
    # Queries with keys, then weights with values: s products of d for each token, twice.
    scores = config.num_layers * 2 * sequence_length * d_model
    return FLOPS_PER_MULTIPLY_ADD * (weights + scores)


def _example() -> ModelConfig:
    """The smallest cell of the study, d512-E8-k2-320M-A170M, for the examples above."""
    return ModelConfig(
        vocabulary_size=99_584,
        num_layers=16,
        d_model=512,
        num_heads=4,
        d_expert=1024,
        num_experts=8,
        top_k=2,
        sequence_length=4096,
    )
