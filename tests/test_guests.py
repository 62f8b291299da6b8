"""A model, a loss and a metric of another module: configs, training, runs in fresh processes, refusals.
"""

import textwrap

import pytest
import warm

MODULE = '''
"""A researcher's own module."""
from typing import ClassVar

import torch
from torch import nn
from torchmetrics import MeanMetric

from recbench.core import DSSMConfig, DeepFMConfig, LossSettings, MetricSettings
from recbench.losses import LOSSES
from recbench.models import DSSM, DeepFM
from recbench.models.heads import METRIC_KINDS, MetricKind


class HalfDSSMConfig(DSSMConfig, key="half_dssm"):
    "DSSM with another scale of its similarities."
    scale: float = 0.5
    "factor of the similarities"


class HalfDSSM(DSSM):
    def sim(self, *args, **kwargs):
        return super().sim(*args, **kwargs) * self.config.model.scale


class FlatFMConfig(DeepFMConfig, key="flat_fm"):
    "DeepFM with a factor before its logit."
    factor: float = 1.0


class FlatFM(DeepFM):
    def output_to_prediction(self, output, head=None):
        return super().output_to_prediction(output * self.config.model.factor, head)


class AbsoluteConfig(LossSettings, key="absolute"):
    "Mean absolute error of the probability."
    labels: ClassVar = "share"
    power: float = 1.0


class Absolute(nn.Module):
    def __init__(self, power=1.0):
        super().__init__()
        self.power = power

    def forward(self, logits, labels, *, sample_weight=None, session_ids=None):
        return (logits.sigmoid() - labels).abs().pow(self.power).mean()


class SpreadConfig(MetricSettings, key="spread"):
    "Mean probability times a factor."
    factor: float = 1.0


class Spread(MeanMetric):
    higher_is_better = True

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def update(self, preds, target):
        super().update(preds * self.factor)


LOSSES["absolute"] = Absolute
METRIC_KINDS["spread"] = MetricKind(lambda config, classes: Spread(config.factor), "probability")
'''

START = '''
import torch
from recbench.core import ModelConfig
from recbench.data import load_dataset
from recbench.models import create_model
from recbench.models.rank_configs import rank_config, rank_features
from recbench.train import Run, Trainer
'''

RANK = '''
import my_nets
data = load_dataset("planted", task="rank", users=60, items=100, seed=1)
features = rank_features("DeepFM", data.features(), 8)
fields = rank_config("DeepFM", features, hidden_units=[8]).to_dict()
fields["flat_fm"] = fields.pop("deepfm") | {"factor": 0.5}
fields["losses"] = [{"absolute": {"power": 2.0}}]
fields["metrics"] = [{"auc": {}}, {"spread": {"factor": 2.0}}]
config = ModelConfig.from_yaml(ModelConfig.from_dict(fields).to_yaml())
torch.manual_seed(0)
model = create_model(config, features, [data.schema.label])
trainer = Trainer(model, data, epochs=1, batch_size=64, monitor="spread", run_dir="run")
trainer.fit()
print(type(model).__name__, list(trainer.history))
'''

MATCH = '''
import my_nets
from recbench.models.match_configs import match_config
data = load_dataset("planted", users=60, items=100, seed=1)
fields = match_config("DSSM", data, data.features(), hidden_units=[8], output_dim=8).to_dict()
fields["half_dssm"] = fields.pop("dssm") | {"scale": 0.25}
torch.manual_seed(0)
model = create_model(ModelConfig.from_dict(fields), data.features(), ["label"])
Trainer(model, data, epochs=1, batch_size=64, run_dir="run").fit()

'''


def python(folder, code):
    """Standard output of a process that starts in a folder, with our core imported.

    Its error where it fails.
    """
    done = warm.run_python(START + textwrap.dedent(code), folder)
    return done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def rank_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank")
    (folder / "my_nets.py").write_text(MODULE)
    assert python(folder, RANK).startswith("FlatFM")
    return folder


def test_a_rank_run_is_loaded_in_a_fresh_process(rank_run):
    said = python(rank_run, """
        import my_nets
        run = Run.load("run")
        print(type(run.model) is my_nets.FlatFM, run.model.config.model.factor, run.config["guests"])
        print(run.model.config.losses[0].kind, "spread" in run.history.columns)
    """)
    assert said.splitlines() == [
        ("True 0.5 {'flat_fm': 'my_nets', 'absolute': 'my_nets', 'spread': 'my_nets', 'FlatFM': "
         "'my_nets'}"),
        "('absolute', AbsoluteConfig(power=2.0)) True",
    ]


def test_a_fresh_process_without_the_module_is_told_what_to_import(rank_run):
    said = python(rank_run, 'Run.load("run")')
    assert "'flat_fm' of module 'my_nets'" in said and said.endswith("import my_nets first"), said


def test_runs_are_listed_without_the_module(rank_run):
    said = python(rank_run, 'from recbench.train import runs\nprint(runs(".")["model"].tolist())')
    assert said.split() == ["['FlatFM']"]


