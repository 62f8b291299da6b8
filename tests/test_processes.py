"Several processes against one: the same losses of every step, evaluation, decisions and checkpoints."

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from recbench.core.config import ModelConfig
from recbench.core.pipeline import GradClipping, GradScaler
from recbench.data import Batch, MatchLoader, Negatives
from recbench.data.feed.lagged_history_loader import equal_users
from recbench.data.feed.stream_loader import StreamLoader
from recbench.data.published.planted import planted, planted_clicks
from recbench.data.rows.features import IdFeature, RawFeature
from recbench.data.rows.ranks import all_columns, by_first, sum_over_ranks, world
from recbench.data.sets import stream as streams
from recbench.data.sets.stream import ParquetStream
from recbench.layers import sharded_tables
from recbench.layers.embedding_tables import EmbeddingTables, Lookup
from recbench.layers.sharded_tables import ShardedTables, TablesSharder
from recbench.models import create_model, match_config
from recbench.models.base import embedding_tables
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import CosineAnnealing, ExponentialAverage, LearningRate, Part, Run, Trainer
from recbench.train.launch import local_ranks
from recbench.train.processes import own_terms, row_sizes
from recbench.train.shard import quiet
from recbench.train.trainer import validate_all
from recbench.train.updates import Updates, loss_scaler


class Losses:
    "The loss of every step."

    def __init__(self): self.values = []

    def on_step(self, trainer, step, loss): self.values.append(float(loss))


def made(kind: str):
    "Data, model and settings of a kind, `<model>`, `<model>*<members>` or `<model>:<negatives>`."
    torch.manual_seed(0)
    name, _, negatives = kind.partition(":")
    if not negatives:
        data = planted_clicks(users=200, items=120, max_history=10)
        name, _, members = name.partition("*")
        features = rank_features(name, data.features(), 16, 0.1)
        config = rank_config(name, features, hidden_units=(32, 16), members=int(members or 1))
        return data, create_model(config, features, [data.schema.label]), {}
    data = planted(users=200, items=120, seed=0)
    config = match_config(name, data, hidden_units=(32,), output_dim=16, share_embedding=name != "DSSM",
                          in_batch_negative=negatives in ("in_batch", "mixed"))
    model = create_model(config, data.features(), [])
    for module in model.modules():
        if isinstance(module, nn.Dropout): module.p = 0.0
    return data, model, {"negatives": Negatives(kind=negatives, num_sample=33), "valid_rows": "all"}


def trained(kind: str, sharding: str | None, steps: int, **more) -> tuple[list[float], dict]:
    "Losses of the steps, and the last epoch's row."
    data, model, settings = made(kind)
    losses = Losses()
    more["callbacks"] = [losses, *more.get("callbacks", ())]
    trainer = Trainer(model, data, batch_size=64, steps=steps, seed=1, progress=False,
                      sharding=sharding, **settings, **more)
    trainer.fit()
    epoch = {name: value for name, value in trainer.history[-1].items() if name != "seconds"}
    return losses.values, epoch


@pytest.mark.parametrize("kind,shardings", [
    ("DeepFM", ("table_wise", "row_wise", None)),
    ("DCNV2*2", ("row_wise",)),
    ("DSSM:sampled", ("row_wise",)),
    ("DSSM:in_batch", ("table_wise",)),
])
def test_two_ranks_train_what_one_process_trains(kind, shardings):
    ((one, epoch),) = local_ranks(1, trained, kind, None, 20)
    for sharding in shardings:
        found = local_ranks(2, trained, kind, sharding, 20)
        assert found[0] == found[1]
        torch.testing.assert_close(found[0][0], one, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[0][1], epoch, rtol=0, atol=1e-5)


