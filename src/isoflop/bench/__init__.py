"""Speed and memory, measured: ours against its peers, and against the plan's estimate."""
