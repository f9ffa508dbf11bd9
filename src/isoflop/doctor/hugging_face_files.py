"""Open a Hugging Face directory for the doctor, or say in one line why it cannot be examined."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoflop.config import UserError
from isoflop.doctor.hugging_face_counts import KNOWN
from isoflop.model.huggingface.fields import FOREIGN_FIELDS
from isoflop.model.huggingface.files import READ_CODES, open_tensors
from isoflop.model.huggingface.package import import_transformers
from isoflop.records import read_json

COPY_AGAIN = "copy the directory again"

NUM_EXPERTS_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
TOP_K_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k")
"""Names that configs of transformers 5 give to E and to k."""

VARIANT_FIELDS = tuple(
    name
    for name in FOREIGN_FIELDS
    if name not in ("qk_layernorm", "use_qk_norm", "quantization_config")
)
"""Fields that some classes read and others would leave out without a word."""


def read_config(folder: Path) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        UserError: no config, or none of a causal Mixture of Experts that transformers knows.
    """
    path = folder / "config.json"
    data = read_json(path, missing="no model here", remedy=COPY_AGAIN)
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise UserError(
            f"{path}: neither a checkpoint of isoflop (kind) nor a Hugging Face model (model_type)"
        )
    return data


def config_number(config: Any, names: tuple[str, ...]) -> int | None:
    """The first of the fields that the config has; None if it has none of them.

    The config is asked through its fields as plain values, nested ones left out.
    """
    fields = config if isinstance(config, dict) else config.to_dict()
    values = [fields[name] for name in names if isinstance(fields.get(name), int)]
    return values[0] if values else None


def open_config(folder: Path) -> Any:
    """transformers' config of the directory.

    Raises:
        UserError: transformers does not know it, or it has no experts.
    """
    transformers = import_transformers()
    # transformers depends on it, and lets its errors through.
    from huggingface_hub.errors import StrictDataclassError

    data = read_config(folder)
    path = folder / "config.json"
    if "auto_map" in data:
        raise UserError(f"{path}: auto_map names code in the directory, and none of it is run here")
    _check_numbers(data, path)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, TypeError, KeyError, OSError, StrictDataclassError) as error:
        raise UserError(
            f"{path}: transformers {transformers.__version__} does not open "
            f"model_type={data['model_type']!r}: {_short(error)}"
        ) from None
    experts, top_k = config_number(config, NUM_EXPERTS_FIELDS), config_number(config, TOP_K_FIELDS)
    if not experts or not top_k:
        raise UserError(
            f"{path}: model_type={data['model_type']!r} is not a Mixture of Experts with k experts a "
            f"token: it must have one of {', '.join(NUM_EXPERTS_FIELDS)} and one of "
            f"{', '.join(TOP_K_FIELDS)}"
        )
    if not 1 <= top_k <= experts:
        raise UserError(f"{path}: k={top_k} must be between 1 and E={experts}")
    _check_variant(data, config, path)
    return config


def _check_numbers(data: dict[str, Any], path: Path) -> None:
    """
    Raises:
        UserError: a number is NaN or infinite, which transformers would compute with.
    """
    positions = (data.get(name) for name in ("rope_parameters", "rope_scaling"))
    for fields in (data, *(fields for fields in positions if isinstance(fields, dict))):
        for name, value in fields.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{path}: {name}={value} must be a finite number")


def _check_variant(data: dict[str, Any], config: Any, path: Path) -> None:
    """Refuse a variant that the config names and the class, which does not read it, would not be.

    Norms of queries and keys are left to the weights: classes that always have them get the field too.

    Raises:
        UserError: the field is named.
    """
    read = {field.name for field in dataclasses.fields(config)}
    said = {name: data[name] for name in VARIANT_FIELDS if data.get(name)}
    if data.get("scoring_func", "softmax") != "softmax":
        said["scoring_func"] = data["scoring_func"]
    if config.model_type in KNOWN and data.get("partial_rotary_factor", 1) not in (None, 1):
        said["partial_rotary_factor"] = data["partial_rotary_factor"]
    for name, value in said.items():
        if name not in read:
            raise UserError(
                f"{path}: {name}={value!r:.60}: transformers' {config.model_type} does not read it, "
                "so another model than this would be examined; where the weights are plain, delete "
                "the field"
            )


def open_model(folder: Path, device: str) -> Any:
    """The directory's causal language model in float32, every weight read from its files.

    Raises:
        UserError: weights missing, not expected, of other shapes, or files cut short.
    """
    transformers = import_transformers()
    config = open_config(folder)
    # Before transformers reads them: its own message for a file cut short names no file.
    with open_tensors(folder) as files:
        for name in sorted(files.names):
            # It would turn a quantised tensor into other weights without a word.
            code = files.slice(name).get_dtype()
            if code not in READ_CODES:
                raise UserError(
                    f"{files.file(name)}: {name} is of type {code}; only {', '.join(READ_CODES)} are "
                    "examined, so save it again unquantised in one of them"
                )
        path = folder / "config.json"
        layers = config_number(config, ("num_hidden_layers",))
        files.check_layers(layers or 0, path, COPY_AGAIN)
        # Before transformers fuses them: it would call one that is missing a wrong shape.
        files.check_experts(config_number(config, NUM_EXPERTS_FIELDS) or 0, path, COPY_AGAIN)
    with quiet_transformers():
        try:
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                # Reported below by name; transformers' own error points at its log.
                ignore_mismatched_sizes=True,
            )
        except (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, KeyError) as error:
            raise UserError(
                f"{folder}: transformers {transformers.__version__} does not open it as a causal "
                f"language model: {_short(error)}"
            ) from None
    for kind, said in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "that the model does not have"),
        ("mismatched_keys", "of another shape than config.json says"),
    ):
        # A mismatch is (name, shape, expected shape).
        names = sorted(k if isinstance(k, str) else k[0] for k in found.get(kind) or ())
        if names:
            raise UserError(
                f"{folder}: tensors {said}: {len(names)}, first {names[0]}; {COPY_AGAIN}"
            )
    check_finite(dict(model.named_parameters()), folder)
    return model.to(device).eval()


def check_finite(weights: dict[str, Tensor], folder: Path) -> None:
    """
    Raises:
        UserError: a weight is NaN or infinite: most laws would break, and none for its reason.
    """
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(f"{folder}: {name} holds NaN or infinity; there is nothing to examine")


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no advice of transformers for a while."""
    logging = import_transformers().utils.logging
    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def is_own(folder: Path) -> bool:
    """Whether the folder's config is one of isoflop's own checkpoints.

    Raises:
        UserError: there is no config to tell from.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a checkpoint or a Hugging Face directory")
    data = read_json(folder / "config.json", missing="no model here", remedy=COPY_AGAIN)
    return isinstance(data, dict) and "kind" in data


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:MESSAGE_CHARACTERS]


MESSAGE_CHARACTERS = 200
"""Of another library's message; chosen so that the line can still be read."""
