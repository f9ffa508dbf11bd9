"""Benchmarks: data, prompt, scorer, metrics and version of each."""
