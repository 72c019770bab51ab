"""A server in a process of its own, on a free port of loopback, and what it takes: processor seconds and memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from millet.errors import MilletError

START = 180.0  # seconds until it must be ready, the loading of its model included
STOP = 10.0  # seconds that it has to end before it is killed


class ServerProcess:
    """Runs `python -m` with `words`, and is there when /readyz says so. The program must print its URL on standard
    error. Use as a context manager. Raises MilletError with its last words when it does not get ready."""

    def __init__(self, words: Sequence[str], threads: int) -> None:
        self._said, path = tempfile.mkstemp()  # not a pipe: nobody would read its log
        os.unlink(path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"},
        )
        try:
            self.port = self._wait()
        except BaseException:
            self.close()
            raise

    def cpu_seconds(self) -> float:
        """Processor time so far, of all threads; 0 where the system has no /proc."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory right now; 0 where the system has no /proc."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._said)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait(self) -> int:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise MilletError(f"the server that was to be measured ended: {self._words()[-500:].strip()}")
            if (found := re.search(r"http://127\.0\.0\.1:(\d+)", self._words())) and _ready(int(found[1])):
                return int(found[1])
            time.sleep(0.05)
        raise MilletError(f"the server that was to be measured was not ready after {START:.0f} s")

    def _words(self) -> str:
        return os.pread(self._said, 65536, 0).decode("utf-8", "replace")


def _ready(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
