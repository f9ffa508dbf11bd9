"""Conformance: laws that any Mixture-of-Experts model should keep, measured on ours or on another's."""
