"""The engine from outside: threads, streams, cancellation, hooks, failures."""

import threading
import time

import pytest
import torch

from millet.engine.engine import Engine, Generation
from millet.engine.hook import GO_ON, Verdict
from millet.engine.sampling import Sampling
from millet.errors import BadRequest, MilletError, PromptTooLong
from tests.engine.fakes import STATES, VOCAB, FakeModel, FakeNetwork, weight


@pytest.fixture
def network(seed):
    return FakeNetwork(seed)


@pytest.fixture
def engine(network):
    with Engine(FakeModel(network), cache_tokens=256, max_batch=8, chunk=32) as engine:
        yield engine


def texts(engine, prompts, sampling):
    return [[c.token_ids for c in samples] for samples in engine.generate(prompts, sampling)]


def test_results_come_in_order_and_match_the_model(engine, network, seed):
    prompts = [[i, 2 * i % VOCAB, 3] for i in range(12)]
    sampling = Sampling(temperature=1.0, n=3, max_tokens=10, seed=seed, logprobs=True)
    outs = engine.generate(prompts, sampling)
    for prompt, samples in zip(prompts, outs, strict=True):
        for index, completion in enumerate(samples):
            expected = network.expected(prompt, sampling, index, seed, 13)
            assert completion.token_ids == expected.generated
            assert completion.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
            assert completion.finish_reason == "length"
            assert completion.prompt_tokens == 3


def test_a_seed_fixes_the_text_and_no_seed_does_not(engine, seed):
    fixed = Sampling(temperature=1.0, max_tokens=30, seed=seed)
    assert texts(engine, [[1]], fixed) == texts(engine, [[1]], fixed)
    free = Sampling(temperature=1.0, max_tokens=30)
    assert texts(engine, [[1]], free) != texts(engine, [[1]], free)


def test_a_stream_brings_every_token_once_and_one_end(engine):
    generation = engine.submit([1, 2], Sampling(n=3, max_tokens=9))
    tokens = {0: [], 1: [], 2: []}
    ends = []
    for chunk in generation:
        tokens[chunk.index] += chunk.token_ids
        if chunk.finish_reason:
            ends.append(chunk.index)
    assert sorted(ends) == [0, 1, 2]
    assert [tokens[i] for i in range(3)] == [c.token_ids for c in generation.result()]


def test_cancelling_ends_the_stream_and_frees_the_cache(engine):
    generation = engine.submit([1, 2], Sampling(n=4, max_tokens=190))
    next(iter(generation))
    generation.cancel()
    reasons = {completion.finish_reason for completion in generation.result()}
    assert reasons <= {"cancelled", "length"}
    assert "cancelled" in reasons
    assert engine.stats()["cache_free_tokens"] == engine.cache_tokens
    assert engine.stats()["running"] == 0


def test_cancelling_what_still_waits_or_is_over_is_harmless(engine):
    blocker = engine.submit([1], Sampling(n=8, max_tokens=100))
    waiting = engine.submit([2], Sampling(max_tokens=100))
    waiting.cancel()
    assert waiting.result()[0].finish_reason == "cancelled"
    blocker.cancel()
    blocker.result()
    blocker.cancel()
    assert texts(engine, [[3]], Sampling(max_tokens=2))


def test_news_and_what_is_ready_without_waiting(engine):
    bell = threading.Semaphore(0)
    generation = engine.submit([1, 2], Sampling(n=3, max_tokens=9), on_news=bell.release)
    chunks = []
    while sum(chunk.finish_reason is not None for chunk in chunks) < 3:
        assert bell.acquire(timeout=30)
        chunks += generation.take()
    assert generation.take() == []
    for index, completion in enumerate(generation.result()):
        assert [t for chunk in chunks if chunk.index == index for t in chunk.token_ids] == completion.token_ids


def test_whoever_has_the_last_chunk_may_ask_for_rest(engine, monkeypatch):
    report = Generation._report

    def slowly(generation, sequence):
        reported = report(generation, sequence)
        if sequence.done:
            time.sleep(0.05)  # the caller runs on, though the engine's thread is in the middle of its round
        return reported

    monkeypatch.setattr(Generation, "_report", slowly)
    engine.submit([1, 2], Sampling(max_tokens=3)).result()
    engine.refresh()


