"""The figures of arXiv:2508.18672 (version 1), each a function of a table."""
