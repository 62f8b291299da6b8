"Trainings that are killed, starved of disk, shut out of their folder or handed spoilt checkpoints."
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import warm
from conftest import ROOT, run, tail
from warm import ONE_THREAD

from recbench.core.config import (
    DSSMConfig,
    FeatureGroup,
    Loss,
    MLPConfig,
    ModelConfig,
    SoftmaxCrossEntropyConfig,
    Tower,
)
from recbench.data.feed.loader import MatchLoader
from recbench.data.feed.negatives import Negatives
from recbench.data.published.planted import planted
from recbench.models.dssm import DSSM
from recbench.train import ExponentialAverage, ExponentialDecay, LearningRate, ReduceOnPlateau
from recbench.train.checkpoint import TENSORS, CheckpointError, Checkpoints, FolderLock, is_locked
from recbench.train.guards import NonFiniteError, batch_from_state
from recbench.train.runs import Run, new_run_dir, read_state, runs
from recbench.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset():
    return planted(users=200, items=100, seed=0)


def trainer(dataset, folder=None, callbacks=(), **options):
    towers = {
        f"{side}_tower": Tower(input=side, mlp=MLPConfig(hidden_units=[16], dropout_ratio=[0.2]))
        for side in ("user", "item")
    }
    config = ModelConfig(
        feature_groups=[
            FeatureGroup(
                group_name=side, feature_names=[feature.name for feature in dataset.features(side)]
            )
            for side in ("user", "item")
        ],
        dssm=DSSMConfig(**towers, output_dim=8, similarity="COSINE", temperature=0.1),
        losses=[Loss(softmax_cross_entropy=SoftmaxCrossEntropyConfig())],
    )
    torch.manual_seed(1)
    return Trainer(
        DSSM(config, dataset.features(), []),
        dataset,
        **{
            **dict(
                batch_size=None if "loader" in options else 512,
                epochs=3,
                callbacks=callbacks,
                progress=False,
                run_dir=folder,
                save_every_steps=2 if folder else None,
            ),
            **options,
        },
    )


class At:
    "Does something after a step."

    def __init__(self, step, action): self.step, self.action = step, action

    def on_step(self, trainer, step, loss):
        if step == self.step: self.action()


def stop_at(dataset, folder, step):
    "A run that Ctrl-C ended after a step; its checkpoints."
    trainer(dataset, folder, [At(step, lambda: os.kill(os.getpid(), signal.SIGINT))]).fit()
    return Checkpoints(folder / "checkpoints").paths()


def contents(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"
    }


def same_numbers(history, other):
    pd.testing.assert_frame_equal(
        history.drop(columns="seconds"), other.drop(columns="seconds"), check_exact=True
    )


@pytest.fixture(scope="module")
def unbroken(dataset):
    return trainer(dataset).fit()


def test_killed_trainings_end_as_if_nothing_had_happened():
    result = run("python", "benchmarks/kills.py", "--kills", 6, "--kills-a-run", 3, **ONE_THREAD)
    assert (
        result.returncode == 0 and "6 kills" in result.stdout and "all resumed" in result.stdout
    ), tail(result)
    assert "MISS" not in result.stdout and "DIFFERENT" not in result.stdout, tail(result)


def pauses_in_step_5(folder, ready, go):
    "In a process of its own: a training that says when it is in the middle of step 5, and waits there."
    def pause(): ready.set(), go.wait()
    trainer(planted(users=200, items=100, seed=0), Path(folder), [At(5, pause)]).fit()


def start(folder):
    "Such a training that has come to its step 5, and what lets it go on."
    context = warm.context()
    ready, go = context.Event(), context.Event()
    process = warm.start(120, pauses_in_step_5, str(folder), ready, go, context=context)
    while not ready.wait(1): assert process.is_alive()
    return process, go


def ends_by(number, folder):
    "Exit code of such a training that gets a signal in its step 5."
    process, go = start(folder)
    os.kill(process.pid, number), go.set()
    process.join(60 * warm.MINUTES)
    return process.exitcode


def test_one_folder_one_training_and_kill_of_a_fresh_process(dataset, tmp_path, unbroken):
    process, _ = start(tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"in use by process {process.pid}"):
        trainer(dataset, tmp_path / "run").fit()
    assert runs(tmp_path)["state"].tolist() == ["training"]
    process.kill(), process.join()
    assert runs(tmp_path)["state"].tolist() == ["killed"]
    same_numbers(trainer(dataset, tmp_path / "run").fit(), unbroken)
    assert runs(tmp_path)["state"].tolist() == ["finished"]


