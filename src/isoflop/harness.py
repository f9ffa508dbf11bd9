"""Our checkpoints as a model of lm-evaluation-harness, and its command line with that model known.

The harness encodes, cuts and asks as it does for its own Hugging Face model; what answers is our
engine, where what requests share is computed once. The numbers are those of its `hf` model on the
exported checkpoint (docs/results/harness/README.md), its treatment of the join of prompt and answer
included: `isoflop eval` conditions the join instead.

    isoflop harness run --model isoflop --model_args checkpoint=DIR --tasks NAME ...

Source: lm-evaluation-harness 0.4.13 (EleutherAI), the interface TemplateLM.
"""

import math
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from isoflop.config import UserError
from isoflop.evaluate.likelihood import Asked, read_likelihoods
from isoflop.evaluate.sampling.config import Sampling
from isoflop.evaluate.sampling.ours import OurGenerator
from isoflop.evaluate.sampling.samples import NOT_FINITE, Request
from isoflop.model.checkpoint import checkpoint_folder, load_checkpoint
from isoflop.model.transformer import DTYPES
from isoflop.sweep.lineage import open_tokenizer

MODEL_NAME = "isoflop"
"""What `--model` calls our checkpoints."""

BATCH_ITEMS = 64
"""Sequences computed together unless `--batch_size` says otherwise. Chosen."""

MAX_GENERATED_TOKENS = 256
"""Of an answer whose task names no number: the harness's own default."""

GENERATION_ARGUMENTS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
"""What a task may ask of generation; anything else is refused rather than ignored."""


