"""The ranks of one run on this node: ``python -m isoflop.sweep.rank_group FOLDER NUMBER LAYOUT``.

Starts `isoflop.sweep.worker` once a rank through PyTorch's elastic agent, which is what torchrun
calls, and starts all of them again when one dies: they go on from the last saved state. Ends with
the status of the rank that failed first and says on standard error which it was and why.

What each rank writes to standard error stays in <run's training folder>/ranks/.
"""

import argparse
import json
import os
import sys
import threading
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from isoflop.config import from_dict
from isoflop.design.layout import Layout
from isoflop.sweep.pool import USER_ERROR, end_with_parent, last_words, tell_reason
from isoflop.sweep.study import read_study_map

MAX_RESTARTS = 3
"""Times that a run is started again after a rank died; chosen: a broken machine must not loop."""

LOGS = "ranks"


@dataclass(frozen=True, kw_only=True)
class Node:
    """This machine among those of the run."""

    ranks_here: int
    nodes: int = 1
    rendezvous: str = "127.0.0.1:0"
    """Where the nodes meet, HOST:PORT; port 0: a free one, for one node."""
    name: str = "isoflop"
    """The same on all nodes of a run, and no other run's."""


@dataclass(frozen=True)
class RankFailure:
    """The rank that failed first."""

    status: int
    """Exit status; negative: the signal that ended it."""
    reason: str


def run_ranks(root: Path, number: int, layout: Layout, node: Node) -> RankFailure | None:
    """Start this node's ranks and wait for them; None when all ended well."""
    logs = root / read_study_map(root).runs[number].train.path / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    # On several nodes the agents start again together; on one, a user's mistake is not tried again.
    agent_restarts = MAX_RESTARTS if node.nodes > 1 else 0
    config = LaunchConfig(
        min_nodes=node.nodes,
        max_nodes=node.nodes,
        nproc_per_node=node.ranks_here,
        run_id=node.name,
        rdzv_backend="c10d",
        rdzv_endpoint=node.rendezvous,
        max_restarts=agent_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ERR),
    )
    worker = ("-m", "isoflop.sweep.worker", str(root), str(number), json.dumps(asdict(layout)))
    for attempt in range(1, MAX_RESTARTS - agent_restarts + 2):
        try:
            elastic_launch(config, sys.executable)(*worker)
            return None
        except ChildFailedError as error:
            failure = _first(error, layout, logs)
        if failure.status == USER_ERROR or attempt > MAX_RESTARTS - agent_restarts:
            break
        print(f"{failure.reason}; started again ({attempt} of {MAX_RESTARTS})", file=sys.stderr)
    return failure


def _first(error: ChildFailedError, layout: Layout, logs: Path) -> RankFailure:
    """Which rank failed first, and its last words."""
    rank, failed = error.get_first_failure()
    # A rank whose partner died fails too, a moment later and by no fault of its own.
    told = [(number, one) for number, one in error.failures.items() if one.exitcode == USER_ERROR]
    killed = [(number, one) for number, one in error.failures.items() if one.exitcode < 0]
    for number, one in (told or killed)[:1]:
        rank, failed = number, one
    who = f"rank {rank} of {layout.ranks}"
    if failed.exitcode < 0:
        memory = " (out of memory?)" if failed.exitcode == -9 else ""
        return RankFailure(failed.exitcode, f"{who} killed by signal {-failed.exitcode}{memory}")
    why = _said(failed, logs) or f"exit status {failed.exitcode}"
    return RankFailure(failed.exitcode, f"{who}: {why}")


def _said(failed: ProcessFailure, logs: Path) -> str:
    files = sorted(
        logs.glob(f"*/attempt_*/{failed.local_rank}/stderr.log"), key=lambda f: f.stat().st_mtime
    )
    return last_words(files[-1]) if files else ""


def main(arguments: list[str]) -> int:
    """Run the ranks of one run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="isoflop.sweep.rank_group", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("layout", help="JSON of isoflop.design.layout.Layout")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rendezvous", default=Node(ranks_here=1).rendezvous)
    parser.add_argument("--name", default=Node(ranks_here=1).name)
    parser.add_argument("--alone", action="store_true", help="Standard input is no parent's pipe.")
    given = parser.parse_args(arguments)
    if not given.alone:
        threading.Thread(target=end_with_parent, daemon=True).start()
    # The agent warns of its own defaults.
    warnings.filterwarnings("ignore", category=FutureWarning)
    layout = from_dict(Layout, json.loads(given.layout), "layout")
    node = Node(
        ranks_here=layout.ranks // given.nodes,
        nodes=given.nodes,
        rendezvous=given.rendezvous,
        name=given.name,
    )
    try:
        failure = run_ranks(given.root, given.number, layout, node)
    except SignalException as end:
        tell_reason(f"ended by signal {int(end.sigval)} (cancelled, or a time limit)")
        return USER_ERROR
    if failure is None:
        return 0
    tell_reason(failure.reason)
    return USER_ERROR


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Threads of the agent must not hold up the end.
    os._exit(status)
