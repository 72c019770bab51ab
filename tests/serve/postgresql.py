"""A PostgreSQL for the tests: the one at MILLET_TEST_POSTGRES, or a private one from Debian's packages."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

PACKAGED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))


def why_not() -> str | None:
    """None where there is one, else what to do."""
    if os.environ.get("MILLET_TEST_POSTGRES") or PACKAGED:
        return None
    return "no PostgreSQL: apt-get install postgresql, or set MILLET_TEST_POSTGRES to an administrator's URL"


@contextmanager
def server() -> Iterator[str]:
    """An administrator's URL."""
    if given := os.environ.get("MILLET_TEST_POSTGRES"):
        yield given
        return
    # Root may not run it; and a unix socket's path may have no more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="millet-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    programs = PACKAGED[-1].parent
    data = folder / "data"
    name = user or pwd.getpwuid(os.geteuid()).pw_name
    process = None
    try:
        initdb = [programs / "initdb", "-D", data, "-U", name, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, user=user, group=user, cwd=folder)
        settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "max_connections": 200}
        command = [programs / "postgres", "-D", data, *(f"--{key}={value}" for key, value in settings.items())]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=user, group=user, cwd=folder)
        url = f"postgresql+psycopg://{name}@/postgres?host={folder}"
        _wait_for(url, process, folder / "log")
        yield url
    finally:
        if process:
            process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
            process.wait()
        shutil.rmtree(folder)


@contextmanager
def database(administrator: str) -> Iterator[str]:
    """The URL of a new database, gone afterwards."""
    name = f"millet_test_{secrets.token_hex(6)}"
    _run(administrator, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield sa.make_url(administrator).set(database=name).render_as_string(hide_password=False)
    finally:
        _run(administrator, f"DROP DATABASE {name} WITH (FORCE)")


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            _run(url, "SELECT 1")
            return
        except sa.exc.OperationalError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)


def _run(url: str, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    if engine.dialect.driver != "psycopg":
        engine = sa.create_engine(engine.url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
