"Experiment notebooks as their users run them: papermill, from anywhere, with small parameters."
import papermill
import pytest
from conftest import ROOT, name, outputs, run, run_papermill, tail

EXPERIMENTS = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))
DSSM = ROOT / "nbs" / "experiments" / "run_dssm.ipynb"
SMALL = {"dataset": "planted", "planted_users": 200, "planted_items": 300, "epochs": 1, "top_k": 5}
DOCUMENTED = {
    "dataset",
    "top_k",
    "epochs",
    "batch_size",
    "embedding_dim",
    "output_dim",
    "similarity",
    "temperature",
    "negatives",
    "num_sample",
    "log_q",
    "device",
    "seed",
}


def check_result(path):
    "Pictures that survive, no error, a final table with the metric that was asked for."
    pictures = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2, "live curves and metric explorer leave a picture each"
    shown = run("python", "scripts/final_table.py", path)
    assert shown.returncode == 0 and "recall@5" in shown.stdout, tail(shown)
    assert shown.stdout.splitlines()[-1] == f"executed notebook: {path}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_parameters_are_typed_and_explained(path):
    parameters = papermill.inspect_notebook(str(path))
    assert parameters
    for known in parameters.values():
        assert known["inferred_type_name"] not in (None, "None") and known["help"], known


def test_dssm_has_the_documented_parameters():
    assert papermill.inspect_notebook(str(DSSM)).keys() >= DOCUMENTED


def test_runs_from_its_own_folder(tmp_path):
    result = run_papermill("run_dssm.ipynb", tmp_path / "out.ipynb", DSSM.parent, SMALL)
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb")
    assert all(output["output_type"] != "error" for output in outputs(tmp_path / "out.ipynb"))


def test_runs_from_the_root(tmp_path):
    result = run_papermill("nbs/experiments/run_dssm.ipynb", tmp_path / "out.ipynb", ROOT, SMALL)
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb")


def test_runs_from_elsewhere_with_an_installed_package(tmp_path, installed):
    notebook = installed / "share" / "recbench" / "experiments" / "run_dssm.ipynb"
    where = run(
        "python",
        "-c",
        "import recbench; print(recbench.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert where.stdout.startswith(str(installed)), tail(where)
    result = run_papermill(
        notebook, "out.ipynb", tmp_path, SMALL, shell=True, PYTHONPATH=str(installed)
    )
    assert result.returncode == 0, tail(result)
    check_result(tmp_path / "out.ipynb")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"topk": 5}, "topk"), ({"top_k": "five"}, "top_k")],
    ids=["unknown name", "wrong type"],
)
@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_bad_parameter_is_refused(path, parameters, said, tmp_path):
    if "top_k" not in papermill.inspect_notebook(str(path)):
        pytest.skip(f"{path.stem} has no top_k to misspell")
    result = run_papermill(
        path, tmp_path / "out.ipynb", tmp_path, parameters, shell=path == DSSM and said == "topk"
    )
    assert result.returncode != 0 and said in result.stderr and "TypeError" in result.stderr, tail(
        result
    )


OUT_OF_RANGE = [
    ("run_dssm", {"epochs": 0}, "epochs is 0; must be a whole number of at least 1"),
    ("run_match", {"device": "gpu"}, "device is 'gpu'; allowed are 'cpu', 'cuda' and 'cuda:<number>'"),
    ("run_tdm", {"start": "far"}, "start is 'far'; allowed are 'near', 'category'"),
]


@pytest.mark.parametrize(
    ("notebook", "parameters", "said"), OUT_OF_RANGE, ids=[one[0] for one in OUT_OF_RANGE]
)
def test_refused_in_one_line_before_anything_is_loaded(notebook, parameters, said, tmp_path):
    result = run_papermill(DSSM.with_stem(notebook), tmp_path / "out.ipynb", tmp_path, parameters)
    below = result.stderr.rstrip().rpartition("Exception encountered")[2].splitlines()
    assert result.returncode != 0 and below[1:] == [f"ValueError: {said}"], tail(result)
    found = outputs(tmp_path / "out.ipynb")
    assert [one["output_type"] for one in found][-1] == "error" and len(found) <= 2


WORLD = {"dataset": "planted", "planted_users": 60, "planted_items": 100}
SMALL_MATCH = {"dataset": "planted", "settings": "planted_users: 60, planted_items: 100"}
LAB = {"datasets": "planted", "planted_users": 60, "planted_items": 100, "save": None}
CANNOT_WORK = [
    ("run_dssm", WORLD | {"top_k": 101}, "top_k is 101; must be a whole number in 1..100"),
    ("run_match", SMALL_MATCH | {"top_k": 101}, "top_k is 101; must be a whole number in 1..100"),
    ("run_match", {"dataset": "planted", "settings": "draws: 0"}, "draws is 0; must be greater than 0"),
    ("run_tdm", WORLD | {"top_k": 101}, "top_k is 101; must be a whole number in 1..100"),
    ("run_rank", WORLD | {"prune": 50}, "prune is 50; must be a whole number in 0.."),
    ("compare_runs", {"metric": "precision"}, "metric is 'precision'; allowed are 'recall'"),
    ("negatives_lab", LAB | {"top_k": 101}, "top_k is 101; must be a whole number in 1..100"),
]


@pytest.mark.parametrize(
    ("notebook", "parameters", "said"),
    CANNOT_WORK,
    ids=[f"{notebook} {list(parameters)[-1]}" for notebook, parameters, _ in CANNOT_WORK],
)
def test_what_cannot_work_is_refused_before_training(notebook, parameters, said, tmp_path):
    result = run_papermill(DSSM.with_stem(notebook), tmp_path / "out.ipynb", tmp_path, parameters)
    assert result.returncode != 0 and said in result.stderr and "ValueError" in result.stderr, tail(
        result
    )
    assert not any(
        "image/png" in output.get("data", {}) for output in outputs(tmp_path / "out.ipynb")
    )  # no curve was begun
