"""How fast rows become batches, from memory and from Parquet, and whether streaming a file ten times
the size needs more memory.

    python benchmarks/loading.py [--rows 1000000] [--rounds 25]

Rows hold 26 integer ids, 13 floats and a label; batches of 4,096, each dropped before the next as in
training. CPU time of one thread, best of the rounds (the file lies in the page cache after the first).
Peak memory is that of a process of its own. The file is as PyArrow and pandas write it unless told
otherwise: Snappy, dictionaries, nullable columns, row groups of 1,048,576 rows. Targets: batches from 2
million rows a CPU second from Parquet and from 10 million from memory, peak memory within 10 % for ten
times the rows. Printed besides, for the same rows: what the gather alone costs, by `index_select`,
Arrow's decoding alone, and both again for a file with row groups of 65,536 rows, in which every group
carries dictionaries of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _timing import interleaved, verdict

IDS, FLOATS, BATCH, BUFFER = 26, 13, 4096, 1 << 18
GROUP, SMALL_GROUP = 1 << 20, 1 << 16    # rows of a row group: the writers' default, and a small one
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from loading import one_epoch, resident
import recbench.data.sets.stream
start = resident()
rows = one_epoch(sys.argv[2])
print(json.dumps([rows, start, resident()]))
"""


def write(path: Path, rows: int, group: int = GROUP) -> Path:
    "A file of random rows, written a row group at a time."
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    rng = np.random.default_rng(0)
    names = [*(f"c{i}" for i in range(IDS)), *(f"x{i}" for i in range(FLOATS)), "label"]
    schema = pa.schema([(name, pa.int64() if name[0] == "c" else pa.float32()) for name in names])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, group):
            count = min(group, rows - start)
            columns = [
                *(rng.integers(0, 100_000, count) for _ in range(IDS)),
                *(rng.random(count, dtype=np.float32) for _ in range(FLOATS)),
                rng.integers(0, 2, count).astype(np.float32),
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=group)
    return path


def stream(path: Path | str):
    from recbench.data.rows.features import IdFeature, RawFeature
    from recbench.data.sets.stream import ParquetStream
    features = [
        *(IdFeature(name=f"c{i}", num_buckets=100_000) for i in range(IDS)),
        *(RawFeature(name=f"x{i}") for i in range(FLOATS)),
    ]
    return ParquetStream([path], features, batch_size=BATCH, buffer_rows=BUFFER, columns=["label"])


def one_epoch(path: Path | str) -> int:
    "Rows of one pass as batches."
    import torch

    from recbench.data.sets.stream import stream_batches
    torch.set_num_threads(1)
    return sum(len(batch.labels["label"]) for batch in stream_batches(stream(path), ["label"]))


def batches(table, rows) -> int:
    "Rows of one pass over a table in memory, as batches."
    from recbench.data.rows.batch import make_batch
    return sum(
        make_batch(table.take(part)).sparse_features["__BASE__"].stride() for part in rows.split(BATCH)
    )


def gathered(table, rows) -> None:
    "The same rows picked from the table's block, and nothing else."
    for part in rows.split(BATCH): table.block.index_select(0, part)


def decoded(path: Path) -> None:
    "The file's columns as Arrow arrays, as many rows at a time as the stream takes, and nothing else."
    import pyarrow.parquet as pq

    from recbench.data.sets.stream import SLICE
    with pq.ParquetFile(path) as file:
        for _ in file.iter_batches(SLICE, use_threads=False): pass


def resident() -> float:
    "MB this process has held at most; unlike getrusage, not what its parent held before it."
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peak(path: Path) -> tuple[float, float]:
    "MB at most resident in a fresh process, after the imports and after streaming the file once."
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(json.loads(done.stdout)[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    import torch

    from recbench.core.heap import keep_freed_memory
    from recbench.data.sets.stream import stack_tables
    keep_freed_memory()                             # as the training wrapper does
    with tempfile.TemporaryDirectory() as folder:
        small, large = write(Path(folder) / "small.parquet", options.rows), write(
            Path(folder) / "large.parquet", 10 * options.rows
        )
        table = stack_tables(list(stream(small)))
        rows = torch.randperm(len(table))
        groups = write(Path(folder) / "groups.parquet", options.rows, SMALL_GROUP)
        took = interleaved(
            {
                "memory": lambda: batches(table, rows),
                "gather": lambda: gathered(table, rows),
                "Parquet": lambda: one_epoch(small),
                "decoding": lambda: decoded(small),
                "groups": lambda: one_epoch(groups),
                "decoding of groups": lambda: decoded(groups),
            },
            options.rounds,
        )
        rate = {name: len(table) / min(seconds) / 1e6 for name, seconds in took.items()}
        memory = [peak(path) for path in (small, large)]
        sizes = [path.stat().st_size / 2**20 for path in (small, large)]
    print(
        f"from memory: batches {rate['memory']:.1f}, the gather alone {rate['gather']:.1f}; from "
        f"Parquet: batches {rate['Parquet']:.2f}, decoding alone {rate['decoding']:.2f} million "
        "rows a CPU second"
    )
    print(
        f"row groups of {SMALL_GROUP:,}: batches {rate['groups']:.2f}, decoding alone "
        f"{rate['decoding of groups']:.2f} million rows a CPU second"
    )
    for size, (start, most) in zip(sizes, memory):
        print(
            f"file of {size:,.0f} MB: peak memory {most:.0f} MB, of which {start:.0f} MB are "
            "the imports"
        )
    verdict("rows from memory", rate["memory"], at_least=10, kind="million rows a CPU second")
    verdict("rows from Parquet", rate["Parquet"], at_least=2, kind="million rows a CPU second")
    verdict("peak memory, ten times the file", memory[1][1] / memory[0][1], at_most=1.1)


if __name__ == "__main__":
    main()
