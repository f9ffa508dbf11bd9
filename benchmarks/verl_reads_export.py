"""Does verl's own code take what `isoflop export --to verl` wrote? No step is run, and no GPU is needed.

    python benchmarks/verl_reads_export.py DIR

Needs verl with what it imports (ray, tensordict, hydra-core). Composes DIR/grpo.yaml over verl's
configuration by Hydra, makes verl's dataclasses of it, calls verl's check of it, reads the training data by
verl's data set, and loads and calls the reward as verl's reward manager does.
"""

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset


def composed(folder: Path):
    """The run's whole configuration, with the paths that run.sh gives."""
    (home,) = find_spec("verl").submodule_search_locations
    paths = [
        f"data.train_files='{folder}/data/train.parquet'",
        f"data.val_files='{folder}/data/train.parquet'",
        f"actor_rollout_ref.model.path='{folder}/model'",
        f"reward.custom_reward_function.path='{folder}/reward.py'",
    ]
    with tempfile.TemporaryDirectory() as place:
        text = (folder / "grpo.yaml").read_text()
        found = text.replace("pkg://verl.trainer.config", f"file://{home}/trainer/config")
        (Path(place) / "grpo.yaml").write_text(found)
        with initialize_config_dir(place, version_base=None):
            return compose("grpo", overrides=paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    config = composed(folder)
    actor = config.actor_rollout_ref
    for part in (actor.actor, actor.rollout, actor.model, config.algorithm):
        print("made", type(omega_conf_to_dataclass(part)).__name__)
    validate_config(config, use_reference_policy=actor.actor.use_kl_loss, use_critic=False)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.chat_template = actor.model.custom_chat_template
    problems = RLHFDataset(config.data.train_files, tokenizer, config.data)
    reward = get_custom_reward_fn(config)
    row = problems[0]
    gold = row["reward_model"]["ground_truth"]
    for answer in (gold, ""):
        earned = reward(
            data_source=row["data_source"],
            solution_str=answer,
            ground_truth=gold,
            extra_info=row["extra_info"],
        )
        print(f"{len(problems)} problems; the answer {answer!r} to {gold!r} earns {earned}")


if __name__ == "__main__":
    main()
