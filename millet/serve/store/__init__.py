"""What the server keeps: conversations, accounts and usage, in SQLite or PostgreSQL."""

from millet.serve.store.database import StoreError
from millet.serve.store.records import Attachment, Conversation, Hit, Message, Page, Tree
from millet.serve.store.store import Store

__all__ = ["Attachment", "Conversation", "Hit", "Message", "Page", "Store", "StoreError", "Tree"]
