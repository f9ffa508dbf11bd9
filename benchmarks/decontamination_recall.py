"""Planted benchmark items found, by kind of disguise; and every hit on the raw corpus shown.

    python benchmarks/decontamination_recall.py --data FOLDER [--items 100] [--texts 4723] [--json]

Recall: items of HumanEval, MBPP, GSM8K and MATH-500 are put into real texts (code into code files,
prose into math pages) as they are, reformatted, with every variable and function renamed (code), with
every tenth word changed (prose), and in the middle of a text of 100,000 characters.
Precision: the corpus as it is, searched for all items; each hit is printed with both texts, to be judged.
"""

import argparse
import ast
import builtins
import gzip
import json
import keyword
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem, read_benchmarks
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.index import BenchmarkIndex
from isoflop.corpus.decontaminate.match import Hit, find_items

BENCHMARKS = ("humaneval", "mbpp", "gsm8k_test", "math500")
LONG_CHARACTERS = 100_000


def main() -> None:
    """Measure, and print."""
    options = parse()
    folder = Path(options.data)
    items = read_benchmarks([str(folder / f"{name}.jsonl.gz") for name in BENCHMARKS])
    begun = time.perf_counter()
    index = BenchmarkIndex(items, DecontaminateConfig())
    print(f"{len(items)} items indexed in {time.perf_counter() - begun:.1f} s")
    too_short = Counter(item.benchmark for item in index.too_short)
    print(f"too short to be looked for: {dict(too_short)}")
    code = texts(folder / "python_code_raw.jsonl.gz")
    prose = texts(folder / "math_pages.jsonl.gz")
    recall(items, index, code, prose, options.items)
    precision(index, code[: options.texts], "code files")
    precision(index, prose, "math pages")


def recall(
    items: list[BenchmarkItem],
    index: BenchmarkIndex,
    code: list[str],
    prose: list[str],
    num_items: int,
) -> None:
    """Plant and search."""
    short = {(item.benchmark, item.item) for item in index.too_short}
    rng = random.Random(0)
    print("| benchmark | disguise | planted | found | found as |")
    print("| --- | --- | --- | --- | --- |")
    for name in BENCHMARKS:
        able = [i for i in items if i.benchmark == name and (name, i.item) not in short]
        chosen = rng.sample(able, min(num_items, len(able)))
        hosts = code if chosen[0].answer_is_code else prose
        for disguise, dress in disguises(chosen[0].answer_is_code).items():
            found: Counter[str] = Counter()
            planted = 0
            for item in chosen:
                dressed = dress(whole(item), rng)
                if dressed is None:
                    continue
                planted += 1
                host = rng.choice(hosts)
                size = LONG_CHARACTERS if disguise == "in a long text" else len(host)
                while len(host) < size:
                    host += "\n" + rng.choice(hosts)
                place = host.find("\n", len(host) // 2) + 1
                text = host[:place] + "\n" + dressed + "\n\n" + host[place:]
                hits = find_items(text, "", "", index, lambda step: True)
                own = [hit for hit in hits if (hit.benchmark, hit.item) == (name, item.item)]
                found.update(hit.found_as for hit in own)
            kinds = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
            print(f"| {name} | {disguise} | {planted} | {found.total()} | {kinds} |")


def precision(index: BenchmarkIndex, corpus: list[str], name: str) -> None:
    """Search the corpus as it is, and print every hit."""
    begun = time.perf_counter()
    hits: list[Hit] = []
    for number, text in enumerate(corpus):
        hits += find_items(text, str(number), str(number), index, lambda step: True)
    seconds = time.perf_counter() - begun
    counts = Counter((hit.benchmark, hit.found_as) for hit in hits)
    texts_hit = len({hit.id for hit in hits})
    print(f"\n{name}: {len(corpus)} texts, {len(corpus) / seconds:.0f} texts a second")
    print(f"{len(hits)} hits in {texts_hit} texts: {dict(counts)}")
    for hit in hits:
        print(f"\n--- {hit.benchmark} {hit.item} ({hit.part}), {hit.found_as} {hit.overlap:.2f}")
        print(f"ITEM: {' '.join(hit.item_text.split())[:600]}")
        print(f"TEXT {hit.where}: {' '.join(hit.excerpt.split())[:600]}")


Dress = Callable[[str, random.Random], str | None]


def disguises(is_code: bool) -> dict[str, Dress]:
    """Ways to plant an item; None from one that cannot be applied."""
    shared: dict[str, Dress] = {
        "exact": lambda text, _: text,
        "in a long text": lambda text, _: text,
    }
    if is_code:
        return {**shared, "reformatted": unparsed, "renamed": renamed}
    return {**shared, "reformatted": rewrapped, "every tenth word changed": changed}


def whole(item: BenchmarkItem) -> str:
    """The item as a corpus would hold it: a program, or question and answer."""
    if item.answer_is_code:
        return item.question + item.answer if item.prompt_is_code else item.answer
    return item.question + "\n" + item.answer


def unparsed(text: str, _: random.Random) -> str | None:
    """The program as Python writes it from its tree: other quotes, brackets, blanks; no comments."""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:
        return None


def renamed(text: str, rng: random.Random) -> str | None:
    """Every name that the program chose is another one."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    chosen = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    chosen |= {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    chosen |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    chosen -= {*keyword.kwlist, *dir(builtins)}
    words = {name: f"{rng.choice(('item', 'value', 'thing'))}_{n}" for n, name in enumerate(chosen)}
    return re.sub(r"(?<![.\w])[^\W\d]\w*", lambda match: words.get(match[0], match[0]), text)


def rewrapped(text: str, rng: random.Random) -> str:
    """Other line ends, two blanks, capitals at random line starts."""
    lines, line = [], ""
    for word in text.split():
        line += ("  " if line else "") + word
        if len(line) > rng.randint(20, 60):
            lines.append(line.upper() if rng.random() < 0.1 else line)
            line = ""
    return "\n".join([*lines, line])


def changed(text: str, rng: random.Random) -> str:
    """Every tenth word is another word of the text."""
    words = text.split()
    return " ".join(rng.choice(words) if n % 10 == 9 else word for n, word in enumerate(words))


def texts(path: Path) -> list[str]:
    """The texts of a file of records."""
    return list(_texts(path))


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path) as lines:
        for line in lines:
            yield json.loads(line)["text"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of the benchmarks and the corpora")
    parser.add_argument("--items", type=int, default=100, help="planted of each benchmark")
    parser.add_argument("--texts", type=int, default=4723, help="code files searched as they are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