def test_many_threads_at_once(engine, network, seed):
    failures = []

    def ask(i: int) -> None:
        sampling = Sampling(temperature=1.0, max_tokens=8, seed=i)
        out = engine.generate([[i % VOCAB, 4]], sampling)[0][0].token_ids
        if out != network.expected([i % VOCAB, 4], sampling, 0, i, 10).generated:
            failures.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not failures


def test_end_tokens_stop_unless_ignored(network):
    model = FakeModel(network, eos_token_ids=(3, 5, 8, 11))
    with Engine(model, cache_tokens=256) as engine:
        out = engine.generate([[1]], Sampling(temperature=1.0, seed=1, max_tokens=150))[0][0]
        assert out.finish_reason == "stop"
        assert out.token_ids[-1] in (3, 5, 8, 11)
        assert not set(out.token_ids[:-1]) & {3, 5, 8, 11}
        out = engine.generate([[1]], Sampling(temperature=1.0, seed=1, max_tokens=150, ignore_eos=True))[0][0]
        assert out.finish_reason == "length"
        assert len(out.token_ids) == 150


def test_stop_strings_are_seen_across_tokens(engine):
    free = texts(engine, [[1]], Sampling(temperature=0.0, max_tokens=60))[0][0]
    text = "".join(chr(97 + t) for t in free)
    stop = text[20:23]
    out = engine.generate([[1]], Sampling(temperature=0.0, max_tokens=60, stop=stop))[0][0]
    assert out.finish_reason == "stop"
    assert "".join(chr(97 + t) for t in out.token_ids) == text[: text.index(stop) + 3]


class Scripted:
    """A hook that answers by the number of tokens heard."""

    def __init__(self, verdicts: dict[int, Verdict]) -> None:
        self.verdicts = verdicts
        self.heard: list[int] = []

    def start(self) -> Verdict:
        return self.verdicts.get(0, GO_ON)

    def after(self, token_id: int) -> Verdict:
        self.heard.append(token_id)
        return self.verdicts.get(len(self.heard), GO_ON)


def only(*ids: int) -> torch.Tensor:
    mask = torch.zeros(VOCAB, dtype=torch.bool)
    mask[list(ids)] = True
    return mask


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_hook_may_force_allow_and_end(engine, network, logprobs):
    hook = Scripted(
        {0: Verdict(force=(7, 8)), 2: Verdict(allow=only(9)), 3: Verdict(force=(1, 2, 3)), 8: Verdict(end="enough")}
    )
    generation = engine.submit([4, 4], Sampling(max_tokens=50, logprobs=logprobs), hooks=[hook])
    out = generation.result()[0]
    assert out.token_ids[:6] == [7, 8, 9, 1, 2, 3]
    assert len(out.token_ids) == 8
    assert out.finish_reason == "enough"
    assert hook.heard == out.token_ids
    if logprobs:
        assert out.logprobs == pytest.approx(own_logprobs(network, [4, 4], out.token_ids), abs=1e-5)


def own_logprobs(network, prompt, tokens):
    """The model's log-probability of each token, however it came about."""
    from tests.engine.fakes import STATES, weight

    ids, result = list(prompt), []
    for token in tokens:
        state = sum(weight(t, p) for p, t in enumerate(ids)) % STATES
        result.append(network.logits_SV[state].log_softmax(-1)[token].item())
        ids.append(token)
    return result


def test_forced_tokens_replace_an_end_token(network):
    model = FakeModel(network, eos_token_ids=tuple(range(0, VOCAB, 2)))
    hook = ForceAtEnd(model.eos_token_ids, [1, 3, 5])
    with Engine(model, cache_tokens=256) as engine:
        generation = engine.submit([4], Sampling(temperature=1.0, max_tokens=90, logprobs=True), hooks=[hook])
        streamed = [token for chunk in generation for token in chunk.token_ids]
        out = generation.result()[0]
    assert streamed == out.token_ids
    place = hook.at - 1
    assert out.token_ids[place : place + 3] == [1, 3, 5]
    assert not set(out.token_ids[:-1]) & set(model.eos_token_ids)
    assert out.token_ids[-1] in model.eos_token_ids
    assert out.logprobs == pytest.approx(own_logprobs(network, [4], out.token_ids), abs=1e-5)