def test_interrupt_waits_for_the_step(dataset, tmp_path, unbroken):
    assert ends_by(signal.SIGINT, tmp_path / "run") == 0
    assert Checkpoints(tmp_path / "run" / "checkpoints").load()["step"] == 5
    assert runs(tmp_path)["state"].tolist() == ["interrupted"]
    same_numbers(trainer(dataset, tmp_path / "run").fit(), unbroken)


def test_spoilt_checkpoint_is_refused_and_the_one_before_it_used(dataset, tmp_path, unbroken):
    newest = stop_at(dataset, tmp_path, 5)[-1] / TENSORS
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = trainer(dataset, tmp_path)
    with pytest.warns(
        UserWarning, match=f"{TENSORS} has .* bytes, .* were written.*Using the checkpoint before it"
    ):
        same_numbers(resumed.fit(), unbroken)


def test_nothing_starts_afresh_when_all_checkpoints_are_spoilt(dataset, tmp_path):
    for path in stop_at(dataset, tmp_path, 5): (path / "state.json").write_text("{")
    before = contents(tmp_path)
    with pytest.raises(
        CheckpointError, match="no checkpoint of .* can be used.*state.json has 1 bytes"
    ):
        trainer(dataset, tmp_path).fit()
    assert contents(tmp_path) == before


def test_full_disk_stops_the_training_and_loses_nothing(dataset, tmp_path, unbroken):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = At(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard)))
    try:
        with pytest.raises(
            CheckpointError, match="cannot write .*checkpoint-.*File too large.*untouched"
        ):
            trainer(dataset, tmp_path, [full]).fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        Checkpoints(tmp_path / "checkpoints").load()["step"] == 4
        and runs(tmp_path.parent).loc[tmp_path.name, "state"] == "failed"
    )
    assert not list(tmp_path.rglob("*.part"))
    same_numbers(trainer(dataset, tmp_path).fit(), unbroken)


@pytest.fixture
def as_nobody():
    "For root, whom no permission stops: somebody whom they do."
    if os.geteuid() == 0: os.seteuid(65534)
    yield
    if os.getuid() == 0: os.seteuid(0)


def test_folder_that_cannot_be_written(dataset, request):
    home = Path(tempfile.mkdtemp())
    trainer(dataset, home / "run", epochs=1).fit()
    before = contents(home)
    for path in (home / "run", home): path.chmod(0o555)
    request.getfixturevalue("as_nobody")
    with pytest.raises(CheckpointError, match="Permission denied"): trainer(dataset, home / "run").fit()
    with pytest.raises(CheckpointError, match="cannot make .*new: Permission denied"):
        trainer(dataset, home / "new").fit()
    if os.getuid() == 0: os.seteuid(0)
    assert contents(home) == before
    for path in (home, home / "run"): path.chmod(0o755)
    subprocess.run(["rm", "-r", home], check=True)


def test_other_settings_and_other_data_are_refused(dataset, tmp_path):
    stop_at(dataset, tmp_path, 3)
    before = contents(tmp_path)
    for changed, said in (
        (dict(learning_rate=0.1), "trainer.learning_rate was 0.001 and is 0.1"),
        (dict(seed=3), "trainer.seed"),
        (dict(resume=False), "resume is False"),
    ):
        with pytest.raises((ValueError, CheckpointError), match=said):
            trainer(dataset, tmp_path, **changed).fit()
    with pytest.raises(ValueError, match="data.fingerprint"):
        trainer(planted(users=200, items=100, seed=5), tmp_path).fit()
    assert contents(tmp_path) == before


def test_infinite_gradient_is_named_before_it_is_used(dataset, tmp_path):
    stopped = trainer(dataset, tmp_path)

    class Overflow:
        def on_backward(self, trainer, step, total):
            if step == 4: trainer.model.item_tower.output.weight.grad[0, 0] = float("inf")

    stopped.callbacks.insert(0, Overflow())
    with pytest.raises(NonFiniteError, match="gradient is inf at step 4"): stopped.fit()
    kept = read_state(tmp_path / "nonfinite-step-00000004")
    assert kept["gradients"] == ["item_tower.output.weight"] and all(
        value.isfinite().all() for value in kept["model"].values() if value.is_floating_point()
    )
    assert len(batch_from_state(kept["batch"]).candidates.target) == 512
    assert Checkpoints(tmp_path / "checkpoints").load()["step"] == 2


