"""What tests of the store put into it first."""

from millet.serve.store import Message, Store

ME = "local"


def begin(store: Store) -> Message:
    conversation = store.conversations.create(ME)
    question = store.conversations.add_message(ME, conversation.id, None, "user", "question")
    return store.conversations.begin_reply(ME, question.id, "a-model")
