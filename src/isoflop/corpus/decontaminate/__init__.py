"""Benchmark items in a corpus: found, shown beside the text, and taken out."""

from isoflop.corpus.decontaminate.config import DecontaminateConfig

__all__ = ["DecontaminateConfig"]
