"""Lengths are never counted too short, counts lose nothing, and new texts find their parents."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from isoflop.config import UserError
from isoflop.corpus.fidelity import join
from isoflop.corpus.rewrite.accounts import Prices, Result, RewriteCounts, count_results
from isoflop.corpus.rewrite.limits import count_bytes, tokenizer_counter
from isoflop.corpus.rows import Rewriting, TextRow


def test_a_tokenizer_s_count_is_never_above_the_bytes(tmp_path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["def add(a, b): return a + b"] * 20, trainer)
    tokenizer.save(str(tmp_path / "t.json"))
    count = tokenizer_counter(tmp_path / "t.json")
    for text in ("def add", "é\u4e2d\U0001f600", "\ud800x", ""):
        assert count(text) <= count_bytes(text)
    assert count("def add(a, b): return a + b") < count_bytes("def add(a, b): return a + b")
    (tmp_path / "bad.json").write_text("{}")
    for bad in ("bad.json", "none.json"):
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            tokenizer_counter(tmp_path / bad)


def test_counts_add_up_and_lose_nothing():
    kept = TextRow(id="1", text="xy", where="a", compiles=True,
                   rewriting=Rewriting(rewriter="r", notes=("n",), parent_characters=5))  # fmt: skip
    bad = TextRow(id="2", text="x", where="b", rejected_by="s", reason="r", compiles=False)
    one = count_results([Result(row=kept), Result(row=bad, unanswered=True)])
    assert (one.read, one.kept, one.rejected, one.unanswered) == (2, 1, 1, 1)
    assert (one.reasons, one.notes) == ({"s: r": 1}, {"n": 1})
    assert (one.characters_before, one.characters_after) == (5, 2)
    assert (one.compiled, one.not_compiled) == (1, 1)
    assert one + RewriteCounts() == one
    assert (one + one).reasons == {"s: r": 2}
    with pytest.raises(AssertionError, match="lost"):
        RewriteCounts(read=2, kept=1)


def test_prices_are_for_a_million_tokens():
    assert Prices(prompt=3.0, completion=15.0).cost(2_000_000, 100_000) == pytest.approx(7.5)
    with pytest.raises(UserError):
        Prices(prompt=-1.0)


def test_children_find_their_parents_in_one_pass_also_where_texts_repeat():
    parents = [TextRow(id=name, text=name, where=f"w:{n}") for n, name in enumerate("abac")]
    children = [
        TextRow(id=f"{p.id}-{n}", text="x", where=p.where, parent_id=p.id)
        for n, p in ((0, parents[0]), (0, parents[2]), (1, parents[2]), (0, parents[3]))
    ]
    pairs = list(join(parents, children))
    assert [pair.before.where for pair in pairs] == ["w:0", "w:2", "w:2", "w:3"]
    for wrong in ([children[3], children[0]], [parents[0]]):
        with pytest.raises(UserError):
            list(join(parents, wrong))
