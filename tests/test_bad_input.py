"""Three hundred damaged copies of a small shop: each loads with every row accounted for, or is refused
with the file or column named.

Mutations change columns, types, values, encodings and bytes, one or two at a time; hypothesis draws
them, the same ones every run.
"""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no mutated inputs")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SCHEMA = """
files: {events: events.parquet, users: users.csv, items: items.parquet}
user_key: user_id
item_key: film
timestamp: time
label: rating
min_label: 3
sample_weight: weight
features:
- {kind: id, name: user_id, side: user}
- {kind: raw, name: age, side: user, boundaries: [25, 40]}
- {kind: id, name: city, side: user}
- {kind: id, name: shop, side: user, num_buckets: 5}
- {kind: sequence, name: searches, side: user, max_length: 4}
- {kind: id, name: film, side: item}
- {kind: id, name: genres, side: item, value_dim: 0, pooling: mean}
- {kind: raw, name: vector, side: item, value_dim: 3}
"""
FILES = {
    "events.parquet": ["user_id", "film", "time", "rating", "weight", "shop", "searches"],
    "users.csv": ["user_id", "age", "city"],
    "items.parquet": ["film", "genres", "vector"],
}
NAMED = (
    r"(?<!\w)("
    + "|".join(
        map(
            re.escape,
            [*FILES, "schema.yaml", *{column for columns in FILES.values() for column in columns}],
        )
    )
    + r")(?!\w)"
)


def shop() -> dict[str, pd.DataFrame]:
    "The tables before anything happens to them."
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {
            "user_id": rng.integers(0, 20, 300),
            "film": rng.integers(0, 25, 300),
            "time": np.arange(300),
            "rating": rng.integers(1, 6, 300),
            "weight": rng.random(300),
            "shop": rng.integers(0, 5, 300),
            "searches": [rng.choice(["love", "war"], n).tolist() for n in rng.integers(0, 4, 300)],
        }
    )
    users = pd.DataFrame(
        {
            "user_id": range(20),
            "age": rng.integers(18, 70, 20),
            "city": rng.choice(["Åbo", "Köln", "Nîmes"], 20),
        }
    )
    items = pd.DataFrame(
        {
            "film": range(25),
            "genres": [["sf"], [], ["crime", "old"], ["sf", "old"], []] * 5,
            "vector": rng.random((25, 3)).tolist(),
        }
    )
    return {"events.parquet": events, "users.csv": users, "items.parquet": items}


PARTS = [(name, column) for name, columns in FILES.items() for column in columns]
VALUES = [
    None,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    3,
    2.5,
    10**12,
    2**63 - 1,
    "",
    "text",
    "NA",
    "Ünï",
    "1",
    True,
    [],
    ["love"] * 9,
    [1.0, 2.0],
    [[1]],
    b"\xff\xfe",
    pd.Timestamp("2024-01-01"),
]


def put(frame: pd.DataFrame, column: str, rows: list[int], value) -> pd.DataFrame:
    "The value in some rows, the others as they were."
    cells = frame[column].astype(object).tolist()
    for row in rows if cells else (): cells[row % len(cells)] = value
    return frame.assign(**{column: pd.Series(cells, dtype=object)})


@st.composite
def of_values(draw):
    "Another value in some rows, or in all of them."
    name, column = draw(st.sampled_from(PARTS))
    value, everywhere = draw(st.sampled_from(VALUES)), draw(st.booleans())
    rows = (
        list(range(300)) if everywhere else draw(st.lists(st.integers(0, 299), min_size=1, max_size=4))
    )
    return (
        name,
        f"{column}: {value!r} in {'all' if everywhere else len(rows)} rows",
        lambda frame: put(frame, column, rows, value),
    )


@st.composite
def of_types(draw):
    "The column in another type."
    name, column = draw(st.sampled_from(PARTS))
    kind = draw(
        st.sampled_from(
            [
                "str",
                "float64",
                "float32",
                "int8",
                "uint64",
                "bool",
                "category",
                "datetime64[ns]",
                "object",
            ]
        )
    )
    return (
        name,
        f"{column} as {kind}",
        lambda frame: frame.assign(**{column: frame[column].astype(kind)}),
    )


@st.composite
def of_columns(draw):
    "A column gone, renamed, doubled or added; rows doubled, gone, or in another order."
    name, column = draw(st.sampled_from(PARTS))
    what = draw(
        st.sampled_from(
            [
                "drop",
                "misspell",
                "capital",
                "move",
                "add",
                "double rows",
                "no rows",
                "few rows",
                "shuffle",
            ]
        )
    )
    changes = {
        "drop": lambda f: f.drop(columns=column),
        "misspell": lambda f: f.rename(columns={column: column[:-1] + "x"}),
        "capital": lambda f: f.rename(columns=str.upper),
        "move": lambda f: f[[column, *f.columns.drop(column)]],
        "add": lambda f: f.assign(extra=range(len(f))),
        "double rows": lambda f: pd.concat([f, f.head(3)], ignore_index=True),
        "no rows": lambda f: f.head(0),
        "few rows": lambda f: f.head(4),
        "shuffle": lambda f: f.sample(frac=1, random_state=0),
    }
    return name, f"{what} {column}", changes[what]


@st.composite
def of_bytes(draw):
    "The file cut off, other bytes in the middle, another encoding, or the bytes of another format."
    name = draw(st.sampled_from([*FILES, "schema.yaml"]))
    place, what = draw(st.floats(0, 1, exclude_max=True)), draw(
        st.sampled_from(["cut", "flip", "insert", "latin-1", "utf-16", "empty", "text"])
    )
    changes = {
        "cut": lambda b, i: b[:i],
        "flip": lambda b, i: b[:i] + bytes([b[i] ^ 255]) + b[i + 1 :],
        "insert": lambda b, i: b[:i] + b",\n\xe9\"" + b[i:],
        "empty": lambda b, i: b"",
        "latin-1": lambda b, i: b.decode("utf-8", "replace").encode("latin-1", "replace"),
        "utf-16": lambda b, i: b.decode("utf-8", "replace").encode("utf-16"),
        "text": lambda b, i: b"not a table",
    }
    return (
        name,
        f"{what} at {place:.3f}",
        lambda content: changes[what](content, int(place * len(content))),
    )


def write(folder: Path, mutations: list) -> None:
    "The shop with frame mutations applied before, byte mutations after writing."
    frames = shop()
    for name, _, change, _ in (one for one in mutations if one[3] == "frame"):
        frames[name] = change(frames[name])
    frames["users.csv"].to_csv(folder / "users.csv", index=False)
    for name in ("events.parquet", "items.parquet"):
        frames[name].to_parquet(folder / name, row_group_size=100)
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    for name, _, change, kind in mutations:
        if kind == "bytes": (folder / name).write_bytes(change((folder / name).read_bytes()))


frame_mutation = st.one_of(of_values(), of_values(), of_types(), of_columns()).map(
    lambda one: (*one, "frame")
)
byte_mutation = of_bytes().map(lambda one: (*one, "bytes"))
COUNT = {"refused": 0, "loaded": 0, "not written": 0}


def rows_of(path: Path) -> int:
    "Rows of the events as Arrow counts them."
    return pq.read_metadata(path).num_rows


@settings(
    max_examples=400,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    mutations=st.lists(st.one_of(frame_mutation, frame_mutation, byte_mutation), min_size=1, max_size=2)
)
def check(folder: Path, mutations: list) -> None:
    from recbench.data import load_dataset

    try:
        write(folder, mutations)
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        KeyError,
        OverflowError,
    ):  # pandas and Arrow refuse to write such a table at all
        COUNT["not written"] += 1
        return
    what = "; ".join(f"{name}: {text}" for name, text, *_ in mutations)
    try:
        dataset = load_dataset(folder, verbose=False)
    except ValueError as error:
        COUNT["refused"] += 1
        assert re.search(NAMED, str(error)), f"{what}: {error}"
        return
    COUNT["loaded"] += 1
    account = dict(dataset.account)
    assert account.pop("read") == sum(account.values()) == rows_of(folder / "events.parquet"), what
    assert [len(dataset.split(split)) for split in ("train", "valid", "test")] == [
        account[split] for split in ("train", "valid", "test")
    ], what
    assert len(dataset.items) == pq.read_metadata(folder / "items.parquet").num_rows and len(
        dataset.users
    ) == len(
        pyarrow.csv.read_csv(
            folder / "users.csv", parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    ), what


def test_mutated_inputs(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    check(folder)
    print(COUNT)
    assert COUNT["refused"] > 100 and COUNT["loaded"] > 20


def test_the_shop_itself_loads(tmp_path):
    from recbench.data import load_dataset
    write(tmp_path, [])
    dataset = load_dataset(tmp_path, verbose=False)
    assert dataset.account["read"] == 300 and len(dataset.users) == 20 and len(dataset.items) == 25
