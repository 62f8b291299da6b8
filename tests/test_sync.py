"recbench/ is exactly what nbs/ exports: nothing stale, nothing edited, nothing written by hand."
import shutil

import pytest
from conftest import ROOT, copy_tree, run, tail


def tree(folder) -> dict[str, bytes]:
    "Relative path -> content of every file."
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def differences(ours: dict, theirs: dict) -> list[str]:
    def what(path: str) -> str:
        if path not in theirs: return "only in recbench/"
        return "not exported yet" if path not in ours else "differs from its notebook"

    paths = sorted(ours.keys() | theirs.keys())
    return [f"{path}: {what(path)}" for path in paths if ours.get(path) != theirs.get(path)]


def export(folder):
    result = run("nbdev_export", cwd=folder)
    assert result.returncode == 0, tail(result)
    return tree(folder / "recbench")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "The notebooks and the settings alone, exported once."
    folder = tmp_path_factory.mktemp("sources")
    copy_tree(ROOT / "nbs", folder / "nbs")
    shutil.copy(ROOT / "settings.ini", folder)
    export(folder)
    return folder


def test_package_is_what_the_notebooks_export(sources):
    assert differences(tree(ROOT / "recbench"), tree(sources / "recbench")) == []


def test_deleted_package_comes_back(sources):
    first = tree(sources / "recbench")
    shutil.rmtree(sources / "recbench")
    assert differences(first, export(sources)) == []
    assert differences(first, export(sources)) == [], "a second export changes something"


def test_comparison_sees_stale_edited_and_missing():
    assert differences({"stale.py": b"", "edited.py": b"1"}, {"edited.py": b"2", "new.py": b""}) == [
        "edited.py: differs from its notebook",
        "new.py: not exported yet",
        "stale.py: only in recbench/",
    ]