def test_a_match_run_is_loaded_and_recommends(tmp_path):
    (tmp_path / "my_nets.py").write_text(MODULE)
    python(tmp_path, MATCH)
    said = python(tmp_path, """
        import my_nets
        run = Run.load("run")
        print(type(run.model).__name__, run.model.config.model.scale, tuple(run.item_vectors.shape))
    """)
    assert said.split("\n")[0].startswith("HalfDSSM 0.25 (100, "), said


def test_yaml_and_text_are_two_spellings_of_one_config(tmp_path):
    (tmp_path / "my_nets.py").write_text(MODULE)
    said = python(
        tmp_path,
        '''
        import my_nets
        text = """
        feature_groups { group_name: "user" feature_names: "u" }
        feature_groups { group_name: "item" feature_names: "i" }
        half_dssm { user_tower { input: "user" } item_tower { input: "item" }
                    output_dim: 4 scale: 0.125 }
        losses { softmax_cross_entropy {} }
        """
        config = ModelConfig.from_textproto(text)
        again = ModelConfig.from_yaml(config.to_yaml())
        found = again.half_dssm.scale, again.model_type, "half_dssm:" in config.to_yaml()
        print(config == again, *found)
        print(my_nets.HalfDSSMConfig.model_fields["scale"].description)
    ''',
    )
    assert said.splitlines() == ["True 0.125 HalfDSSM True", "factor of the similarities"]


REFUSED = [
    (
        "ModelConfig.from_yaml('half_dsm: {}')",
        "unknown field 'half_dsm'; did you mean 'half_dssm'? known: feature_groups, dssm",
    ),
    (
        "class A(my_nets.DSSMConfig, key='half_dssm'): pass",
        "the model 'half_dssm' is HalfDSSMConfig of my_nets, and A of __main__ would take its place",
    ),
    ("class A(my_nets.DSSMConfig, key='dssm'): pass", "'dssm' cannot be the key of a model"),
    ("class A(my_nets.DSSMConfig, key='num_class'): pass", "'num_class' cannot be the key of a model"),
    ("class A(my_nets.DSSMConfig, key='my net'): pass", "key of A is 'my net'; must be a name"),
    ("my_nets.LOSSES['l2_loss'] = my_nets.Absolute", "the loss 'l2_loss' is L2Loss of recbench.losses"),
    (
        "class DSSM(my_nets.DSSM): pass",
        "the model 'DSSM' is DSSM of recbench.models.dssm, and DSSM of __main__ would take its place",
    ),
    (
        "L2Loss = type('L2Loss', (my_nets.Absolute,), {}); my_nets.LOSSES['l2_loss'] = L2Loss",
        "the loss 'l2_loss' is L2Loss of recbench.losses.pointwise, and L2Loss of __main__ would",
    ),
    (
        "import her_nets",
        "the model 'half_dssm' is HalfDSSMConfig of my_nets, and HalfDSSMConfig of her_nets",
    ),
    (
        ("my_nets.HalfDSSMConfig(user_tower={'input': 'u'}, item_tower={'input': 'i'}, output_dim=4, "
         "scale='x')"),
        "HalfDSSMConfig: scale is 'x'; must be a number",
    ),
]


def test_a_cell_that_runs_twice_defines_its_model_twice(tmp_path):
    (tmp_path / "my_nets.py").write_text(MODULE)
    said = python(tmp_path, """
        import my_nets
        from recbench.models import MODELS
        cell = ("class MyNetConfig(my_nets.DSSMConfig, key='my_net'): pass\\n"
                "class MyNet(my_nets.DSSM): pass")
        for _ in range(2):
            exec(cell)
            print(MODELS["MyNet"] is MyNet, my_nets.DSSMConfig.table["my_net"] is MyNetConfig)
    """)
    assert said.splitlines() == ["True True"] * 2


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    "What each refused line says, all of them in one interpreter."
    folder = tmp_path_factory.mktemp("refused")
    for name in ("my_nets", "her_nets"): (folder / f"{name}.py").write_text(MODULE)
    tries = [
        f"try:\n    {code}\nexcept ValueError as error: print(error)\nelse: print('accepted')"
        for code, _ in REFUSED
    ]
    said = python(folder, "import my_nets\n" + "\n".join(tries)).splitlines()
    assert len(said) == len(REFUSED), said
    return dict(zip([code for code, _ in REFUSED], said))


@pytest.mark.parametrize(("code", "said"), REFUSED)
def test_what_is_refused(answers, code, said):
    assert said in answers[code] and "errors.pydantic.dev" not in answers[code], answers[code]


def test_a_cell_that_runs_again_and_a_module_that_is_reloaded_are_no_error(tmp_path):
    (tmp_path / "my_nets.py").write_text(MODULE)
    said = python(tmp_path, """
        import importlib
        import my_nets
        importlib.reload(my_nets)
        for power in (1.0, 2.0):
            class OwnConfig(my_nets.LossSettings, key="own"):
                power: float = 1.0
        print(my_nets.LossSettings.table["own"] is OwnConfig)
    """)
    assert said == "True\n"
