"""A reply as a response, for a client that takes nothing."""

import asyncio

import pytest
from starlette.types import Message

from millet.serve import reply_response
from millet.serve.caller import LOCAL
from millet.serve.chat import ChatRequest
from millet.serve.openai_wire import ChatWire
from millet.serve.reply_response import ReplyResponse
from tests.serve.fakes import FakeBackend
from tests.serve.test_service import service_of


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.asyncio
async def test_a_client_that_takes_nothing_is_given_up(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_response, "STALLED", 0.05)

    async def never() -> Message:
        return await asyncio.get_running_loop().create_future()

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await never()

    service = service_of(FakeBackend())
    answer = await service.open(LOCAL, ChatRequest("m"))
    response = ReplyResponse(answer, ChatWire("m"), stream=stream, silence=10)
    async with asyncio.timeout(30):
        await response({"type": "http", "state": {"request_id": "r"}}, never, stuck)
    assert not service.answers