def own_alternatives(network, prompt, tokens, count):
    """The likeliest tokens at each place, from the model's own rows."""
    found = []
    for place in range(len(prompt), len(prompt) + len(tokens)):
        total = sum(weight(t, p) for p, t in enumerate((prompt + tokens)[:place]))
        best = network.logits_SV[total % STATES].log_softmax(-1).topk(count)
        found.append((best.indices.tolist(), best.values.tolist()))
    return found


@pytest.mark.parametrize("speculation", ["off", "mtp", "ngram"])
def test_alternatives_stream_beside_their_tokens(seed, speculation):
    """Whatever was guessed or forced; for the request that asked, and nobody else."""
    network = FakeNetwork(seed, mtp=speculation == "mtp")
    model = FakeModel(network, eos_token_ids=tuple(range(0, VOCAB, 2)))
    model.config.mtp_layers = int(speculation == "mtp")
    model.config.cache.layers = 2
    with Engine(model, cache_tokens=512, speculation=speculation) as engine:
        sampling = Sampling(temperature=1.0, max_tokens=60, logprobs=True, top_logprobs=5, n=2, logit_bias={7: 2.0})
        hooks = [ForceAtEnd(model.eos_token_ids, [1, 3, 5, 1, 3, 5, 1]) for _ in range(2)]
        other = engine.submit([4, 5], Sampling(temperature=1.0, max_tokens=60, ignore_eos=True, logprobs=True))
        generation = engine.submit([4], sampling, hooks=hooks)
        chunks = list(generation)
        outs, others = generation.result(), other.result()
    assert others[0].top_logprobs is None
    for index, out in enumerate(outs):
        mine = [chunk for chunk in chunks if chunk.index == index]
        assert all(len(c.token_ids) == len(c.logprobs) == len(c.top_logprobs) for c in mine)
        assert [t for c in mine for t in c.token_ids] == out.token_ids
        assert [v for c in mine for v in c.logprobs] == out.logprobs
        tops = [top for c in mine for top in c.top_logprobs]
        assert tops == out.top_logprobs
        for token, logprob, top, (ids, values) in zip(
            out.token_ids, out.logprobs, tops, own_alternatives(network, [4], out.token_ids, 5), strict=True
        ):
            assert [i for i, _ in top] == ids
            assert [v for _, v in top] == pytest.approx(values, abs=1e-5)
            assert dict(top).get(token, logprob) == logprob


class ForceAtEnd:
    """Forces a continuation the first time an end token comes."""

    def __init__(self, ends, forced) -> None:
        self.ends, self.forced, self.at, self.count = ends, tuple(forced), 0, 0

    def start(self) -> Verdict:
        return GO_ON

    def after(self, token_id: int) -> Verdict:
        self.count += 1
        if token_id in self.ends and not self.at:
            self.at = self.count
            return Verdict(force=self.forced)
        return GO_ON


def test_forcing_is_bounded_by_max_tokens(engine):
    generation = engine.submit(
        [4], Sampling(max_tokens=3, logprobs=True), hooks=[Scripted({1: Verdict(force=(1,) * 9)})]
    )
    out = generation.result()[0]
    assert len(out.token_ids) == 3
    assert out.finish_reason == "length"
    assert out.logprobs is not None
    assert len(out.logprobs) == 3


def test_samples_with_different_beginnings(engine):
    hooks = [Scripted({0: Verdict(force=(i,))}) for i in range(3)]
    outs = engine.submit([4, 4], Sampling(n=3, max_tokens=5), hooks=hooks).result()
    assert [out.token_ids[0] for out in outs] == [0, 1, 2]


def test_a_conversation_reuses_its_cache(engine):
    prompt = [i % VOCAB for i in range(50)]
    first = engine.generate([prompt], Sampling(max_tokens=20))[0][0]
    assert first.cached_tokens == 0
    second = engine.generate([[*prompt, *first.token_ids, 1, 2]], Sampling(max_tokens=1))[0][0]
    assert second.cached_tokens == 64


def test_bad_requests_are_one_line(engine):
    with pytest.raises(BadRequest, match="empty"):
        engine.submit([], Sampling())
    with pytest.raises(PromptTooLong, match="200"):
        engine.submit([1] * 200, Sampling())
    with pytest.raises(BadRequest, match="vocabulary"):
        engine.submit([VOCAB], Sampling())
    with pytest.raises(BadRequest, match="vocabulary"):
        engine.submit([1], Sampling(logit_bias={VOCAB: 1.0}))
    with pytest.raises(BadRequest, match="hooks"):
        engine.submit([1], Sampling(n=2), hooks=[Scripted({})])
    with pytest.raises(BadRequest, match="MTP"):
        Engine(engine.model, cache_tokens=64, speculation="mtp")


