"""Runs command lines of featcache in processes that are forked from one that has loaded torch, which takes seconds.

Each is a process of its own, with the folder, the environment and the exit code of ``python -m featcache``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CommandServer"]

LOADED = (
    "h5py",
    "numpy",
    "PIL.Image",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "torch",
    "torchvision",
)


class CommandServer:
    """A process that forks others, which end before it is asked again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Return what a command line ended with; raises ``TimeoutError`` after so many seconds."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(timeout_s)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            files = [str(Path(place) / name) for name in ("out", "err")]
            request = {
                "arguments": list(arguments),
                "folder": str(folder),
                "environment": dict(environment),
                "files": files,
            }
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            out, err = (Path(each).read_bytes().decode() for each in files)
        if not answer.strip():
            raise TimeoutError(f"featcache {' '.join(arguments)} took more than {timeout_s:.0f} s\n{out}\n{err}")
        return subprocess.CompletedProcess(list(arguments), int(answer), out, err)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _serve(timeout_s: float) -> None:
    for name in LOADED:
        __import__(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            answers.close()
            return _run(**request, timeout_s=timeout_s)
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == SIGALRM:
            return None  # it took too long
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
    return None


def _run(arguments: list[str], folder: str, environment: dict[str, str], files: list[str], timeout_s: float) -> None:
    import signal

    signal.setitimer(signal.ITIMER_REAL, timeout_s)  # whose signal ends the process
    for number, path in enumerate([os.devnull, *files]):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = ["featcache", *arguments]
    code = 0
    try:
        runpy.run_module("featcache", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    # Not all of the end of an interpreter, which would touch and so copy all that is shared.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


SIGALRM = 14

if __name__ == "__main__":
    _serve(float(sys.argv[1]))
