"""Three hundred frames of many shapes: each gives a first number that is no false one, or a refusal in
words of ours; a planted leak is found in all that have one.

Who takes what is chance in every frame, so whatever stands far above chance was told the answer.
"""

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: no drawn frames")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

KINDS = {
    "integer": lambda ids: ids,
    "text": lambda ids: "u" + ids.astype(str),
    "zeros": lambda ids: ids.astype(str).str.zfill(5),
    "nullable": lambda ids: ids.astype("Int64"),
    "whole floats": lambda ids: ids.astype(float),
    "Arrow text": lambda ids: ("u" + ids.astype(str)).astype(pd.ArrowDtype(pa.string())),
    "Arrow integer": lambda ids: ids.astype(pd.ArrowDtype(pa.int64())),
    "category": lambda ids: ("u" + ids.astype(str)).astype("category"),
}
TIMES = [
    "distinct",
    "distinct",
    "distinct",
    "tied",
    "tied",
    "dates",
    "dates",
    "none",
    "none",
    "missing",
]
SHAPES = ["plain", "one event a user", "repeats", "baskets", "ratings", "impressions"]
LEAKS = ["none", "none", "none", "copy", "function", "with errors", "finer", "of the users", "label"]
MORE = ["hour", "price", "genres", "searches", "gaps", "empty", "shop.city", "born", "title", "map"]
RAW = (
    "not supported between",
    "NoneType",
    "unhashable",
    "object is not",
    "cannot convert",
    "KeyError",
    "ArrowInvalid",
)


@st.composite
def cases(draw) -> dict:
    return {
        "seed": draw(st.integers(0, 10**6)),
        "rows": draw(st.integers(20, 400)),
        "users": draw(st.integers(2, 60)),
        "items": draw(st.integers(3, 40)),
        "user_kind": draw(st.sampled_from(sorted(KINDS))),
        "item_kind": draw(st.sampled_from(sorted(KINDS))),
        "time": draw(st.sampled_from(TIMES)),
        "shape": draw(st.sampled_from(SHAPES)),
        "leak": draw(st.sampled_from(LEAKS)),
        "more": draw(st.sets(st.sampled_from(MORE), max_size=4)),
        "split": draw(st.sampled_from([None, "leave-last", "user-time", "random"])),
        "as": draw(st.sampled_from(["pandas", "Arrow", "dicts"])),
    }


