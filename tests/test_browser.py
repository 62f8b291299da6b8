"""Somebody opens JupyterLab, runs the explorer notebook, moves its sliders, saves, and comes back
without a kernel.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import BIN, ONE_THREAD, ROOT, outputs

EXPLORER = ROOT / "nbs" / "90_explore" / "20_curves.ipynb"
PICTURES = ROOT / "artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
QUIET = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}
}
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
READY = "Python 3 (ipykernel) | Idle"   # in the status bar
MILLISECONDS = 40_000   # that a page may take

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the Python package playwright is not installed"
)
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium in PATH: apt-get install chromium, then this test runs"
)


def settings(folder: Path) -> Path:
    "JupyterLab's user settings, without the question about news that lies over everything."
    for plugin, values in QUIET.items():
        path = folder / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Lab:
    "A JupyterLab on the loopback, with a folder, a token and nothing of the user's."

    def __init__(self, home: Path, log):
        self.port, self.token = free_port(), secrets.token_hex(16)
        folders = {
            name: str(home / name.lower())
            for name in (
                "JUPYTER_CONFIG_DIR",
                "JUPYTER_DATA_DIR",
                "JUPYTER_RUNTIME_DIR",
                "JUPYTERLAB_WORKSPACES_DIR",
                "IPYTHONDIR",
            )
        }
        command = [
            BIN / "jupyter-lab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={self.port}",
            "--ServerApp.port_retries=0",
            "--LabApp.extension_manager=readonly",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={home / 'work'}",
        ]
        environment = {
            **os.environ,
            **ONE_THREAD,
            **folders,
            "JUPYTERLAB_SETTINGS_DIR": str(settings(home / "settings")),
        }
        environment.pop("MPLBACKEND")
        self.process = subprocess.Popen(
            [*map(str, command)],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=home,
            start_new_session=True,
        )

    def ask(self, path: str, method: str = "GET"):
        "An answer of the server's REST interface."
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def wait(self, seconds: float = 40):
        "Until it answers."
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            try:return self.ask("/status")
            except OSError: time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start, exit {self.process.poll()}")

    def end_kernels(self):
        for session in self.ask("/sessions"): self.ask(f"/sessions/{session['id']}", "DELETE")

    def close(self):
        "Kernels first, then the server, asked kindly, then not."
        try:self.end_kernels()
        except OSError: pass
        for kind in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None: return
            os.killpg(self.process.pid, kind)
            try:self.process.wait(10)
            except subprocess.TimeoutExpired: pass


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "work").mkdir()
    shutil.copy(EXPLORER, tmp_path / "work" / "explorer.ipynb")
    with (tmp_path / "lab.log").open("w") as log:
        server = Lab(tmp_path, log)
        try:
            server.wait()
            yield server
        finally: server.close()


@contextmanager
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try: yield browser
        except Exception:
            for context in browser.contexts: shot(context.pages[-1], "failed")
            raise
        finally: browser.close()


def open_notebook(browser, lab):
    "The notebook in a new window that knows nothing of earlier ones."
    page = browser.new_context(viewport={"width": 1400, "height": 950}).new_page()
    page.set_default_timeout(MILLISECONDS)
    page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/explorer.ipynb?reset&token={lab.token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    return page


def run_all(page):
    "Run > Run All Cells, to the end; the kernel must be there first."
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
    page.get_by_text(READY).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(f".noUi-handle, {ERROR}", state="attached")
    page.wait_for_selector(idle)
    assert page.locator(ERROR).all_text_contents() == []


def handle_of(page, label: str):
    "The handle of the slider that is called so."
    slider = page.locator(".widget-slider", has=page.locator(".widget-label", has_text=label))
    return slider.locator(".noUi-handle")


def explorer_picture(page):
    return page.locator(".jp-OutputArea", has=page.locator(".noUi-handle")).locator("img").last


def changed(page, picture, before: str, seconds: float = 20) -> str:
    "The picture's source once it is another one."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = picture.get_attribute("src")
        if now and now != before: return now
        page.wait_for_timeout(20)
    raise AssertionError("the picture did not change")


def drag(page, handle, pixels: int):
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=8)
    page.mouse.up()


def shot(page, name: str):
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / f"browser-{name}.png")


def saved_pictures(path: Path) -> set[str]:
    return {
        "".join(output["data"]["image/png"]).replace("\n", "")
        for output in outputs(path)
        if "image/png" in output.get("data", {})
    }


def test_explorer_in_the_browser(lab, tmp_path):
    path = tmp_path / "work" / "explorer.ipynb"
    with chromium() as browser:
        page = open_notebook(browser, lab)
        run_all(page)
        picture = explorer_picture(page)
        picture.scroll_into_view_if_needed()
        first = picture.get_attribute("src")
        assert (
            base64.b64decode(first.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
            and picture.bounding_box()["width"] > 600
        )
        shot(page, "1-run")

        handle = handle_of(page, "smoothing")
        handle.focus()
        page.keyboard.press("ArrowRight")
        second = changed(page, picture, first)
        shot(page, "2-key")

        drag(page, handle_of(page, "k"), -60)
        page.wait_for_timeout(500)
        third = changed(page, picture, second)
        shot(page, "3-drag")

        end, shown = time.monotonic() + 30, ""
        while (
            not (shown and shown in saved_pictures(path)) and time.monotonic() < end
        ):  # on a busy machine the last picture comes after a save
            page.keyboard.press("Control+s")
            page.wait_for_timeout(500)
            third = picture.get_attribute("src")
            shown = third.removeprefix("data:image/png;base64,").replace("\n", "")
        assert shown in saved_pictures(path), "the saved notebook does not hold the picture last seen"

        lab.end_kernels()
        page = open_notebook(browser, lab)
        again = page.locator(f"img[src*='{shown[-60:]}']")
        again.wait_for(state="attached")
        page.get_by_text(READY).wait_for()   # a new kernel, which knows nothing of the widgets
        again.scroll_into_view_if_needed()
        assert again.bounding_box()["width"] > 600
        shot(page, "4-reopened")