def first_weights(sharding: str | None) -> dict:
    "First weights, how many tables wait, numbers of tables that are held here, and what is drawn next."
    real = EmbeddingTables.draw_now
    with patch.object(EmbeddingTables, "draw_now", autospec=True, side_effect=real) as whole:
        data, model, _ = made("DeepFM")
        found, (tables,) = {"follows": torch.rand(1)}, embedding_tables(model)
        found["waiting"] = len(tables.waiting())
        Trainer(model, data, batch_size=64, steps=1, progress=False, sharding=sharding)
        assert not whole.call_count
    state = model.state_dict()
    found["held"] = sum(rows.numel() for one in state.values() if isinstance(one, ShardedTensor)
                        for _, rows in sharded_tables.pieces_of(one))
    return found | {name: sharded_tables.whole(one).clone() for name, one in state.items()}


def test_a_rank_draws_its_rows_of_one_process_s_first_weights_and_no_others():
    (one,), ranks = local_ranks(1, first_weights, None), local_ranks(2, first_weights, "row_wise")
    numbers = sum(one[name].numel() for name in one if ".tables." in name)
    assert one.pop("waiting") == one.pop("held") == 0 < ranks[0]["waiting"]
    assert numbers == sum(rank.pop("held") for rank in ranks)
    for rank in ranks:
        del rank["waiting"]
        assert rank.keys() == one.keys() and all(torch.equal(rank[name], one[name]) for name in one)


def written(sharding: str) -> dict:
    "Weights that were written before anybody drew them, in three ways, and tables that still wait."
    data, model, _ = made("DeepFM")
    (tables,) = embedding_tables(model)
    before, weights = tables.waiting(), tables.plain_weights()
    first, second, third = (weights[f"{name}_emb"] for name in ("user_id", "country", "brand"))
    first.data.fill_(0.25)
    with torch.no_grad(): second[1:].copy_(torch.ones(second.shape)[1:])
    nn.init.constant_(third, 3.0)
    found = {"drawn": len(before) - len(tables.waiting())}
    Trainer(model, data, batch_size=64, steps=1, progress=False, sharding=sharding)
    return found | {name: sharded_tables.whole(one).clone() for name, one in model.state_dict().items()}


def test_what_is_written_into_tables_before_they_are_drawn_counts():
    (one,), ranks = local_ranks(1, written, None), local_ranks(2, written, "row_wise")
    assert not one.pop("drawn")
    for rank in ranks:
        assert rank.pop("drawn") == 3
        assert rank.keys() == one.keys() and all(torch.equal(rank[name], one[name]) for name in one)

def weighed(kind: str) -> tuple[dict, dict]:
    "Metrics of the last step's weights on these ranks, and those weights, whole."
    data, model, settings = made(kind)
    trainer = Trainer(model, data, batch_size=64, steps=20, seed=1, progress=False,
                      sharding="row_wise", **settings)
    trainer.fit()
    last = trainer.validate()
    return last, {name: sharded_tables.whole(one).clone() for name, one in model.state_dict().items()}


def weighed_again(kind: str, weights: dict) -> dict:
    "Metrics of given weights in one process."
    data, model, settings = made(kind)
    model.load_state_dict(weights)
    return Trainer(model, data, batch_size=64, steps=20, progress=False, **settings).validate()


@pytest.mark.parametrize("kind", ["DCNV1", "SASRec:full"])
def test_weights_of_two_ranks_have_the_same_metrics_in_one_process(kind):
    first, second = local_ranks(2, weighed, kind)
    (alone,) = local_ranks(1, weighed_again, kind, first[1])
    assert first[0] == second[0] and ("gauc" in alone or kind != "DCNV1")
    torch.testing.assert_close(first[0], alone, rtol=0, atol=1e-5)


