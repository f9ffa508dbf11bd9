"""One run on several processes: FSDP2 sharding, expert parallelism, distributed checkpoints."""
