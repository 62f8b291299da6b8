"Other implementations of what the package is open for: tables of a model."

import os
import signal
from functools import partial

import pandas as pd
import torch
from torch import nn

from recbench.data.published.planted import planted
from recbench.layers import EmbeddingGroup, Lookup, Tables
from recbench.layers.embedding_tables import EmbeddingTables, plain_lookup
from recbench.models.base import BaseModel, embedding_tables
from recbench.models.usual import usual_model
from recbench.train.optimizers import dense_optimizer, fuse_tables, table_names
from recbench.train.schedules import ExponentialDecay, LearningRate, set_rates
from recbench.train.trainer import Trainer


class OneMatrix(Tables):
    """All tables of one width as rows of one matrix.

    Plain gradient steps of its own in the backward pass.
    """

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.rules, self.rate = sizes, {}, 0.0
        ends = torch.tensor([rows for rows, _ in sizes.values()]).cumsum(0).tolist()
        self.place = {name: (end - rows, end) for end, (name, (rows, _)) in zip(ends, sizes.items())}
        self.weight = nn.Parameter(torch.randn(ends[-1], next(iter(sizes.values()))[1]))

    def forward(self, lookups):
        first = [torch.tensor([self.place[name][0] for name in lookup.tables]) for lookup in lookups]
        return [self.weight[lookup.ids + start].flatten(1) for lookup, start in zip(lookups, first)]

    def table(self, name): return self.weight[slice(*self.place[name])]

    def plain_weights(self): return {} if self.rules else {"all": self.weight}

    def fuse(self, optimizer="rowwise_adagrad", learning_rate=0.1, eps=1e-8, rates=None):
        self.rules, self.rate = {name: (optimizer, learning_rate) for name in self.sizes}, learning_rate
        self.begun = learning_rate
        self.weight.register_post_accumulate_grad_hook(self.step)
        return self

    @torch.no_grad()
    def step(self, weight):
        weight -= self.rate * weight.grad
        weight.grad = None

    def set_learning_rate(self, rate_of): self.rate = rate_of(self.begun)

    def optimizer_state(self): return {name: [] for name in self.rules}

    def load_optimizer_state(self, state): assert state.keys() == self.rules.keys()


class Net(nn.Module):
    "A linear layer above tables."

    def __init__(self, tables):
        super().__init__()
        self.tables, self.layer = tables, nn.Linear(8, 1)

    def forward(self, ids): return self.layer(self.tables([Lookup(("film", "genre"), ids)])[0])


def test_other_tables_are_found_by_all_who_need_them():
    torch.manual_seed(0)
    net, ids = Net(OneMatrix({"film": (5, 4), "genre": (3, 4)})), torch.tensor([[4, 0], [1, 2]])
    assert embedding_tables(net) == [net.tables] and isinstance(EmbeddingTables([]), Tables)
    assert table_names(net) == {
        "tables.film.weight": (net.tables, "film"),
        "tables.genre.weight": (net.tables, "genre"),
    }
    assert BaseModel.sparse_parameters(net) == ([net.tables.weight], [])
    fuse_tables(net, "sgd", 0.5)
    assert net.tables.is_fused and BaseModel.sparse_parameters(net) == ([], [])
    optimizer = torch.optim.Adam(net.layer.parameters(), lr=1e-3)
    set_rates(
        type("Trainer", (), {"optimizer": optimizer, "model": net}),
        lambda rate: rate,
        lambda rate: rate / 10,
    )
    before, gradient = net.tables.table("film").detach().clone(), net.layer.weight.detach()[0, :4]
    net(ids).sum().backward()
    expected = before.index_add(0, ids[:, 0], gradient.expand(2, 4), alpha=-0.05)
    torch.testing.assert_close(net.tables.table("film").detach(), expected)


def test_tables_that_are_not_fused_are_asked_for_a_rate():
    net = Net(OneMatrix({"film": (5, 4), "genre": (3, 4)}))
    try: dense_optimizer(net)
    except ValueError as error: assert "tables ['all'] are not fused" in str(error)
    else: raise AssertionError("must be refused")


class Row(nn.Module):
    "One table: a parameter, once fused a buffer that moves by itself."

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)


