"""Whether a text is a Python program, as the running interpreter says."""

import warnings

COMPILE_ERRORS = (
    SyntaxError,
    ValueError,
    RecursionError,
    MemoryError,
    OverflowError,
    SystemError,
)
"""All that compile() raises on hostile source: null bytes are a ValueError before Python 3.12, as are
lone surrogates; deep nesting is a RecursionError or MemoryError; huge numbers an OverflowError."""

MESSAGE_CHARACTERS = 200
"""Longest message that is kept."""


def syntax_error(text: str) -> str | None:
    """Why `text` does not compile, e.g. "IndentationError: expected an indented block (line 3)".

    None: it compiles. As Python does with files, one byte order mark at the start is no part of it.

    >>> syntax_error("print 1")
    "SyntaxError: Missing parentheses in call to 'print'. Did you mean print(...)? (line 1)"
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(text.removeprefix("\ufeff"), "text.py", "exec", dont_inherit=True)
        except SyntaxError as error:
            line = "" if error.lineno is None else f" (line {error.lineno})"
            return f"{type(error).__name__}: {_short(error.msg)}{line}"
        except COMPILE_ERRORS as error:
            return f"{type(error).__name__}: {_short(str(error))}"
    return None


def error_kind(error: str) -> str:
    """The kind of a `syntax_error`, which can be counted.

    >>> error_kind("IndentationError: expected an indented block (line 3)")
    'IndentationError'
    """
    return error.partition(":")[0]


def _short(message: str) -> str:
    """One line that UTF-8 can hold."""
    plain = " ".join(message.encode("utf-8", "backslashreplace").decode("utf-8").split())
    return plain if len(plain) <= MESSAGE_CHARACTERS else plain[: MESSAGE_CHARACTERS - 3] + "..."
