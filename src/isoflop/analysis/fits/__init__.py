"""Fits of laws to tables of runs, with what can and cannot be told from these points."""

from isoflop.analysis.fits.fit import Fit, fit_law

__all__ = ["Fit", "fit_law"]
