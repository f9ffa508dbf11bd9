"""Synthetic texts with ground truth: pure generators from a config and a seed.

Text is ASCII made for a byte-level BPE whose pre-tokeniser splits at spaces,
punctuation and single digits: words carry a leading space, letters stand between
punctuation, so that a word, a letter, a digit or a sign can each be one token.
A prompt is an exact beginning of a training document's text.
"""
