"""Do the intervals of fitted laws hold the truth as often as they say?

    python benchmarks/law_recovery.py [--draws 200] [--seed 1000] [--law NAME] [--json FILE]

For each law, tables are drawn from its published coefficients with 0.5% noise and three seeds, and
fitted as `isoflop fit` does. For every coefficient: how often the interval that a reader is told
holds the truth; the same for those tables alone in which it is not called "not identified"; beside
it the bootstrap's and the profile's alone; and how often it is called identified, weak or not
identified. An open end holds everything on its side.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

from isoflop.analysis.fits.bootstrap import bootstrap, freedoms, interval
from isoflop.analysis.fits.fit import coefficients, named_values, robust_fit
from isoflop.analysis.fits.points import points_of
from isoflop.analysis.fits.profile import profiles
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import Law, published_values

NOISE = 0.005
NUM_SEEDS = 3
REPLICATES = 200
SEED = 1000

STATUSES = ("identified", "weak", "not identified")
INTERVALS = ("told", "told where identified or weak", "bootstrap", "profile")


class Look(NamedTuple):
    """One coefficient in one table."""

    status: str
    told: bool
    bootstrap: bool
    profile: bool


def look(law: Law, truth: dict[str, float], seed: int, replicates: int) -> dict[str, Look]:
    """Which intervals of one drawn table hold the truth, by coefficient."""
    table = draw_table(law, truth, noise=NOISE, num_seeds=NUM_SEEDS, seed=seed)
    points = points_of(table, law)
    best, huber = robust_fit(points)
    drawn = bootstrap(points, best, replicates=replicates, seed=seed, huber=huber)
    freedom = dict(zip(law.coefficient_names, freedoms(points, best, huber), strict=True))
    alone = {name: interval(v, freedom[name]) for name, v in named_values(law, drawn).items()}
    linear = law.to_linear(truth)
    return {
        found.name: Look(
            status=found.status,
            told=holds(found.low, truth[found.name], found.high),
            bootstrap=holds(alone[found.name][0], truth[found.name], alone[found.name][1]),
            profile=holds(found.profile_low, linear[found.name], found.profile_high),
        )
        for found in coefficients(points, best, drawn, profiles(points, best), huber)
    }


def holds(low: float | None, value: float, high: float | None) -> bool:
    """Whether an interval, open where an end is None, holds the value."""
    return (low is None or low <= value) and (high is None or value <= high)


def summary(looks: list[Look]) -> dict[str, float | None]:
    """Shares over tables; None where no table counts."""
    named = [one for one in looks if one.status != "not identified"]
    held: dict[str, float | None] = {
        "told": sum(one.told for one in looks) / len(looks),
        "told where identified or weak": sum(one.told for one in named) / len(named)
        if named
        else None,
        "bootstrap": sum(one.bootstrap for one in looks) / len(looks),
        "profile": sum(one.profile for one in looks) / len(looks),
    }
    return held | {s: sum(one.status == s for one in looks) / len(looks) for s in STATUSES}


def recover(law: Law, draws: int, seed: int, replicates: int) -> dict[str, dict[str, float | None]]:
    """What `draws` tables show of every coefficient."""
    truth = published_values(law).values
    tables = [look(law, truth, seed + number, replicates) for number in range(draws)]
    return {name: summary([table[name] for table in tables]) for name in tables[0]}


def main() -> None:
    """Print a table a law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=SEED, help="of the first table; the rest follow"
    )
    parser.add_argument("--law", choices=sorted(LAWS))
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of the bootstrap")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = {}
    for law in [LAWS[asked.law]] if asked.law else LAWS.values():
        start = time.perf_counter()
        results[law.name] = recover(law, asked.draws, asked.seed, asked.replicates)
        seconds = time.perf_counter() - start
        print(f"\n{law.name}: {asked.draws} draws from seed {asked.seed}, {seconds:.0f} s")
        print(f"{'':10} {'told':>6} {'named':>6} {'boot':>6} {'prof':>6}   identified / weak / not")
        for name, found in results[law.name].items():
            shares = "".join(f"{percent(found[key]):>7}" for key in INTERVALS)
            flags = " / ".join(percent(found[key]) for key in STATUSES)
            print(f"{name:10}{shares}   {flags}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


def percent(share: float | None) -> str:
    """A share as a reader sees it."""
    return "-" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