class AdagradByHand(Tables):
    "Row-wise Adagrad of PyTorch operations, in a hook that gets a backward pass's whole gradient."

    def __init__(self, first):
        super().__init__()
        self.sizes, self.rules, self.rate, self.moments = dict(first.sizes), {}, 0.0, {}
        for name in self.sizes: self.add_module(name, Row(first.table(name).detach().clone()))

    def __getitem__(self, name): return self.get_submodule(name)

    def forward(self, lookups): return [plain_lookup(self, lookup) for lookup in lookups]

    def table(self, name): return self[name].weight

    def plain_weights(self):
        return {} if self.rules else {name: self[name].weight for name in self.sizes}

    def fuse(self, optimizer="rowwise_adagrad", learning_rate=0.1, eps=1e-8, rates=None):
        self.rules = {name: (optimizer, learning_rate) for name in self.sizes}
        self.begun = self.rate = learning_rate
        for name, (rows, _) in self.sizes.items():
            weight = self[name].weight.detach().clone().requires_grad_()
            self.moments[name] = torch.zeros(rows)
            del self[name].weight
            self[name].register_buffer("weight", weight)
            weight.register_post_accumulate_grad_hook(partial(self.step, self.moments[name], eps))
        return self

    @torch.no_grad()
    def step(self, moment, eps, weight):
        moment += weight.grad.square().mean(1)
        weight -= self.rate * weight.grad / (moment.sqrt() + eps)[:, None]
        weight.grad = None

    def set_learning_rate(self, rate_of): self.rate = rate_of(self.begun)

    def optimizer_state(self): return {name: [moment] for name, moment in self.moments.items()}

    def load_optimizer_state(self, state):
        for name, (moment,) in state.items(): self.moments[name].copy_(moment)


def with_tables_by_hand(model):
    "The model with every `EmbeddingTables` replaced."
    own = {tables: AdagradByHand(tables) for tables in embedding_tables(model)}
    for module in list(model.modules()):
        if isinstance(module, EmbeddingGroup): module.tables = own[module.tables]
    assert embedding_tables(model) == list(own.values())
    return model


class PressesCtrlC:
    "In the middle of the second epoch, where the tables' rate is no longer the first."

    def on_step(self, trainer, step, loss):
        if step == len(trainer.loader) + 2: os.kill(os.getpid(), signal.SIGINT)


def test_a_trainer_trains_saves_and_resumes_other_tables(tmp_path):
    data = planted(users=200, items=100, seed=0)

    def trainer(change=with_tables_by_hand, decay=0.5, callbacks=(), **options):
        falls = LearningRate(tables=ExponentialDecay(decay_factor=decay, decay_size=3))
        return Trainer(
            change(usual_model("DSSM", data)), data, batch_size=256, epochs=2, progress=False,
            callbacks=[falls, *callbacks], **options,
        )

    whole, fbgemm, other_rate = trainer(), trainer(change=lambda model: model), trainer(decay=1.0)
    (tables,) = embedding_tables(whole.model)
    assert tables.is_fused and whole.model.sparse_parameters() == ([], [])
    own = {id(tables.table(name)) for name in tables.sizes}
    assert not own & {id(p) for p in whole.updates.parameters}
    history = whole.fit().drop(columns="seconds")
    pd.testing.assert_frame_equal(history, fbgemm.fit().drop(columns="seconds"), rtol=1e-3)
    constant = other_rate.fit().drop(columns="seconds")
    assert tables.rate < 0.1 * tables.begun and not history.equals(constant)

    broken = trainer(callbacks=[PressesCtrlC()], run_dir=tmp_path / "run")
    broken.fit()
    assert broken.stopped.startswith("interrupted in epoch 2")
    resumed = trainer(run_dir=tmp_path / "run")
    pd.testing.assert_frame_equal(resumed.fit().drop(columns="seconds"), history, check_exact=True)
    (again,) = embedding_tables(resumed.model)
    for name, (moment,) in tables.optimizer_state().items():
        assert moment.any() and torch.equal(again.optimizer_state()[name][0], moment)
        assert torch.equal(again.table(name), tables.table(name))


def test_unfused_tables_of_another_kind_are_sparse_parameters():
    model = with_tables_by_hand(usual_model("DSSM", planted(users=200, items=100, seed=0)))
    (tables,) = embedding_tables(model)
    found, frozen = model.sparse_parameters()
    own = [id(tables.table(name)) for name in tables.sizes]
    assert [id(weight) for weight in found] == own and not frozen
