"""Make README.md of nbs/index.ipynb and MEASURED.md of nbs/measured.ipynb as they are stored.

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
PAGES = {"nbs/index.ipynb": "README.md", "nbs/measured.ipynb": "MEASURED.md"}
IMAGES = "nbs/images"
NOTE = "<!-- made from {} by `make readme`; edit the notebook -->"
DIRECTIVE = re.compile(r"^#\| *([\w-]+)(?:: *(.*))?\n?", re.M)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)[^)\s]+")  # relative targets only


def linked_from_root(markdown: str) -> str:
    "Relative links of the notebook as links of the root."
    return LINK.sub(
        lambda link: posixpath.normpath(posixpath.join("nbs", link[0])), markdown
    )


def fence(text: str, language: str = "") -> str:
    return f"```{language}\n{text.strip(chr(10))}\n```"


def output_block(output: NotebookNode, alt: str, images: dict[str, bytes]) -> str:
    "One output as markdown; a picture is added to `images`."
    if output.output_type == "stream": return fence(output.text) if output.name == "stdout" else ""
    if output.output_type == "error":
        raise ValueError(f"a cell ended with {output.ename}; run the notebook to its end")
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


def render(notebook: NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    "Text of the page that the notebook of this name makes, and path -> bytes of its pictures."
    images: dict[str, bytes] = {}
    blocks = [block for cell in notebook.cells for block in cell_blocks(cell, images)]
    return "\n\n".join([NOTE.format(name), *filter(None, blocks)]) + "\n", images


def write(name: str, text: str, images: dict[str, bytes]) -> None:
    for path, picture in images.items(): (ROOT / path).write_bytes(picture)
    (ROOT / PAGES[name]).write_text(text, encoding="utf-8")
    print(f"{PAGES[name]}: {len(text):,} characters, {len(images)} pictures")


if __name__ == "__main__":
    for old in (ROOT / IMAGES).glob("index-*.png"): old.unlink()
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for name in PAGES: write(name, *render(nbformat.read(ROOT / name, as_version=4), name))
