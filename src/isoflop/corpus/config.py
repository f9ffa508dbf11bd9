"""What a corpus is made of: sources of text with their shares of the training tokens."""

import math
from dataclasses import dataclass
from typing import Literal

from isoflop.config import UserError
from isoflop.corpus.filters.config import FilterConfig

VALIDATION_SHARE = 0.01
"""99:1 split of documents. arXiv:2508.18672, launch scripts (990:10:0)."""

MAX_EPOCHS = 4.0
"""Repeats up to which natural text is about as good as new.
Muennighoff et al. 2023, arXiv:2305.16264."""


MAX_ARITHMETIC_STEPS = 24
"""A problem of so many steps names 25 variables, one letter each."""


@dataclass(frozen=True, kw_only=True)
class StdlibSource:
    """The running interpreter's standard library: real code that every machine has."""

    name: str = "python-stdlib"
    share: float = 1.0
    """Share of the training tokens, relative to the other sources."""
    max_bytes: int | None = None
    """Stop after about this many bytes of files, taken in an order fixed by the seed. None: all."""
    filters: FilterConfig | None = None
    """Filters for code that the files must pass, after those bytes are taken. None: none."""
    validation_share: float = VALIDATION_SHARE
    """Share of the files held out for validation."""
    max_epochs: float | None = MAX_EPOCHS
    """Refuse a run that would read the source more often. None: any number."""

    def __post_init__(self) -> None:
        _check_source(self)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A user's own text: JSONL (plain, .gz, .zst), Parquet, or a folder of text files."""

    name: str
    path: str
    """File or folder. In a folder, at any depth, each file with one of `suffixes` is a document."""
    share: float = 1.0
    text_field: str = "text"
    """Field or column that holds the text; unused for a folder."""
    id_field: str | None = None
    """Field or column that identifies a row. None: file name and line number."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".py")
    validation_share: float = VALIDATION_SHARE
    max_epochs: float | None = MAX_EPOCHS

    def __post_init__(self) -> None:
        _check_source(self)


@dataclass(frozen=True, kw_only=True)
class PhoneBookProbe:
    """Memory: names and numbers to recall closed-book.

    A name is `words_per_name` words, a number `num_digits` symbols drawn
    uniformly from `num_symbols`, so a fact holds num_digits x log2(num_symbols)
    bits and no name tells its number. After "Mixture of Parrots"
    (arXiv:2410.19034, phone book task).

    Nothing can be held out of a memory task: all asked names were trained on
    ("seen"); names never trained on ("held_out") are a control that must score
    at chance, num_symbols^-num_digits.
    """

    name: str = "memory"
    share: float = 1.0
    num_facts: int = 1000
    words_per_name: int = 2
    num_words: int = 128
    """Different words at one place of a name."""
    place_words: Literal["shared", "own"] = "shared"
    """Whether all places of a name draw from the same words, or each from words of its own."""
    num_digits: int = 2
    """Symbols of a number."""
    num_symbols: int = 10
    """Different symbols: up to 10 they are digits, beyond they are words that no name uses."""
    separator: Literal[":", ""] = ":"
    """Between name and number. "": the number follows the name's last word at once."""
    zipf_exponent: float = 0.0
    """A fact of rank r = 1, 2, ... is stated proportionally to (r + zipf_offset)^-zipf_exponent,
    at least once. 0: all equally often.
    Uneven counts shorten the plateau before facts are learned (arXiv:2503.21676)."""
    zipf_offset: float = 0.0
    """Flattens the head of the distribution (Zipf-Mandelbrot)."""
    num_statements: int = 20_000
    """Training documents: statements of the facts, each fact at least once."""
    num_validation: int = 512
    """Validation documents: statements drawn from the training documents, so seen facts."""
    num_items: int = 512
    """Facts asked in evaluation, drawn evenly from the facts (all, if there are fewer)."""

    def __post_init__(self) -> None:
        _check_source(self)
        _check_at_least_one(
            self, "words_per_name", "num_words", "num_digits", "num_validation", "num_items"
        )
        if not 1 <= self.num_facts <= self.num_names // 2:
            raise UserError(
                f"{self.name}: num_facts={self.num_facts} must be 1 to half of the "
                f"{self.num_names} names that num_words={self.num_words} and "
                f"words_per_name={self.words_per_name} allow"
            )
        if self.num_statements < self.num_facts:
            raise UserError(
                f"{self.name}: num_statements={self.num_statements} must be at least "
                f"num_facts={self.num_facts}, so that each fact is stated"
            )
        if self.num_symbols < 2:
            raise UserError(f"{self.name}: num_symbols={self.num_symbols} must be at least 2")
        if not (0 <= self.zipf_exponent < math.inf and 0 <= self.zipf_offset < math.inf):
            raise UserError(
                f"{self.name}: zipf_exponent={self.zipf_exponent} and "
                f"zipf_offset={self.zipf_offset} must be 0 or more"
            )

    @property
    def num_names(self) -> int:
        """Names that can be formed."""
        names: int = self.num_words**self.words_per_name
        return names

    @property
    def information_bits(self) -> float:
        """Bits that an ideal memory stores to know every number, names apart."""
        return self.num_facts * self.num_digits * math.log2(self.num_symbols)


