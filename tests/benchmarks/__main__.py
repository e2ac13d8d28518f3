"""Runs the benchmarks: all of them, or those that are named.

    python -m tests.benchmarks [NAME ...] [--threads N] [--out benchmarks.json]

Most take a minute or three on two idle cores, `job` a quarter of an hour.
Figures taken beside other work are worth little.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from chexseg_platform.cluster import disconnect

from tests.benchmarks.harness import Row, cores, machine, save, table
from tests.benchmarks.material import Place

NAMES = (
    "masks", "phantom", "ingest", "saliency", "classifier", "segmenter",
    "gradcam", "integrated", "boost", "walk", "seeds", "thresholds", "evaluation", "job",
)  # fmt: skip


def main() -> None:
    """Read the command line, run, print the table, write the file."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=cores(), help="of torch, on both sides")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    wish = parser.parse_args()
    unknown = sorted(set(wish.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    torch.set_num_threads(wish.threads)
    where = machine(wish.threads)
    rows: list[Row] = []
    for found in run(wish.names or NAMES, wish.threads):
        # Saved one by one: what is measured is kept when a later benchmark is cut off.
        save(wish.out, found, where)
        print(table(found), flush=True)
        rows += found
    print("\n" + "  ".join(f"{name} {value}" for name, value in where.items()))
    print(table(rows))


def run(names: Sequence[str], threads: int) -> Iterator[list[Row]]:
    """Run the named benchmarks in a temporary folder; each is the module of its name."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        place = Place(Path(folder), threads)
        for name in names:
            yield importlib.import_module(f"tests.benchmarks.{name}").run(place)
            disconnect()


if __name__ == "__main__":
    main()
