"""What cannot be examined is named in one line: where, what, and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes_doctor import save_theirs, small_config
from isoflop.config import UserError
from isoflop.doctor.hugging_face_files import quiet_transformers
from isoflop.doctor.report import open_subject
from isoflop.model.checkpoint import save_checkpoint
from isoflop.model.transformer import Transformer

FIRST_QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    with quiet_transformers():
        return save_theirs("mixtral", root / "mixtral")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50_000])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no model here"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "config of something else": (lambda f: (f / "config.json").write_text('{"a": 1}'), "neither"),
    "unknown class": (lambda f: edit_config(f, model_type="nonsense"), "model_type='nonsense'"),
    "weights cut short": (cut, "model.safetensors: not a whole safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors"),
    "tensor missing": (lambda f: edit_weights(f, lambda t: t.pop(FIRST_QUERY)), FIRST_QUERY),
    "tensor too many": (
        lambda f: edit_weights(f, lambda t: t.update(odd=t[FIRST_QUERY].clone())),
        "unexpected 1 tensors, first odd",
    ),
    "tensor of whole numbers": (
        lambda f: edit_weights(
            f, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(torch.int8)})
        ),
        "model.safetensors: model.norm.weight is of type I8; only F32, BF16, F16 are examined",
    ),
    "positions scaled by nonsense": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "yarn", "factor": "x"}),
        "does not open",
    ),
    "tensor of another shape": (
        lambda f: edit_weights(f, lambda t: t.update({FIRST_QUERY: t[FIRST_QUERY][:-4].clone()})),
        f"of another shape 1 tensors, first {FIRST_QUERY}",
    ),
    "code of its own": (
        lambda f: edit_config(f, auto_map={"AutoConfig": "evil.Config"}, model_type="evil"),
        "none of it is run here",
    ),
    "a number as text": (lambda f: edit_config(f, num_local_experts="8"), "num_local_experts"),
    "weights that are no numbers": (
        lambda f: edit_weights(f, lambda t: t[FIRST_QUERY].fill_(float("nan"))),
        f"{FIRST_QUERY} holds NaN or infinity",
    ),
    "k above E": (lambda f: edit_config(f, num_experts_per_tok=9), "k=9 must be between 1 and E=8"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_directory_is_refused_in_one_line(whole, tmp_path, case):
    spoil, said = SPOILED[case]
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    spoil(folder)
    with pytest.raises(UserError) as error:
        open_subject(folder, "cpu")
    assert said in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("llama", "'llama' is not a Mixture of Experts"), ("deepseek_v3", "e_score_correction_bias")],
)
def test_a_model_without_experts_or_with_other_routers_is_refused(tmp_path, kind, said):
    with quiet_transformers():
        folder = save_theirs(kind, tmp_path / kind)
    with pytest.raises(UserError, match=said):
        open_subject(folder, "cpu")


def test_code_in_a_directory_is_never_run(whole, tmp_path, monkeypatch):
    """Not even if someone answers the question that transformers would ask."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').write('ran')\n")
    edit_config(folder, auto_map={"AutoConfig": "evil.Config"}, model_type="evil")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="auto_map"):
        open_subject(folder, "cpu")
    assert not canary.exists()


def test_a_checkpoint_of_ours_that_is_cut_short_is_refused(tmp_path):
    save_checkpoint(Transformer(small_config()), tmp_path)
    cut(tmp_path)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        open_subject(tmp_path, "cpu")


def test_no_folder_and_no_device(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        open_subject(tmp_path / "nowhere", "cpu")
    for device in ("tpu", "meta", "cuda:99"):
        with pytest.raises(UserError, match="is not here; use cpu"):
            open_subject(tmp_path, device)


def test_without_transformers_the_install_command_is_named(whole, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'isoflop\[hf\]'"):
        open_subject(whole, "cpu")
