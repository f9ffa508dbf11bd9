"""vLLM on an exported checkpoint, behind the same interface as our generator.

A sample is one request with a seed of its own; vLLM's prefix cache computes a prompt once. Its samples
are not those of our generator for the same seed: the streams of random numbers differ, and its
kernels round otherwise. What it answers at temperature 0 may differ for the second reason.

Run on vLLM's CPU build (docs/log.md says which and when); on a GPU it was not run.
"""

import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from isoflop.config import UserError
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.samples import Request, Sample
from isoflop.evaluate.sampling.stops import finish_of, up_to_stop
from isoflop.extras import import_extra
from isoflop.model.huggingface.export import checkpoint_config, export_checkpoint
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import Tokenizer

SEED_BITS = 63
"""vLLM's seeds are signed."""


class VllmGenerator:
    """Answers requests with vLLM. Use it as a context manager: leaving it frees the engine."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        **options: Any,
    ):
        """
        Args:
            folder: a model directory that `isoflop export --to hf` wrote, tokenizer included.
            dtype: of weights and arithmetic.
            options: passed to `vllm.LLM` as they are, e.g. gpu_memory_utilization.

        Raises:
            UserError: vllm is not installed.
        """
        self._vllm = import_extra("vllm", "vllm", "this generator")
        self.name = f"vllm {importlib.metadata.version('vllm')}"
        self.tokenizer = tokenizer
        self._folder, self._dtype, self._options = folder, dtype, options
        self._engine: Any = None
        self._experts_per_token: int | None = None
        self._owned: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Path, tokenizer: Tokenizer, **options: Any
    ) -> "VllmGenerator":
        """The same for a checkpoint of ours, exported into a folder that goes with the generator.

        Raises:
            UserError: no checkpoint there, or vllm is not installed.
        """
        owned = tempfile.TemporaryDirectory(prefix="isoflop-")
        folder = Path(owned.name) / "hf"
        config = TokenizerConfig(path=str(tokenizer.path), end_of_text=tokenizer.end_of_text)
        length = checkpoint_config(checkpoint)[0].sequence_length
        export_checkpoint(
            checkpoint, folder, tokenizer=study_tokenizer(tokenizer.path, config, length)
        )
        generator = cls(folder, tokenizer, **options)
        generator._owned = owned
        return generator

    def __enter__(self) -> "VllmGenerator":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the engine and its files."""
        self._engine = None
        if self._owned is not None:
            self._owned.cleanup()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Sample]:
        """Samples, all at the end.

        Raises:
            UserError: a prompt that does not fit the model.
        """
        asked = [(place, seed) for place, one in enumerate(requests) for seed in one.seeds]
        if not asked:
            return
        engine = self._loaded(sampling.experts_per_token)
        prompts = [{"prompt_token_ids": list(requests[place].prompt)} for place, _ in asked]
        parameters = [self._parameters(sampling, seed) for _, seed in asked]
        try:
            outputs = engine.generate(prompts, parameters, use_tqdm=False)
        except ValueError as error:
            raise UserError(f"{self._folder}: vllm refuses the prompts: {error}") from None
        for (place, seed), output in zip(asked, outputs, strict=True):
            yield self._sample(place, seed, output.outputs[0], sampling)

    def _loaded(self, experts_per_token: int | None) -> Any:
        """The engine with this k, which is fixed when it is loaded."""
        if self._engine is None or self._experts_per_token != experts_per_token:
            self._engine = None
            changed = (
                {}
                if experts_per_token is None
                else {"hf_overrides": {"num_experts_per_tok": experts_per_token}}
            )
            self._engine = self._vllm.LLM(
                model=str(self._folder), dtype=self._dtype, **changed, **self._options
            )
            self._experts_per_token = experts_per_token
        return self._engine

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0 if sampling.top_k is None else sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop),
            # A greedy answer needs none; vLLM 0.32 on a CPU fails on any.
            seed=seed % 2**SEED_BITS if sampling.temperature else None,
        )

    def _sample(self, place: int, seed: int, output: Any, sampling: Sampling) -> Sample:
        tokens = tuple(output.token_ids)
        ended = bool(tokens) and tokens[-1] == self.tokenizer.end_of_text_id
        if ended:
            tokens = tokens[:-1]
        text, cut = up_to_stop(self.tokenizer.decode(tokens), sampling.stop)
        return Sample(
            request=place,
            seed=seed,
            tokens=tokens,
            text=text,
            finish=finish_of(stopped=cut, ended=ended),
            unknown_token=not self.tokenizer.holds(tokens),
        )
