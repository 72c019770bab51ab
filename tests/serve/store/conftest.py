"""Fixtures of the store's tests."""

import pytest
import sqlalchemy as sa

from millet.serve.store import Store


@pytest.fixture
def stranger(store: Store) -> str:
    """Another account's id."""
    with store.database.write() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO accounts (id, name, name_key, role, disabled, limits, created) "
                "VALUES ('stranger', 's', 's', 'member', :no, '{}', 0)"
            ),
            {"no": False},
        )
    return "stranger"
