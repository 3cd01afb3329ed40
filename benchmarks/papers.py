"""What the methods of the papers cost at the sizes their users have, beside doing without them, in one process.

    python benchmarks/papers.py                  # every paper that states costs
    python benchmarks/papers.py amad odtrack     # these; the rows of the others stay
    python benchmarks/papers.py --quick amad     # one call each, writes nothing

Method and plain alternative take turns, and the smallest time of each counts. Memory is what the tensors of one call
hold at once, as the dispatcher of PyTorch sees it.
"""

import argparse
import json
import time
from datetime import date

import torch
from _report import RESULTS, at_most, processor, publish

from pvlit.papers.catalogue import catalog, load
from pvlit.papers.fitness import Meter

SECONDS, TURNS = 6, 30  # most that one cost is measured for


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def held_by(call):
    "Megabytes that the tensors of a call hold at once."
    with Meter() as meter:
        call()
    return meter.peak / 1e6


def measured(cost, turns):
    "Measure one cost; returns a row without the paper's name."
    calls = [make(torch.Generator().manual_seed(0)) for make in (cost.method, cost.plain)]
    memory = [held_by(call) for call in calls]
    best, end = [float("inf")] * 2, time.monotonic() + SECONDS
    for turn in range(turns):
        best = [min(b, seconds_of(call)) for b, call in zip(best, calls)]
        if turn >= 2 and time.monotonic() > end:
            break
    row = dict(name=cost.name, milliseconds=1e3 * best[0], megabytes=memory[0], beside=cost.beside)
    row |= dict(plain_milliseconds=1e3 * best[1], plain_megabytes=memory[1], times=best[0] / best[1])
    row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    return row | dict(limit=cost.times, date=date.today().isoformat(), threads=torch.get_num_threads())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("papers", nargs="*", metavar="SLUG", help="papers to measure; all by default")
    parser.add_argument("--quick", action="store_true", help="one call each, writes nothing")
    given = parser.parse_args()
    working = [paper.slug for paper in catalog(status="works")]
    file = RESULTS / "papers.json"
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = {slug: [row for row in old if row["paper"] == slug] for slug in working}
    for slug in given.papers or working:
        found = [measured(cost, 1 if given.quick else TURNS) for cost in getattr(load(slug), "COSTS", [])]
        rows[slug] = [dict(paper=slug, machine=processor(), **row) for row in found]
        for row in rows[slug]:
            print(json.dumps(row))
    kept = [row for slug in working for row in rows[slug]]
    targets = [at_most(f"{r['paper']}, {r['name']}: times the plain one", r["limit"], r["times"]) for r in kept]
    if not given.quick:
        publish("papers", kept, targets)


if __name__ == "__main__":
    main()
