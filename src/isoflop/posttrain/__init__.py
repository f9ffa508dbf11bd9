"""GRPO: post-training on rewards, with one engine for sampling and training."""
