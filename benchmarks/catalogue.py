"""A catalogue of a million items: recall, latency and memory of every index.

    python benchmarks/catalogue.py [--items 1000000] [--width 64] [--kinds exact ivf pq hnsw]
        [--construction 200]

What is found is kept in `benchmarks/results/catalogue`, a file a kind, of which `scripts/results.py`
makes a table and `nbs/70_evaluate/51_recall_latency.ipynb` a picture.

Clustered unit vectors: items around as many centres as the root of their number, users near items. One
thread; milliseconds of CPU for one user, median; recall is of the exact first hundred. Memory beside
each is what the structure holds when written, without the vectors of `exact`. `--construction` are the
candidates that HNSW keeps when an item joins its graph (efConstruction): building takes time about in
proportion.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import faiss
import torch
import torch.nn.functional as F

from recbench.evaluate.item_index import ItemIndex

RECORDS = Path(__file__).parent / "results" / "catalogue"
EFFORTS = {"exact": (1,), "flat": (1,), "ivf": (8, 32, 128), "pq": (8, 32, 128), "hnsw": (128, 256)}


def vectors(items: int, width: int, users: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    "Items [I, D] and users [B, D], of length 1."
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(int(items ** 0.5), width, generator=draw)
    own = torch.randint(len(centres), (items,), generator=draw)
    catalogue = F.normalize(centres[own] + torch.randn(items, width, generator=draw), dim=1)
    near = catalogue[torch.randint(items, (users,), generator=draw)]
    return catalogue, F.normalize(near + 0.1 * torch.randn(users, width, generator=draw), dim=1)


def with_effort(index: ItemIndex, effort: int) -> ItemIndex:
    "The same structure, looked into further or less far."
    index.effort = effort
    if index.kind == "hnsw": index.structure.hnsw.efSearch = effort
    elif index.kind in ("ivf", "pq"): index.structure.nprobe = effort
    return index


def size(index: ItemIndex) -> float:
    "Megabytes of the structure."
    if index.structure is None: return index.item_emb.numel() * 4 / 2**20
    with tempfile.TemporaryDirectory() as home:
        faiss.write_index(index.structure, f"{home}/index")
        return Path(f"{home}/index").stat().st_size / 2**20


def tried(index: ItemIndex, users: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    "Recall of the exact hundred, and milliseconds of CPU for one user, median."
    times, hits = [], 0
    for user, wanted in zip(users.split(1), exact):
        begun = time.process_time()
        found = index.search(user, 100)[0]
        times.append(time.process_time() - begun)
        hits += int(torch.isin(found[0], wanted).sum())
    return {"effort": index.effort, "recall": round(hits / exact.numel(), 4),
            "milliseconds": round(1e3 * median(times), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10**6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--users", type=int, default=64)
    kinds = ["exact", "ivf", "pq", "hnsw"]
    parser.add_argument("--kinds", nargs="*", default=kinds, choices=list(EFFORTS))
    parser.add_argument("--construction", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1), faiss.omp_set_num_threads(1)
    items, users = vectors(asked.items, asked.width, asked.users)
    exact = ItemIndex(items).search(users, 100)[0]
    print(f"{asked.items:,} items of {asked.width} numbers, {asked.users} users", flush=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    for kind in asked.kinds:
        begun = time.process_time()
        index = ItemIndex(items, kind, construction=asked.construction)
        built = round(time.process_time() - begun)
        lines = [tried(with_effort(index, effort), users, exact) for effort in EFFORTS[kind]]
        record = {"items": asked.items, "width": asked.width, "kind": kind,
                  "megabytes": round(size(index)), "build_seconds": built, "settings": lines}
        if kind == "hnsw": record["construction"] = asked.construction
        (RECORDS / f"{asked.items}-{kind}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(record, flush=True)


if __name__ == "__main__":
    main()
