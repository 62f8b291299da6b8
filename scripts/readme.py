"""Make README.md and its pictures from nbs/index.ipynb as it is stored.

Markdown stays as it is, with links turned to the root; code becomes a python block, text a plain block,
PNG a file. `#| hide` drops a cell, `#| hide_input` its code; `#| fig-alt: ...` describes its picture.
"""

import base64
import posixpath
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, IMAGES = "nbs/index.ipynb", "nbs/images"
NOTE = f"<!-- made from {NOTEBOOK} by `make readme`; edit the notebook -->"
DIRECTIVE = re.compile(r"^#\| *([\w-]+)(?:: *(.*))?\n?", re.M)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)[^)\s]+")  # relative targets only


def linked_from_root(markdown: str) -> str:
    "Relative links of the notebook as links of the root."
    return LINK.sub(
        lambda link: posixpath.normpath(posixpath.join(posixpath.dirname(NOTEBOOK), link[0])), markdown
    )


def fence(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def output_block(output: NotebookNode, alt: str, images: dict[str, bytes]) -> str:
    "One output as markdown; a picture is added to `images`."
    if output.output_type == "stream": return fence(output.text) if output.name == "stdout" else ""
    if output.output_type == "error":
        raise ValueError(f"{NOTEBOOK} holds an error, {output.ename}; run it to its end")
    data = output.data
    if "image/png" not in data:
        return (
            linked_from_root(data["text/markdown"])
            if "text/markdown" in data
            else fence(data["text/plain"])
        )
    path = f"{IMAGES}/index-{len(images) + 1}.png"
    images[path] = base64.b64decode(data["image/png"])
    return f"![{alt}]({path})"


def cell_blocks(cell: NotebookNode, images: dict[str, bytes]) -> list[str]:
    "What a cell shows, as blocks of markdown."
    if cell.cell_type == "markdown": return [linked_from_root(cell.source)]
    directives = dict(DIRECTIVE.findall(cell.source))
    if "hide" in directives: return []
    code = [] if "hide_input" in directives else [fence(DIRECTIVE.sub("", cell.source), "python")]
    return code + [
        output_block(output, directives.get("fig-alt", ""), images) for output in cell.outputs
    ]


def render(notebook: NotebookNode) -> tuple[str, dict[str, bytes]]:
    "Text of the README, and path -> bytes of its pictures."
    images: dict[str, bytes] = {}
    blocks = [block for cell in notebook.cells for block in cell_blocks(cell, images)]
    return "\n\n".join([NOTE, *filter(None, blocks)]) + "\n", images


def write(text: str, images: dict[str, bytes]) -> None:
    for old in (ROOT / IMAGES).glob("index-*.png"): old.unlink()
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for path, picture in images.items(): (ROOT / path).write_bytes(picture)
    (ROOT / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    text, images = render(nbformat.read(ROOT / NOTEBOOK, as_version=4))
    write(text, images)
    print(f"README.md: {len(text):,} characters, {len(images)} picture")