@dataclass(frozen=True, kw_only=True)
class ArithmeticProbe:
    """Reasoning: arithmetic in several steps with a worked solution, on unseen problems.

    A problem starts from a number modulo `modulus` and changes it by one
    operation a step; the solution works the steps out, each a look-up in a small
    table. After iGSM, arithmetic modulo a prime with worked solutions ("Physics
    of Language Models" 2.1, arXiv:2407.20311).

    Held out means: the same start and steps are in no training document, under
    no names and in no order. `num_problems` is how many different problems are
    trained on, so that over-fitting can be studied; the held-out problems do not
    depend on it. For a prime modulus every final answer is equally frequent among all
    problems, so chance is 1 / modulus.
    """

    name: str = "reasoning"
    share: float = 1.0
    modulus: int = 7
    operations: str = "+*"
    """Operations that steps draw from, out of "+-*"."""
    min_steps: int = 2
    max_steps: int = 4
    form: Literal["substituted", "values", "running_sums"] = "substituted"
    """How problem and solution are written, e.g. for 3 + 2 + 4 modulo 7:
    "substituted": "a=3;b=a+2;c=b+4;c?" "a=3;b=3+2=5;c=5+4=2#2";
    "values": the same problem, "a=3;b=5;c=2#2";
    "running_sums": "324=" "52", digits only, which needs operations="+" and modulus <= 10."""
    variable_names: Literal["alphabetical", "random"] = "alphabetical"
    """Variables a, b, c, ..., or different letters drawn for each problem."""
    statement_order: Literal["chained", "shuffled"] = "chained"
    """Order of the problem's statements; its solution is always chained."""
    num_problems: int = 20_000
    """Different training problems, one document each."""
    num_validation: int = 512
    """Held-out problems with solutions, for the validation loss; not those asked."""
    num_items: int = 512
    """Held-out problems asked in evaluation, and as many seen ones (all, if there are fewer)."""

    def __post_init__(self) -> None:
        _check_source(self)
        if not 1 <= self.min_steps <= self.max_steps <= MAX_ARITHMETIC_STEPS:
            raise UserError(
                f"{self.name}: 1 <= min_steps={self.min_steps} <= max_steps={self.max_steps} "
                f"<= {MAX_ARITHMETIC_STEPS}"
            )
        if not self.operations or not set(self.operations) <= set("+-*"):
            raise UserError(f"{self.name}: operations={self.operations!r} must be some of '+-*'")
        if len(set(self.operations)) < len(self.operations):
            raise UserError(f"{self.name}: operations={self.operations!r} repeats one")
        if self.modulus < 2:
            raise UserError(f"{self.name}: modulus={self.modulus} must be at least 2")
        _check_at_least_one(self, "num_problems", "num_validation", "num_items")
        if self.form == "running_sums":
            self._check_running_sums()
        asked = self.num_problems + self.num_validation + self.num_items
        if asked > self.num_possible:
            raise UserError(
                f"{self.name}: num_problems + num_validation + num_items = {asked} different "
                f"problems, but only {self.num_possible} exist; ask for fewer, or raise modulus, "
                "operations or max_steps"
            )

    def _check_running_sums(self) -> None:
        if self.operations != "+" or self.modulus > 10:
            raise UserError(
                f"{self.name}: form='running_sums' needs operations='+' and modulus <= 10, got "
                f"operations={self.operations!r} and modulus={self.modulus}"
            )
        if self.variable_names != "alphabetical" or self.statement_order != "chained":
            raise UserError(
                f"{self.name}: form='running_sums' has no variables and one order; leave "
                "variable_names and statement_order at their defaults"
            )

    @property
    def constants(self) -> range:
        """Second operands of a step. Zero, which changes nothing or everything, only in sums."""
        return range(0 if self.form == "running_sums" else 1, self.modulus)

    def num_possible_of(self, steps: int) -> int:
        """Different problems of so many steps."""
        problems: int = self.modulus * (len(self.operations) * len(self.constants)) ** steps
        return problems

    @property
    def num_possible(self) -> int:
        """Different problems that exist."""
        return sum(self.num_possible_of(s) for s in range(self.min_steps, self.max_steps + 1))

    @property
    def information_bits(self) -> float:
        """Bits of the operation tables: what an ideal learner stores to solve every problem.

        Learning the training answers by rote takes num_problems x log2(modulus) instead.
        """
        entries = len(self.operations) * self.modulus * len(self.constants)
        return entries * math.log2(self.modulus)


