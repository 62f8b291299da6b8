"""Requests that schemathesis makes of the service's own schema: no answer of 500 and above, none that
the schema does not foresee.

    python benchmarks/service_fuzz.py [--requests 10000] [--command schemathesis] [--seed 1]

schemathesis is no requirement of the project, and may live in an environment of its own: `--command`
is the path of its program. It runs in rounds of another seed each until as many requests were made;
what it found is printed whole, with the command that repeats it.
"""
import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from _timing import verdict
from serving import HOST, make, megabytes, served

CHECKS = ("not_a_server_error", "response_schema_conformance", "status_code_conformance",
          "content_type_conformance")


def round_of(program: str, port: int, seed: int, most: int, home: str) -> tuple[int, int, str]:
    "Requests made, failures found, and what schemathesis says, of one seed; it keeps notes at home."
    done = subprocess.run(
        [program, "run", f"http://{HOST}:{port}/openapi.json", "--phases", "fuzzing",
         "--max-examples", str(most), "--checks", ",".join(CHECKS), "--seed", str(seed),
         "--continue-on-failure", "--request-timeout", "60", "--suppress-health-check", "all"],
        capture_output=True, text=True, cwd=home)
    told = done.stdout + done.stderr
    counts = re.search(r"(\d+) generated(?:, (\d+) found)?", told)
    if counts is None: raise SystemExit(f"schemathesis made no request:\n{told[-2000:]}")
    broken = "Server stopped responding" in told or "Errors:" in told
    return int(counts[1]), int(counts[2] or 0) + broken, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--command", default="schemathesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--items", type=int, default=300)
    asked = parser.parse_args()
    program = shutil.which(asked.command)
    if program is None:
        raise SystemExit(f"{asked.command} is not installed: pip install schemathesis, in an "
                         "environment of its own, and --command PATH of its program")
    made = failures = rounds = 0
    with tempfile.TemporaryDirectory() as home:
        folder = make(Path(home), asked.items)[1]
        with served(folder) as (pid, port):
            while made < asked.requests:
                most = max(10, (asked.requests - made) // 6)      # six addresses take what is left
                more, wrong, told = round_of(program, port, asked.seed + rounds, min(most, 300), home)
                made, failures, rounds = made + more, failures + wrong, rounds + 1
                print(f"{made:,} requests, {failures} failures, {megabytes(pid):.0f} MB", flush=True)
                if wrong: print(told[-6000:], flush=True)
    verdict("requests made", made, at_least=asked.requests, kind="count")
    verdict("failures", failures, at_most=0, kind="count")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