def asked_of(rows: list[int]) -> list[Lookup]:
    "Lookups of some rows: single ids, bags, weighted ones beside single ids, and a sequence."
    ids, sizes = (torch.tensor(one, dtype=torch.int64) for one in (rows, [row % 3 for row in rows]))
    flat = torch.arange(int(sizes.sum())) % 7 + (rows[0] if rows else 0)
    return [Lookup(("one", "both"), torch.stack([ids, ids // 2], 1)), Lookup(("bag",), flat, sizes),
            Lookup(("both",), flat, sizes, weights=flat.float() / 4), Lookup(("run",), flat)]


def three_kinds(sharding: str) -> dict:
    "Where tables stand, and the largest difference from one process after steps of uneven ranks."
    config = lambda name: EmbeddingBagConfig(
        name=name, num_embeddings=20, embedding_dim=4, feature_names=[name])
    every = [EmbeddingTables(list(map(config, ("one", "bag", "both", "run")))) for _ in range(2)]
    for tables in every:
        tables.load_state_dict({f"{name}.weight": torch.arange(80.).view(20, 4) / 80 + 0.01
                                for name in tables.sizes})
        tables.note_reads([("one", "single"), ("both", "single"), ("bag", "bag"),
                           ("both", "weighted"), ("run", "rows")])
    layout = table_wise(rank=1) if sharding == "table_wise" else row_wise()
    with quiet():
        plan = construct_module_sharding_plan(
            every[0], dict.fromkeys(every[0].sizes, layout), TablesSharder(), 2, 2, "cpu")
        shards = ShardedTables(every[0], plan, ShardingEnv.from_process_group(dist.group.WORLD),
                               torch.device("cpu"))
    one, rank, furthest = every[1].fuse(), world().rank, 0.0
    for parts in ([[1, 2, 5], [7, 2]], [[3], []], [[4, 5], [8, 9, 11]]):
        answers = one(asked_of(parts[0])), one(asked_of(parts[1]))
        mine = shards(asked_of(parts[rank]))
        furthest = max(furthest, *(float((a - b).abs().sum()) for a, b in zip(mine, answers[rank])))
        for part in answers: part.append(torch.zeros(1, requires_grad=True))
        sum(each.square().sum() for part in answers for each in part).backward()
        (2 * sum(each.square().sum() for each in mine)).backward()     # ranks' gradients are averaged
    for name in one.sizes:
        furthest = max(furthest, float((shards.table(name) - one.table(name)).abs().max()))
    try: words = shards([Lookup(("one",), torch.ones(1).long(), torch.ones(1).long(), torch.ones(1))])
    except ValueError as error: words = str(error)
    kinds = {name: type(shards._collections[home]).__name__ for name, home in shards._stack_of.items()}
    return kinds | {"furthest": furthest, "words": str(words)}


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_bags_are_summed_where_their_rows_lie_and_sequences_come_as_rows(sharding):
    bags, rows = "ShardedEmbeddingBagCollection", "ShardedEmbeddingCollection"
    for found in local_ranks(2, three_kinds, sharding):
        assert found.pop("furthest") < 1e-5
        assert ("weights" in found.pop("words")) == (sharding == "table_wise")
        assert found == {"one": bags if sharding == "table_wise" else rows, "bag": bags, "both": bags,
                         "run": rows}


class BreakAt:
    "Fails after a step, on all ranks."

    def __init__(self, step: int): self.at = step

    def on_step(self, trainer, step, loss):
        if step == self.at: raise RuntimeError("broken")


def recorded(kind: str, folder: str, sharding: str | None, at: int | None) -> list[float]:
    "Losses of a recorded run that breaks at a step, or that goes on to step 40."
    data, model, settings = made(kind)
    losses = Losses()
    watchers = [losses] if at is None else [losses, BreakAt(at)]
    trainer = Trainer(model, data, batch_size=64, steps=40, seed=1, progress=False, run_dir=folder,
                      sharding=sharding, callbacks=watchers, save_every_steps=15, **settings)
    try: trainer.fit()
    except RuntimeError: assert at is not None
    return losses.values


def test_saved_on_two_ranks_and_resumed_on_one_and_on_three(tmp_path):
    for kind, count, sharding in (("DeepFM", 1, None), ("DSSM:sampled", 3, "table_wise")):
        ((whole, _),) = local_ranks(1, trained, kind, None, 40)
        folder = str(tmp_path / str(count))
        local_ranks(2, recorded, kind, folder, "row_wise", 17)
        rest = local_ranks(count, recorded, kind, folder, sharding, None)
        torch.testing.assert_close(rest[0], whole[15:], rtol=0, atol=1e-5)
        assert len(Run.load(folder).losses) == 40


class EndAt:
    "Ends the training after a step, on the last rank alone."

    def on_step(self, trainer, step, loss):
        if step == 4 and trainer.world.rank == trainer.world.size - 1: trainer.stop("enough")


def stopped() -> str:
    "Why the training ended, and when."
    data, model, _ = made("DeepFM")
    trainer = Trainer(model, data, batch_size=64, steps=9, seed=1, progress=False, callbacks=[EndAt()])
    trainer.fit()
    return f"{trainer.stopped} after {trainer.step}"


def test_one_rank_stops_all(): assert local_ranks(2, stopped) == ["enough after 4"] * 2


def goes_bad() -> str:
    "What a rank says when another one's rows become NaN."
    data, model, _ = made("DeepFM")

    class Spoil:
        def on_step(self, trainer, step, loss):
            if step == 3 and trainer.world.rank == 1:
                with torch.no_grad(): next(iter(model.parameters())).fill_(torch.nan)

    trainer = Trainer(model, data, batch_size=64, steps=9, seed=1, progress=False, callbacks=[Spoil()])
    try: trainer.fit()
    except FloatingPointError as error: return str(error)
    return "went on"


def test_nan_on_one_rank_stops_all():
    said = local_ranks(2, goes_bad)
    assert said[0] == said[1] == "binary_cross_entropy is nan at step 4"


def next_drawn(across: bool, state: dict | None = None) -> dict:
    "Drawn negatives of a second batch: unbroken, and after a resume; and the state between."
    chosen = Negatives(kind="sampled", num_sample=33, across_ranks=across)
    loaders = [MatchLoader(planted(users=200, items=120, seed=0), 64, chosen, 3) for _ in range(2)]
    batches, found = iter(loaders[0]), {}
    next(batches)
    found["state"] = state or loaders[0].state_dict()
    found["unbroken"] = next(batches).candidates.items[-33:]
    loaders[1].load_state_dict(found["state"])
    return found | {"resumed": next(iter(loaders[1])).candidates.items[-33:]}


@pytest.mark.parametrize("across", [True, False])
def test_negatives_of_a_resumed_run_are_drawn_alike_or_by_each_rank(across):
    (one,), ranks = local_ranks(1, next_drawn, across), local_ranks(2, next_drawn, across)
    for rank in ranks: assert torch.equal(rank["unbroken"], rank["resumed"])
    assert torch.equal(ranks[0]["resumed"], ranks[1]["resumed"]) == across
    assert torch.equal(ranks[0]["resumed"], one["resumed"])
    later = local_ranks(2, next_drawn, across, one["state"])        # begun by one process
    assert torch.equal(later[0]["resumed"], later[1]["resumed"]) == across


def failing(kind: str) -> str:
    "What a rank says where rank 0 cannot write."
    def write():
        if kind == "full": raise OSError(28, "No space left on device")
        return {}["a"]
    try: by_first(write)
    except Exception as error: return f"{type(error).__name__} {error}"
    return "went on"


def test_what_rank_0_cannot_do_fails_on_all():
    assert local_ranks(2, failing, "full") == ["OSError [Errno 28] No space left on device",
                                               "OSError No space left on device"]
    assert local_ranks(2, failing, "key") == ["KeyError 'a'", "RuntimeError rank 0: KeyError: 'a'"]


def exchanged() -> dict:
    "Columns of ranks of which one has no rows; and sizes that a rank's predictions do not have."
    rank = world().rank
    rows = 3 * (1 - rank)
    found = all_columns({"x": torch.ones(rows, 2), "b": torch.ones(rows, dtype=torch.bool)}, [3, 0])
    try: sizes = row_sizes(2, Batch(sizes=(2, 3)))
    except ValueError as error: sizes = str(error)
    return found | {"sizes": sizes, "asked": row_sizes(4 + rank, Batch())}


def test_a_rank_without_rows_and_one_with_other_rows():
    first, second = local_ranks(2, exchanged)
    for found in (first, second):
        assert torch.equal(found["x"], torch.ones(3, 2)) and found["b"].tolist() == [True] * 3
        assert found["asked"] == [4, 5]
    assert first["sizes"] == [2, 3]
    assert second["sizes"] == "predictions have 2 rows on rank 1; its part of the batch has 3"


def one_total() -> dict:
    "Total and gradients of a mean, a sum and a price over rows, of 3 rows here and 1 there; exchanges."
    rank = world().rank
    rows, weight = 3 - 2 * rank, torch.tensor([2.0, 2.0, 2.0], requires_grad=True)
    mean, price = weight[0] * (1 + rank), weight[2] / rows
    losses = {"mean": mean, "sum": weight[1] * 5, "all_feature_p_loss": price}
    model = SimpleNamespace(loss=lambda *_: losses, summed_losses=lambda: ("sum",), sample_weights=[],
                            total=lambda named: sum(named.values()))
    with patch("recbench.train.processes.sum_over_ranks", side_effect=sum_over_ranks) as exchanges:
        total, every = own_terms(model, {"user_tower_emb": torch.zeros(rows, 4)}, Batch())
    total.backward()
    dist.all_reduce(weight.grad)
    return {name: float(one.detach()) for name, one in every.items()} | {
        "total": float(total.detach()), "gradient": weight.grad / 2, "exchanges": exchanges.call_count}


def test_means_sums_and_prices_come_together_in_one_exchange():
    for found in local_ranks(2, one_total):
        assert found.pop("gradient").tolist() == [1.25, 10.0, 0.25] and found.pop("exchanges") == 1
        assert found == {"mean": 2.5, "sum": 20.0, "all_feature_p_loss": 0.5, "total": 23.0}


def told_rows() -> list:
    "Rows that are validated where ranks measure different times, and who writes what comes last."
    data, model, _ = made("DSSM:sampled")
    rank, wrote, chosen = world().rank, [], Negatives(kind="sampled", num_sample=33)
    with patch("recbench.train.trainer.VALID_ROWS", 10), \
            patch("recbench.train.trainer.rows_that_fit", lambda *_: 20 + rank):
        trainer = Trainer(model, data, batch_size=64, epochs=1, progress=False, negatives=chosen)
        trainer.validate(1.0)
    task = SimpleNamespace(validate=lambda *_: {"ndcg@10": 0.5})
    ended = SimpleNamespace(
        history=[{"valid rows": 20}], best_epoch=1, task=task, model=None, dataset=None,
        recorder=SimpleNamespace(folder=Path("nowhere")))
    with patch("recbench.train.trainer.write_lines", lambda path, _: wrote.append(path.name)):
        validate_all(ended)
    try: Trainer(model, data, batch_size=64, epochs=1, progress=False, negatives=chosen)
    except ValueError as error: wrote.append(str(error))
    return [trainer.valid_rows, *wrote]


def test_rank_0_tells_how_many_rows_validate_and_a_sharded_model_is_taken():
    first, second = local_ranks(2, told_rows)
    taken = first.pop()
    assert taken == second.pop() and "is sharded already" in taken
    assert first == [20, "epochs.jsonl"] and second == [20]


def many_settings(sharding: str | None) -> tuple[list[float], dict]:
    "Losses and last row: weights of rows, averages, clipping, rates that fall, two batches a step."
    data = equal_users(planted_clicks(users=200, items=120, max_history=10))
    torch.manual_seed(0)
    features = rank_features("DeepFM", data.features(), 16, 0.1)
    config = rank_config("DeepFM", features, hidden_units=(32, 16))
    model, losses = create_model(config, features, [data.schema.label], ["user_weight"]), Losses()
    falls = CosineAnnealing(T_max=24, warmup_size=4)
    trainer = Trainer(
        model, data, batch_size=64, steps=24, seed=1, progress=False, sharding=sharding, accumulate=2,
        clipping=GradClipping(clipping_type="norm", max_gradient=0.01),
        parts=[Part(pattern=".*user_id_emb.*", learning_rate=0.3),
               Part(pattern=".*brand.*", learning_rate=0)],
        callbacks=[losses, ExponentialAverage(0.9), LearningRate(dense=falls, tables=falls)])
    trainer.fit()
    return losses.values, {name: one for name, one in trainer.history[-1].items() if name != "seconds"}


def test_weights_averages_clipping_and_rates_are_those_of_one_process():
    (one,), two = local_ranks(1, many_settings, None), local_ranks(2, many_settings, "row_wise")
    assert two[0] == two[1]
    torch.testing.assert_close(two[0], one, rtol=0, atol=1e-5)


def scales(state: dict | None) -> list:
    "The scale of FP16 as it is saved, and as it is after loading."
    _, model, _ = made("DeepFM")
    updates = Updates(torch.optim.SGD(model.parameters(), 0.1), scaler=loss_scaler(model))
    saved = updates.state_dict()
    updates.load_state_dict(state or saved)
    return [saved, updates.scaler.get_scale()]


def test_the_scale_of_fp16_is_saved_for_any_number_of_ranks():
    ((one, alone),), two = local_ranks(1, scales, None), local_ranks(2, scales, None)
    assert one == two[0][0] == two[1][0] and alone == 2**16 == 2 * two[1][1]
    assert local_ranks(1, scales, two[0][0])[0][1] == 2 * local_ranks(2, scales, one)[0][1] == alone


def over_sessions(sharding: str | None) -> dict[str, list[float]]:
    """Losses of sessions and pairs. SGD moves the tables: row-wise Adagrad's first step is g / |g|, and
    a session's loss leaves its user a gradient of rounding alone.
    """
    data, found = planted_clicks(users=200, items=120, max_history=10), {}
    features = rank_features("DeepFM", data.features(), 16, 0.1)
    for loss in ("jrc_loss", "listwise_rank_loss", "pairwise_hinge_loss"):
        torch.manual_seed(0)
        config = rank_config("DeepFM", features, hidden_units=(32, 16),
                             losses=[{loss: {"session_name": "user_id"}}])
        config = config.model_copy(update={"num_class": 2 if loss == "jrc_loss" else 1})
        model, losses = create_model(config, features, [data.schema.label]), Losses()
        Trainer(model, data, batch_size=128, steps=8, seed=1, progress=False, sharding=sharding,
                table_optimizer="sgd", callbacks=[losses]).fit()
        found[loss] = losses.values
    return found


def test_losses_of_sessions_and_pairs_are_those_of_all_rows():
    (one,), two = local_ranks(1, over_sessions, None), local_ranks(2, over_sessions, "row_wise")
    for loss, values in one.items():
        assert two[0][loss] == two[1][loss]
        torch.testing.assert_close(two[0][loss], values, rtol=0, atol=1e-5)


def fills_up(folder: str) -> str:
    "What a rank says when the disk of the last rank is full at the second checkpoint."
    real, saved = HuggingFaceStorageWriter.write_data, []

    def write(self, *given):
        saved.append(1)
        if world().rank and len(saved) == 2: raise OSError(28, "No space left on device")
        return real(self, *given)

    data, model, _ = made("DeepFM")
    with patch.object(HuggingFaceStorageWriter, "write_data", write):
        try:
            Trainer(model, data, batch_size=64, steps=40, seed=1, progress=False, run_dir=folder,
                    sharding="row_wise", save_every_steps=15).fit()
        except Exception as error: return str(error)
    return "went on"


def test_a_full_disk_of_one_rank_stops_all_and_loses_nothing_saved_before(tmp_path):
    for words in local_ranks(2, fills_up, str(tmp_path)): assert "No space left on device" in words
    ((whole, _),) = local_ranks(1, trained, "DeepFM", None, 40)
    rest = local_ranks(1, recorded, "DeepFM", str(tmp_path), None, None)
    torch.testing.assert_close(rest[0], whole[15:], rtol=0, atol=1e-5)


class KillAt:
    "Kills the last rank after a step."

    def on_step(self, trainer, step, loss):
        if step == 17 and trainer.world.rank: os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: str) -> list[float]:
    "Losses of a recorded run on two ranks of which one is killed."
    data, model, _ = made("DeepFM")
    Trainer(model, data, batch_size=64, steps=40, seed=1, progress=False, run_dir=folder,
            callbacks=[Losses(), KillAt()], save_every_steps=15).fit()
    return []


def test_a_killed_rank_is_named_and_the_job_resumes(tmp_path):
    began, before = time.monotonic(), psutil.Process().children()
    with pytest.raises(RuntimeError, match="rank 1 was killed by SIGKILL"):
        local_ranks(2, killed, str(tmp_path))
    assert time.monotonic() - began < 60
    assert set(psutil.Process().children()) <= set(before)     # no orphan
    rest = local_ranks(2, recorded, "DeepFM", str(tmp_path), None, None)
    ((whole, _),) = local_ranks(1, trained, "DeepFM", None, 40)
    torch.testing.assert_close(rest[0], whole[15:], rtol=0, atol=1e-5)


def half(sharding: str | None) -> list[float]:
    "Losses of FP16 whose first scales overflow."
    data, model, _ = made("DeepFM")
    losses = Losses()
    Trainer(model, data, batch_size=64, steps=25, seed=1, progress=False, sharding=sharding,
            mixed_precision="FP16", grad_scaler=GradScaler(init_scale=2.0**40),
            callbacks=[losses]).fit()
    return losses.values


def test_what_overflows_on_one_rank_is_dropped_on_all():
    (one,), (first, second) = local_ranks(1, half, None), local_ranks(2, half, "row_wise")
    assert first == second
    torch.testing.assert_close(first, one, rtol=0, atol=2e-3)


def streamed(path: str, kind: str | None, batches: int, state: dict | None) -> dict:
    "User ids of so many batches of a stream, its position after them, and losses of a training on it."
    data, model, _ = made("DSSM:sampled")
    by_name = {feature.name: feature for feature in data.features()}
    stream = ParquetStream([path], [by_name["user_id"], by_name["item_id"]], data.vocabularies, 64,
                           buffer_rows=400, seed=1)
    loader = StreamLoader(stream, data, kind and Negatives(kind=kind, num_sample=33))
    if state: loader.load_state_dict(state)
    read = [batch.single(["user_id"])[:, 0] for _, batch in zip(range(batches), loader)]
    return {"users": read, "state": loader.state_dict(), "left": len(loader) - loader.position}


def in_turn(path: str, at: int = 0, batches: int = 99) -> dict:
    "Row groups that this rank decodes, and the rows of so many tables of a stream, read by all ranks."
    features = [IdFeature(name="item", num_buckets=500), RawFeature(name="price", side="item"),
                IdFeature(name="tags", num_buckets=9, value_dim=0, weighted=True)]
    stream = ParquetStream([path], features, batch_size=40, buffer_rows=150, seed=3,
                           columns=["label", "time"])
    stream.row, groups, real = at, [], streams._parts

    def parts(one, *given):
        groups.append(one.group)
        return real(one, *given)

    with patch.object(streams, "_parts", parts):
        tables = [one for _, one in zip(range(batches), stream.tables(world()))]
    lists = [one.jagged["tags"].packed() for one in tables]
    rows = [torch.stack([column.double() for column in (
        one.ids("item"), one.dense[:, 0], *one.columns.values(), each.lengths)])
            for one, each in zip(tables, lists)]
    return {"groups": groups, "rows": rows, "values": [each.values for each in lists],
            "weights": [each.weights for each in lists]}


def test_each_row_group_is_decoded_by_one_rank_and_all_have_the_tables_of_one_process(tmp_path):
    path, rows = str(tmp_path / "log.parquet"), torch.arange(497)
    tag = lambda row: {"id": row % 9, "weight": 0.5 * (row % 4)}
    pd.DataFrame({
        "item": rows, "price": rows / 7, "label": (rows % 2).float(), "time": 2**40 + rows,
        "tags": [[tag(row)] * (row % 3) for row in rows.tolist()],
    }).to_parquet(path, row_group_size=50)
    (one,) = local_ranks(1, in_turn, path)
    assert sorted(one["groups"]) == list(range(10)) and len(one["rows"]) == 13
    for count in (2, 3):
        found = local_ranks(count, in_turn, path)
        assert sorted(group for each in found for group in each["groups"]) == list(range(10))
        counts = [len(each["groups"]) for each in found]
        assert max(counts) - min(counts) < 2
        rest = local_ranks(5 - count, in_turn, path, 160)      # after 4 tables, on another number
        for each in found:
            for part in ("rows", "values", "weights"):
                assert all(map(torch.equal, each[part], one[part])) and len(each[part]) == 13
                assert all(map(torch.equal, rest[0][part], one[part][4:]))
    broken = str(tmp_path / "broken.parquet")
    pd.DataFrame({"item": [*range(100), 700], "price": 1.0, "label": 0.0, "time": 2**40,
                  "tags": [[tag(1)]] * 101}).to_parquet(broken, row_group_size=50)
    with pytest.raises(RuntimeError) as failed: local_ranks(2, in_turn, broken)
    assert str(failed.value).count("ValueError: broken.parquet row group 2") == 2

def over_stream(path: str) -> list[float]:
    "Losses of ten steps on a stream."
    data = planted(users=200, items=120, seed=0)
    groups = [{"group_name": "user", "feature_names": ["user_id"]},
              {"group_name": "item", "feature_names": [one.name for one in data.features("item")]}]
    towers = {f"{side}_tower": {"input": side, "mlp": {"hidden_units": [32]}}
              for side in ("user", "item")}
    config = ModelConfig.from_dict({
        "feature_groups": groups, "losses": [{"softmax_cross_entropy": {}}],
        "dssm": {**towers, "output_dim": 16, "similarity": "COSINE", "in_batch_negative": True}})
    torch.manual_seed(0)
    by_name, losses = {feature.name: feature for feature in data.features()}, Losses()
    stream = ParquetStream([path], [by_name["user_id"], by_name["item_id"]], data.vocabularies, 64, 400)
    Trainer(create_model(config, data.features(), []), data, steps=10, progress=False,
            loader=StreamLoader(stream, data, Negatives(mask_known=True)), callbacks=[losses]).fit()
    return losses.values


def test_a_stream_over_ranks_has_every_row_once_and_resumes_on_any_number(tmp_path):
    data, path = planted(users=200, items=120, seed=0), str(tmp_path / "log.parquet")
    rows = data.train.columns
    log = pd.DataFrame({f"{side}_id": getattr(data, f"{side}_frame")[f"{side}_id"].to_numpy()[
        rows[f"{side}_index"]] for side in ("user", "item")})[:64 * 9 + 1]
    log.to_parquet(path, row_group_size=100)
    (one,) = local_ranks(1, streamed, path, "sampled", 10, None)
    assert len(one["users"]) == 10 and sum(map(len, one["users"])) == len(log)
    first = local_ranks(2, streamed, path, "sampled", 4, None)
    rest = local_ranks(3, streamed, path, "sampled", 6, first[1]["state"])
    assert {each["left"] for each in first} == {6}
    found = [torch.cat(parts) for each in (first, rest)
             for parts in zip(*(rank["users"] for rank in each), strict=True)]
    for mine, whole in zip(found, one["users"], strict=True): assert torch.equal(mine, whole)
    (losses,), two = local_ranks(1, over_stream, path), local_ranks(2, over_stream, path)
    assert two[0] == two[1]
    torch.testing.assert_close(two[0], losses, rtol=0, atol=1e-5)
