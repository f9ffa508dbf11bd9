"""Parameters and FLOPs of transformers' Mixtral, Qwen-MoE and OLMoE, counted on their configs.

Letters in the formulas below:
    L, d, V      layers, width, rows of the embedding
    n, m, c      heads, heads of keys and values, width of one head
    E, k, h      experts of a layer, experts that see one token, hidden width of one expert
    s            tokens in one sequence

Attention has queries d x nc, keys and values d x mc each, output nc x d. A layer has
experts (E of three d x h matrices and a d x E router, perhaps a shared expert with its
gate) or, by the config, one plain feed-forward part. A multiply-add is two FLOPs.

Source: the four modeling files of transformers 5.23.
"""

from typing import Any

from isoflop.doctor.subject import NotApplicableError

FLOPS_PER_MULTIPLY_ADD = 2

SWIGLU_MATRICES = 3
"""Gate, up and down."""

KNOWN = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
"""Model types whose formula is here."""


def parameters(config: Any) -> int:
    """All parameters, a tied head once.

    Raises:
        NotApplicableError: the formula of this class is not known here.
    """
    _check(config)
    d_model, layers = config.hidden_size, config.num_hidden_layers
    vocabulary = config.vocab_size * d_model * (1 if config.tie_word_embeddings else 2)
    sparse = _sparse_layers(config)
    experts = config.num_experts if config.model_type != "mixtral" else config.num_local_experts
    one_sparse = experts * (SWIGLU_MATRICES * d_model * _expert_width(config) + d_model)
    dense = SWIGLU_MATRICES * d_model * config.intermediate_size
    each = _attention_matrices(config) + _attention_vectors(config) + 2 * d_model
    fed = sparse * (one_sparse + _shared(config)) + (layers - sparse) * dense
    return int(vocabulary + layers * each + fed + d_model)


def forward_flops(config: Any, batch: int, length: int) -> int:
    """FLOPs of all matrix products of one forward pass, full attention scores and head included.

    Raises:
        NotApplicableError: the formula of this class is not known here.
    """
    _check(config)
    d_model, layers = config.hidden_size, config.num_hidden_layers
    sparse = _sparse_layers(config)
    experts = config.num_experts if config.model_type != "mixtral" else config.num_local_experts
    chosen = config.num_experts_per_tok * SWIGLU_MATRICES * d_model * _expert_width(config)
    dense = SWIGLU_MATRICES * d_model * config.intermediate_size
    scores = 2 * length * config.num_attention_heads * _head_width(config)
    weights = layers * (_attention_matrices(config) + scores)
    weights += sparse * (chosen + experts * d_model + _shared(config)) + (layers - sparse) * dense
    weights += config.vocab_size * d_model
    return FLOPS_PER_MULTIPLY_ADD * batch * length * int(weights)


def _check(config: Any) -> None:
    if config.model_type not in KNOWN:
        raise NotApplicableError(
            f"no formula for model_type={config.model_type!r}; known: {', '.join(KNOWN)}"
        )


def _head_width(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def _expert_width(config: Any) -> int:
    """Qwen's experts have a width of their own; there intermediate_size is that of plain layers."""
    own = config.model_type in ("qwen2_moe", "qwen3_moe")
    return int(config.moe_intermediate_size if own else config.intermediate_size)


def _sparse_layers(config: Any) -> int:
    """Layers with experts: Qwen's configs may make some layers plain."""
    layers = range(config.num_hidden_layers)
    if config.model_type not in ("qwen2_moe", "qwen3_moe"):
        return len(layers)
    plain = set(config.mlp_only_layers or ())
    return sum((n + 1) % config.decoder_sparse_step == 0 and n not in plain for n in layers)


def _shared(config: Any) -> int:
    """Qwen2-MoE's shared expert and its gate of one row."""
    if config.model_type != "qwen2_moe":
        return 0
    d_model = int(config.hidden_size)
    return SWIGLU_MATRICES * d_model * int(config.shared_expert_intermediate_size) + d_model


def _attention_matrices(config: Any) -> int:
    width = _head_width(config)
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    return int(config.hidden_size * width * (2 * heads + 2 * shared))


def _attention_vectors(config: Any) -> int:
    """Biases, and the norms of queries and keys that some classes have."""
    width = _head_width(config)
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    if config.model_type == "mixtral":
        return 0
    if config.model_type == "qwen2_moe":
        return queries + 2 * keys if config.qkv_bias else 0
    output = config.hidden_size
    biases = queries + 2 * keys + output if config.attention_bias else 0
    return biases + (2 * width if config.model_type == "qwen3_moe" else queries + keys)
