"""Of which programming language a text is: as a column says, as a file name says, as the text says."""

import re
from pathlib import PurePosixPath

LANGUAGE_COLUMNS = ("language", "lang", "programming_language")
"""Columns that name the language, the first that a record has. The-stack-v2 has "language"."""

PATH_COLUMNS = ("path", "file_path", "filename", "max_stars_repo_path")
"""Columns that name the file, the first that a record has; the last is the-stack-v1's."""

SUFFIXES = {
    **dict.fromkeys((".py", ".pyi", ".pyw"), "Python"),
    **dict.fromkeys((".cc", ".cpp", ".cxx", ".hpp", ".hh", ".hxx"), "C++"),
    **dict.fromkeys((".c", ".h"), "C"),
    ".rs": "Rust",
    ".go": "Go",
    ".java": "Java",
    **dict.fromkeys((".js", ".mjs", ".jsx"), "JavaScript"),
    **dict.fromkeys((".ts", ".tsx"), "TypeScript"),
    ".rb": "Ruby",
    ".php": "PHP",
    ".cs": "C#",
    ".swift": "Swift",
    ".kt": "Kotlin",
    ".scala": "Scala",
    ".lua": "Lua",
    ".pl": "Perl",
    ".r": "R",
    ".jl": "Julia",
    ".hs": "Haskell",
    **dict.fromkeys((".sh", ".bash"), "Shell"),
    ".sql": "SQL",
    **dict.fromkeys((".html", ".htm"), "HTML"),
    ".css": "CSS",
    ".json": "JSON",
    **dict.fromkeys((".yml", ".yaml"), "YAML"),
    ".md": "Markdown",
}
"""Endings of file names, lower case."""

SHEBANGS = {
    "python": "Python",
    "pypy": "Python",
    "bash": "Shell",
    "/sh": "Shell",
    "node": "JavaScript",
    "perl": "Perl",
    "ruby": "Ruby",
}
"""What a first line "#!..." may name."""

SHOWN_LINES = 400
"""Lines of a text that are looked at. Chosen."""

_PATTERNS = {
    "Python": r"(?:async +)?def +\w+ *\(.*|class +\w+.*:|(?:el)?if .+:|else:|try:|except\b.*:|with .+:"
    r"|for .+ in .+:|while .+:|from +[\w.]+ +import +.+|import +\w[\w.]*(?: as \w+)?(?:, *\w[\w.]*)*"
    r"|print\b.*|return\b[^;]*|raise\b[^;]*"
    r"|@\w[\w.]*(?:\(.*\))?|[\w.\[\]'\"]+ *(?:[-+*/]|//|\*\*)?= *[^=;{]+",
    "C++": r"# *include *<\w+>|using +namespace .+;|template *<.*|std::.*|(?:public|private|protected):"
    r"|namespace +\w+.*\{",
    "C": r"# *include *[<\"]\w[\w/]*\.h[>\"]|# *define .+|typedef .+;|(?:static |unsigned )*(?:int|void|char)"
    r" +\**\w+ *\(.*\) *\{?",
    "Java": r"import +[\w.]+(?:\.\*)?;|package +[\w.]+;|(?:public|private|protected) +.*[{;]"
    r"|System\.out\..+;",
    "JavaScript": r"(?:const|let|var) +\w+ *=.*|function *\w* *\(.*\) *\{|(?:import|export) .+ from .+"
    r"|.*=> *\{|.*require\(.+\);?|console\.log.*|module\.exports.*",
    "Rust": r"(?:pub +)?fn +\w+.*|use +\w+::.+;|let +mut +.+;|impl\b.*\{|.*println!\(.*|#\[derive.*",
    "Go": r"package +\w+|func +.*\{|.+ := .+|import +\(|import +\".+\"|type +\w+ +struct *\{",
    "Shell": r"fi|done|esac|then|if +\[.*|echo +.*|export +\w+=.*|\w+=\$\(.*|for +\w+ +in .*; *do",
    "HTML": r"<!doctype.*|</?(?:html|head|body|div|p|a|table|script|ul|li|span)\b.*>.*",
}
_COMPILED = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}


def find_language(text: str, column: str | None, path: str | None) -> str | None:
    """The language of a text, or None where nothing says it.

    Args:
        column: what the record says, which rules.
        path: name of the text's file, which is asked next; then the text itself.

    >>> find_language("fn main() {\\n    println!(\\"hi\\");\\n}", None, None)
    'Rust'
    """
    if column:
        return column
    if path is not None:
        named = SUFFIXES.get(PurePosixPath(path).suffix.lower())
        if named is not None:
            return named
    return language_of_text(text)


def language_of_text(text: str) -> str | None:
    """The language that most lines look like; None: none does, or two equally.

    A first line that names an interpreter rules. Python's lines are told by a whole statement
    without braces or semicolon, the others by what is theirs alone.
    """
    lines = [line.strip() for line in text.split("\n", SHOWN_LINES)[:SHOWN_LINES]]
    first = lines[0].lstrip("\ufeff")
    if first.startswith("#!"):
        for name, language in SHEBANGS.items():
            if name in first:
                return language
    counts = {
        language: sum(pattern.fullmatch(line[:200]) is not None for line in lines)
        for language, pattern in _COMPILED.items()
    }
    most = max(counts.values())
    leaders = [language for language, count in counts.items() if count == most]
    return leaders[0] if most > 0 and len(leaders) == 1 else None
