"""A process that has imported what notebooks import, and is forked for each of them.

Of recbench it has imported all rooms; a name that a notebook does not import is still unknown there.
Nothing computes before the fork, so no thread pool is carried over. A limit counts the CPU seconds of
the forked process; on a busy machine it takes longer.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
IMPORTS = """recbench.core recbench.core.pipeline recbench.explore recbench.interop recbench.train
    torch torchrec fbgemm_gpu torchmetrics tensordict
    safetensors.torch pandas pyarrow.parquet pyarrow.csv scipy.sparse.linalg scipy.optimize
    sklearn.linear_model sklearn.ensemble tqdm.auto matplotlib.figure matplotlib.pyplot
    matplotlib.backends.backend_agg PIL.Image IPython ipywidgets ipykernel.kernelapp nbformat
    nbdev.test papermill""".split()
TESTS = str(Path(__file__).resolve().parent)
MINUTES = 30   # that a process may take on the clock, whatever it computes: only what hangs does


def context():
    "Of multiprocessing: processes forked from the warm one, which starts with the first of them."
    warm = multiprocessing.get_context("forkserver")
    warm.set_forkserver_preload(IMPORTS)
    return warm


def limited(seconds: float, target, *arguments):
    """In a new process, a session of its own.

    Call, with so many CPU seconds, and no longer than the parent lives.
    """
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    target(*arguments)


def start(seconds: float, target, *arguments, context) -> multiprocessing.Process:
    "A process of its own group that calls the target."
    process = context.Process(target=limited, args=(seconds, target, *arguments))
    with mock.patch.dict(os.environ, ONE_THREAD): process.start()
    while process.is_alive() and os.getpgid(process.pid) != process.pid: time.sleep(0.001)
    return process


def ended(process: multiprocessing.Process, seconds: float) -> str:
    "How a process ended that was waited for; empty where it went well."
    process.join(60 * MINUTES)
    if process.exitcode == 0: return ""
    if process.exitcode == -signal.SIGXCPU: return f"stopped after {seconds} CPU seconds"
    if process.exitcode is not None: return f"exit {process.exitcode}"
    os.killpg(process.pid, signal.SIGKILL)
    return f"still running after {MINUTES} minutes"


def run_cells(path: Path, report: Path, root: Path):
    "In a new process: run a notebook as nbdev_test does, write what it says to a file."
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2): os.dup2(descriptor, stream)
    from nbdev.test import test_nb

    passed, _ = test_nb(path, skip_flags=["slow"], basepath=str(root))
    sys.exit(0 if passed else 1)


def code(source: str, folder: str, streams: str):
    "In a forked process: what `python -c` does in a folder, its output and errors into files."
    for number in (1, 2): os.dup2(os.open(Path(streams, str(number)), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.path[:] = ["", *(path for path in sys.path if path not in ("", TESTS))]
    sys.argv = ["-c"]
    exec(source, {"__name__": "__main__"})


def kernel(arguments: list[str], folder: str, variables: dict):
    "In a forked process: what `python -m ipykernel_launcher` does in a folder."
    os.chdir(folder)
    other_package = variables.get("PYTHONPATH") != os.environ.get("PYTHONPATH")
    os.environ.clear()
    os.environ.update(variables, JPY_PARENT_PID=str(os.getppid()))
    given = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["", *given, *(path for path in sys.path if path not in ("", *given, TESTS))]
    for name in [name for name in sys.modules if name.split(".")[0] == "recbench"]:
        if other_package: del sys.modules[name]
    sys.argv = ["ipykernel_launcher", *arguments]
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance()


class ForkedKernel:
    "What jupyter_client wants to know of a subprocess.Popen."
    stdin = stdout = stderr = None

    def __init__(self, seconds: float, *arguments):
        self.process = start(seconds, kernel, *arguments, context=context())
        self.pid, self.kill = self.process.pid, self.process.kill
        self.terminate = self.process.terminate

    def poll(self) -> int | None: return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int): os.kill(self.pid, number)


@dataclass
class Result:
    "As subprocess.run gives it."
    returncode: int
    stdout: str
    stderr: str


def run_python(source: str, folder: Path, seconds: float = 120) -> Result:
    "A program in a process that has imported what `IMPORTS` says and run nothing."
    with tempfile.TemporaryDirectory() as streams:
        process = start(seconds, code, source, str(folder), streams, context=context())
        how = ended(process, seconds)
        said, wrong = (Path(streams, number).read_text() for number in "12")
    return Result(process.exitcode, said, wrong if process.exitcode == 1 else wrong + how)


def run_papermill(arguments: list[str], folder: Path, seconds: float, variables: dict) -> Result:
    "The papermill command in this process, its kernel forked from the warm one."
    from click.testing import CliRunner
    from jupyter_client.provisioning import local_provisioner
    from papermill.cli import papermill

    def launch_kernel(command, cwd=None, env=None, **_):
        return ForkedKernel(seconds, command[3:], str(cwd or os.getcwd()), dict(env or os.environ))

    kernels = mock.patch.object(local_provisioner, "launch_kernel", launch_kernel)
    for last in (False, True):  # another program may take a port between its choice and its use
        with mock.patch.dict(os.environ, variables), contextlib.chdir(folder), kernels:
            found = CliRunner().invoke(papermill, list(map(str, arguments)))
        if last or "Kernel died before replying" not in str(found.exception): break
    problem = "".join(traceback.format_exception(found.exception)) if found.exception else ""
    return Result(found.exit_code, found.stdout, found.stderr + problem)


def forked_seconds() -> float:
    "CPU seconds of all that was forked from the warm process and has ended (where the system tells)."
    pid, clock = forkserver._forkserver._forkserver_pid, os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        return sum(map(int, ticks)) / clock
    return 0.0
