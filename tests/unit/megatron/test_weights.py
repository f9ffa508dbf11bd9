"""Weights in Megatron-LM's layout: nothing is lost, and its own model says with them what ours says."""

import os
import re
from contextlib import nullcontext

import pytest
import torch

from fakes import tiny_model
from isoflop.config import UserError
from isoflop.megatron.weights import from_megatron, to_megatron
from isoflop.model.transformer import Transformer

CONFIG = tiny_model(num_layers=2, num_heads=4, num_key_value_heads=2)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in Transformer(CONFIG, seed=5).named_parameters()}


@pytest.mark.parametrize("kind", ["local", "transformer_engine"])
def test_there_and_back_is_the_same(weights, kind):
    there = to_megatron(weights, CONFIG, kind)
    there["decoder.layers.0.self_attention.linear_qkv._extra_state"] = None
    back = from_megatron(there, CONFIG)
    assert sorted(back) == sorted(weights)
    assert all(torch.equal(back[name], one) for name, one in weights.items())
    assert sum(one.numel() for one in there.values() if one is not None) == sum(
        one.numel() for one in weights.values()
    )


def test_a_group_of_heads_lies_together(weights):
    width, own = CONFIG.head_width, weights["layers.0.attention.query_key_value"]
    fused = to_megatron(weights, CONFIG)["decoder.layers.0.self_attention.linear_qkv.weight"]
    # The second group: heads 2 and 3, the second key, the second value.
    group = fused[4 * width :]
    assert torch.equal(group[: 2 * width], own[2 * width : 4 * width])
    assert torch.equal(group[2 * width : 3 * width], own[5 * width : 6 * width])
    assert torch.equal(group[3 * width :], own[7 * width :])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("output_layer.weight"), "output_layer.weight: missing"),
        (
            lambda w: w.update({"decoder.layers.2.mlp.router.weight": torch.ones(1)}),
            "decoder.layers.2.mlp.router.weight: a weight that no 2-layer model has",
        ),
        (
            lambda w: w.update(
                {"decoder.layers.1.mlp.experts.linear_fc2.weight3": torch.ones(16, 16)}
            ),
            "linear_fc2.weight3: shape (16, 16), expected (16, 32)",
        ),
    ],
)
def test_what_does_not_fit_is_told(weights, change, told):
    there = to_megatron(weights, CONFIG)
    change(there)
    with pytest.raises(UserError, match=re.escape(told)):
        from_megatron(there, CONFIG)


@pytest.fixture
def their_model():
    """Megatron-LM's own GPT model of plain modules, on a CPU."""
    pytest.importorskip("megatron.core")
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        parallel_state.initialize_model_parallel()
        config = TransformerConfig(
            num_layers=CONFIG.num_layers,
            hidden_size=CONFIG.d_model,
            num_attention_heads=CONFIG.num_heads,
            num_query_groups=CONFIG.key_value_heads,
            ffn_hidden_size=CONFIG.d_expert,
            moe_ffn_hidden_size=CONFIG.d_expert,
            num_moe_experts=CONFIG.num_experts,
            moe_router_topk=CONFIG.top_k,
            moe_token_dispatcher_type="allgather",
            normalization="RMSNorm",
            layernorm_epsilon=CONFIG.norm_epsilon,
            gated_linear_unit=True,
            activation_func=torch.nn.functional.silu,
            add_bias_linear=False,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            use_cpu_initialization=True,
            bias_activation_fusion=False,
            masked_softmax_fusion=False,
            bias_dropout_fusion=False,
            apply_rope_fusion=False,
        )
        yield GPTModel(
            config,
            get_gpt_layer_local_spec(num_experts=CONFIG.num_experts, normalization="RMSNorm"),
            vocab_size=CONFIG.vocabulary_size,
            max_sequence_length=CONFIG.sequence_length,
            position_embedding_type="rope",
            rotary_base=int(CONFIG.rope_base),
            share_embeddings_and_output_weights=False,
        )
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_their_model_takes_the_names_and_shapes_and_says_the_same(
    weights, their_model, monkeypatch
):
    # It asks where to compute, whatever its weights are on.
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    # And sets a GPU's random numbers aside for dropout, of which there is none.
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker
    from megatron.core.transformer.moe import moe_utils

    # Of Transformer Engine, which it looks for and does not find.
    monkeypatch.setattr(moe_utils, "te_general_gemm", None, raising=False)

    monkeypatch.setattr(CudaRNGStatesTracker, "fork", lambda *_: nullcontext())
    there = to_megatron(weights, CONFIG, "local")
    wanted = {name: one for name, one in their_model.state_dict().items() if one is not None}
    assert {name: one.shape for name, one in there.items()} == {
        name: one.shape for name, one in wanted.items()
    }
    their_model.load_state_dict(there, strict=False)
    tokens = torch.randint(
        CONFIG.vocabulary_size, (2, 32), generator=torch.Generator().manual_seed(0)
    )
    mask = torch.ones(1, 1, 32, 32).triu(1).bool()
    positions = torch.arange(32).expand(2, 32)
    with torch.no_grad():
        theirs = their_model.eval()(tokens, positions, mask)
        ours = Transformer(CONFIG, seed=5)(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.std() > 0.01
