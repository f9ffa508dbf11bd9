"""A run for verl: keys that verl has, data as it reads them, the reward called as it calls it."""

import importlib.util
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml

from fakes import names_in
from fakes_huggingface import checkpoint as write_checkpoint
from isoflop import cli
from isoflop.config import UserError
from isoflop.evaluate.tasks.load import load_task
from isoflop.model.huggingface.tokenizer import study_tokenizer
from isoflop.posttrain.config import GrpoConfig, ProblemSource
from isoflop.posttrain.problems import load_problems
from isoflop.posttrain.rollouts import encode_prompts
from isoflop.posttrain.verl_config import VERL_VERSION, check_verl, to_yaml, verl_config
from isoflop.posttrain.verl_export import export_verl
from isoflop.posttrain.verl_reward import compute_score, row_of
from isoflop.sandbox import Sandbox
from isoflop.tokens.config import TokenizerConfig

PINNED = Path(__file__).with_name("verl_0_9_1_defaults.json")
"""Every key of `verl/trainer/config/_generated_ppo_trainer.yaml` of verl 0.9.1's wheel in the sections
that we write to, with its default."""

FREE = ("actor_rollout_ref.actor.optim.override_optimizer_config",)
"""Keys that hold whatever the optimiser takes."""


def flat(config: dict, path: str = "") -> dict:
    """Leaves by dotted path."""
    found = {}
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value and name not in FREE:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def defaults() -> dict:
    """verl's own, where it is installed, else those pinned."""
    found = importlib.util.find_spec("verl")
    if found is None:
        return json.loads(PINNED.read_text())
    (home,) = found.submodule_search_locations
    path = Path(home) / "trainer" / "config" / "_generated_ppo_trainer.yaml"
    return flat(yaml.safe_load(path.read_text()))


def settings_of(config: GrpoConfig) -> dict:
    """What is laid over verl's configuration, without what is Hydra's own."""
    made = verl_config(config, num_problems=7473, context=4096)
    read = yaml.safe_load(to_yaml(made))
    assert read == made
    return flat({key: value for key, value in read.items() if key not in ("hydra", "defaults")})


GSM8K = GrpoConfig(train=ProblemSource(task="gsm8k", data="train.parquet"))


@pytest.mark.parametrize(
    "config",
    [
        GSM8K,
        GrpoConfig(
            train=GSM8K.train,
            validation=(GSM8K.train,),
            advantage_scale="none",
            aggregation="constant",
            divergence="k1",
            divergence_coefficient=0.0,
            old_log_probs="sampler",
            checkpoint_steps=10,
        ),
    ],
)
def test_every_key_is_one_of_verls_and_holds_its_type(config):
    known = defaults()
    for key, value in settings_of(config).items():
        assert key in known, key
        default = known[key]
        if default is None or (isinstance(default, str) and default.startswith(("${", "???"))):
            continue
        kinds = {type(default), type(value)}
        assert kinds in ({type(value)}, {int, float}), (key, value, default)


def test_the_settings_are_the_studys():
    found = settings_of(GSM8K)
    wanted = {
        "data.train_batch_size": 1024,
        "data.max_prompt_length": 512,
        "data.max_response_length": 1024,
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        "actor_rollout_ref.rollout.n": 5,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 256,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 24_000,
        "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
        "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
        "actor_rollout_ref.actor.kl_loss_coef": 0.001,
        "actor_rollout_ref.actor.optim.lr": 5e-6,
        "actor_rollout_ref.actor.optim.override_optimizer_config": {"eps": 1e-8},
        "trainer.total_training_steps": 105,
        "trainer.total_epochs": 15,
        "trainer.test_freq": -1,
    }
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"max_gradient_l1_norm": 1.0}, "max_gradient_l1_norm=1.0 has no place in verl"),
        ({"divergence_by_ratio": True}, "divergence_by_ratio=True"),
        ({"balance_coefficient": 0.01}, "it adds no router loss"),
        ({"z_coefficient": 0.01}, "it adds no router loss"),
        ({"replay_routing": True}, "does not replay routing"),
        ({"router_drift": 0.1}, "router_drift=0.1"),
        ({"probe_steps": 5}, "probe_steps=5"),
        ({"max_response_tokens": 4000}, "4512 tokens together, more than the model's 4096"),
    ],
)
def test_what_verl_cannot_do_is_refused(changes, match):
    with pytest.raises(UserError, match=match):
        check_verl(GrpoConfig(train=GSM8K.train, **changes), 4096)


@pytest.fixture
def exported(checkpoint, tokenizer, make_config, tmp_path):
    config = make_config(
        validation=(make_config().train,),
        validation_problems=5,
        max_prompt_tokens=16,
        max_response_tokens=8,
    )
    target = tmp_path / "a run"
    tokenizer_files = study_tokenizer(tokenizer.path, TokenizerConfig(vocabulary_size=257), 24)
    done = export_verl(checkpoint, target, config, tokenizer=tokenizer, files=tokenizer_files)
    return config, target, done


