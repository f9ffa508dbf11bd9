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
LAST_EXPERT = "model.layers.1.block_sparse_moe.experts.7.w2.weight"


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
        "tensors that the model does not have: 1, first odd",
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
        f"tensors of another shape than config.json says: 1, first {FIRST_QUERY}",
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
    "expert's tensor missing": (
        lambda f: edit_weights(f, lambda t: t.pop(LAST_EXPERT)),
        f"model.safetensors: lacks {LAST_EXPERT}, though",
    ),
    "more experts than there are": (
        lambda f: edit_config(f, num_local_experts=10**9),
        "lacks model.layers.0.block_sparse_moe.experts.8.w1.weight, though",
    ),
    "more layers than there are": (
        lambda f: edit_config(f, num_hidden_layers=10**9),
        "num_hidden_layers=1000000000, but",
    ),
    "sigmoid router": (lambda f: edit_config(f, scoring_func="sigmoid"), "scoring_func='sigmoid'"),
    "shared experts": (lambda f: edit_config(f, n_shared_experts=2), "n_shared_experts=2"),
    "other shared experts": (
        lambda f: edit_config(f, num_shared_experts=1),
        "num_shared_experts=1",
    ),
    "biases": (lambda f: edit_config(f, attention_bias=True), "attention_bias=True"),
    "clipping": (lambda f: edit_config(f, clip_qkv=0.1), "clip_qkv=0.1"),
    "half of a head turns": (
        lambda f: edit_config(f, partial_rotary_factor=0.5),
        "partial_rotary_factor=0.5",
    ),
    "a number that is none": (
        lambda f: edit_config(f, rms_norm_eps=float("nan")),
        "config.json: rms_norm_eps=nan must be a finite number",
    ),
    "an infinite base": (
        lambda f: edit_config(f, rope_parameters={"rope_theta": float("inf")}),
        "config.json: rope_theta=inf must be a finite number",
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


def test_fields_that_say_what_the_model_is_anyway_are_no_variant(whole, tmp_path):
    """Some classes' directories have them, switched off or true of every model of the class."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    off: dict[str, object] = {"attention_bias": False, "n_shared_experts": 0, "clip_qkv": None}
    plain = {"scoring_func": "softmax", "partial_rotary_factor": 1.0, "use_qk_norm": True}
    edit_config(folder, **off, **plain)
    open_subject(folder, "cpu")


def test_a_variant_that_the_class_reads_is_examined(tmp_path):
    with quiet_transformers():
        folder = save_theirs("olmoe", tmp_path / "olmoe", clip_qkv=1.0, attention_bias=True)
    open_subject(folder, "cpu")


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
