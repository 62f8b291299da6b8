"""Print the last table of an executed notebook that holds a metric at a cut-off, and where the notebook
lies.
"""

import sys
from pathlib import Path

import nbformat


def texts(notebook):
    "Text form of every output, in order."
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield output.get("text") or output.get("data", {}).get("text/plain", "")


def final_table(path: Path, holds: str = "@") -> str:
    "The last output of several lines that holds the text."
    tables = [
        text
        for text in texts(nbformat.read(path, as_version=4))
        if holds in text and "\n" in text.strip()
    ]
    if not tables:
        raise ValueError(
            f"{path} has no output of several lines that holds {holds!r}; was it run to its end?"
        )
    return tables[-1].rstrip()


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    print(final_table(path, "recall@"), f"\nexecuted notebook: {path}", sep="\n")
