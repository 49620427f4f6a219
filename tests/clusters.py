"""A Dask cluster on this machine: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_SECONDS = 60.0
ROOT = Path(__file__).parent.parent


class DaskCluster:
    """Started when entered, gone when left, whatever became of it meanwhile.

    Args:
        folder: For what its processes write.
        workers: How many, with one thread each.
        nanny: Each worker has a process that starts it anew when it has died.
        preload: A file that workers run as they start.
    """

    def __init__(self, folder: Path, workers: int = 2, nanny: bool = False, preload: Path | None = None) -> None:
        self._folder = folder
        self._count = workers
        self._options = [
            "--nanny" if nanny else "--no-nanny",
            *(() if preload is None else ("--preload", str(preload))),
        ]
        self.address = ""
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        distributed: Any = import_module("distributed")  # only for whoever has it

        try:
            told = self._folder / "scheduler.json"
            port = ("--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--no-show")
            self.scheduler = self._start("dask_scheduler", *port, "--scheduler-file", str(told))
            self.address = json.loads(self._wait_for(told))["address"]
            self.workers = [self._start_worker() for _ in range(self._count)]
            with distributed.Client(self.address, set_as_default=False, timeout=START_SECONDS) as client:
                client.wait_for_workers(self._count, START_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start_worker(self) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", *self._options)
        return self._start("dask_worker", self.address, *options, "--local-directory", str(self._folder))

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{what}", *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for(self, file: Path) -> str:
        deadline = time.monotonic() + START_SECONDS
        while not (file.exists() and (text := file.read_text())):
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.01)
        return text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and the workers of a nanny; to say goodbye takes seconds
                process.wait()
