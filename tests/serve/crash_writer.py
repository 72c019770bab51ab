"""A process that is killed: writes replies under load, and says on stdout what it was promised and what it sent.
The replies are short, so that many end at any moment, or endless.

said ID              a message whose `add_message` returned
began ID             a reply whose `begin_reply` returned
sent ID COUNT TIME   words given to the writer so far, just before the time (monotonic seconds)
ended ID COUNT       a reply of that many words whose end is on disk
"""

import random
import sys
import threading
import time

from millet.serve.store import Store

ACCOUNT = "local"


def word(number: int) -> str:
    """The reply's word of this number: a text tells how many words it has, and whether they are the right ones."""
    return f"{number:05d} "


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def talk(store: Store, draw: random.Random, endless: bool) -> None:
    conversation = store.conversations.create(ACCOUNT)
    parent = None
    while True:
        question = store.conversations.add_message(ACCOUNT, conversation.id, parent, "user", "Question? 问题")
        tell("said", question.id)
        reply = store.conversations.begin_reply(ACCOUNT, question.id, "m")
        tell("began", reply.id)
        length = 99_999 if endless else draw.randrange(1, 6)
        for number in range(length):
            store.replies.append(reply.id, **{"content" if number % 2 else "reasoning": word(number)})
            if endless and number % 10 == 9:
                tell("sent", reply.id, number + 1, time.monotonic())
                time.sleep(0.05)
        store.replies.finish(reply.id, "complete", finish_reason="stop").result()
        tell("ended", reply.id, length)
        parent = reply.id


if __name__ == "__main__":
    url, seed, writers, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    opened = Store.open(url)
    for index in range(writers):
        threading.Thread(
            target=talk, args=(opened, random.Random(seed + index), length == "endless"), daemon=True
        ).start()
    threading.Event().wait()