def make(case: dict) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    "Events, users, items; the split only where such events can have it."
    if case["time"] == "none" or case["shape"] == "one event a user":
        case["split"] = {"leave-last": None, "user-time": "random"}.get(case["split"], case["split"])
    rng, rows = np.random.default_rng(case["seed"]), (
        case["rows"] if case["leak"] in ("none", "copy", "function") else max(case["rows"], 250)
    )
    user = (
        np.arange(rows) if case["shape"] == "one event a user" else rng.integers(0, case["users"], rows)
    )
    events = pd.DataFrame(
        {"user_id": user, "item_id": rng.integers(0, case["items"], rows), "timestamp": np.arange(rows)}
    )
    if case["shape"] == "repeats":
        events = pd.concat(
            [events, events.tail(rows // 3).assign(timestamp=rows + np.arange(rows // 3))],
            ignore_index=True,
        )
    item, n = events.item_id.to_numpy(), len(events)
    if case["time"] == "tied" or case["shape"] == "baskets": events["timestamp"] //= 7
    if case["time"] == "dates": events["timestamp"] = pd.to_datetime(events.timestamp, unit="h")
    if case["time"] == "missing":
        events["timestamp"] = events.timestamp.astype("Int64").where(rng.random(n) > 0.02)
    if case["time"] == "none": events = events.drop(columns="timestamp")
    if case["shape"] == "ratings": events["rating"] = rng.integers(1, 6, n)
    if case["shape"] == "impressions": events["label"] = (rng.random(n) < .4).astype(int)
    more = {
        "hour": rng.integers(0, 24, n),
        "price": rng.lognormal(3, 1, n),
        "searches": [rng.choice(["a", "b"], k).tolist() for k in rng.integers(0, 3, n)],
        "empty": None,
        "shop.city": rng.choice(["Rome", "Oslo"], n),
        "born": 1.7e9 + rng.random(n),
    }
    events = events.assign(**{name: more[name] for name in case["more"] if name in more})
    about = {
        "gaps": np.where(rng.random(case["items"]) < 0.3, np.nan, rng.random(case["items"])),
        "genres": rng.choice(["Drama|War", "Drama", "|War"], case["items"]),
        "title": [f"film {i}" for i in range(case["items"])],
        "map": [{"a": 1}] * case["items"],
    }
    table = {name: about[name] for name in case["more"] if name in about}
    items = pd.DataFrame({"item_id": np.arange(case["items"]), **table}) if table else None
    kind = rng.integers(0, 7, case["items"])[item]
    leaks = {
        "copy": item + 1000,
        "function": kind,
        "with errors": np.where(rng.random(n) < 0.04, rng.integers(0, 7, n), kind),
        "finer": item * 3 + rng.integers(0, 3, n),
        "label": events["label"] * 2 + 1 if "label" in events else None,
    }
    if leaks.get(case["leak"]) is not None: events["told"] = leaks[case["leak"]]
    users = (
        pd.DataFrame({"user_id": np.unique(user)})
        if case["leak"] == "of the users" and case["split"] == "leave-last"
        else None
    )
    if users is not None: users["told"] = users.user_id.map(events.groupby("user_id").item_id.last())
    for frame in (events, users, items):
        for key in ("user", "item"):
            if frame is not None and f"{key}_id" in frame:
                frame[f"{key}_id"] = KINDS[case[f"{key}_kind"]](frame[f"{key}_id"])
    return events, users, items


def load(case: dict, events, users, items):
    "The data set, and all that was said of it."
    from recbench.data import Split, dataset_from_frames
    forms = {
        "pandas": lambda frame: frame,
        "Arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
        "dicts": lambda frame: frame.to_dict("records"),
    }
    given = {"split": Split(kind=case["split"])} if case["split"] else {}
    if case["shape"] == "impressions": given["rows"] = "all"
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(said):
        warnings.simplefilter("always")
        data = dataset_from_frames(
            forms[case["as"]](events),
            *(None if frame is None else forms[case["as"]](frame) for frame in (users, items)),
            **given,
        )
    return data, said.getvalue(), [str(one.message) for one in warned]


def recall(model, data) -> tuple[float, float]:
    """Recall@5, and what chance gives to who knows which items are masked, four standard errors
    included.
    """
    from recbench.evaluate import evaluate
    found = evaluate(model, data, [5])
    values = found.mean()
    assert ((values >= 0) & (values <= 1)).all(), values
    seen = np.mean([len(set(row)) for row in data.seen("test").to_lists()])
    chance = min(1.0, 5 / max(5, len(data.items) - seen))
    return float(values["recall@5"]), chance + 4 * (chance * (1 - chance) / len(data.test)) ** .5 + .12


def tiny(data):
    import torch

    from recbench.data.rows.features import with_embedding_dim
    from recbench.models import create_model
    from recbench.models.match_configs import match_config
    from recbench.train import Trainer
    torch.manual_seed(0)
    features = with_embedding_dim(data.features(), 8)
    model = create_model(
        match_config("DSSM", data, features, hidden_units=[8], output_dim=8), features, []
    )
    Trainer(model, data, epochs=3, batch_size=64, progress=False).fit()
    return model


FAULTS: list[str] = []
COUNT = {"numbers": 0, "refused": 0, "leaks": 0, "models": 0}


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(case=cases())
def check(case: dict) -> None:
    try: one(case)
    except Exception as error: FAULTS.append(f"{type(error).__name__} {error}: {case}")


def one(case: dict) -> None:
    "Counts the case, or raises what is wrong with it."
    from recbench.evaluate import Popularity

    events, users, items = make(case)
    try:
        data, said, warned = load(case, events, users, items)
    except ValueError as error:
        COUNT["refused"] += 1
        assert not any(raw in str(error) for raw in RAW) and len(str(error)) < 1000, f"{case}: {error}"
        assert case["time"] == "missing" or any(
            word in str(error) for word in ("split", "no user", "cuts are")
        ), f"{case}: {error}"
        return
    COUNT["numbers"] += 1
    assert np.isfinite(
        np.concatenate(
            [
                part.dense.numpy().ravel()
                for part in (data.train, data.test, data.items)
                if part.dense is not None
            ]
            or [[0]]
        )
    ).all()
    has_leak = "told" in events or users is not None and "told" in users
    few = (
        case["leak"] == "of the users"
        and max(len(data.items) ** -float(len(part)) for part in (data.valid, data.test)) > 1e-3
    )
    if has_leak and not few and not (case["leak"] == "function" and events.told.nunique() == 1):
        COUNT["leaks"] += 1
        left = "told" not in [feature.name for feature in data.features("user")] and "told" in said
        assert left or any(
            "told" in line and "tells the answer" in line for line in warned
        ), f"{case}\n{said}"
    if case["shape"] == "ratings":
        assert any("min_label" in line for line in warned)
    if case["shape"] == "impressions":
        return
    value, bound = recall(Popularity().fit(data.interactions("train")), data)
    assert value <= bound, f"{case}: recall {value} beyond {bound}"
    if case["seed"] % 6 or users is not None or len(data.test) < 20:
        return
    COUNT["models"] += 1
    value, bound = recall(tiny(data), data)
    assert value <= bound, f"{case}: a model finds {value} of noise, beyond {bound}\n{said}"


def test_frames_of_many_shapes():
    check()
    print(COUNT, len(FAULTS), "faults")
    assert not FAULTS, "\n".join(FAULTS[:20])
    assert COUNT["numbers"] > 150 and COUNT["leaks"] > 40 and COUNT["models"] > 3, COUNT
