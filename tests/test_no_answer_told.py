"""No split tells the answer: names of items do not matter, and against random targets no model is above
chance.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from recbench.data import Split, dataset_from_frames
from recbench.data.rows.order import event_order, tie_keys
from recbench.data.sets.splits import leave_last
from recbench.evaluate import evaluate
from recbench.evaluate.baselines import EASE, ItemKNN, Markov, Popularity
from recbench.models import create_model
from recbench.models.match_configs import match_config
from recbench.train import Trainer

USERS, ITEMS, PER_USER, K = 240, 90, 14, 10
TIE_KEYS = (
    [8409675770330563745, 16640060648932190870, 13466038323336947785],
    [8901430298984361409, 14075627978769388097],
)
KINDS = (
    "global-time",
    "user-time",
    "leave-last",
    "random",
    "given",
    "given at random",
    "given without time",
)


def planted_events(seed: int = 0) -> pd.DataFrame:
    "Users of three tastes, items of three kinds, popular ones more often, every time once."
    rng = np.random.default_rng(seed)
    popularity, rows = 1 / np.arange(1, ITEMS + 1) ** 0.5, []
    for user in range(USERS):
        weight = popularity * np.where(np.arange(ITEMS) % 3 == user % 3, 6, 1)
        rows += [
            (user, item) for item in rng.choice(ITEMS, PER_USER, replace=False, p=weight / weight.sum())
        ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return events.assign(timestamp=rng.permutation(len(events)))


def divided(kind: str, events: pd.DataFrame) -> dict[str, pd.DataFrame]:
    "Train, valid and test."
    names = ("train", "valid", "test")
    if not kind.startswith("given"): return dict(zip(names, Split(kind=kind)(events)))
    parts = dict(zip(names, Split(kind="user-time" if kind == "given" else "random", seed=3)(events)))
    return (
        {name: part.drop(columns="timestamp") for name, part in parts.items()}
        if kind == "given without time"
        else parts
    )


def dataset(parts: dict[str, pd.DataFrame], **how):
    return dataset_from_frames(
        parts, items=pd.DataFrame({"item_id": range(ITEMS)}), verbose=False, **how
    )


def histories(data, split: str) -> list[list[int]]:
    "Item ids of each row's history."
    tokens = [None, *map(int, data.vocabularies["item_id_emb"].tokens)]
    return [[tokens[item] for item in row] for row in data.split(split).jagged["history"].to_lists()]


def baselines(data) -> dict[str, object]:
    train = data.interactions("train")
    found = {
        "popularity": Popularity().fit(train),
        "ItemKNN": ItemKNN(ITEMS).fit(train),
        "EASE": EASE(50.0).fit(train),
    }
    return found | ({"Markov": Markov().fit(data)} if data.timed else {})


def trained(data, seed: int = 0):
    torch.manual_seed(seed)
    model = create_model(
        match_config("DSSM", data, hidden_units=[16], output_dim=16), data.features(), ["label"]
    )
    Trainer(model, data, batch_size=256, epochs=4, progress=False, seed=seed).fit()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_names_do_not_move_numbers(kind):
    """Times are all different here, so histories and baselines agree to the last item.

    Only what is drawn at random is drawn again.
    """
    events = planted_events()
    name = np.random.default_rng(1).permutation(ITEMS)
    plain = divided(kind, events)
    renamed = {part: rows.assign(item_id=name[rows["item_id"]]) for part, rows in plain.items()}
    first, second = dataset(plain), dataset(renamed)
    for split in ("train", "valid", "test"):
        ours, theirs = (
            (
                [sorted(row, key=str) for row in histories(data, split)]
                if not first.timed
                else histories(data, split)
            )
            for data in (first, second)
        )
        assert [sorted(name[[item for item in row if item is not None]]) for row in ours] == [
            sorted(item for item in row if item is not None) for row in theirs
        ]
    for label, model in baselines(first).items():
        other = evaluate(baselines(second)[label], second, [K]).mean()
        assert evaluate(model, first, [K]).mean()["recall@10"] == pytest.approx(
            other["recall@10"], abs=1e-5
        ), label
    assert "no time" in first.protocol or kind != "given without time"


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_finds_random_targets(kind):
    """The held-out items are replaced by items drawn evenly from what the user does not have.

    Whoever finds them more often than by chance was told.
    """
    rng, parts = np.random.default_rng(5), divided(kind, planted_events())
    had = pd.concat(parts.values()).groupby("user_id")["item_id"].agg(set)
    for name in ("valid", "test"):
        free = [rng.choice(sorted(set(range(ITEMS)) - had[user])) for user in parts[name]["user_id"]]
        parts[name] = parts[name].assign(item_id=free).drop_duplicates(["user_id", "item_id"])
    parts["test"] = parts["test"][
        ~pd.MultiIndex.from_frame(parts["test"][["user_id", "item_id"]]).isin(
            pd.MultiIndex.from_frame(parts["valid"][["user_id", "item_id"]])
        )
    ]
    data = dataset(parts)
    free = ITEMS - data.seen("test").lengths.double()
    chance = (K / free).mean().item()
    spread = (chance * (1 - chance) / len(data.test.columns["user_index"].unique())) ** 0.5
    for label, model in (baselines(data) | {"DSSM": trained(data)}).items():
        found = evaluate(model, data, [K]).mean()["recall@10"]
        assert (
            found < chance + 4 * spread
        ), f"{label} finds {found:.3f}, chance is {chance:.3f} ± {spread:.3f}"


@pytest.mark.parametrize("kind", KINDS)
def test_histories_hold_nothing_that_is_held_out(kind):
    """One list a user, of rows that train (and validate, where the test comes after them), so that no
    NDCG exceeds 1.
    """
    parts = divided(kind, planted_events())
    data = dataset(parts, max_history=100)
    trained_items = parts["train"]["item_id"].unique()
    in_time = kind not in ("random", "given at random", "given without time")
    for split, earlier in (
        ("valid", ["train"]),
        ("test", ["train", "valid"] if in_time else ["train"]),
    ):
        own = pd.concat([parts[name] for name in earlier]).groupby("user_id")["item_id"].agg(set)
        known = [own.get(user, set()) & set(trained_items) for user in parts[split]["user_id"]]
        assert [set(row) - {None} for row in histories(data, split)] == known
    for model in baselines(data).values():
        assert evaluate(model, data, [K]).values["ndcg@10"].max() <= 1 + 1e-6
    if kind == "given without time":
        own = parts["train"].groupby("user_id")["item_id"].agg(set)
        assert [set(row) for row in histories(data, "train")] == [
            own[row.user_id] - {row.item_id} for row in parts["train"].itertuples()
        ]


def test_models_of_an_order_refuse_data_without_one():
    data = dataset(divided("given without time", planted_events()))
    for name in ("SASRec", "HSTUMatch"):
        with pytest.raises(ValueError, match="no times"): trained_in_order(name, data)
    with pytest.raises(ValueError, match="no times"): Markov().fit(data)


def trained_in_order(name: str, data):
    return Trainer(
        create_model(match_config(name, data), data.features(), ["label"]),
        data,
        epochs=1,
        progress=False,
    )


def test_ties_say_nothing_about_the_item():
    """All events of a user carry one second.

    By item id the last one is known in advance, in the neutral order nothing is.
    """
    events = planted_events().assign(timestamp=7)
    by_id, neutral = (leave_last(events, **how)[2] for how in (dict(ties="item_id"), {}))
    assert (by_id.set_index("user_id")["item_id"] == events.groupby("user_id")["item_id"].max()).all()
    place = events.assign(rank=events.groupby("user_id")["item_id"].rank()).loc[
        neutral.index, "rank"
    ]  # 1..14, mean 7.5
    assert abs(place.mean() - (PER_USER + 1) / 2) < 4 * (PER_USER**2 - 1) ** 0.5 / (12 * USERS) ** 0.5
    mixed = events.sample(frac=1, random_state=0)
    assert sorted(leave_last(mixed)[2].index) == sorted(neutral.index)
    names = np.random.default_rng(2).permutation(ITEMS)
    agree = (
        leave_last(events.assign(item_id=names[events["item_id"]]))[2].index == neutral.index
    ).mean()
    assert agree < 3 / PER_USER  # other names, another order, no nearer to this one than chance


def test_the_tie_order_is_fixed():
    "A hash of ids alone: these numbers stay, on every machine and in every version."
    keys = tie_keys([1, 1, 2], [10, 20, 10])
    assert (
        keys.tolist() == TIE_KEYS[0]
        and tie_keys(["a", "b"], ["x", "é"], seed=3).tolist() == TIE_KEYS[1]
    )
    assert event_order([0, 0, 0], [1, 1, 0], np.array([5, 3, 9], np.uint64)).tolist() == [2, 1, 0]
