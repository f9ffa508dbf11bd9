"""Asked by lm-evaluation-harness, a checkpoint gives the numbers of the harness's own model on its export."""

import json
import warnings

import pytest
import torch

from isoflop.cli import main
from isoflop.config import UserError
from isoflop.evaluate.sampling.ours import greedy
from isoflop.model.checkpoint import load_checkpoint, save_checkpoint
from isoflop.model.config import ModelConfig
from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.model.transformer import Transformer
from isoflop.tokens.config import TokenizerConfig
from isoflop.tokens.tokenizer import train_tokenizer

pytest.importorskip("transformers")
with warnings.catch_warnings():
    # The harness's own imports warn of each other.
    warnings.simplefilter("ignore")
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from isoflop.harness import HarnessModel

TEXTS = [
    "the sheep sheared the shore",
    "thence she showed 12 and 1234",
    "Question: 1? Answer: 2",
] * 20
ROOM = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Untrained, weights large enough that answers differ, with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("harness") / "checkpoint"
    config = ModelConfig(
        vocabulary_size=320,
        num_layers=2,
        d_model=32,
        num_heads=2,
        d_expert=32,
        num_experts=4,
        top_k=2,
        sequence_length=ROOM,
        init_std=0.2,
    )
    save_checkpoint(Transformer(config, seed=2), folder)
    train_tokenizer(TokenizerConfig(vocabulary_size=300), TEXTS, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint):
    return HarnessModel(str(checkpoint), batch_size=5)


@pytest.fixture(scope="module")
def theirs(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "hf"
    path = checkpoint / "tokenizer.json"
    tokenizer = study_tokenizer(path, TokenizerConfig(path=str(path)), ROOM)
    export_checkpoint(checkpoint, folder, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=place)
        for place, one in enumerate(arguments)
    ]


SHOTS = "Question: 1? Answer: 2\n\n" * 2
PAIRS = [
    (SHOTS + "the sheep", " sheared the shore"),
    (SHOTS + "the sheep", " showed"),
    (SHOTS + "thence", " she"),
    ("the sheep ", "showed"),  # The space moves to the continuation.
    ("", "the sheep"),
    ("the sheep " * 20, "shore"),  # Longer than the model.
    ("12", "34"),
]


