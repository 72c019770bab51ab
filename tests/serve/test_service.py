"""The way of every reply, where the server is stopped at a bad moment."""

import asyncio

import pytest

from millet.serve.admission import Admission, Spending
from millet.serve.caller import LOCAL, Caller
from millet.serve.chat import ChatRequest
from millet.serve.errors import ApiError
from millet.serve.logs import RequestLog
from millet.serve.metrics import Metrics
from millet.serve.service import STOPPING, Service
from tests.serve.fakes import FakeBackend, FakeReply


class Slow(FakeBackend):
    """Reads its prompts when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def prepare(self, request: ChatRequest) -> FakeReply:
        await self.go.wait()
        return await super().prepare(request)


def service_of(backend: FakeBackend) -> Service:
    async def spending(caller: Caller) -> Spending:
        return Spending()

    return Service(
        {"m": backend},
        Admission(2, 4),
        Metrics({"m"}, ()),
        RequestLog({"m"}),
        spending=spending,
        on_usage=lambda caller, model, usage: None,
    )


@pytest.mark.asyncio
async def test_a_reply_that_had_not_begun_does_not_begin() -> None:
    backend = FakeBackend()
    service = service_of(backend)
    answer = await service.open(LOCAL, ChatRequest("m"))
    service.close()
    with pytest.raises(ApiError) as caught:
        async for _ in answer.batches(1):
            pass
    assert (caught.value.code, answer.usage.completion_tokens, service.admission.running) == (STOPPING, 0, 0)


@pytest.mark.asyncio
async def test_a_request_whose_prompt_was_being_read_is_refused() -> None:
    backend = Slow()
    service = service_of(backend)
    opening = asyncio.create_task(service.open(LOCAL, ChatRequest("m")))
    await asyncio.sleep(0)
    service.close()
    backend.go.set()
    with pytest.raises(ApiError) as caught:
        await opening
    assert (caught.value.code, service.admission.running) == (STOPPING, 0)
