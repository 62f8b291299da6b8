"Other implementations of what the package is open for: tables of a model."

import torch
from torch import nn

from recbench.layers import Lookup, Tables
from recbench.layers.embedding_tables import EmbeddingTables
from recbench.models.base import BaseModel, embedding_tables
from recbench.train.optimizers import dense_optimizer, fuse_tables, table_names
from recbench.train.schedules import set_rates


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
