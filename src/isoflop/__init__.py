"""isoflop: a laboratory for pre-training decisions about sparsity and data."""

__version__ = "0.1.0"