@register_model(MODEL_NAME)
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """One checkpoint, asked by the harness."""

    def __init__(
        self,
        checkpoint: str | None = None,
        tokenizer: str | None = None,
        end_of_text: str | None = None,
        dtype: str = "float32",
        add_bos_token: bool = False,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ):
        """Arguments of `--model_args`, and the harness's own options of the same names.

        Args:
            checkpoint: folder of a checkpoint, or of a training run: then its last.
            tokenizer: a tokenizer.json; None: the checkpoint's or its study's.
            end_of_text: token of that file which ends documents.
            dtype: of the products, float32 or bfloat16.
            add_bos_token: begin every context with the end-of-text token, as training does.
            seed: of drawn answers; each request has a stream of its own.
            batch_size: sequences computed together, which changes no result beyond rounding;
                "auto" or 1, the harness's default: as many as is fast.
            max_batch_size: has no effect, since memory is bounded without it.
            unknown: refused.
            device: cpu or cuda; where there is no GPU, cpu.

        Raises:
            UserError: no checkpoint or tokenizer there, or an argument that is not allowed.
        """
        super().__init__()
        if unknown:
            known = [name for name in signature(HarnessModel).parameters if name != "unknown"]
            raise UserError(
                f"--model_args {next(iter(unknown))}: not an argument of this model; it has "
                f"{', '.join(known)}"
            )
        if checkpoint is None:
            raise UserError("--model isoflop needs --model_args checkpoint=DIR")
        if dtype not in DTYPES:
            raise UserError(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        # 1 is what the harness passes where the user says nothing.
        automatic = batch_size in (None, 1, "1") or str(batch_size).startswith("auto")
        self.batch_items = BATCH_ITEMS if automatic else int(str(batch_size))
        if self.batch_items < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1, or auto")
        # The harness's own default is a GPU, whether there is one or not.
        has_device = not str(device).startswith("cuda") or torch.cuda.is_available()
        self._device = torch.device(device if device and has_device else "cpu")
        folder = checkpoint_folder(Path(checkpoint))
        self.end = open_tokenizer(folder, tokenizer, end_of_text)
        self.decoder = load_checkpoint(
            folder, compute_dtype=DTYPES[dtype], device=str(self._device)
        )
        self.max_length = self.decoder.config.sequence_length
        self.start = [self.end.end_of_text_id] if add_bos_token else []
        self.seed = seed
        self._rank, self._world_size = 0, 1
        self.tokenizer_path = str(self.end.path)

    @property
    def eot_token_id(self) -> int:
        """The token that ends documents; also what stands before an empty context."""
        return self.end.end_of_text_id

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer lies."""
        return self.tokenizer_path

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; `add_special_tokens` False leaves the token before a context out."""
        return [*(self.start if add_special_tokens is not False else []), *self.end.encode(string)]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Our models have no chat template.

        Raises:
            UserError: always.
        """
        raise UserError(
            "--apply_chat_template: these checkpoints have no chat template; leave it out"
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation in nats, and whether it is the greedy one."""
        asked = [self._asked(context, continuation) for _, context, continuation in requests]
        progress = tqdm(total=len(asked), disable=disable_tqdm, desc="log-likelihoods")

        def read(place: int, logits: torch.Tensor) -> tuple[float, bool]:
            progress.update(1)
            targets = torch.tensor(requests[place][2], device=logits.device)[-len(logits) :]
            chosen = logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]
            return math.fsum(chosen.tolist()), bool((logits.argmax(dim=-1) == targets).all())

        answers = read_likelihoods(self.decoder, asked, read, batch_items=self.batch_items)
        progress.close()
        found = [answer for answer in answers if answer is not None]
        _check_finite(len(answers) - len(found), len(answers))
        for (text, _context, _continuation), answer in zip(requests, found, strict=True):
            # Windows of a rolling likelihood have no text of their own.
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return found

    def _asked(self, context: list[int], continuation: list[int]) -> Asked:
        """As the harness cuts: too long a context loses its beginning."""
        if not continuation:
            raise UserError(
                "a continuation has no tokens of its own: a token spans its whole length and the "
                "prompt's end; ask this task with `isoflop eval`, which conditions the join"
            )
        if len(continuation) > self.max_length:
            raise UserError(
                f"a continuation of {len(continuation)} tokens does not fit the model's "
                f"{self.max_length}; leave such items out of the task"
            )
        tokens = (*context, *continuation)[-(self.max_length + 1) :]
        return Asked(tokens, len(tokens) - len(continuation))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts in nats, in windows of the model's length."""
        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        flat = self._loglikelihood_tokens([one for many in windows for one in many], disable_tqdm)
        totals: list[float] = []
        for request, many in zip(requests, windows, strict=True):
            parts, flat = flat[: len(many)], flat[len(many) :]
            totals.append(math.fsum(value for value, _ in parts))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text after each context, up to and without the first of its stop texts."""
        by_sampling: dict[Sampling, list[int]] = {}
        for place, request in enumerate(requests):
            by_sampling.setdefault(self._sampling(request.args[1]), []).append(place)
        texts: dict[int, str] = {}
        lost = 0
        progress = tqdm(total=len(requests), disable=disable_tqdm, desc="generating")
        generator = OurGenerator(self.decoder, self.end, batch_sequences=self.batch_items)
        for sampling, places in by_sampling.items():
            asked = [
                Request(
                    prompt=self._prompt(requests[place].args[0], sampling.max_new_tokens),
                    seeds=(self.seed + place,),
                )
                for place in places
            ]
            for sample in generator.generate(asked, sampling):
                place = places[sample.request]
                if sample.finish == "not_finite":
                    lost += 1
                    continue
                texts[place] = sample.text
                self.cache_hook.add_partial("generate_until", requests[place].args, sample.text)
                progress.update(1)
        progress.close()
        _check_finite(lost, len(requests))
        return [texts[place] for place in range(len(requests))]

    def _prompt(self, context: str, max_new_tokens: int) -> tuple[int, ...]:
        """As the harness cuts: the end of the context that leaves room for the answer."""
        room = self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks={max_new_tokens} leaves no room for a prompt in the model's "
                f"{self.max_length} tokens; pass --gen_kwargs max_gen_toks=N below it"
            )
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        return tuple(tokens[-room:])

    def _sampling(self, arguments: dict[str, Any]) -> Sampling:
        given = dict(normalize_gen_kwargs(arguments, MAX_GENERATED_TOKENS))
        unknown = sorted(set(given) - set(GENERATION_ARGUMENTS))
        if unknown:
            raise UserError(
                f"the task asks for {unknown[0]}={given[unknown[0]]!r} in generation, which this "
                f"model has not; it has {', '.join(GENERATION_ARGUMENTS)}"
            )
        top_k = given.get("top_k")
        return Sampling(
            max_new_tokens=given["max_gen_toks"],
            temperature=float(given.get("temperature", 0.0)) if given["do_sample"] else 0.0,
            top_p=float(given.get("top_p", 1.0)),
            top_k=None if not top_k else int(top_k),
            stop=tuple(text for text in given["until"] if text),
        )


def _check_finite(lost: int, requests: int) -> None:
    """The harness takes a number or a text for every request: either would count as an answer.

    Raises:
        UserError: requests were lost.
    """
    if lost:
        raise UserError(
            f"{NOT_FINITE} for {lost} of {requests} requests (training diverged or the weights are "
            "damaged), and the harness cannot leave items out; `isoflop eval` counts them as "
            "ungradable"
        )


def run_harness(arguments: Sequence[str]) -> None:
    """The harness's own command line with `--model isoflop` known to it."""
    before = sys.argv
    sys.argv = ["isoflop harness", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
