"""From a fitted study to the next model: what to train, how sure, and which runs would tell more."""

from isoflop.analysis.recommend.recommend import Request, recommend

__all__ = ["Request", "recommend"]
