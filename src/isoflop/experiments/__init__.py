"""Experiments as functions that return a frozen config."""

from isoflop.experiments.family import ladder, small_family
from isoflop.experiments.load import EXPERIMENTS, load_experiment

__all__ = ["EXPERIMENTS", "ladder", "load_experiment", "small_family"]
