"""Large logs: frames, Arrow and files in pieces give one data set, in less than twice its memory.

Baselines are fitted once, and a model's own numbers are safe before they are.
"""

import gc
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_matrix

from recbench.core import sizes as sizes_room
from recbench.data.published.planted import planted
from recbench.data.sets import files as files_room
from recbench.data.sets.infer import infer_schema
from recbench.data.sets.own import dataset_from_frames, load_folder
from recbench.data.sets.splits import Split, known_pairs
from recbench.evaluate import baselines as baselines_room
from recbench.evaluate import retrieval as retrieval_room
from recbench.evaluate.baselines import ItemKNN, Popularity, fit_baselines, with_refits
from recbench.evaluate.retrieval import evaluate, evaluate_retrieval
from recbench.explore.footprint import dataset_bytes
from recbench.models.usual import usual_model
from recbench.train.trainer import Trainer


def _log(rows: int, text: bool) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, rows // 20, rows), rng.integers(0, rows // 100, rows)
    log = pd.DataFrame({"user_id": users - 7, "item_id": items * 10**6, "timestamp": np.arange(rows)})
    return log.astype({"user_id": str, "item_id": str}) if text else log


def _tensors(data) -> dict[str, torch.Tensor]:
    found = {}
    for split in ("train", "valid", "test"):
        table = data.split(split)
        found |= {f"{split} {name}": column for name, column in table.columns.items()}
        for name, lists in table.jagged.items():
            found[f"{split} {name}"] = lists.packed().values
            found[f"{split} {name} lengths"] = lists.lengths
    return found


def _same(first, second) -> None:
    one, two = _tensors(first), _tensors(second)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert first.account == second.account and first.schema == second.schema
    for frame in ("user_frame", "item_frame"):
        pd.testing.assert_frame_equal(getattr(first, frame), getattr(second, frame))
    for table, vocabulary in first.vocabularies.items():
        assert vocabulary.tokens.tolist() == second.vocabularies[table].tokens.tolist()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind", ["global-time", "leave-last"])
def test_frames_tables_streams_and_files_give_one_data_set(tmp_path, text, kind):
    log = _log(3000, text)
    log.to_parquet(tmp_path / "all.parquet", row_group_size=700)
    for place, part in enumerate(np.array_split(np.arange(len(log)), 3)):
        log.iloc[part].to_parquet(tmp_path / f"{place}.parquet")
    log.to_csv(tmp_path / "all.csv", index=False)
    (tmp_path / "parts").mkdir()
    for place in range(3): shutil.copy(tmp_path / f"{place}.parquet", tmp_path / "parts")
    table = pa.Table.from_pandas(log, preserve_index=False)
    (tmp_path / "mapped").mkdir()
    for name, opens in (("mapped/one.feather", pa.ipc.new_file), ("one.arrow", pa.ipc.new_stream)):
        with opens(tmp_path / name, table.schema) as out: out.write_table(table, max_chunksize=700)
    forms = [
        table, pa.RecordBatchReader.from_batches(table.schema, table.to_batches(500)),
        tmp_path / "all.parquet", str(tmp_path / "all.csv"),
        [tmp_path / f"{place}.parquet" for place in range(3)], tmp_path / "parts",
        tmp_path / "one.arrow", tmp_path / "mapped",
    ]
    read = dict(split=Split(kind=kind), text=["user_id", "item_id"] if text else [], verbose=False)
    expected = dataset_from_frames(log, **read)
    assert expected.train.jagged["history"].values.dtype == torch.int32
    assert expected.user_frame["user_id"].dtype == ("str" if text else "int64")
    for form in forms: _same(dataset_from_frames(form, **read), expected)
    given = {"train": log[:2500], "valid": log[2500:2600], "test": log[2600:]}
    paths = {part: tmp_path / f"{part}.parquet" for part in given}
    for part, frame in given.items(): frame.to_parquet(paths[part])
    read.pop("split")
    _same(dataset_from_frames(paths, **read), dataset_from_frames(given, **read))