def test_run_holds_text_and_tensors_only(dataset, tmp_path):
    trainer(dataset, tmp_path, epochs=1).fit()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".json",
        ".jsonl",
        ".yaml",
        ".parquet",  # columns of users and items
        ".safetensors",
        "",
    }
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.suffix] == ["lock"]
    text = "".join(
        pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else path.read_text()
        for path in tmp_path.rglob("*.*")
        if path.is_file() and path.suffix != ".safetensors"
    )
    assert "user_id" in text and "item_id" in text
    assert (
        os.uname().nodename not in text and str(Path.home()) not in text and str(tmp_path) not in text
    )
    with FolderLock(tmp_path):
        assert (
            len(Run.load(tmp_path).recommend(dataset.user_frame.head(2).assign(history=[[1], []]), k=3))
            == 6
        )


def mine(folder, *names):
    "Somebody's own files."
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my only copy of {name}")
    return contents(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("catalogue/products.csv", "schema.json"),
        ("notes.txt",),
        ("config.yaml",),
        ("checkpoints/checkpoint-000001/state.json",),
        ("checkpoints/.checkpoint-1.part/x",),
        ("lock", "a"),
        (".hidden",),
    ],
)
def test_a_folder_of_somebody_is_left_alone(dataset, tmp_path, names):
    before = mine(tmp_path, *names)
    with pytest.raises(CheckpointError, match="is not empty|cannot be read|does not describe a run"):
        trainer(dataset, tmp_path, epochs=1).fit()
    assert contents(tmp_path) == before and (tmp_path / "lock").exists() == ("lock" in names)


def test_a_record_is_not_begun_anew(dataset, tmp_path):
    trainer(dataset, tmp_path, epochs=1).fit()
    (tmp_path / "config.yaml").rename(tmp_path / "away")
    for what in ("lost the config.yaml", "checkpoints are gone"):
        before = contents(tmp_path)
        with pytest.raises(CheckpointError, match=what): trainer(dataset, tmp_path, epochs=1).fit()
        assert contents(tmp_path) == before
        if (tmp_path / "away").exists(): (tmp_path / "away").rename(tmp_path / "config.yaml")
        for path in Checkpoints(tmp_path / "checkpoints").paths():
            subprocess.run(["rm", "-r", path], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "vocabularies.json",
        "schema.json",
        "catalogue/tensors.safetensors",
        "catalogue/manifest.json",
        "manifest.json",
    ],
)
def test_a_changed_byte_is_named_when_a_run_is_opened(dataset, tmp_path, name):
    trainer(dataset, tmp_path, epochs=1).fit()
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    place = content.index(b"1") if name in ("vocabularies.json", "schema.json") else len(content) // 2
    content[place] ^= 3
    path.write_bytes(content)
    with pytest.raises((CheckpointError, ValueError)): Run.load(tmp_path)
    with pytest.raises((CheckpointError, ValueError)):
        (
            trainer(dataset, tmp_path, epochs=2).fit()
            if not name.startswith("catalogue/tensors")
            else Run.load(tmp_path)
        )


OTHERS = {
    "average": dict(callbacks=[ExponentialAverage(0.9)]),
    "schedule": dict(callbacks=[LearningRate(ExponentialDecay(decay_size=1, decay_factor=0.1))]),
    "plateau": dict(callbacks=[ReduceOnPlateau()]),
}


@pytest.mark.parametrize(
    "before, after", [(a, b) for a in ("none", *OTHERS) for b in ("none", *OTHERS) if a != b]
)
def test_another_schedule_or_average_is_another_run(dataset, tmp_path, before, after):
    first, second = (OTHERS.get(name, {"callbacks": []})["callbacks"] for name in (before, after))
    trainer(dataset, tmp_path, [*first, At(3, lambda: os.kill(os.getpid(), signal.SIGINT))]).fit()
    with pytest.raises(ValueError, match="training_callbacks was"):
        trainer(dataset, tmp_path, second).fit()


