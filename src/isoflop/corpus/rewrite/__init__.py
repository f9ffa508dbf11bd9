"""Rewriting a corpus: by a model behind an endpoint, or by rules that need none.

stages.py         every rewriting by name: prompt, parser, checks
model.py          a row becomes a request, its stored reply a new row
endpoint.py       the only module that opens connections
store.py          replies on disk before they are used
code_rules.py     ruff; math_rules.py: what surrounds the text of a page
run.py            one input into one folder, which a kill cannot spoil
"""

from isoflop.corpus.rewrite.accounts import Prices, RewriteCounts
from isoflop.corpus.rewrite.code_rules import CodeRewriter, CodeRules
from isoflop.corpus.rewrite.endpoint import Endpoint
from isoflop.corpus.rewrite.math_rules import MathRewriter, MathRules, tidy_page
from isoflop.corpus.rewrite.messages import Sampling
from isoflop.corpus.rewrite.model import ModelConfig, ModelRewriter
from isoflop.corpus.rewrite.new_rows import Annotate, chat_messages
from isoflop.corpus.rewrite.retry import Patience
from isoflop.corpus.rewrite.run import RewriteConfig, RewriteSummary, rewrite
from isoflop.corpus.rewrite.stages import STAGES, Stage, find_stage
from isoflop.corpus.rewrite.store import ReplyStore

__all__ = [
    "STAGES",
    "Annotate",
    "CodeRewriter",
    "CodeRules",
    "Endpoint",
    "MathRewriter",
    "MathRules",
    "ModelConfig",
    "ModelRewriter",
    "Patience",
    "Prices",
    "ReplyStore",
    "RewriteConfig",
    "RewriteCounts",
    "RewriteSummary",
    "Sampling",
    "Stage",
    "chat_messages",
    "find_stage",
    "rewrite",
    "tidy_page",
]