def test_a_folder_is_read_whole_and_broken_arrow_files_are_named(tmp_path):
    log, ends = _log(900, False), []
    table = pa.Table.from_pandas(log, preserve_index=False)
    table[:300].to_pandas().to_parquet(tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "b.FEATHER", table.schema) as out: out.write_table(table[300:600])
    with (tmp_path / "c.arrow").open("wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        for start in range(600, 900, 100):
            out.write_table(table[start:start + 100])
            ends.append(file.tell())
    read = dict(split=Split(kind="global-time"), verbose=False)
    _same(dataset_from_frames(tmp_path, **read), dataset_from_frames(log, **read))
    home = tmp_path / "home"
    shutil.copytree(tmp_path, home / "parts")
    schema = infer_schema(log, split=Split(kind="global-time"), files={"events": "parts"})
    (home / "schema.yaml").write_text(str(schema))
    _same(load_folder(home, verbose=False), dataset_from_frames(log, **read))
    whole = (tmp_path / "c.arrow").read_bytes()
    twice = pa.table([[1], [2]], names=["n", "n"])
    with pa.ipc.new_file(tmp_path / "twice.arrow", twice.schema) as out: out.write_table(twice)
    for content, fault in ((whole[:ends[1]], "cut off: the end of the Arrow stream is missing"),
                           ((tmp_path / "a.parquet").read_bytes(), "is not an Arrow file"),
                           ((tmp_path / "twice.arrow").read_bytes(), "has columns .'n'. twice")):
        (tmp_path / "one.arrow").write_bytes(content)
        with pytest.raises(ValueError, match=f"^one.arrow .*{fault}"):
            dataset_from_frames(tmp_path / "one.arrow", **read)


@pytest.mark.parametrize("text", [False, True])
def test_loading_keeps_less_than_twice_what_is_encoded(text):
    log = _log(60_000, text)
    dataset_from_frames(log[:3000], verbose=False)      # what is imported and kept once
    tracemalloc.start()
    try: data, peak = dataset_from_frames(log, verbose=False), tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    encoded = dataset_bytes(data)
    assert encoded > 60_000 * 60 and peak < 1.42 * encoded, f"{peak / encoded:.2f} x {encoded:,} B"


def test_files_are_read_a_column_at_a_time(tmp_path, monkeypatch):
    "Of thirty columns three are needed, and the room of eight is never taken."
    rng, rows, held = np.random.default_rng(0), 100_000, []
    wide = _log(rows, False).assign(**{f"other {place}": rng.random(rows) for place in range(27)})
    wide.to_parquet(tmp_path / "wide.parquet", row_group_size=20_000)
    schema = infer_schema(wide[["user_id", "item_id", "timestamp"]][:5000])
    expected, read = dataset_from_frames(wide, schema=schema, verbose=False), files_room._parquet_column
    def counted(path, name):
        column = read(path, name)
        held.append(pa.total_allocated_bytes() - before)
        return column
    monkeypatch.setattr(files_room, "_parquet_column", counted)
    before = pa.total_allocated_bytes()
    data = dataset_from_frames(tmp_path / "wide.parquet", schema=schema, verbose=False)
    assert len(held) > 30 and 8 * rows < max(held) < 8 * 8 * rows, max(held) / rows
    _same(data, expected)


def test_pairs_are_known_from_any_earlier_row():
    rng = np.random.default_rng(1)
    frames = [
        pd.DataFrame({"user_id": rng.integers(0, 30, n), "item_id": rng.integers(0, 30, n)})
        for n in (200, 500)
    ]
    sets = [list(zip(frame["user_id"], frame["item_id"])) for frame in frames]
    found = known_pairs(*frames)
    assert found.tolist() == [pair in set(sets[1]) for pair in sets[0]] and 0 < found.sum() < 200
    assert known_pairs(frames[0][:0], frames[1]).tolist() == []
    assert not known_pairs(frames[0], frames[1][:0]).any()


def test_baselines_are_fitted_once_and_found_by_their_rows(tmp_path, monkeypatch):
    data, calls = planted(users=120, items=80, clicks=15), []
    first = with_refits(fit_baselines(data, folder=tmp_path), data, tmp_path)
    files = sorted(one.name for one in tmp_path.iterdir())
    assert len(files) == 2 and all(name.endswith(".safetensors") for name in files)
    for name in ("_fitted", "refit_baselines"):
        monkeypatch.setattr(baselines_room, name, lambda *args, name=name: calls.append(name) or {})
    again = planted(users=120, items=80, clicks=15)           # another process would make its own
    second = with_refits(fit_baselines(again, folder=tmp_path), again, tmp_path)
    assert not calls and [*second] == [*first] and "EASE refit" in second
    for name, model in first.items():
        assert repr(second[name]) == repr(model) and second[name].fitted_on == model.fitted_on
        one, two = (evaluate(each, data, [10], name=name).values for each in (model, second[name]))
        pd.testing.assert_frame_equal(one, two)
    fit_baselines(planted(users=120, items=80, clicks=16), folder=tmp_path)
    fit_baselines(again, ials=True, folder=tmp_path)
    assert calls == ["_fitted", "_fitted"]


def test_neighbours_among_a_million_items_take_the_memory_of_their_pairs():
    rng = np.random.default_rng(0)
    users, items = np.arange(300_000) // 3, rng.integers(0, 10**6, 300_000)
    ones = csr_matrix((np.ones(300_000, np.float32), (users, items)), (100_000, 10**6))
    pairs = baselines_room.item_pairs(np.diff(ones.indptr), 10**6)
    sizes = [baselines_room.knn_bytes(10**6, (10, 20, 50, 100), 3, one) for one in (None, pairs)]
    assert pairs < 10**6 and sizes[0] > 9e9 and sizes[1] < 3e8
    neighbours = ItemKNN(50, 10.0).fit(ones).weights.tocsc()
    for item in items[:20]:
        others = ones[ones[:, [item]].nonzero()[0]].nonzero()[1]
        assert set(neighbours[:, [item]].nonzero()[0]) == {*others} - {item}


def test_a_baseline_without_room_is_left_out_and_said(tmp_path, monkeypatch):
    data, room = planted(users=120, items=80, clicks=15), baselines_room.available_bytes
    fit_baselines(data, folder=tmp_path)
    for place in (sizes_room, baselines_room):
        monkeypatch.setattr(place, "available_bytes", lambda: 200_000)
    other = planted(users=120, items=80, clicks=15)
    with pytest.warns(UserWarning) as told: found = fit_baselines(other, folder=tmp_path)
    assert [*found] == ["popularity", "Markov", "iALS"]
    assert [str(one.message).split(" needs ")[0] for one in told] == [
        "ItemKNN left out: ItemKNN of 80 items", "EASE left out, iALS in its place: EASE of 80 items"]
    with pytest.warns(UserWarning, match="ItemKNN and EASE left out"):
        again = fit_baselines(planted(users=120, items=80, clicks=15), folder=tmp_path)
    assert [*again] == [*found]
    for place in (sizes_room, baselines_room): monkeypatch.setattr(place, "available_bytes", room)
    assert "ItemKNN" in fit_baselines(planted(users=120, items=80, clicks=15), folder=tmp_path)


def test_a_models_own_values_are_kept_before_a_baseline_starts(monkeypatch):
    data, order = planted(users=120, items=80, clicks=15), []
    def fail(*args, **options):
        order.append("baselines")
        raise MemoryError("no room")
    monkeypatch.setattr(retrieval_room, "fit_baselines", fail)
    model = Popularity().fit(data.interactions("train"))
    keep = lambda mine: order.append(mine.mean()["recall@10"])
    with pytest.warns(UserWarning, match="no room"):
        table = evaluate_retrieval(model, data, [10], keep=keep)
    assert order[1] == "baselines" and order[0] == table["Popularity", "value"].iloc[0] > 0


def test_lists_of_many_users_are_held_in_one_piece(monkeypatch):
    "A part a block of users would lie between freed blocks of scores, and the heap would grow by both."
    from recbench.evaluate.recommendations import recommend
    data, held = planted(users=120, items=80, clicks=15), []
    score = Popularity.score
    def counted(self, history):
        gc.collect()
        held.append(sum(type(one) is torch.Tensor for one in gc.get_objects()))
        return score(self, history)
    monkeypatch.setattr(Popularity, "score", counted)
    monkeypatch.setattr(retrieval_room, "_BLOCK", 10 * 80)
    model = Popularity().fit(data.interactions("train"))
    gc.freeze()                    # what there was before is neither searched nor counted
    try: lists = recommend(model, data, 5)
    finally: gc.unfreeze()
    assert len(held) == 12 and lists.items.shape == (120, 5)
    assert max(held[2:]) == held[1], f"tensors held before each block of users: {held}"


def test_a_step_that_does_not_fit_is_refused_by_name_before_it_starts(monkeypatch):
    from recbench.core import sizes
    from recbench.evaluate.recommendations import recommend
    from recbench.train import memory
    data = planted(users=120, items=80, clicks=15)
    model = Popularity().fit(data.interactions("train"))
    sasrec = usual_model("SASRec", data)
    Trainer(sasrec, data, epochs=1, progress=False)        # there is room
    for room in (sizes, memory): monkeypatch.setattr(room, "available_bytes", lambda: 40_000_000)
    scores = []
    monkeypatch.setattr(Popularity, "score", lambda self, history: scores.append(len(history)))
    with pytest.raises(MemoryError, match=r"evaluation of Popularity needs 50\.\d MB, and 40\.0 MB"):
        evaluate(model, data)
    with pytest.raises(MemoryError, match=r"lists of 5 for 120 users by Popularity needs 11\d MB"):
        recommend(model, data, 5)
    with pytest.raises(MemoryError, match=r"SASRec: training batch needs [\d.]+ GB, and 40\.0 MB"):
        Trainer(usual_model("SASRec", data), data, batch_size=4096, progress=False)
    assert not scores
