"""vLLM in this process, behind the interface of an endpoint. Needs a machine and a build that run it.

Requests are batched by the engine itself. The chat template gives token ids, not text, so that no
second begin-of-text token is added.
"""

from typing import Any

from isoflop.config import UserError
from isoflop.corpus.rewrite.messages import NoReply, Reply, Request
from isoflop.corpus.rewrite.reasons import Reason


class VllmEngine:
    """One model in an engine of its own."""

    def __init__(self, model: str, *, context_tokens: int, devices: int = 1) -> None:
        """`model`: a folder or a name that vLLM opens. `devices`: tensor parallel size.

        Raises:
            UserError: vLLM is not installed.
        """
        self._vllm = _vllm()
        self._most_tokens = context_tokens
        self._options: dict[str, Any] = {
            "model": model,
            "max_model_len": context_tokens,
            "tensor_parallel_size": devices,
        }
        self._engine: Any = None
        self._tokenizer: Any = None
        self._asked = 0

    async def ask(self, request: Request) -> Reply:
        """The reply; sampling as asked, batched with whatever else is under way."""
        if self._engine is None:
            self._start()
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        most = self._most_tokens
        if len(ids) + request.sampling.max_new_tokens > most:
            raise NoReply(Reason.REFUSED, f"{len(ids)} tokens and the new ones do not fit {most}")
        params = self._vllm.SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_new_tokens,
            seed=request.sampling.seed,
        )
        self._asked += 1
        final: Any = None
        prompt = {"prompt_token_ids": ids}
        async for output in self._engine.generate(prompt, params, str(self._asked)):
            final = output
        if final is None or not final.outputs:
            raise NoReply(Reason.EMPTY_CHOICES, "the engine gave no output")
        sample = final.outputs[0]
        return Reply(
            text=sample.text,
            finish=sample.finish_reason,
            prompt_tokens=len(ids),
            completion_tokens=len(sample.token_ids),
            model=request.model,
        )

    async def close(self) -> None:
        """End the engine's processes."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _start(self) -> None:
        """Inside the running loop, which the engine keeps."""
        arguments = self._vllm.AsyncEngineArgs(**self._options)
        self._engine = self._vllm.AsyncLLMEngine.from_engine_args(arguments)
        self._tokenizer = self._engine.get_tokenizer()


def _vllm() -> Any:
    try:
        import vllm
    except ImportError:
        raise UserError(
            "--vllm needs vLLM, whose build depends on the machine; see its installation guide, "
            "or serve the model and use --endpoint"
        ) from None
    return vllm
