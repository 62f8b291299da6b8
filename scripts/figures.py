"""How the code reads, in figures: width of lines, length of functions and export cells, help, the type
checker.

    python scripts/figures.py [--room 20_layers] [--list] [--pyright]

`--list` prints where a figure is missed, `--pyright` counts the errors of the type checker too (a
minute). Lines are those of notebooks, code and text; tables, equations and what is in a fence of text
cannot be cut and are not counted. A public name is one that a room's face exports; its parameters are
explained where its docstring (or that of its class) names them.
"""

import argparse
import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 104
FACES = (
    "core",
    "data",
    "layers",
    "matching",
    "losses",
    "metrics",
    "models",
    "evaluate",
    "train",
    "sweep",
    "export",
    "serve",
    "interop",
    "explore",
)


def cells(room: str) -> Iterator[tuple[str, str, str]]:
    "Notebook, kind and source of every cell."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        name = path.relative_to(ROOT / "nbs").as_posix()
        if ".ipynb_checkpoints" in name or not name.startswith(room): continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield name, cell["cell_type"], "".join(cell["source"])


def wide_lines(kind: str, source: str) -> list[str]:
    "Lines over the width that could be cut."
    found, fenced = [], False
    for line in source.split("\n"):
        if line.startswith("```"): fenced = not fenced
        fixed = kind == "markdown" and (
            fenced or "$" in line or line.lstrip().startswith(("|", "<", "!["))
        )
        if len(line) > WIDTH and not fixed: found.append(line)
    return found


def exported(source: str) -> str | None:
    "An export cell's code without its directives, None for another cell."
    lines = source.split("\n")
    if not lines[0].startswith("#| export"): return None
    return "\n".join(line for line in lines if not line.startswith("#|"))


def function_lengths(code: str) -> dict[str, int]:
    "Lines of every function, from `def` to its end."
    nodes = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {node.name: node.end_lineno - node.lineno + 1 for node in nodes}


def quantile(values: list[int], share: float) -> int:
    "The value below which this share of the values lies."
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0


def unexplained(face: str) -> list[str]:
    "Parameters of a face's names that no docstring names."
    module = importlib.import_module(f"recbench.{face}")
    return [
        f"recbench.{face}.{name}: {text}"
        for name in module.__all__
        for text in missing(getattr(module, name))
    ]


def missing(thing: object) -> list[str]:
    "What `help` of a function or class does not explain: itself, its parameters, those of its methods."
    if not (inspect.isfunction(thing) or inspect.isclass(thing)): return []
    if not inspect.getdoc(thing) or (inspect.isclass(thing) and not thing.__dict__.get("__doc__")):
        return ["no text"]
    found = silent_parameters(
        thing, inspect.getdoc(thing) or "", thing.__init__ if inspect.isclass(thing) else thing
    )
    for name, method in vars(thing).items() if inspect.isclass(thing) else ():
        plain = method.__func__ if isinstance(method, classmethod | staticmethod) else method
        if name.startswith("_") or not inspect.isfunction(plain): continue
        if not plain.__doc__:found.append(f".{name} has no text")
        else: found += [f".{name}{text}" for text in silent_parameters(thing, plain.__doc__, plain)]
    return found


def silent_parameters(owner: object, text: str, function: object) -> list[str]:
    "Names of parameters that the text does not have as a word."
    if function is object.__init__: return []
    if hasattr(owner, "model_fields"):
        names = list(owner.model_fields) if function is owner.__init__ else own_names(function)
    elif hasattr(owner, "_fields") and inspect.isclass(owner) and function is owner.__init__:
        names = list(owner._fields)
    else:
        names = own_names(function)
    words = set(
        text.replace("`", " ")
        .replace("(", " ")
        .replace(",", " ")
        .replace(":", " ")
        .replace(".", " ")
        .replace(")", " ")
        .split()
    )
    return [f"({name})" for name in names if name not in words]


def own_names(function: object) -> list[str]:
    "Parameters of a function without self, *args and **kwargs."
    try:parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError): return []
    return [
        p.name
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in ("self", "cls")
    ]


def pyright_errors() -> dict[str, int]:
    "Errors of pyright in basic mode for each room of the package."
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--level",
        "error",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "recbench",
    ]
    report = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout)
    rooms: dict[str, int] = {}
    for finding in report["generalDiagnostics"]:
        room = Path(finding["file"]).relative_to(ROOT / "recbench").parts[0]
        rooms[room] = rooms.get(room, 0) + 1
    return rooms


def main() -> None:
    "Print the figures of all rooms or one."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", default="", help="folder of nbs/, such as 20_layers; all by default")
    parser.add_argument("--list", action="store_true", help="print where a figure is missed")
    parser.add_argument("--pyright", action="store_true", help="count the errors of the type checker")
    options = parser.parse_args()
    wide, lengths, sizes, lines = [], [], [], 0
    for name, kind, source in cells(options.room):
        wide += [f"{name}: {line.strip()[:90]}" for line in wide_lines(kind, source)]
        lines += source.count("\n") + 1
        code = exported(source) if kind == "code" else None
        if code is None: continue
        lengths += [
            (count, f"{name}: {function}") for function, count in function_lengths(code).items()
        ]
        sizes.append((sum(bool(line.strip()) for line in code.split("\n")), name))
    faces = [face for face in FACES if face in options.room or not options.room]
    silent = [text for face in faces for text in unexplained(face)]
    print(f"lines over {WIDTH} columns   {len(wide):5d} of {lines:,}")
    counts = [count for count, _ in lengths]
    print(
        f"function lines           {quantile(counts, 0.5):5d} median, {quantile(counts, 0.9)} at nine "
        f"in ten of {len(counts):,}"
    )
    counts = [count for count, _ in sizes]
    within = sum(count <= 20 for count in counts) / max(len(counts), 1)
    print(
        f"export cell lines        {quantile(counts, 0.5):5d} median, {quantile(counts, 0.9)} at nine "
        f"in ten; {within:.0%} within 20"
    )
    print(
        f"parameters without help  {len(silent):5d} in {len({text.split(':')[0] for text in silent})} "
        "public names"
    )
    if options.list:
        print(
            "\n".join(
                [
                    "",
                    *wide,
                    *silent,
                    *(f"{count} lines: {where}" for count, where in sorted(lengths + sizes)[::-1][:60]),
                ]
            )
        )
    if options.pyright:
        rooms = pyright_errors()
        print(f"pyright errors           {sum(rooms.values()):5d} {dict(sorted(rooms.items()))}")


if __name__ == "__main__": main()
