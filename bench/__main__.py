"""`./dev bench [AREA...]`: one line for each figure; exit 1 if one is short of its bar."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from bench.figures import Figure, print_figures

# Area -> modules with a `run() -> list[Figure]`.
AREAS: dict[str, tuple[str, ...]] = {
    "foundation": ("bench.exposition", "bench.promql", "bench.footprint"),
    "spool": ("bench.spool",),
    "sidecar": ("bench.sidecar",),
    "grpc": ("bench.grpc",),
    "restart": ("bench.sidecar_restart",),
    "gpus": ("bench.gpus", "bench.slots"),
    "cost": ("bench.money", "bench.ledger", "bench.reports", "bench.budgets", "bench.tariff"),
    "engines": ("bench.engines", "bench.engines_scrape", "bench.engines_loop"),
}


def main(arguments: Sequence[str]) -> int:
    """Run the areas asked for, all without arguments."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("areas", nargs="*", choices=[*AREAS, []], metavar="AREA", help=f"one of: {', '.join(AREAS)}")
    wanted = parser.parse_args(arguments).areas or list(AREAS)
    good = True
    for area in wanted:
        for name in AREAS[area]:
            run: Callable[[], list[Figure]] = import_module(name).run
            good = print_figures(run()) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