@pytest.mark.parametrize(
    "after",
    [dict(batch_size=64), dict(seed=9), dict(negatives=Negatives(kind="sampled", num_sample=8))],
)
def test_another_loader_is_another_run(dataset, tmp_path, after):

    def own(batch_size=256, seed=0, negatives=Negatives(kind="full")):
        return MatchLoader(dataset, batch_size, negatives, seed)

    trainer(dataset, tmp_path, [At(3, lambda: os.kill(os.getpid(), signal.SIGINT))], loader=own()).fit()
    with pytest.raises(ValueError, match=f"loader.{next(iter(after))}"):
        trainer(dataset, tmp_path, loader=own(**after)).fit()
    assert len(trainer(dataset, tmp_path, loader=own()).fit()) == 3


def test_a_folder_begun_anew_under_a_living_process(dataset, tmp_path, unbroken):
    def anew():
        subprocess.run(["rm", "-r", tmp_path / "run"], check=True)
        trainer(dataset, tmp_path / "run", [At(3, lambda: os.kill(os.getpid(), signal.SIGINT))]).fit()
        begun.update(contents(tmp_path / "run"))
    begun = {}
    with pytest.raises(CheckpointError, match="was removed or begun anew"):
        trainer(dataset, tmp_path / "run", [At(5, anew)], seed=4).fit()
    assert contents(tmp_path / "run") == begun
    same_numbers(trainer(dataset, tmp_path / "run").fit(), unbroken)


def test_a_checkpoint_of_another_run_is_not_used(dataset, tmp_path):
    for name in "ab": stop_at(dataset, tmp_path / name, 5)
    for path in Checkpoints(tmp_path / "a" / "checkpoints").paths():
        subprocess.run(["rm", "-r", path], check=True)
    subprocess.run(
        [
            "cp",
            "-r",
            *Checkpoints(tmp_path / "b" / "checkpoints").paths(),
            tmp_path / "a" / "checkpoints",
        ],
        check=True,
    )
    with pytest.raises(CheckpointError, match="of another run"): trainer(dataset, tmp_path / "a").fit()


@pytest.mark.parametrize(
    "name, content",
    [
        ("status.json", ""),
        ("status.json", "[1]"),
        ("config.yaml", ""),
        ("config.yaml", "a: 1"),
        ("config.yaml", "a: [1"),
        ("epochs.jsonl", "x\n"),
        ("run.json", None),
    ],
)
def test_one_spoilt_run_does_not_hide_the_others(dataset, tmp_path, name, content):
    for one in "ab": trainer(dataset, tmp_path / one, epochs=1).fit()
    if content is None:subprocess.run(["rm", tmp_path / "a" / "config.yaml"], check=True)
    else: (tmp_path / "a" / name).write_text(content)
    table = runs(tmp_path)
    assert (
        table["state"].to_dict() == {"a": "broken", "b": "finished"} and len(table.loc["a", "why"]) > 20
    )


def test_sigterm_ends_a_training_in_good_order(dataset, tmp_path, unbroken):
    assert ends_by(signal.SIGTERM, tmp_path / "run") == 143
    listed = runs(tmp_path).iloc[0]
    assert listed["state"] == "interrupted" and listed["why"] == "interrupted in epoch 1 by SIGTERM"
    assert Checkpoints(tmp_path / "run" / "checkpoints").load()["step"] == 5
    same_numbers(trainer(dataset, tmp_path / "run").fit(), unbroken)


@pytest.mark.parametrize("leave", [lambda: sys.exit(3), lambda: os.kill(os.getpid(), signal.SIGINT)])
def test_leaving_is_listed_as_what_it_is(dataset, tmp_path, unbroken, leave):
    stopped = trainer(dataset, tmp_path / "run", [At(9, leave)])
    try:stopped.fit()
    except SystemExit as left: assert left.code == 3
    assert runs(tmp_path)["state"].tolist() == ["interrupted"]
    assert stopped.best_epoch == 1 and all(
        torch.equal(value, stopped.best_state[name])
        for name, value in stopped.model.state_dict().items()
    )
    same_numbers(stopped.fit(), unbroken)


def test_two_processes_of_one_second_get_two_folders(tmp_path):
    with warm.context().Pool(2) as pool:
        places = pool.starmap(new_run_dir, [("x", str(tmp_path))] * 10, chunksize=5)
    assert len(set(places)) == 10 and all(Path(place).is_dir() for place in places)


