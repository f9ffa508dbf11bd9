"""Lines of a mathematical web page that are not its text, each rule with its reason. Pure.

A rule never looks inside mathematics: a line that holds a formula is only taken where the page's own
structure says that it is a menu, a foot or a table of metadata. Words that could be an exercise
("Expand", "Contents") are taken only inside such structures.

The rules were made on 1,186 real pages of seven sources (Stack Exchange threads and dumps, PlanetMath,
OpenStax, Sphinx documentation); `tests/unit/corpus/rewrite/test_math_rules.py` is the table.
"""

import re
from collections.abc import Callable

DATE = r"(?:\d{4}-\d{2}-\d{2}|[A-Z][a-z]{2,8}\.? \d{1,2},? (?:'\d{2}|\d{4}))"
TIME = r"(?:,? (?:at )?\d{1,2}:\d{2}(?::\d{2})?)?"
USER = r"(?:user\d+|anonymous|community wiki|[\w.-]{1,30})"

Lines = list[str]
Span = tuple[int, int, str]
"""First line, line after the last, name of the rule."""

MENU_ITEMS = 12
"""Short list items in a row that make a menu wherever they stand. Chosen: the longest real list of
such short items in the pages has 9, the shortest menu that no heading announces 14."""

MENU_ITEM_CHARACTERS = 80

MENU_NUMBER_SHARE = 0.25
"""Of a menu's items that may hold a number; a list with more of them is data. Chosen: the entries of the
pages' menus have none, but for one that counts its examples."""

FOOT_STRAYS = 6
"""Short lines of nothing but words that may stand below a copyright line. Chosen."""

FOOT_LINE_CHARACTERS = 100
"""Longer lines are text. Chosen."""

_HEAD_END = "Toggle table of contents sidebar"
_ITEM = re.compile(r"[-*\u2022] (?P<words>[^$\\=]+)$")
# A number standing alone, but for those that only label an entry.
_NUMBER = re.compile(
    r"(?<![\w.])(?<!Example )(?<!Page )(?<!Chapter )(?<!Section )(?<!Part )\d+(?![\w.]*\w)"
)
_FOOT_ITEM = re.compile(r"(?:- [^$\\]+|-)$")
_MATHEMATICS = re.compile(r"[$\\=]")
_WORDS_ONLY = re.compile(r"(?=.{1,40}$)[^\W\d_][^\d:;.?!$\\=<>^]*$")
_MENU_FILLING = re.compile(r"(?:[-*|\u2022]|Toggle child pages in navigation)?$")
_CLASSIC = re.compile(r"(?:-|index|modules \||next \||previous \||- .* \u00bb)?$")
_COPYRIGHT = re.compile(
    r"(?:Copyright\b.*(?:\u00a9|\(c\)|\d{4})|\u00a9 ?(?:Copyright\b|\d{4}))", re.IGNORECASE
)
_THREAD = re.compile(rf"(?:Asked|Viewed|Active|Modified|Edited) {DATE}{TIME}$")
_SIGNED = re.compile(
    rf"(?:asked|answered|edited|modified|closed|migrated) {DATE}{TIME}(?: +{USER})?$"
)
_COMMENT_END = re.compile(rf"(?:-|\u2013|\u2014) {USER} {DATE}{TIME}$")
_COUNT = re.compile(r"\d{1,4} Answers?$|Answers?$|\d+ Comments?$", re.IGNORECASE)
_VOTES = re.compile(r"-?\d{1,5}$")
_TAGS = re.compile(r"[a-z][a-z0-9.+#-]*(?: {2,}[a-z0-9][a-z0-9.+#-]*)*$")
_QUESTION_SIGNED = re.compile(rf"asked {DATE}")
_METADATA_START = re.compile(r"Title\t")
_METADATA_LINE = re.compile(r"[A-Z][\w -]{0,40}\t")
_METADATA_MARK = re.compile(r"(?:Canonical name|Date of creation)\t")
_CONTENTS = re.compile(
    r"(?:on this page|table of contents|contents|in this article)[:#\u00b6]?$", re.IGNORECASE
)
_LINK_LIST = re.compile(r"\[\d+\]: (?:https?://|#)\S+$")
_MARKUP = re.compile(r"""(?:class=".*|\{:.*\}|\^|"\)|\[image: ?\](?:"\))?|\* \* \*|-{3,}|_{3,})$""")
_BAR = re.compile(r"(?:-{3,}|_{3,})$")
_SIGN = re.compile(r"(?:\^|\* \* \*)$")
_DATE_LINE = re.compile(
    rf"(?:last (?:updated|modified|edited)|updated|posted|published|date)(?: on|:)? (?:on )?{DATE}{TIME}\.?$",
    re.IGNORECASE,
)
_BOILERPLATE = re.compile(
    r"(?:.*\ball rights reserved\b.*|(?:our |read (?:our )?)?privacy (?:policy|notice|statement)\.?"
    r"|terms (?:of (?:use|service)|and conditions)\.?|cookie (?:policy|settings|preferences)\.?"
    r"|.*\b(?:we|this (?:web)?site) uses? cookies\b.*|skip to (?:main )?content|back to top"
    r"|log ?in|sign ?(?:in|up)|log ?in (?:or|/) (?:register|sign up)|share (?:this|on) .{1,30}"
    r"|follow us(?: on .{1,30})?|subscribe(?: to .{1,40})?|advertisements?|powered by .{1,40}"
    r"|created using sphinx.*|made with sphinx.*|quick search|- show source|print this page"
    r"|toggle (?:site )?navigation(?: sidebar)?|view (?:page )?source|edit on github)$",
    re.IGNORECASE,
)
"""Whole lines of web pages that are said nowhere else."""


