"""Links at the end of every component notebook: neighbours, the lessons that use it, the letters.

    python scripts/neighbours.py [--write]

Prints the notebooks whose links are not those; `--write` mends them. A lesson uses a notebook that it
links, or whose functions or classes it imports.
"""

import ast
import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
LETTERS = "10_data/10_rows/10_features.ipynb"
LINK = re.compile(r"\]\((?!\w+:|#|/)([^)\s#]+\.ipynb)")
IMPORT = re.compile(r"^from recbench\.([\w.]+) import (\([^)]*\)|[^\n]*)", re.M)
START, SPACE = "Neighbours: ", "\n\n"


def components() -> list[str]:
    "Notebooks of the rooms in order, as paths below nbs/."
    found = sorted(path.relative_to(NBS) for path in NBS.rglob("*.ipynb"))
    numbered = [path for path in found if re.match(r"\d\d_", path.parts[0])]
    return [path.as_posix() for path in numbered if ".ipynb_checkpoints" not in path.parts]


def read(name: str) -> dict[str, Any]:
    return json.loads((NBS / name).read_text(encoding="utf-8"))


def text_of(notebook: dict[str, Any], kind: str) -> str:
    "All cells of a kind in one text."
    return "\n".join("".join(one["source"]) for one in notebook["cells"] if one["cell_type"] == kind)


def title_of(notebook: dict[str, Any]) -> str:
    match = re.search(r"^# (.+)", text_of(notebook, "markdown"), re.M)
    return match[1] if match else "untitled"


def homes() -> dict[tuple[str, str], str]:
    "(room, name) -> notebook that a function or class is written in, as nbdev's index has it."
    text = (ROOT / "recbench" / "_modidx.py").read_text(encoding="utf-8")
    index = ast.literal_eval(text.partition("d = ")[2])["syms"]
    return {
        (module.split(".")[1], name.removeprefix(f"{module}.")): place[0].partition("#")[0]
        for module, names in index.items() for name, place in names.items()
    }


def places() -> dict[str, str]:
    "What nbdev's index calls a notebook -> its path below nbs/."
    return {re.sub(r"\d+_([^/]+)\.ipynb$", r"\1.html", name): name for name in components()}


def used_by(lesson: str, known: dict[tuple[str, str], str], paths: dict[str, str]) -> set[str]:
    "Notebooks that a lesson links or whose names it imports."
    notebook, folder = read(lesson), posixpath.dirname(lesson)
    linked = LINK.findall(text_of(notebook, "markdown"))
    found = {posixpath.normpath(posixpath.join(folder, link)) for link in linked}
    for module, names in IMPORT.findall(text_of(notebook, "code")):
        room = module.split(".")[0]
        wanted = [name.split(" as ")[0].strip() for name in names.strip("()").split(",")]
        found |= {paths[known[room, name]] for name in wanted
                  if (room, name) in known and known[room, name] in paths}
    return found


def lessons() -> dict[str, list[str]]:
    "Notebook -> lessons that use it, in order."
    known, paths, found = homes(), places(), {}
    for path in sorted((NBS / "lessons").glob("*.ipynb")):
        lesson = f"lessons/{path.name}"
        for name in used_by(lesson, known, paths): found.setdefault(name, []).append(lesson)
    return found


def links(name: str, title: str, targets: list[str], titles: dict[str, str]) -> list[str]:
    "A line for each link, the first with what they are."
    folder = posixpath.dirname(name)
    shown = [f"[{titles[one]}]({posixpath.relpath(one, folder)})" for one in targets]
    return [f"{title}{shown[0]}", *shown[1:]] if shown else []


def wanted() -> dict[str, str]:
    "Notebook -> the paragraph that ends it."
    names, used = components(), lessons()
    titles = {name: title_of(read(name)) for name in {*names, *sum(used.values(), [])}}
    found = {}
    for place, name in enumerate(names):
        beside = [names[at] for at in (place - 1, place + 1) if 0 <= at < len(names)]
        lines = [",\n".join(links(name, START, beside, titles)),
                 ",\n".join(links(name, "lessons: ", used.get(name, []), titles)),
                 f"[letters of shapes]({posixpath.relpath(LETTERS, posixpath.dirname(name))})"]
        found[name] = ";\n".join(filter(None, lines)) + "."
    return found


def ended(source: str, paragraph: str) -> str:
    "A text whose last paragraph is this one."
    kept = source if not source.startswith(START) else ""
    return f"{kept.partition(SPACE + START)[0].rstrip()}{SPACE}{paragraph}".lstrip()


def mended(notebook: dict[str, Any], paragraph: str) -> dict[str, Any]:
    "The notebook with the paragraph at its end."
    cells = notebook["cells"]
    if cells[-1]["cell_type"] != "markdown":
        cells.append({"cell_type": "markdown", "id": "neighbours", "metadata": {}, "source": []})
    text = ended("".join(cells[-1]["source"]), paragraph)
    cells[-1]["source"] = text.splitlines(keepends=True)
    return notebook


def stale() -> list[str]:
    "Notebooks that do not end on their links."
    return [name for name, paragraph in wanted().items()
            if not "".join(read(name)["cells"][-1]["source"]).endswith(paragraph)]


def main() -> None:
    found, paragraphs = stale(), wanted()
    for name in found if "--write" in sys.argv[1:] else ():
        text = json.dumps(mended(read(name), paragraphs[name]), ensure_ascii=False, indent=1)
        (NBS / name).write_text(f"{text}\n", encoding="utf-8")
    print(*found, f"{len(found)} notebooks without their links", sep="\n")


if __name__ == "__main__": main()
