"""A comparison as a folder of files: tables, counts, a plot, and CheXlocalize's own numbers."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chexseg_platform import plots
from chexseg_platform.artifacts import csv_bytes
from chexseg_platform.evaluation import parity, tables
from chexseg_platform.evaluation.comparison import Comparison
from chexseg_platform.evaluation.counts import CountCube

LONGEST = 100


def comparison_files(comparison: Comparison) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of a comparison's tables and plot."""
    yield "comparison.txt", tables.text(comparison).encode()
    yield "comparison.md", tables.markdown(comparison).encode()
    yield "comparison.json", json.dumps(tables.to_json(comparison), indent=1).encode()
    yield "comparison.csv", csv_bytes(tables.csv_rows(comparison))
    yield "forest.png", plots.png(plots.forest(comparison))


def parity_files(
    cube: CountCube, listed: Collection[str], own: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, bytes]]:
    """Yield what CheXlocalize's script would write of every method, under its names.

    Args:
        listed: images that the truth's file lists.
        own: method -> images that its file lists.
    """
    for method in cube.methods:
        for what in parity.WHATS:
            found = parity.per_image(cube, method, what, listed, own[method])
            if what == "hitmiss" and not (found.values == found.values).any():
                continue
            means = parity.resampled_means(found.values)
            summary = parity.summarise(found.names, means)
            start = f"chexlocalize/{folder_name(method)}/{what}"
            yield f"{start}_results_per_cxr.csv", csv_bytes(parity.rows_per_image(found))
            rows = parity.rows_of_resamples(found.names, means)
            yield f"{start}_bootstrap_results_per_cxr.csv", csv_bytes(rows)
            yield f"{start}_summary_results.csv", csv_bytes(parity.rows_of_summary(summary))


def folder_name(method: str) -> str:
    """A method's name as one folder's, whatever it is called."""
    return re.sub(r"[^\w +=-]", "_", method)[:LONGEST]


def write_folder(
    folder: Path,
    counts: pa.Table,
    cube: CountCube,
    comparison: Comparison,
    listed: Collection[str],
    own: Mapping[str, Collection[str]],
) -> None:
    """Write all of it, the counts first; files of the same names are replaced."""
    stream = io.BytesIO()
    pq.write_table(counts, stream, write_page_checksum=True)
    files = [("counts.parquet", stream.getvalue()), *comparison_files(comparison)]
    for name, content in (*files, *parity_files(cube, listed, own)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