@dataclass(frozen=True, kw_only=True)
class ShortestPathProbe:
    """Reasoning: the shortest path between two nodes of a graph given in the prompt.

    After "Mixture of Parrots" (arXiv:2410.19034, shortest path task). Graphs are
    undirected, each pair of nodes joined with `edge_probability`. Held out
    means: the graph is never in the training text, in no order of its edges. A gold
    path is the only shortest one.
    """

    name: str = "shortest-path"
    share: float = 1.0
    num_nodes: int = 8
    edge_probability: float = 0.25
    min_length: int = 2
    """Edges of the shortest path, at least."""
    num_problems: int = 20_000
    """Different training graphs, one document each."""
    num_validation: int = 512
    """Held-out graphs with solutions, for the validation loss; not those asked."""
    num_items: int = 512
    """Held-out graphs asked in evaluation, and as many seen ones (all, if there are fewer)."""

    def __post_init__(self) -> None:
        _check_source(self)
        if not 3 <= self.num_nodes <= 26 or not 0 < self.edge_probability < 1:
            raise UserError(
                f"{self.name}: num_nodes={self.num_nodes} must be 3 to 26 and "
                f"edge_probability={self.edge_probability} in (0, 1)"
            )
        if not 1 <= self.min_length < self.num_nodes:
            raise UserError(f"{self.name}: min_length={self.min_length} must be 1 to num_nodes - 1")
        _check_at_least_one(self, "num_problems", "num_validation", "num_items")

    @property
    def information_bits(self) -> float:
        """0: the prompt states all that the answer needs; what is learned is a procedure."""
        return 0.0


Source = StdlibSource | TextSource | PhoneBookProbe | ArithmeticProbe | ShortestPathProbe
PROBES = (PhoneBookProbe, ArithmeticProbe, ShortestPathProbe)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Sources of text, mixed by shares of the training tokens (arXiv:2508.18672, Table 1)."""

    sources: tuple[Source, ...]
    seed: int = 0
    """Seed of the probes' facts and problems and of the train-validation split."""

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise UserError("a corpus needs at least one source")
        if len(set(names)) < len(names):
            raise UserError(f"sources need different names, got {', '.join(names)}")

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the training tokens; they sum to 1."""
        total = sum(source.share for source in self.sources)
        return tuple(source.share / total for source in self.sources)


def max_epochs(source: Source) -> float | None:
    """How often a run may read the source; probes may be repeated without limit."""
    return source.max_epochs if isinstance(source, StdlibSource | TextSource) else None


def _check_source(source: Source) -> None:
    if not source.name or not set(source.name) <= set(_NAME_CHARACTERS):
        raise UserError(f"source name {source.name!r} must be letters, digits, '-' and '_'")
    if not 0 < source.share < math.inf:
        raise UserError(f"{source.name}: share={source.share} must be above 0 and finite")
    if isinstance(source, StdlibSource | TextSource) and not 0 < source.validation_share < 1:
        raise UserError(
            f"{source.name}: validation_share={source.validation_share} must be in (0, 1)"
        )
    if isinstance(source, StdlibSource) and source.max_bytes is not None and source.max_bytes < 1:
        raise UserError(f"{source.name}: max_bytes={source.max_bytes} must be at least 1 or None")
    if isinstance(source, TextSource) and not all(source.suffixes):
        raise UserError(f"{source.name}: an empty suffix would match every file; name suffixes")


def _check_at_least_one(source: Source, *fields: str) -> None:
    for field in fields:
        if getattr(source, field) < 1:
            raise UserError(f"{source.name}: {field}={getattr(source, field)} must be at least 1")


_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
