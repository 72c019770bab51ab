"""Runs a program in a pseudo-terminal, presses keys, and reads the screen as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[2]


class PseudoTerminal:
    """A Python program on a terminal of its own. Use as a context manager; the program does not outlive it."""

    def __init__(self, program: str, *, width: int = 80, height: int = 24, **environment: str) -> None:
        self.screen = _Screen(self._answer, width, height)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(timeout=5)
        os.close(self._master)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.lines()).rstrip()

    def wait_for(self, shown: str | Callable[[str], bool], seconds: float = 30.0) -> str:
        """The screen's text as soon as it shows this. Fails with the screen where it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.text()
            if shown in text if isinstance(shown, str) else shown(text):
                return text
            time.sleep(0.02)
        raise AssertionError(f"never shown: {shown!r}; the screen is:\n{self.text()}")

    def exit_code(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def _answer(self, data: str) -> None:
        os.write(self._master, data.encode())

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # how Linux says that the program has closed the terminal
                return
            if not data:
                return
            with self._lock:
                self.raw += data
                self._stream.feed(data)


class _Screen(pyte.Screen):
    """A screen that answers where its cursor is, as terminals do."""

    def __init__(self, answer: Callable[[str], None], width: int, height: int) -> None:
        super().__init__(width, height)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)