def test_log_likelihoods_are_those_of_the_harness(ours, theirs):
    found = ours.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    expected = theirs.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, (value, is_greedy), (right, right_greedy) in zip(PAIRS, found, expected, strict=True):
        assert value == pytest.approx(right, rel=1e-5), pair
        assert is_greedy == right_greedy
    # Against the definition too: both could err together.
    context, continuation = PAIRS[1]
    tokens = ours.tok_encode(context + continuation)
    first = len(ours.tok_encode(context))
    with torch.inference_mode():
        log_p = ours.decoder(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
    plain = sum(log_p[at - 1, tokens[at]].item() for at in range(first, len(tokens)))
    assert found[1][0] == pytest.approx(plain, rel=1e-5)


def test_a_greedy_continuation_is_said_to_be_greedy_and_no_other(ours):
    context = ours.tok_encode("the sheep")
    (sample,) = greedy(
        ours.decoder, ours.end, [tuple(context)], max_new_tokens=4, batch_sequences=1
    )
    other = [*sample.tokens[:-1], (sample.tokens[-1] + 1) % 300]
    found = ours._loglikelihood_tokens(
        [(None, context, list(sample.tokens)), (None, context, other)], disable_tqdm=True
    )
    assert [one for _, one in found] == [True, False]


def test_rolling_likelihoods_are_those_of_the_harness(ours, theirs):
    texts = [("the sheep sheared",), ("thence she showed 12 " * 12,), ("",)]
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(
        requests("loglikelihood_rolling", texts), disable_tqdm=True
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_greedy_answers_are_those_of_the_harness_also_cut_and_stopped(ours, theirs):
    asked = [
        (SHOTS + "the sheep", {"until": ["\n"], "max_gen_toks": 12}),
        ("thence she", {"until": ["e", "the"], "max_gen_toks": 12}),
        ("the sheep " * 20, {"until": [], "max_gen_toks": 8, "do_sample": False}),
        ("12", {"until": ["\n"], "max_gen_toks": 12}),
    ]
    found = ours.generate_until(requests("generate_until", asked), disable_tqdm=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert found == expected
    assert any(found)


def test_drawn_answers_have_seeds(checkpoint):
    asked = requests(
        "generate_until",
        [("the", {"until": [], "max_gen_toks": 9, "do_sample": True, "temperature": 1.0})] * 2,
    )
    first, again, other = (
        HarnessModel(str(checkpoint), seed=seed).generate_until(asked, disable_tqdm=True)
        for seed in (0, 0, 7)
    )
    assert first == again != other
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": [], "repetition_penalty": 2.0}, "repetition_penalty=2.0"),
        ({"until": [], "max_gen_toks": ROOM}, "leaves no room for a prompt"),
    ],
)
def test_what_cannot_be_done_is_refused(ours, arguments, message):
    with pytest.raises(UserError, match=message):
        ours.generate_until(requests("generate_until", [("the", arguments)]), disable_tqdm=True)


def test_a_model_that_is_not_there_or_asked_wrongly(checkpoint):
    with pytest.raises(UserError, match="no checkpoint here"):
        HarnessModel(str(checkpoint / "nowhere"), tokenizer=str(checkpoint / "tokenizer.json"))
    with pytest.raises(UserError, match="dtype='float16'"):
        HarnessModel(str(checkpoint), dtype="float16")
    with pytest.raises(UserError, match="batch_size=0"):
        HarnessModel(str(checkpoint), batch_size=0)
    with pytest.raises(UserError, match="checkpoint=DIR"):
        HarnessModel()
    with pytest.raises(UserError, match=r"pretrained: not an argument .* checkpoint, tokenizer"):
        HarnessModel(str(checkpoint), pretrained="x")


def test_a_temperature_is_nothing_where_the_task_does_not_draw(ours):
    arguments = {"until": [], "max_gen_toks": 9, "temperature": 1.5, "do_sample": False}
    assert ours._sampling(arguments).temperature == 0.0
    assert ours._sampling(arguments | {"do_sample": True}).temperature == 1.5


@pytest.mark.slow
def test_the_command_line_hands_over(checkpoint, tmp_path, monkeypatch, capsys):
    """The harness's own arguments, a task of ours, and its own table."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": "the sheep", "answer": "sheared"}, {"question": "she", "answer": "x"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['\\n'], max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    arguments = ["run", "--model", "isoflop", "--model_args", f"checkpoint={checkpoint}"]
    arguments += ["--tasks", "mine", "--include_path", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["isoflop", "harness", *arguments])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main()
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert "exact_match" in captured.out
    monkeypatch.setattr(
        "sys.argv", ["isoflop", "harness", *arguments[:4], "checkpoint=nowhere", *arguments[5:]]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main()
    assert status == 2
    assert "nowhere" in capsys.readouterr().err


def test_logits_that_are_not_finite_stop_the_harness_which_cannot_leave_items_out(
    checkpoint, tmp_path
):
    broken = load_checkpoint(checkpoint)
    tokenizer = HarnessModel(str(checkpoint)).end
    with torch.no_grad():
        broken.embedding[tokenizer.encode("Z")] = float("nan")
    save_checkpoint(broken, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").write_bytes(
        (checkpoint / "tokenizer.json").read_bytes()
    )
    model = HarnessModel(str(tmp_path / "checkpoint"))
    texts = ["the sheep", "the Z sheep", "12 and"]
    with pytest.raises(UserError, match="not finite for 1 of 3 requests"):
        model.loglikelihood(
            requests("loglikelihood", [(text, " 12") for text in texts]), disable_tqdm=True
        )
    until = {"until": ["Question:"], "max_gen_toks": 4}
    with pytest.raises(UserError, match="not finite for 1 of 3 requests"):
        model.generate_until(
            requests("generate_until", [(text, until) for text in texts]), disable_tqdm=True
        )