def site_head(lines: Lines) -> list[Span]:
    """Menus above the text, as two themes of Sphinx write them."""
    ends = [n for n, line in enumerate(lines) if line.strip() == _HEAD_END]
    if ends:
        return [(0, ends[-1] + 1, "site head")]
    start = next((n for n, line in enumerate(lines[:20]) if line.strip() == "Navigation"), None)
    if start is None or "index" not in (line.strip() for line in lines[start : start + 6]):
        return []
    stop = start + 1
    while stop < len(lines) and _CLASSIC.match(lines[stop].strip()):
        stop += 1
    # The last item is the page itself, without the sign that ends the others.
    if stop < len(lines) and lines[stop].startswith("- "):
        stop += 1
    return [(start, stop, "site head")]


def site_foot(lines: Lines) -> list[Span]:
    """What stands below the text: neighbours, copyright, contents once more.

    Only where nothing else follows: a notice may also stand above a text or in its middle.
    """
    marks = [n for n, line in enumerate(lines) if _COPYRIGHT.match(line.strip())]
    if not marks or not _is_foot(lines[marks[-1] + 1 :]):
        return []
    start = _first_of_foot(lines, marks[-1])
    return [(start, len(lines), "site foot")]


def contents(lines: Lines) -> list[Span]:
    """A table of contents: a heading that says so, and short items below it."""
    spans = []
    for number, line in enumerate(lines):
        if _CONTENTS.match(line.strip()):
            stop, items = _menu_from(lines, number + 1)
            if items >= 2:
                spans.append((number, stop, "contents"))
    return spans


def menus(lines: Lines) -> list[Span]:
    """Many short list items in a row, without a formula, a sentence's end, or numbers in many of them."""
    spans, number = [], 0
    while number < len(lines):
        if _is_menu_item(lines[number]):
            stop, items = _menu_from(lines, number)
            numbers = sum(bool(_NUMBER.search(line)) for line in lines[number:stop])
            if items >= MENU_ITEMS and numbers <= MENU_NUMBER_SHARE * items:
                spans.append((number, stop, "menu"))
            number = stop
        number += 1
    return spans


def metadata(lines: Lines) -> list[Span]:
    """PlanetMath's table below an entry: names, dates, owners, classification."""
    spans, start = [], 0
    while start < len(lines):
        stop = start
        if _METADATA_START.match(lines[start]):
            # A line of another form is text again, whatever stands below it.
            while stop < len(lines) and _METADATA_LINE.match(lines[stop]):
                stop += 1
            if any(_METADATA_MARK.match(line) for line in lines[start:stop]):
                spans.append((start, stop, "metadata"))
        start = max(stop, start + 1)
    return spans


def link_list(lines: Lines) -> list[Span]:
    """Targets of links at the end of a page."""
    stop = len(lines)
    start = stop
    while start and (not lines[start - 1].strip() or _LINK_LIST.match(lines[start - 1].strip())):
        start -= 1
    return [(start, stop, "link list")] if any(lines[start:stop]) else []


