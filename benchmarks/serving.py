"""A served folder: one request at a time, many clients at once, and what no client sends.

    python benchmarks/serving.py [--items 100000] [--clients 500] [--seconds 30] [--fuzz 10000]

Makes a small DSSM, exports it, and starts `python -m recbench.serve` on a free port of this machine.
Beside the latency of a list stands the bare matrix product of the same vectors with its `topk`, turn by
turn in the same run. Micro-batches: requests a second, and CPU milliseconds of the server a request, of
64 clients with `--batch 64` over those with `--batch 1`: the same clients, one by one. Of lists, beside
both stands what the bare product and its `topk` gain of 64 users at once: a batch saves no more of it
than that. On a machine that others use the CPU figure is the one to read. `--part batches` does this
alone, `--part load` the rest.
"""
import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import httpx
import torch
from _timing import verdict

from recbench.data.published.planted import planted
from recbench.export.package import export_model
from recbench.models.usual import usual_model
from recbench.train.runs import Run
from recbench.train.trainer import Trainer

HOST = "127.0.0.1"


def make(home: Path, items: int) -> tuple[Run, Path]:
    world = planted(users=400, items=items, seed=0)
    Trainer(usual_model("DSSM", world), world, epochs=1, run_dir=home / "run", progress=False).fit()
    run = Run.load(home / "run")
    return run, export_model(run, home / "out", forms=["export"], progress=False)


@contextmanager
def served(folder: Path, *arguments: str):
    "Process and port of a service that answers; ended at the end, with its exit code printed."
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "recbench.serve", str(folder), "--port", str(port), *arguments]
    child = subprocess.Popen(command)
    try:
        while child.poll() is None:
            try: httpx.get(f"http://{HOST}:{port}/health")
            except httpx.TransportError: time.sleep(0.2)
            else: break
        if child.poll() is not None: raise SystemExit(f"the service ended with {child.poll()}")
        yield child.pid, port
    finally:
        child.send_signal(signal.SIGTERM)
        print(f"service ended with {child.wait(60)}", flush=True)


def megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(pid: int) -> float:
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def alone(port: int, pid: int, run: Run, rounds: int, k: int = 50) -> None:
    "One user's list over HTTP and the bare product of the same vectors, turn by turn."
    client, vectors = http.client.HTTPConnection(HOST, port), run.item_vectors
    keys, asked, bare = run.known_users.keys.tolist(), [], []
    spent, product = cpu_seconds(pid), 0.0
    for turn in range(rounds):
        body = json.dumps({"users": [keys[turn % len(keys)]], "k": k})
        begun = time.perf_counter()
        client.request("POST", "/recommend", body, {"content-type": "application/json"})
        answer = client.getresponse()
        found = json.loads(answer.read())
        asked.append(time.perf_counter() - begun)
        assert answer.status == 200 and len(found["lists"][0]) == k
        query = vectors[turn:turn + 1]
        begun, own = time.perf_counter(), time.process_time()
        (query @ vectors.T).topk(k)
        bare.append(time.perf_counter() - begun)
        product += time.process_time() - own
    spent = cpu_seconds(pid) - spent
    share = median(one / other for one, other in zip(asked, bare))
    tenth = sorted(asked)[len(asked) // 10]
    print(f"top {k} of {len(vectors):,} items over HTTP: p50 {1e3 * median(asked):.2f} ms, p10 "
          f"{1e3 * tenth:.2f} ms; bare product and topk {1e3 * median(bare):.2f} ms; ratio {share:.1f}"
          f"; CPU of the server {1e3 * spent / rounds:.2f} ms a list, of the product "
          f"{1e3 * product / rounds:.2f}", flush=True)
    verdict("list over HTTP, p50", 1e3 * median(asked), at_most=5, kind="ms")


def posted(path: str, body: dict) -> bytes:
    "A request as it goes over the wire."
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n").encode() + data


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer.

    Args:
        request: bytes of the next request, by number
        slow: gets the seconds of each answer
        errors: gets how often each status other than 200 came
        end: time after which it asks no more
    """

    def __init__(self, request: Callable[[int], bytes], slow: list, errors: Counter, end: float):
        self.request, self.slow, self.errors, self.end = request, slow, errors, end
        self.over, self.got, self.size = asyncio.get_running_loop().create_future(), b"", 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.begun, self.got, self.size = time.monotonic(), b"", 0
        if self.begun < self.end: self.transport.write(self.request(len(self.slow)))
        else: self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.size and (head := self.got.find(b"\r\n\r\n") + 4) > 3:
            text = self.got[:head].lower()
            self.size = head + int(text.split(b"content-length: ")[1].split(b"\r\n")[0])
        if not self.size or len(self.got) < self.size: return
        self.slow.append(time.monotonic() - self.begun)
        if self.got[9:12] != b"200": self.errors[self.got[9:12].decode()] += 1
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if error or time.monotonic() < self.end: self.errors[type(error).__name__] += 1
        if not self.over.done(): self.over.set_result(None)


async def load(
    port: int, pid: int, request: Callable[[int], bytes], clients: int, seconds: float
) -> dict:
    "Requests that come back to back from so many clients."
    slow, errors, peak, spent = [], Counter(), 0.0, cpu_seconds(pid)
    end, loop = time.monotonic() + seconds, asyncio.get_running_loop()

    async def one() -> None:
        made = await loop.create_connection(lambda: Client(request, slow, errors, end), HOST, port)
        await made[1].over

    async def watch() -> None:
        nonlocal peak
        while time.monotonic() < end:
            peak = max(peak, megabytes(pid))
            await asyncio.sleep(0.2)

    own = time.process_time()
    ends = await asyncio.gather(watch(), *(one() for _ in range(clients)), return_exceptions=True)
    for failure in filter(None, ends): errors[type(failure).__name__] += 1
    own, spent = time.process_time() - own, cpu_seconds(pid) - spent
    return {"clients": clients, "requests/s": round(len(slow) / seconds, 1), "errors": dict(errors),
            "p50 ms": round(1e3 * median(slow), 1), "peak MB": round(peak),
            "CPU ms": round(1e3 * spent / len(slow), 2),
            "CPU ms of the client": round(1e3 * own / len(slow), 2)}


def requests_of(run: Run) -> dict[str, Callable[[int], bytes]]:
    "A request of each kind by number."
    keys = run.known_users.keys.tolist()
    known = run.known_users.frame[["user_id", "age_band", "country"]].astype(object).to_dict("records")
    def row(number: int) -> dict:
        return {**known[number % len(known)], "history": [1 + number % 90, 2]}
    def pair(number: int) -> dict: return {**row(number), "item_id": 1 + number % 90}
    return {
        "score": lambda number: posted("/score", {"rows": [pair(number)]}),
        "list of a new user": lambda number: posted("/recommend", {"rows": [row(number)], "k": 50}),
        "list of a known user": lambda number: posted(
            "/recommend", {"users": [keys[number % len(keys)]], "k": 50}),
    }


def products(run: Run, k: int = 50, rounds: int = 15) -> None:
    "CPU milliseconds a user of the bare product and its `topk`, of one user and of 64 at once."
    vectors, spent = run.item_vectors, {}
    for size in (1, 64):
        query, times = vectors[:size].clone(), []
        for _ in range(rounds):
            begun = time.process_time()
            (query @ vectors.T).topk(k)
            times.append(time.process_time() - begun)
        spent[size] = 1e3 * median(times) / size
    print(f"bare product and topk: {spent[1]:.2f} ms a user alone, {spent[64]:.2f} of 64 at once, "
          f"{spent[1] / spent[64]:.1f} times", flush=True)


def batches(folder: Path, run: Run, seconds: float) -> None:
    "64 clients, answered together and one by one."
    products(run)
    found: dict[str, dict[int, dict]] = {}
    for size in (1, 64):
        with served(folder, "--batch", str(size)) as (pid, port):
            for kind, request in requests_of(run).items():
                one = asyncio.run(load(port, pid, request, 64, seconds))
                found.setdefault(kind, {})[size] = one
                print(f"{kind}, batch {size}: {one}", flush=True)
    for kind, sizes in found.items():
        more = sizes[64]["requests/s"] / sizes[1]["requests/s"]
        print(f"{kind}: {more:.1f} times the requests a second", flush=True)
        verdict(f"{kind}, CPU", sizes[1]["CPU ms"] / sizes[64]["CPU ms"], at_least=5)


def drawn_bodies(count: int, seed: int = 0):
    "Random texts, names of the schema among their keys."
    draw = random.Random(seed)
    values = [None, 0, -1, 2**63, 2**70, 1e308, "", "7", "\x00", [], [[]], {}, True, [1] * 300, "é" * 9]
    names = ["users", "rows", "k", "seen", "eligible", "forbidden", "z"]
    fields = ["user_id", "history", "age_band", "country", "item_id", "x"]
    def value(depth: int = 0):
        kind = draw.random()
        if kind < 0.6 or depth > 2: return draw.choice(values)
        if kind < 0.8: return [value(depth + 1) for _ in range(draw.randrange(4))]
        return {draw.choice(fields): value(depth + 1) for _ in range(draw.randrange(4))}
    for _ in range(count):
        body = {name: value() for name in draw.sample(names, draw.randrange(5))}
        text = json.dumps(draw.choice([body, body, value()]))
        yield text[: draw.randrange(len(text) + 1)] if draw.random() < 0.1 else text


def fuzz(port: int, count: int, seed: int = 0) -> dict[str, int]:
    "How often each status came, of POST and of GET; four in five requests are POST."
    draw, found = random.Random(seed), Counter()
    items = ["1", "x", "-1", "9" * 23, "%00", quote("é"), "1.5", "true"]
    with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60) as client:
        for text in drawn_bodies(count * 4 // 5, seed):
            where = draw.choice(["/recommend", "/recommend", "/score", "/reload"])
            kind = {"content-type": draw.choice(["application/json"] * 9 + ["text/plain"])}
            found[f"POST {client.post(where, content=text.encode(), headers=kind).status_code}"] += 1
        for _ in range(count - count * 4 // 5):
            k = draw.choice(["1", "0", "-5", "a", "9" * 30, "5"])
            where = f"/items/{draw.choice(items)}/similar?k={k}"
            found[f"GET {client.get(where).status_code}"] += 1
    return dict(sorted(found.items()))


def loaded(folder: Path, run: Run, asked: argparse.Namespace) -> None:
    "One list at a time, many clients at once, random requests."
    with served(folder) as (pid, port):
        print(f"{megabytes(pid):.0f} MB before the first request", flush=True)
        alone(port, pid, run, 400)
        lists = requests_of(run)["list of a known user"]
        many = asyncio.run(load(port, pid, lists, asked.clients, asked.seconds))
        print(many, flush=True)
        verdict("requests that failed", sum(many["errors"].values()), at_most=0, kind="count")
        told = fuzz(port, asked.fuzz)
        print(f"{sum(told.values()):,} random requests: {told}", flush=True)
        bad = sum(count for status, count in told.items() if status.split()[1] >= "500")
        verdict("answers of 500 and above", bad, at_most=0, kind="count")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--fuzz", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--part", choices=("load", "batches"), help="all by default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        run, folder = make(Path(home), asked.items)
        if asked.part != "batches": loaded(folder, run, asked)
        if asked.part != "load": batches(folder, run, asked.seconds / 6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
