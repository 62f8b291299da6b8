"""How long `import recbench` takes, and whether it leaves torch and its kin alone until they are used.

    python benchmarks/import_time.py [--rounds 7]

Each round is a process of its own; the clock starts when Python is up. Wall time, median.
Target: under 0.3 s, with torch and torchrec not loaded.
"""
import argparse
import json
import subprocess
import sys
from statistics import median

from _timing import verdict

HEAVY = ("torch", "torchrec", "fbgemm_gpu", "torchmetrics", "pandas", "matplotlib")
PROGRAM = f"""
import json, sys, time
start = time.perf_counter()
import recbench
print(json.dumps([time.perf_counter() - start, [name for name in {HEAVY} if name in sys.modules]]))
"""


def measure() -> tuple[float, list[str]]:
    "Seconds in a fresh process, and the heavy packages it then holds."
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    seconds, loaded = zip(*[measure() for _ in range(parser.parse_args().rounds + 1)])
    print(f"loaded with it: {', '.join(loaded[0]) or 'none of ' + ', '.join(HEAVY)}")
    verdict("heavy packages loaded", len(loaded[0]), at_most=0, kind="count")
    verdict("import recbench", median(seconds[1:]), at_most=0.3, kind="seconds")


if __name__ == "__main__":
    main()
