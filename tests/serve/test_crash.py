"""SIGKILL in mid-reply under load: what was promised is there, what streamed misses at most its last second."""

import itertools
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from millet.serve.store import Store
from millet.serve.store.conversations import _message
from millet.serve.store.schema import messages
from tests.serve.crash_writer import ACCOUNT, word

WRITERS = 12
PROMISED = 1.0  # seconds of a reply that may be lost


def run_and_kill(url: str, seed: int, seconds: float) -> tuple[list[list[str]], float]:
    """What it said, and when it was killed."""
    command = [sys.executable, "-m", "tests.serve.crash_writer", url, str(seed), str(WRITERS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda out: lines.extend(out), args=(process.stdout,))
    reader.start()
    while sum(line.startswith("ended") for line in lines) < WRITERS // 2:  # load has built up
        assert process.poll() is None, "the writer ended"
        time.sleep(0.02)
    time.sleep(seconds)
    killed = time.monotonic()
    process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    return [line.split() for line in lines if line.endswith("\n")], killed


def test_a_killed_server_loses_at_most_the_last_second(database_url: str, seed: int) -> None:
    draw = random.Random(seed)
    with Store.open(database_url) as bystander:  # another server on the same database: its replies go on
        conversation = bystander.conversations.create(ACCOUNT)
        question = bystander.conversations.add_message(ACCOUNT, conversation.id, None, "user", "?")
        alive = bystander.conversations.begin_reply(ACCOUNT, question.id, "m")
        said, killed = run_and_kill(database_url, seed, draw.uniform(0.3, 1.5))
        with Store.open(database_url) as store:
            check(store, said, killed)
            assert store.conversations.path(ACCOUNT, alive.id)[-1].status == "streaming"
            assert len(store.search(ACCOUNT, "问题", 10)) == 10
    if database_url.startswith("sqlite"):
        folder = Path(sa.make_url(database_url).database or "").parent
        assert [path.name for path in folder.iterdir()] == ["millet.db"]


def check(store: Store, said: list[list[str]], killed: float) -> None:
    with store.database.read() as connection:
        if store.database.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        columns = [column for column in messages.c if column.name not in ("number", "owner")]
        found = {row.id: _message(row) for row in connection.execute(sa.select(*columns))}
    began = {line[1] for line in said if line[0] == "began"}
    ended = {line[1]: int(line[2]) for line in said if line[0] == "ended"}
    sent = [(line[1], int(line[2]), float(line[3])) for line in said if line[0] == "sent"]
    times = sorted(at for _, _, at in sent)
    stalled = max(after - before for before, after in itertools.pairwise(times))  # a busy machine held all threads up
    due = {message: words for message, words, at in sent if at < killed - PROMISED - stalled}  # that must be there
    assert due
    assert {line[1] for line in said if line[0] == "said"} <= found.keys()
    assert began <= found.keys()
    for message in began:
        reply = found[message]
        text = reply.reasoning + reply.content
        words = len(text) // len(word(0))
        assert text == "".join(word(number) for number in range(words))
        assert words >= due.get(message, 0)
        if message in ended:
            assert (reply.status, reply.finish_reason, words) == ("complete", "stop", ended[message])
        else:
            assert reply.status in ("complete", "interrupted")  # complete: killed before it could say so
    interrupted = [reply for reply in found.values() if reply.status == "interrupted"]
    assert interrupted
    assert any(reply.content for reply in interrupted)
