"""Imported for what it does, before anything of isoflop, in processes that conftest does not reach."""

from jaxtyping import install_import_hook

install_import_hook("isoflop", "beartype.beartype")
