"""Hugging Face both ways: a checkpoint as a Mixtral directory, and any Mixtral as a checkpoint."""

from isoflop.model.huggingface.export import export_checkpoint
from isoflop.model.huggingface.fields import check_mixtral, mixtral_config_fields
from isoflop.model.huggingface.load import import_checkpoint
from isoflop.model.huggingface.weights import mixtral_model, mixtral_state

__all__ = [
    "check_mixtral",
    "export_checkpoint",
    "import_checkpoint",
    "mixtral_config_fields",
    "mixtral_model",
    "mixtral_state",
]