def test_the_folder_holds_a_run(exported):
    _, target, done = exported
    assert (done.num_problems, done.left_out) == (12, ())
    assert names_in(target) == ["README.md", "data", "grpo.yaml", "model", "reward.py", "run.sh"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names_in(target / "model"))
    assert (target / "run.sh").stat().st_mode & stat.S_IXUSR
    assert yaml.safe_load((target / "grpo.yaml").read_text())["defaults"] == [
        "ppo_trainer",
        "_self_",
    ]
    assert VERL_VERSION in (target / "README.md").read_text()


def test_the_data_are_read_back_in_verls_layout(exported, problem_file):
    _, target, _ = exported
    rows = pyarrow.parquet.read_table(target / "data" / "train.parquet").to_pylist()
    problems = load_task("probes", data=problem_file).problems
    assert len(rows) == 12
    for place, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        assert list(row) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        assert row["data_source"] == "probes"
        assert row["prompt"] == [{"role": "user", "content": problem.prompt}]
        assert row["reward_model"] == {"style": "rule", "ground_truth": problem.golds[0]}
        assert row["extra_info"]["index"] == place
    assert len(pyarrow.parquet.read_table(target / "data" / "validation-1.parquet")) == 5


def test_validation_takes_as_many_as_fit_and_every_source_tells_what_does_not(
    checkpoint, tokenizer, make_config, problem_file, tmp_path
):
    """The first problems are too long: the cut comes after they are left out."""
    rows = problem_file.read_text().splitlines()
    long = [json.dumps(json.loads(row) | {"prompt": "9" * 40}) for row in rows[:4]]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([*long, *rows[4:], "no JSON"]) + "\n")
    source = replace(make_config().train, data=str(mixed), name="mixed")
    config = make_config(
        train=source,
        validation=(source,),
        validation_problems=5,
        max_prompt_tokens=16,
        max_response_tokens=8,
    )
    target = tmp_path / "out"
    done = export_verl(checkpoint, target, config, tokenizer=tokenizer, files=None)
    for name, count in (("train", 8), ("validation-1", 5)):
        written = pyarrow.parquet.read_table(target / "data" / f"{name}.parquet").to_pylist()
        assert len(written) == count
        assert [row["extra_info"]["index"] for row in written] == list(range(count))
        assert all(len(row["prompt"][0]["content"]) < 16 for row in written)
    assert done.num_problems == 8
    assert done.left_out == (
        "left out of mixed, train: 1 malformed JSON, 4 prompt too long",
        "left out of mixed, validation: 1 malformed JSON, 4 prompt too long",
    )


