"""A served folder under load: one request at a time, many clients at once, and what no client sends.

    python benchmarks/serving.py [--clients 500] [--seconds 30] [--fuzz 1000]

Makes a small DSSM, exports it, and starts `python -m recbench.serve` on a free port of this machine.
Beside the latency of a list stands the bare matrix product of the same vectors, in the same run.
"""
import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
import torch

from recbench.data.published.planted import planted
from recbench.export.package import export_model
from recbench.models.usual import usual_model
from recbench.train.runs import Run
from recbench.train.trainer import Trainer


def make(home: Path, items: int) -> tuple[Run, Path]:
    world = planted(users=400, items=items, seed=0)
    Trainer(usual_model("DSSM", world), world, epochs=1, run_dir=home / "run", progress=False).fit()
    run = Run.load(home / "run")
    return run, export_model(run, home / "out", forms=["export"])


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-m", "recbench.serve", str(folder), "--port", str(port)])
    address = f"http://127.0.0.1:{port}"
    while True:
        try: httpx.get(f"{address}/health")
        except httpx.TransportError: time.sleep(0.2)
        else: return child, address


def megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def load(address: str, pid: int, keys: list, clients: int, seconds: float) -> dict:
    "Requests that come back to back from so many clients."
    done, errors, peak, slow = 0, 0, 0.0, []
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=clients), timeout=60) as client:
        async def one(number: int) -> None:
            nonlocal done, errors
            while time.monotonic() < end:
                begun = time.monotonic()
                body = {"users": [keys[(number + done) % len(keys)]], "k": 10}
                try: status = (await client.post(f"{address}/recommend", json=body)).status_code
                except httpx.TransportError: status = 0
                done, errors = done + 1, errors + (status != 200)
                slow.append(time.monotonic() - begun)
        async def watch() -> None:
            nonlocal peak
            while time.monotonic() < end:
                peak = max(peak, megabytes(pid))
                await asyncio.sleep(0.2)
        await asyncio.gather(watch(), *map(one, range(clients)))
    return {"clients": clients, "requests/s": round(done / seconds, 1), "errors": errors,
            "p50 ms": round(1e3 * median(slow), 1), "peak MB": round(peak)}


def fuzz(address: str, count: int, seed: int = 0) -> dict[int, int]:
    "Statuses of random bodies, keys of the schema among them."
    draw, found = random.Random(seed), {}
    values = [None, 0, -1, 2**63, 2**70, 1e308, "", "7", "\x00", [], [[]], {}, True, [1] * 300, "é" * 9]
    def value(depth: int = 0):
        kind = draw.random()
        if kind < 0.6 or depth > 2: return draw.choice(values)
        if kind < 0.8: return [value(depth + 1) for _ in range(draw.randrange(4))]
        return {draw.choice(["user_id", "history", "age_band", "country", "x"]): value(depth + 1)
                for _ in range(draw.randrange(4))}
    with httpx.Client(timeout=60) as client:
        for _ in range(count):
            names = ["users", "rows", "k", "seen", "eligible", "forbidden", "z"]
            body = {name: value() for name in draw.sample(names, draw.randrange(5))}
            text = json.dumps(draw.choice([body, body, value()]))
            if draw.random() < 0.1: text = text[: draw.randrange(len(text) + 1)]
            where = draw.choice(["/recommend", "/recommend", "/score", "/reload"])
            headers = {"content-type": "application/json"}
            found_now = client.post(address + where, content=text.encode(), headers=headers).status_code
            if draw.random() < 0.2:
                item = draw.choice(["1", "x", "-1", "99999999999999999999999", "%00", "é"])
                count = draw.choice([1, 0, -5, "a"])
                found_now = client.get(f"{address}/items/{item}/similar?k={count}").status_code
            found[found_now] = found.get(found_now, 0) + 1
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        run, folder = make(Path(home), asked.items)
        child, address = start(folder)
        try:
            keys = run.known_users.keys.tolist()
            for clients in (1, 64):
                print(asyncio.run(load(address, child.pid, keys, clients, 5)), flush=True)
            query = run.item_vectors[:1]
            times = []
            for _ in range(30):
                begun = time.perf_counter()
                (query @ run.item_vectors.T).topk(10)
                times.append(time.perf_counter() - begun)
            print(f"bare product over {asked.items:,} items: {1e3 * median(times):.3f} ms", flush=True)
            print(asyncio.run(load(address, child.pid, keys, asked.clients, asked.seconds)), flush=True)
            print(f"{asked.fuzz:,} random requests: {fuzz(address, asked.fuzz)}", flush=True)
        finally:
            child.send_signal(signal.SIGTERM)
            print(f"ended with {child.wait(60)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