def thread_lines(lines: Lines) -> list[Span]:
    """Dates, users, votes, tags and counts of a thread of questions and answers."""
    if not any(_THREAD.match(line.strip()) or _SIGNED.match(line.strip()) for line in lines):
        return []
    spans: list[Span] = []
    votes_may_follow = False
    for number, line in enumerate(lines):
        text = line.strip()
        if not text:
            continue
        if _THREAD.match(text) or _SIGNED.match(text):
            spans.append((number, number + 1, "date"))
            votes_may_follow = True
        elif _COUNT.match(text):
            spans.append((number, number + 1, "answer count"))
            votes_may_follow = True
        elif votes_may_follow and _VOTES.match(text) and _stands_alone(lines, number):
            spans.append((number, number + 1, "votes"))
            # One number is the vote; a second one is the answer.
            votes_may_follow = False
        elif _TAGS.match(text) and _QUESTION_SIGNED.match(_next_text(lines, number)):
            spans.append((number, number + 1, "tags"))
        else:
            votes_may_follow = bool(_COMMENT_END.search(text))
    return spans


def single_lines(lines: Lines) -> list[Span]:
    """Lines that are boilerplate, a date, or left-over markup, each by itself."""
    spans = []
    for number, line in enumerate(lines):
        text = line.strip()
        if len(text) > FOOT_LINE_CHARACTERS and not text.startswith('class="'):
            continue
        for name, rule in (
            ("boilerplate", _BOILERPLATE), ("date", _DATE_LINE), ("markup", _MARKUP),
        ):  # fmt: skip
            if text and rule.match(text) and not _is_content(lines, number):
                spans.append((number, number + 1, name))
    return spans


SPAN_RULES: tuple[Callable[[Lines], list[Span]], ...] = (
    site_head,
    site_foot,
    metadata,
    link_list,
    contents,
    menus,
    thread_lines,
    single_lines,
)


def _first_of_foot(lines: Lines, mark: int) -> int:
    """Upwards from the copyright line over the names of neighbouring pages."""
    heads = ("Next", "Previous", "Previous topic", "Next topic", "This Page", "Navigation")
    start = mark
    for number in range(mark - 1, max(-1, mark - 60), -1):
        text = lines[number].strip()
        if text in heads:
            start = number
        if len(text) > FOOT_LINE_CHARACTERS or _MATHEMATICS.search(text):
            break
    return start


def _is_foot(lines: Lines) -> bool:
    """Whether lines below a copyright line are all of the site: known ones, contents, or stray words."""
    strays, in_contents = 0, False
    for text in filter(None, map(str.strip, lines)):
        if _CONTENTS.match(text):
            in_contents = True
        elif in_contents and _FOOT_ITEM.match(text) and len(text) <= FOOT_LINE_CHARACTERS:
            continue
        elif not (_DATE_LINE.match(text) or _BOILERPLATE.match(text)):
            strays += 1
            if strays > FOOT_STRAYS or not _WORDS_ONLY.match(text):
                return False
    return True


def _is_content(lines: Lines, number: int) -> bool:
    """Whether what looks like left-over markup belongs to its neighbours: the bar of a fraction or of a sum
    written in lines touches one of them, a power's sign both."""
    text = lines[number].strip()
    above = bool(number and lines[number - 1].strip())
    below = bool(number + 1 < len(lines) and lines[number + 1].strip())
    if _BAR.match(text):
        return above or below
    return above and below and bool(_SIGN.match(text))


def _menu_from(lines: Lines, start: int) -> tuple[int, int]:
    """The line after the menu that begins at `start`, and its items."""
    number, stop, items = start, start, 0
    while number < len(lines):
        if _is_menu_item(lines[number]):
            items += 1
            stop = number + 1
        elif not _MENU_FILLING.match(lines[number].strip()):
            break
        number += 1
    return stop, items


def _is_menu_item(line: str) -> bool:
    text = line.strip()
    match = _ITEM.match(text)
    if match is None or len(text) > MENU_ITEM_CHARACTERS:
        return False
    return not text.endswith((".", ";", ",", ":", "?", "!"))


def _stands_alone(lines: Lines, number: int) -> bool:
    before = lines[number - 1].strip() if number else ""
    after = lines[number + 1].strip() if number + 1 < len(lines) else ""
    return not before and not after


def _next_text(lines: Lines, number: int) -> str:
    return next((line.strip() for line in lines[number + 1 :] if line.strip()), "")
