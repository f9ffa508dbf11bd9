"""Why a text was not rewritten: every failure has one of these names, and is counted under it."""

from enum import StrEnum


class Reason(StrEnum):
    """What went wrong, in words that stand in rows and reports."""

    # The input.
    INPUT_TOO_LONG = "input too long"
    NO_PAIR = "no question and solution"
    INPUT_DOES_NOT_COMPILE = "input does not compile"

    # The reply as a whole. It is stored: it was paid for.
    TRUNCATED = "truncated reply"
    FILTERED = "content filter"
    UNKNOWN_FINISH = "unknown finish reason"
    EMPTY_REPLY = "empty reply"
    UNCLOSED_THINKING = "thinking without an end"
    DECLINED = "the model declined"

    # What is in the reply.
    NO_CODE = "no code block"
    UNCLOSED_CODE = "code block without an end"
    NO_SCORE = "no score"
    SCORE_OUT_OF_RANGE = "score out of range"
    TOO_SHORT = "too short"
    QUESTION_TOO_LONG = "question too long"
    MISSING_SECTION = "missing section"
    NOT_A_STUB = "no stub of the code"
    CODE_CHANGED = "code changed in translation"
    NO_MATHEMATICS_LEFT = "nothing left of the page"

    # The rewritten text.
    DOES_NOT_COMPILE = "does not compile"
    NO_STATEMENTS = "nothing but comments"
    TOOL_FAILED = "the tool failed"

    # No reply. Nothing is stored, and the next run asks again.
    CONNECTION_REFUSED = "no connection"
    CONNECTION_LOST = "connection lost"
    TIME_OUT = "time-out"
    RATE_LIMITED = "rate limited (429)"
    SERVER_ERROR = "server error (5xx)"
    MALFORMED_JSON = "malformed JSON"
    INCOMPLETE_BODY = "incomplete body"
    OTHER_SCHEMA = "another schema"
    EMPTY_CHOICES = "empty choices"

    # The endpoint will not answer this request, however often it is sent.
    REFUSED = "refused by the endpoint (4xx)"


class Note(StrEnum):
    """What was unusual about a rewrite that could be used; counted, no reason to reject."""

    NO_SCORE = "no score"
    SCORE_OUT_OF_RANGE = "score out of range"
    CODE_WITHOUT_FENCES = "code without fences"
    UNCLOSED_FENCE = "fence without an end"
    CUT_AFTER_THE_CODE = "cut after the code"
    SEVERAL_CODE_BLOCKS = "several code blocks"
    BLOCKS_JOINED = "code blocks joined"
    NO_CODE_HEADING = "no heading before the code"
    UNCHANGED = "unchanged"
    NO_FINAL_ANSWER = "no final answer"
    META_TEXT_REMOVED = "words about the reply removed"
