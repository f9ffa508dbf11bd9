"""A program that reads arguments as Megatron-LM does, on a machine that it was not made for.

    python fakes_megatron.py GPUS [arguments of pretrain_gpt.py]

Parses, validates and builds the tokenizer by megatron-core 0.17 or later, then prints as JSON what was
understood. Its wheels ask for Python 3.12, Triton and a GPU; none of them is used up to here, so
Triton is replaced by an empty module, the GPU's properties by a Hopper's.
"""

import json
import os
import sys
import types
import typing
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock


class Triton:
    """Finds triton and all below it: modules that have whatever is asked of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "triton" else None

    def create_module(self, spec: ModuleSpec) -> MagicMock:
        return MagicMock(
            __name__=spec.name, __spec__=spec, __path__=[], __version__="3.0.0", name=spec.name
        )

    def exec_module(self, module: MagicMock) -> None:
        pass


def main() -> None:
    import torch

    # What of torch asks for Triton is loaded before the stand-in is there: it would be believed.
    import torch._dynamo
    import torch._inductor.compile_fx
    import torch.utils.flop_counter

    sys.meta_path.insert(0, Triton())  # type: ignore[arg-type]
    if sys.version_info < (3, 12):
        typing.override = lambda method: method
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(major=9, minor=0)

    from megatron.core.tokenizers.utils.build_tokenizer import build_tokenizer
    from megatron.training.arguments import parse_args, validate_args

    os.environ.update(WORLD_SIZE=sys.argv.pop(1), RANK="0", CUDA_DEVICE_MAX_CONNECTIONS="1")
    given = parse_args()
    validate_args(given, {})
    if given.tokenizer_type == "NullTokenizer":
        build_tokenizer(given)
    names = "num_experts moe_router_topk train_iters min_lr seed bf16 moe_grouped_gemm"
    told = {name: getattr(given, name) for name in (*names.split(), "padded_vocab_size")}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
