"""Shapes and types written in signatures are checked in every test; production pays nothing."""

from jaxtyping import install_import_hook

install_import_hook("isoflop", "beartype.beartype")
