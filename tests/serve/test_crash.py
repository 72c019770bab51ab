"""SIGKILL in mid-reply under load: what was promised is there, what streamed misses at most its last second."""

import itertools
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from millet.serve.store import Message, Store
from millet.serve.store.schema import conversations
from tests.serve.crash_writer import ACCOUNT, word

WRITERS = 12
PROMISED = 1.0  # seconds of a reply that may be lost


def run_and_kill(url: str, seed: int, length: str, seconds: float) -> tuple[list[list[str]], float]:
    """What it said, and when it was killed: so many seconds after all writers had begun."""
    command = [sys.executable, "-m", "tests.serve.crash_writer", url, str(seed), str(WRITERS), length]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda out: lines.extend(out), args=(process.stdout,))
    reader.start()
    while sum(line.startswith("began") for line in lines) < WRITERS:
        assert process.poll() is None, "the writer ended"
        time.sleep(0.02)
    time.sleep(seconds)
    killed = time.monotonic()
    process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    return [line.split() for line in lines if line.endswith("\n")], killed


def read_all(store: Store) -> dict[str, Message]:
    with store.database.read() as connection:
        if store.database.is_sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        ids = connection.execute(sa.select(conversations.c.id)).scalars().all()
    return {message.id: message for each in ids for message in store.conversations.tree(ACCOUNT, each).messages}


def words_of(reply: Message) -> int:
    """How many there are, none missing between them."""
    words = len(reply.reasoning + reply.content) // len(word(0))
    assert reply.reasoning == "".join(word(number) for number in range(0, words, 2))
    assert reply.content == "".join(word(number) for number in range(1, words, 2))
    return words


def test_what_streamed_misses_at_most_its_last_second(database_url: str, seed: int) -> None:
    said, killed = run_and_kill(database_url, seed, "endless", random.Random(seed).uniform(1.8, 2.6))
    sent = [(line[1], int(line[2]), float(line[3])) for line in said if line[0] == "sent"]
    # A busy machine may have held all its threads up.
    stalled = max(after - before for before, after in itertools.pairwise(sorted(at for _, _, at in sent)))
    due = {message: words for message, words, at in sent if at < killed - PROMISED - stalled}
    assert len(due) == WRITERS
    with Store.open(database_url) as store:
        found = read_all(store)
        for message in (line[1] for line in said if line[0] == "began"):
            assert found[message].status == "interrupted"
            assert words_of(found[message]) >= due[message]


def test_what_was_promised_is_there(database_url: str, seed: int) -> None:
    with Store.open(database_url) as bystander:  # another server on the same database: its replies go on
        conversation = bystander.conversations.create(ACCOUNT)
        question = bystander.conversations.add_message(ACCOUNT, conversation.id, None, "user", "?")
        alive = bystander.conversations.begin_reply(ACCOUNT, question.id, "m")
        said, _ = run_and_kill(database_url, seed, "short", random.Random(seed).uniform(0.1, 0.8))
        with Store.open(database_url) as store:
            found = read_all(store)
            assert store.search(ACCOUNT, "问题", 1)
    told = {kind: {line[1] for line in said if line[0] == kind} for kind in ("said", "began")}
    ended = {line[1]: int(line[2]) for line in said if line[0] == "ended"}
    assert len(ended) >= WRITERS
    assert told["said"] | told["began"] <= found.keys()
    for message, words in ended.items():
        reply = found[message]
        assert (reply.status, reply.finish_reason, words_of(reply)) == ("complete", "stop", words)
    for message in told["began"] - ended.keys():  # complete: killed before it could say so
        assert found[message].status in ("complete", "interrupted")
    assert found[alive.id].status == "streaming"
    if database_url.startswith("sqlite"):
        folder = Path(sa.make_url(database_url).database or "").parent
        assert [path.name for path in folder.iterdir()] == ["millet.db"]