@pytest.mark.parametrize("accumulate", [4, 100])
def test_accumulation_steps_for_what_an_epoch_leaves_and_resumes_within_a_group(
    dataset, tmp_path, accumulate
):
    taken = []

    def run_of(folder, callbacks=()):
        made = trainer(
            dataset,
            folder,
            callbacks,
            accumulate=accumulate,
            batch_size=256,
            epochs=2,
            save_every_steps=1 if folder else None,
        )
        made.optimizer.register_step_post_hook(lambda *_: taken.append(made.step))
        return made
    whole = run_of(None)
    before, size = {name: value.clone() for name, value in whole.model.named_parameters()}, len(
        whole.loader
    )
    assert size % 4 and 6 < size < 100  # the last group is smaller
    history = whole.fit()
    assert len(taken) == 2 * -(-size // accumulate) and whole.updates.waiting == 0
    assert all(not torch.equal(before[name], value) for name, value in whole.model.named_parameters())
    for step in (
        5,
        size - 1,
        size,
        size + 1,
    ):  # within a group, before and behind the last batch of an epoch
        folder = tmp_path / str(step)
        run_of(folder, [At(step, lambda: os.kill(os.getpid(), signal.SIGINT))]).fit()
        resumed = run_of(folder)
        pd.testing.assert_frame_equal(
            resumed.fit().drop(columns="seconds"), history.drop(columns="seconds"), check_exact=True
        )
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (step, name)


def breaks(event, act):
    "A callback that acts in one event."
    return type("Breaks", (), {event: lambda self, trainer: act()})()


@pytest.mark.parametrize("event, state", [("on_load", "interrupted"), ("on_end", "finished")])
@pytest.mark.parametrize(
    "act", [lambda: sys.exit(3), lambda: os.kill(os.getpid(), signal.SIGINT), lambda: 1 / 0]
)
def test_a_folder_is_let_go_when_a_callback_breaks_off_before_or_after_the_training(
    dataset, tmp_path, unbroken, event, state, act
):
    broken = trainer(dataset, tmp_path / "run", [breaks(event, act)])
    with pytest.raises((SystemExit, KeyboardInterrupt, ZeroDivisionError)) as left: broken.fit()
    begun = (
        event == "on_end" or left.type is not ZeroDivisionError
    )  # a failure in on_load comes before the folder is begun
    assert (
        ((runs(tmp_path)["state"].tolist(), is_locked(tmp_path / "run")) == ([state], False))
        if begun
        else not (tmp_path / "run").exists()
    )
    assert event == "on_end" or broken.stopped.startswith(
        ("interrupted before step 1", "failed before step 1")
    )
    same_numbers(trainer(dataset, tmp_path / "run").fit(), unbroken)


SECONDS = 120   # of the CPU, for a call of a notebook
CELLS = ['run_dir: str = ""  # record\nepochs: int = 3  # of the training', """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from test_survival import At, planted, trainer
def wait():
    Path(os.environ["HOLD"] + ".reached").touch()
    while Path(os.environ["HOLD"]).exists(): time.sleep(0.05)
training = trainer(planted(users=200, items=100, seed=0), Path(run_dir), [At(5, wait)], epochs=epochs)
training.fit()
print(len(training.history), "epochs")
"""]


def call(notebook, folder, hold):
    "In a new process: `run_notebook`."
    from recbench.train.notebook_runs import run_notebook

    os.chdir(ROOT)
    os.environ["HOLD"] = str(hold)
    run_notebook(notebook, "killed", folder, progress=False)


def test_notebook_run_killed_in_the_middle_is_resumed_by_the_same_call(tmp_path, unbroken):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    notebook, hold = tmp_path / "experiment.ipynb", tmp_path / "hold"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={
                "kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}
            },
        ),
        notebook,
    )
    hold.touch()
    process = warm.start(SECONDS, call, notebook, tmp_path / "runs", hold, context=warm.context())
    while not (tmp_path / "hold.reached").exists():
        assert process.is_alive()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    [folder] = (tmp_path / "runs").iterdir()
    assert (
        Checkpoints(folder / "checkpoints").load()["step"] == 4 and (folder / "call.json").read_text()
    )
    while is_locked(folder): time.sleep(0.05)   # the kernel outlives its caller by up to a second
    hold.unlink()
    again = warm.start(SECONDS, call, notebook, tmp_path / "runs", hold, context=warm.context())
    assert warm.ended(again, SECONDS) == ""
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    assert not (folder / "call.json").read_text() and runs(tmp_path / "runs")["state"].tolist() == [
        "finished"
    ]
    same_numbers(Run.load(folder).history.set_index("epoch"), unbroken)
