"""Do the intervals of fitted laws hold the truth as often as they say?

    python benchmarks/law_recovery.py [--draws 200] [--law NAME] [--json FILE]

For each law, tables are drawn from its published coefficients with 0.5% noise and three seeds, and
fitted as `isoflop fit` does. For every coefficient: how often the bootstrap's 95% interval holds the
truth, the interval that a reader is told (wider where some coefficient is not identified), and the
profile's; and how often it is called identified, weak or not identified.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from isoflop.analysis.fits.bootstrap import bootstrap, interval
from isoflop.analysis.fits.fit import coefficients, named_values, robust_fit
from isoflop.analysis.fits.points import points_of
from isoflop.analysis.fits.profile import profiles
from isoflop.analysis.laws import LAWS
from isoflop.analysis.laws.draw import draw_table
from isoflop.analysis.laws.law import Law, published_values

NOISE = 0.005
NUM_SEEDS = 3
REPLICATES = 200
PROFILED = 40


def recover(
    law: Law, draws: int, replicates: int = REPLICATES, profiled: int = PROFILED
) -> dict[str, dict[str, float]]:
    """Coverage and flags of every coefficient over `draws` tables.

    Profiles, which take most of the time, are made of the first `profiled` draws.
    """
    truth = published_values(law).values
    names = [name for name in law.coefficient_names if name in truth]
    counts = {
        name: dict.fromkeys(
            ("inside", "told", "profile", "identified", "weak", "not identified"), 0.0
        )
        for name in names
    }
    linear = law.to_linear(truth)
    for draw in range(draws):
        table = draw_table(law, truth, noise=NOISE, num_seeds=NUM_SEEDS, seed=1000 + draw)
        points = points_of(table, law)
        best, huber = robust_fit(points)
        drawn = bootstrap(points, best, replicates=replicates, seed=draw, huber=huber)
        freedom = points.num_clusters - len(law.coefficient_names)
        for name, values in named_values(law, drawn).items():
            low, high = interval(values, freedom)
            counts[name]["inside"] += (low <= truth[name] <= high) / draws
        if draw < profiled:
            known = min(draws, profiled)
            for found in coefficients(points, best, drawn, profiles(points, best)):
                low = -np.inf if found.profile_low is None else found.profile_low
                high = np.inf if found.profile_high is None else found.profile_high
                counts[found.name]["profile"] += (low <= linear[found.name] <= high) / known
                told = (
                    -np.inf if found.low is None else found.low,
                    np.inf if found.high is None else found.high,
                )
                counts[found.name]["told"] += (told[0] <= truth[found.name] <= told[1]) / known
                counts[found.name][found.status] += 1 / known
    return counts


def main() -> None:
    """Print a table a law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--law", choices=sorted(LAWS))
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of the bootstrap")
    parser.add_argument("--profiled", type=int, default=PROFILED, help="draws with profiles")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = {}
    for law in [LAWS[asked.law]] if asked.law else LAWS.values():
        start = time.perf_counter()
        results[law.name] = recover(law, asked.draws, asked.replicates, asked.profiled)
        seconds = time.perf_counter() - start
        print(f"\n{law.name}: {asked.draws} draws, {seconds:.0f} s")
        print(f"{'':10} {'bootstrap':>10} {'told':>10} {'profile':>10}   identified / weak / not")
        for name, found in results[law.name].items():
            flags = " / ".join(
                f"{found[key]:.2f}" for key in ("identified", "weak", "not identified")
            )
            values = "".join(f"{found[key]:11.3f}" for key in ("inside", "told", "profile"))
            print(f"{name:10}{values}   {flags}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
