"""How often 95 % intervals hold the truth, for one model and for the difference of two: `python
benchmarks/interval_coverage.py [studies]`.

Each line draws so many studies of 20, 50, 200 and 1,000 users from a law whose mean is known. Where
hits are so rare that few different outcomes occur, no interval can come near 95 %: it is then wide
enough to hold the truth more often. Such lines are marked with `few`: under 5 users are expected to
tell.
"""

import sys

import numpy as np

from recbench.evaluate import bootstrap_interval, paired_interval

USERS, GAIN, RECIPROCAL = (20, 50, 200, 1000), 1 / np.log2(1 + np.arange(1, 11)), 1 / np.arange(1, 11)


def hits(
    rng: np.random.Generator, shape: tuple[int, int], rate: float, gain: np.ndarray = np.ones(1)
) -> np.ndarray:
    "Users who find their item with a probability, and what its place pays."
    return np.where(rng.random(shape) < rate, rng.choice(gain, shape), 0.0)


def pair(
    rng: np.random.Generator,
    shape: tuple[int, int],
    up: float,
    down: float,
    both: float,
    gain: np.ndarray = np.ones(1),
) -> tuple[np.ndarray, np.ndarray]:
    "Two models on the same users: so often only the first finds the item, only the second, both."
    u = rng.random(shape)
    first, second = u < both + up, (u < both) | ((u >= both + up) & (u < both + up + down))
    return first * rng.choice(gain, shape), second * rng.choice(gain, shape)


ONE = {  # name -> (draw, true mean, share of users who tell)
    **{
        f"hit rate {p}": (lambda rng, shape, p=p: hits(rng, shape, p), p, min(p, 1 - p))
        for p in (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
    },
    **{
        f"NDCG, {p} hit": (lambda rng, shape, p=p: hits(rng, shape, p, GAIN), p * GAIN.mean(), p)
        for p in (0.05, 0.1, 0.3, 0.8)
    },
    **{
        f"MRR, {p} hit": (
            lambda rng, shape, p=p: hits(rng, shape, p, RECIPROCAL),
            p * RECIPROCAL.mean(),
            p / 2,
        )
        for p in (0.1, 0.5)
    },
    "recall of 3 items": (lambda rng, shape: rng.binomial(3, 0.2, shape) / 3, 0.2, 0.5),
    "beta": (lambda rng, shape: rng.beta(0.6, 1.2, shape), 1 / 3, 1.0),
    "normal": (lambda rng, shape: rng.normal(8, 1, shape), 8.0, 1.0),
}
TWO = {
    **{
        f"hit rates, {up} / {down} apart": (
            lambda rng, shape, up=up, down=down: pair(rng, shape, up, down, 0.07),
            up - down,
            up + down,
        )
        for up, down in ((0.05, 0.03), (0.02, 0.02), (0.1, 0.1), (0.2, 0.1), (0.3, 0.3), (0.1, 0.0))
    },
    **{
        f"NDCG, {up} / {down} apart": (
            lambda rng, shape, up=up, down=down, both=both: pair(rng, shape, up, down, both, GAIN),
            (up - down) * GAIN.mean(),
            up + down + both,
        )
        for up, down, both in ((0.05, 0.03, 0.07), (0.02, 0.02, 0), (0.1, 0.05, 0.3))
    },
    "recall of 3 items": (
        lambda rng, shape: (rng.binomial(3, 0.25, shape) / 3, rng.binomial(3, 0.2, shape) / 3),
        0.05,
        0.6,
    ),
    "normal": (lambda rng, shape: (rng.normal(1, 0.3, shape), np.zeros(shape)), 1.0, 1.0),
}


def coverage(draw, truth: float, users: int, studies: int, seed: int = 0, draws: int = 1000) -> float:
    "Share of studies, a column each, whose interval holds the true mean."
    drawn = draw(np.random.default_rng(seed), (users, studies))
    _, low, high = (
        paired_interval(*drawn, draws=draws)
        if isinstance(drawn, tuple)
        else bootstrap_interval(drawn, draws=draws)
    )
    return float(((low <= truth) & (truth <= high)).mean())


def main(studies: int) -> None:
    for title, laws in (("one model", ONE), ("difference of two", TWO)):
        print(f"{title:28s}" + "".join(f"{users:>14,} users" for users in USERS))
        for name, (draw, truth, share) in laws.items():
            held = [coverage(draw, truth, users, studies) for users in USERS]
            marks = [
                "few" if share * users < 5 else "" if 0.93 <= part <= 0.97 else "OUT"
                for part, users in zip(held, USERS)
            ]
            print(
                f"{name:28s}" + "".join(f"{part:14.1%} {mark:5s}" for part, mark in zip(held, marks)),
                flush=True,
            )


if __name__ == "__main__": main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
