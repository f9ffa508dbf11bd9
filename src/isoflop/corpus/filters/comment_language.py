"""In which language a program's comments and strings are written.

"published" is SwallowCode's rule (arXiv:2505.02881, its filter script): every character is
printable ASCII, white space, Japanese punctuation, kana, an ideograph or half-width katakana. So
Chinese passes, which shares the ideographs, and "café" or a typographic dash does not.

"corrected" counts letters: kana make a text Japanese, ideographs without kana Chinese, Hangul
Korean, and so on by script; a text in Latin letters is of the language whose frequent words it
uses most. Words, not characters: an English comment may hold "é" or "→".
"""

import re
import token
import unicodedata

from isoflop.corpus.filters.comments import Tokens

NOT_TOKENIZABLE = "not_tokenizable"
NO_LETTERS = "none"
"""No comment and no string has a letter."""

_PUBLISHED = re.compile(r"[\x20-\x7e\s\u3000-\u30ff\u4e00-\u9fff\uff65-\uff9f]*")

_TEXTS = {token.COMMENT, token.STRING}
_FSTRING_MIDDLE = getattr(token, "FSTRING_MIDDLE", None)
"""The text of an f-string, a token of its own since Python 3.12; before, all of it is a STRING."""

SCRIPTS = {
    "HANGUL": "korean",
    "HIRAGANA": "japanese",
    "KATAKANA": "japanese",
    "HALFWIDTH KATAKANA": "japanese",
    "CJK": "chinese",
    "CYRILLIC": "cyrillic",
    "GREEK": "greek",
    "ARABIC": "arabic",
    "HEBREW": "hebrew",
    "DEVANAGARI": "devanagari",
    "BENGALI": "bengali",
    "TAMIL": "tamil",
    "THAI": "thai",
}
"""First word of a letter's Unicode name, and the language or script that it shows."""

SCRIPT_SHARE = 0.1
"""A script other than Latin rules from this share of the letters on. Chosen: comments in another
script stand among names and keywords in Latin letters."""

FREQUENT_WORDS = {
    "english": "the of and to is in that for this with are be not it from on by if you should",
    "portuguese": "de que um uma para com não os dos das por é são número você se ao digite valor",
    "spanish": "el de que los las una para con por es del se número como más esta son ingrese valor",
    "french": "le la les de des est une pour dans que qui sur avec pas par du sont vous ce nombre",
    "german": "der die das und ist nicht ein eine von zu mit den für auf wird werden im des zahl",
    "italian": "il di che la un una per con non è del della sono le i gli nel numero come questo",
}
"""Words that a text of the language cannot do without. Chosen; Portuguese, Spanish and Italian have
words of beginners' exercises, of which code corpora hold many."""

_FREQUENT = {language: frozenset(words.split()) for language, words in FREQUENT_WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")


def published_rule(tokens: Tokens | None) -> str:
    """SwallowCode's label: "english_or_japanese", "other_characters" or "not_tokenizable"."""
    if tokens is None:
        return NOT_TOKENIZABLE
    texts = (found.string for found in tokens if found.type in _TEXTS)
    passes = all(_PUBLISHED.fullmatch(text) for text in texts)
    return "english_or_japanese" if passes else "other_characters"


def corrected_rule(tokens: Tokens | None) -> str:
    """Language or script, e.g. "english", "japanese", "cyrillic"; "latin": Latin letters without a
    frequent word; "none": no letters; "not_tokenizable"."""
    if tokens is None:
        return NOT_TOKENIZABLE
    kinds = {*_TEXTS, _FSTRING_MIDDLE}
    return language_of_prose(" ".join(found.string for found in tokens if found.type in kinds))


def language_of_prose(text: str) -> str:
    """The label of `corrected_rule` for any text.

    >>> [language_of_prose(text) for text in ("read the café menu →", "数を数える", "这是中文")]
    ['english', 'japanese', 'chinese']
    """
    counts, latin = _count_scripts(text)
    letters = latin + sum(counts.values())
    if not letters:
        return NO_LETTERS
    if sum(counts.values()) >= SCRIPT_SHARE * letters:
        if "japanese" in counts:
            # Japanese prose has ideographs too, Chinese prose no kana.
            return "japanese"
        return max(counts, key=lambda language: (counts[language], language))
    words = _WORD.findall(text.lower())
    votes = {name: sum(word in known for word in words) for name, known in _FREQUENT.items()}
    best = max(votes.values())
    # Of equals the first: a text that is as English as anything else is English.
    return "latin" if best == 0 else next(name for name, count in votes.items() if count == best)


def _count_scripts(text: str) -> tuple[dict[str, int], int]:
    """Letters of each script but Latin, by the language it shows, and Latin letters."""
    latin = sum(character.isalpha() for character in text if character < "\u0250")
    counts: dict[str, int] = {}
    for character in text:
        if character < "\u0250" or not character.isalpha():
            continue
        name = unicodedata.name(character, "")
        language = next((label for start, label in SCRIPTS.items() if name.startswith(start)), None)
        if language is None:
            language = "other"
        counts[language] = counts.get(language, 0) + 1
    return counts, latin
