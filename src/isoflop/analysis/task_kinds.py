"""Whether a task asks for what was read, or for steps in between: memory or reasoning.

A study's own probes are told by their kind in its config, benchmarks by their name. A task that is
neither is of no known kind and enters no claim about the two.

Sources: TriviaQA and HellaSwag as memorisation, GSM8K and GSM-Plus as reasoning, and code, whose
figures go as those of mathematics: arXiv:2508.18672, sections 3.1 and 3.8. MATH beside GSM8K: ours.
"""

import re
from typing import Any, Literal

Kind = Literal["memory", "reasoning"]

PROBES: dict[str, Kind] = {
    "PhoneBookProbe": "memory",
    "ArithmeticProbe": "reasoning",
    "ShortestPathProbe": "reasoning",
}
"""Kinds of source of isoflop.corpus.config whose task is made with them."""

NAMES: dict[str, Kind] = {
    **dict.fromkeys(("memory", "triviaqa", "hellaswag"), "memory"),
    **dict.fromkeys(
        ("reasoning", "gsm8k", "gsmplus", "math", "math500", "minervamath"), "reasoning"
    ),
    **dict.fromkeys(("humaneval", "humanevalplus", "mbpp", "mbppplus"), "reasoning"),
}
"""By name in small letters without signs; "+" is "plus"."""


def named_kind(task: str) -> Kind | None:
    """The kind that a task's name tells; what follows the name, as in "gsm8k_4shot", is left aside.

    >>> [named_kind(name) for name in ("TriviaQA", "GSM-Plus", "gsm8k_cot", "MBPP+", "winogrande")]
    ['memory', 'reasoning', 'reasoning', 'reasoning', None]
    """
    words = re.findall(r"[a-z0-9]+", task.casefold().replace("+", " plus"))
    for count in range(len(words), 0, -1):
        found = NAMES.get("".join(words[:count]))
        if found is not None:
            return found
    return None


def probe_kinds(config: Any) -> dict[str, Kind]:
    """Kinds of all probes in a config of plain values, at any depth, by the probe's name."""
    if isinstance(config, list):
        parts = config
    elif isinstance(config, dict):
        parts = list(config.values())
    else:
        return {}
    found: dict[str, Kind] = {}
    for part in parts:
        found |= probe_kinds(part)
    if isinstance(config, dict):
        name, kind = config.get("name"), config.get("kind")
        if isinstance(name, str) and isinstance(kind, str) and kind in PROBES:
            found[name] = PROBES[kind]
    return found
