"""Batched generation from a model, the same whatever is in the batch."""