def test_the_context_bounds_the_reply(engine):
    out = engine.generate([[1] * 190], Sampling(max_tokens=500))[0][0]
    assert len(out.token_ids) == 10
    assert out.finish_reason == "length"


def test_a_failing_model_fails_its_requests_and_no_others(engine, network):
    real = network.head
    network.head = lambda hidden: (_ for _ in ()).throw(RuntimeError("broken"))
    generations = [engine.submit([1], Sampling(n=2)), engine.submit([2], Sampling())]
    for generation in generations:
        with pytest.raises(RuntimeError, match="broken"):
            generation.result()
    network.head = real
    assert len(texts(engine, [[1]], Sampling(max_tokens=3))[0][0]) == 3
    assert engine.stats()["cache_free_tokens"] == engine.cache_tokens


def test_closing_ends_running_requests(network):
    engine = Engine(FakeModel(network), cache_tokens=256)
    generation = engine.submit([1], Sampling(max_tokens=190))
    next(iter(generation))
    engine.close()
    engine.close()
    assert generation.result()[0].finish_reason in ("cancelled", "length")
    with pytest.raises(MilletError, match="closed"):
        engine.submit([1], Sampling())


def test_an_idle_engine_does_not_step(engine, network):
    engine.generate([[1]], Sampling(max_tokens=2))
    calls = network.calls
    time.sleep(0.05)
    assert network.calls == calls


def test_a_hook_that_fails_at_the_start_fails_its_own_request_only(engine):
    class Broken(Scripted):
        def start(self) -> Verdict:
            raise ValueError("hook")

    broken = engine.submit([1], Sampling(), hooks=[Broken({})])
    fine = engine.submit([2], Sampling(max_tokens=3))
    with pytest.raises(ValueError, match="hook"):
        broken.result()
    assert len(fine.result()[0].token_ids) == 3


def test_forced_beginnings_are_scored_though_the_cache_knows_them(engine, network):
    """The second time the forced tokens lie in the prefix cache; with n > 1 the samples share them."""
    forced = tuple(i % VOCAB for i in range(40))
    for n in (1, 1, 3):
        hooks = [Scripted({0: Verdict(force=forced)}) for _ in range(n)]
        sampling = Sampling(n=n, temperature=1.0, max_tokens=50, logprobs=True)
        for out in engine.submit(list(range(10)), sampling, hooks=hooks).result():
            assert len(out.token_ids) == 50
            assert out.logprobs == pytest.approx(own_logprobs(network, range(10), out.token_ids), abs=1e-5)
            assert out.cached_tokens <= out.prompt_tokens


@pytest.mark.parametrize("logprobs", [False, True])
def test_samples_that_are_forced_to_their_end_all_come_back(engine, logprobs):
    hooks = [Scripted({0: Verdict(force=(1, 2, 3))}) for _ in range(3)]
    outs = engine.submit([4], Sampling(n=3, max_tokens=2, logprobs=logprobs), hooks=hooks).result()
    assert [out.token_ids for out in outs] == [[1, 2]] * 3


def test_a_hook_may_force_without_end(engine):
    class Forever(Scripted):
        def after(self, token_id: int) -> Verdict:
            return Verdict(force=(5,))

    with Engine(FakeModel(FakeNetwork(1)), cache_tokens=4096) as engine:
        engine.context_length = 4000
        out = engine.submit([4], Sampling(max_tokens=3000), hooks=[Forever({})]).result()[0]
    assert len(out.token_ids) == 3000


def test_a_rejected_prompt_leaves_no_other_running(engine):
    with pytest.raises(PromptTooLong):
        engine.generate([[1], [1] * 500], Sampling(max_tokens=150))
    for _ in range(200):
        if engine.stats()["running"] == engine.stats()["waiting"] == 0:
            break
        time.sleep(0.01)
    assert engine.stats()["cache_free_tokens"] == engine.cache_tokens


def test_a_temperature_of_almost_nothing_is_greedy(engine):
    greedy = texts(engine, [[1]], Sampling(temperature=0.0, max_tokens=9))
    assert texts(engine, [[1]], Sampling(temperature=1e-40, top_p=0.9, max_tokens=9)) == greedy