def test_the_reward_is_called_as_verls_reward_manager_does(exported):
    """Loaded from its file by path, called with keywords in a thread, lists as arrays."""
    _, target, _ = exported
    spec = importlib.util.spec_from_file_location("custom_module", target / "reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for row in pyarrow.parquet.read_table(target / "data" / "train.parquet").to_pylist():
        told = row["extra_info"] | {
            "golds": np.array(row["extra_info"]["golds"], dtype=object),
            "num_turns": 2,
            "rollout_reward_scores": {},
        }
        gold = row["reward_model"]["ground_truth"]
        for answer, earned in ((gold, 1.0), ("9", 0.0)):
            with ThreadPoolExecutor(1) as threads:
                call = threads.submit(
                    module.compute_score,
                    data_source=row["data_source"],
                    solution_str=answer,
                    ground_truth=gold,
                    extra_info=told,
                )
            assert call.result() == {"score": earned, "acc": earned, "gradable": 1.0}


def test_programs_run_in_the_sandbox_and_nothing_readable_is_told_apart():
    told = {"golds": np.array(["18"], dtype=object), "reward": "program_or_answer"}
    program = "def simple_math_problem():\n    return 9 * 2\n"
    for text, expected in (
        (program, (1.0, 1.0)),
        ("<llm-code>\nx = 17\nx\n</llm-code>", (0.0, 1.0)),
        ("#### 18", (1.0, 1.0)),
        ("I do not know.", (0.0, 0.0)),
    ):
        found = compute_score("gsm8k", text, "18", told)
        assert (found["score"], found["gradable"]) == expected
    # Another's rows of data, which have a gold answer and nothing else.
    assert compute_score("gsm8k", "#### 18", "18")["score"] == 1.0
    with pytest.raises(UserError, match="there is no task 'openai/gsm8k'"):
        compute_score("openai/gsm8k", "#### 18", "18")
    with pytest.raises(UserError, match="reward='kind' must be one of"):
        compute_score("gsm8k", "#### 18", "18", {"reward": "kind"})


@pytest.mark.parametrize(("seconds", "earned"), [(0.2, 0.0), (5.0, 1.0)])
def test_programs_have_the_time_that_the_exported_run_gives_them(exported, seconds, earned):
    """A second of work is too long where the run allows a fifth, and not where it allows five."""
    config, _, _ = exported
    given = replace(config, reward="program_or_answer", program_seconds=seconds)
    problem = load_problems(config.train, "answer", Sandbox()).problems[0]
    row = row_of(problem, config.train, given, index=0, split="train")
    gold = row["reward_model"]["ground_truth"]
    program = (
        "def simple_math_problem():\n"
        "    import time\n"
        "    while time.process_time() < 1.0:\n        pass\n"
        f"    return {gold}\n"
    )
    found = compute_score("gsm8k", program, gold, row["extra_info"])
    assert (found["score"], found["gradable"]) == (earned, earned)


def test_problems_of_reasoning_gym_are_verified_by_it():
    pytest.importorskip("reasoning_gym")
    source = ProblemSource(task="reasoning_gym:chain_sum", max_problems=3, seed=5)
    problems = load_problems(source, "answer", Sandbox()).problems
    row = row_of(problems[2], source, GrpoConfig(train=source), index=2, split="train")
    told = {"ground_truth": row["reward_model"]["ground_truth"], "extra_info": row["extra_info"]}
    gold = problems[2].answer
    assert compute_score(row["data_source"], gold, **told)["score"] == 1.0
    assert compute_score(row["data_source"], f"{gold}7", **told)["score"] < 1.0


def test_verls_prompts_are_the_tokens_that_we_sample_from(exported, tokenizer, problem_file):
    transformers = pytest.importorskip("transformers")
    config, target, _ = exported
    opened = transformers.AutoTokenizer.from_pretrained(target / "model")
    settings = yaml.safe_load((target / "grpo.yaml").read_text())
    opened.chat_template = settings["actor_rollout_ref"]["model"]["custom_chat_template"]
    problems = load_problems(config.train, config.reward, Sandbox())
    prompts, _ = encode_prompts(problems, tokenizer, config, 24, "train")
    rows = pyarrow.parquet.read_table(target / "data" / "train.parquet").to_pylist()
    for row, prompted in zip(rows, prompts, strict=True):
        ids = opened.apply_chat_template(
            row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert tuple(ids) == prompted.tokens


def test_run_sh_starts_verl_with_the_folders_own_paths(exported, tmp_path):
    """A stand-in for python3 says how it was called; the folder's name has a space."""
    _, target, _ = exported
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [target / "run.sh", "trainer.n_gpus_per_node=2"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    assert done.stdout.splitlines() == [
        "-m",
        "verl.trainer.main_ppo",
        "--config-path",
        str(target),
        "--config-name",
        "grpo",
        f"data.train_files='{target}/data/train.parquet'",
        f"data.val_files=['{target}/data/validation-1.parquet']",
        f"actor_rollout_ref.model.path='{target}/model'",
        f"reward.custom_reward_function.path='{target}/reward.py'",
        f"trainer.default_local_dir='{target}/checkpoints'",
        "trainer.n_gpus_per_node=2",
    ]
    known = defaults()
    given = [line.partition("=")[0] for line in done.stdout.splitlines() if "='" in line]
    assert [key for key in given if key not in known] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "verl"), "--to verl needs --task"),
        (("--to", "verl", "--task", "gsm8k", "--max-shard-bytes", "9"), "goes with --to hf"),
        (("--to", "hf", "--task", "gsm8k"), "go with --to verl"),
        (("--to", "verl", "--task", "gsm8k", "--set", "router_drift=1.0"), "--tokenizer FILE"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "ours")
    monkeypatch.setattr(sys, "argv", ["isoflop", "export", "ours", "out", *words])
    assert cli.main() == 2
    out, error = capsys.readouterr()
    assert (out, len(error.splitlines())) == ("", 1)
    assert said in error
    assert names_in(tmp_path) == ["ours"]


def test_the_command_says_what_it_wrote(
    checkpoint, tokenizer, problem_file, tmp_path, monkeypatch, capsys
):
    words = ["--to", "verl", "--task", "probes", "--data", str(problem_file), "--prompt"]
    words += ["{question}", "--tokenizer", str(tokenizer.path), "--set", "max_prompt_tokens=12"]
    words += ["--set", "max_response_tokens=12", "--set", "prompts_per_step=4"]
    words += ["--set", "mini_batch_prompts=4"]
    target = tmp_path / "out"
    argv = ["isoflop", "export", str(checkpoint), str(target), *words]
    monkeypatch.setattr(sys, "argv", argv)
    assert cli.main() == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == str(target)
    assert second.startswith("MixtralForCausalLM, ")
    assert third == f"12 problems; {target / 'run.sh'} starts it"
