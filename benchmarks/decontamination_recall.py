"""Planted benchmark items found, by kind of disguise; and every hit on the raw corpus shown.

    python benchmarks/decontamination_recall.py --data FOLDER [--items 100] [--seed 0]
        [--benchmarks humaneval mbpp gsm8k_test math500] [--write-items FILE] [--without-items FILE]
        [--texts 4723] [--folder FOLDER]

Recall: items of the benchmarks are put into real texts (code into code files, prose into math pages)
as they are, in the middle of a text of 100,000 characters, reformatted, renamed (code: every variable
and function), both (code), and with every tenth or fifth word changed (prose).
Precision: code files, math pages and the Python files of FOLDER as they are, searched for all items;
each hit is printed with both texts, to be judged.

The thresholds of `DecontaminateConfig` were chosen on what seed 0 draws, so recall is to be measured
on other items: --write-items leaves the names of those drawn, --without-items draws none of them.
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
from functools import partial
from pathlib import Path

from isoflop.corpus.decontaminate.benchmarks import BenchmarkItem, read_benchmarks
from isoflop.corpus.decontaminate.config import DecontaminateConfig
from isoflop.corpus.decontaminate.index import BenchmarkIndex
from isoflop.corpus.decontaminate.match import Hit, find_items

BENCHMARKS = ("humaneval", "mbpp", "gsm8k_test", "math500")
LONG_CHARACTERS = 100_000
SHOWN_CHARACTERS = 600


def main() -> None:
    """Measure, and print."""
    options = parse()
    folder = Path(options.data)
    items = read_benchmarks([str(folder / f"{name}.jsonl.gz") for name in options.benchmarks])
    begun = time.perf_counter()
    index = BenchmarkIndex(items, DecontaminateConfig())
    print(f"{len(items)} items indexed in {time.perf_counter() - begun:.1f} s")
    too_short = Counter(item.benchmark for item in index.too_short)
    print(f"too short to be looked for: {dict(too_short)}")
    code = texts(folder / "python_code_raw.jsonl.gz")
    prose = texts(folder / "math_pages.jsonl.gz")
    left_out: set[tuple[str, str]] = set()
    if options.without_items:
        lines = Path(options.without_items).read_text().splitlines()
        left_out = {(name, item) for name, _, item in (line.partition("\t") for line in lines)}
    short = {(item.benchmark, item.item) for item in index.too_short}
    able = [item for item in items if name_of(item) not in short | left_out]
    used = recall(able, index, code, prose, options) if options.items else []
    if options.write_items:
        lines = ["\t".join(name_of(item)) for item in used]
        Path(options.write_items).write_text("".join(f"{line}\n" for line in lines))
    precision(index, code[: options.texts], "code files")
    precision(index, prose[: options.texts], "math pages")
    if options.folder:
        files = sorted(Path(options.folder).rglob("*.py"))
        read = [file.read_text(encoding="utf-8", errors="replace") for file in files]
        precision(index, read, options.folder)


def recall(
    able: list[BenchmarkItem],
    index: BenchmarkIndex,
    code: list[str],
    prose: list[str],
    options: argparse.Namespace,
) -> list[BenchmarkItem]:
    """Plant and search; returns what was planted."""
    rng = random.Random(options.seed)
    used: list[BenchmarkItem] = []
    print("| benchmark | disguise | planted | found | found as |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.benchmarks:
        own = [item for item in able if item.benchmark == name]
        chosen = rng.sample(own, min(options.items, len(own)))
        used += chosen
        hosts = code if chosen[0].answer_is_code else prose
        for disguise, dress in disguises(chosen[0].answer_is_code).items():
            found: Counter[str] = Counter()
            lost: list[str] = []
            for item in chosen:
                dressed = dress(whole(item), rng)
                if dressed is None:
                    continue
                size = LONG_CHARACTERS if disguise == "in a long text" else 0
                text = planted(dressed, hosts, size, rng)
                hits = find_items(text, "", "", index, lambda step: True)
                kinds = [h.found_as for h in hits if (h.benchmark, h.item) == name_of(item)]
                found.update(kinds)
                lost += [] if kinds else [item.item]
            as_what = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
            total = found.total() + len(lost)
            print(f"| {name} | {disguise} | {total} | {found.total()} | {as_what} |", flush=True)
            if lost:
                print(f"  not found: {' '.join(lost)}")
    return used


def planted(dressed: str, hosts: list[str], size: int, rng: random.Random) -> str:
    """The item in the middle of a real text, or of so many together that they have `size` characters."""
    host = rng.choice(hosts)
    while len(host) < size:
        host += "\n" + rng.choice(hosts)
    place = host.find("\n", len(host) // 2) + 1
    return host[:place] + "\n" + dressed + "\n\n" + host[place:]


def name_of(item: BenchmarkItem) -> tuple[str, str]:
    """Names an item."""
    return item.benchmark, item.item


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
        print(f"ITEM: {' '.join(hit.item_text.split())[:SHOWN_CHARACTERS]}")
        print(f"TEXT {hit.where}: {' '.join(hit.excerpt.split())[:SHOWN_CHARACTERS]}")


Dress = Callable[[str, random.Random], str | None]


def disguises(is_code: bool) -> dict[str, Dress]:
    """Ways to plant an item; None from one that cannot be applied."""
    shared: dict[str, Dress] = {
        "exact": lambda text, _: text,
        "in a long text": lambda text, _: text,
    }
    if is_code:
        return {**shared, "reformatted": unparsed, "renamed": renamed, "renamed, reformatted": both}
    return {
        **shared,
        "reformatted": rewrapped,
        "every tenth word changed": partial(changed, every=10),
        "every fifth word changed": partial(changed, every=5),
    }


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
    made = enumerate(sorted(chosen))
    words = {name: f"{rng.choice(('item', 'value', 'thing'))}_{n}" for n, name in made}
    return re.sub(r"(?<![.\w])[^\W\d]\w*", lambda match: words.get(match[0], match[0]), text)


def both(text: str, rng: random.Random) -> str | None:
    """Renamed, then reformatted."""
    other = renamed(text, rng)
    return None if other is None else unparsed(other, rng)


def rewrapped(text: str, rng: random.Random) -> str:
    """Other line ends, two blanks, capitals at random line starts."""
    lines, line = [], ""
    for word in text.split():
        line += ("  " if line else "") + word
        if len(line) > rng.randint(20, 60):
            lines.append(line.upper() if rng.random() < 0.1 else line)
            line = ""
    return "\n".join([*lines, line])


def changed(text: str, rng: random.Random, every: int) -> str:
    """Every tenth, or fifth, word is another word of the text."""
    words = text.split()
    return " ".join(
        rng.choice(words) if n % every == every - 1 else word for n, word in enumerate(words)
    )


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
    parser.add_argument("--items", type=int, default=100, help="planted of each benchmark; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of items")
    parser.add_argument("--benchmarks", nargs="+", default=list(BENCHMARKS), help="file stems")
    parser.add_argument("--write-items", help="file for the names of the items drawn")
    parser.add_argument("--without-items", help="file of names of items that are not drawn")
    parser.add_argument("--folder", help="of Python files searched as they are")
    parser.add_argument(
        "--texts", type=int, default=4723, help="code files, and pages, searched as they are"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
