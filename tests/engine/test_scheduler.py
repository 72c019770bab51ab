"""Whatever arrives, is cancelled, preempted or forks: everyone finishes with their own text, and no block is lost."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millet.engine.runner import Runner
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence
from tests.engine.fakes import VOCAB, FakeNetwork, fake_forward


def check_blocks(runner: Runner) -> None:
    """Every block is free or held, and by exactly as many sequences as its count says."""
    pool = runner.scheduler.pool
    holders = [0] * pool.num_blocks
    for sequence in [*runner.scheduler.running, *runner.scheduler.waiting]:
        assert len(set(sequence.blocks)) == len(sequence.blocks)
        for block in sequence.blocks:
            holders[block] += 1
    assert holders == [pool.holders(b) for b in range(pool.num_blocks)]
    assert pool.num_free == holders.count(0)
    arrivals = [s.arrival for s in runner.scheduler.running]
    assert all(a < b for a, b in pairwise(arrivals))
    # A block that will be written to (it holds positions not yet computed) has one holder only.
    for sequence in runner.scheduler.running:
        for block in sequence.blocks[sequence.num_computed // pool.block_size :]:
            assert holders[block] == 1


@st.composite
def workloads(draw):
    block_size = draw(st.integers(1, 5))
    num_blocks = draw(st.integers(3, 24))
    capacity = block_size * num_blocks
    shared = draw(st.lists(st.integers(0, VOCAB - 1), max_size=capacity // 2))
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = draw(st.sampled_from([[], shared, shared])) + draw(
            st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=max(1, capacity // 4))
        )
        requests.append(
            {
                "prompt": prompt[: capacity - 1],
                "n": draw(st.integers(1, 6)),
                "max_tokens": draw(st.integers(1, 20)),
                "temperature": draw(st.sampled_from([0.0, 0.3, 1.0])),
                "arrives": draw(st.integers(0, 12)),
                "cancelled": draw(st.none() | st.integers(0, 20)),
            }
        )
    return {
        "block_size": block_size,
        "num_blocks": num_blocks,
        "max_batch": draw(st.integers(1, 6)),
        "chunk": draw(st.integers(1, 16)),
        "speculation": draw(st.sampled_from(["off", "ngram", "mtp"])),
        "requests": requests,
    }


class HalfRight:
    """Guesses the true continuation, spoiled here and there: guesses of every quality, accepted and refused."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.truth: dict[Sequence, list[int]] = {}

    def propose(self, sequence: Sequence) -> list[int]:
        ahead = self.truth[sequence][len(sequence.token_ids) :][: self.rng.randrange(5)]
        return [token if self.rng.random() < 0.8 else self.rng.randrange(VOCAB) for token in ahead]

    def forget(self, sequence: Sequence) -> None:
        pass


@settings(max_examples=60)
@given(workloads(), st.integers(0, 2**32))
def test_everyone_finishes_with_their_own_text(workload, seed):
    network = FakeNetwork(seed, mtp=workload["speculation"] == "mtp")
    runner = Runner(
        fake_forward(network, workload["num_blocks"], workload["block_size"]),
        max_batch=workload["max_batch"],
        chunk=workload["chunk"],
        speculation=workload["speculation"],
    )
    runner.gate.open = lambda batch: True
    guesser = HalfRight(seed)
    if runner.lookup:
        runner.lookup = guesser
    capacity = workload["num_blocks"] * workload["block_size"]
    requests = []
    for request in workload["requests"]:
        sampling = Sampling(
            temperature=request["temperature"],
            n=request["n"],
            max_tokens=request["max_tokens"],
            seed=seed,
            logprobs=True,
        )
        length = min(len(request["prompt"]) + request["max_tokens"], capacity)
        samples = [Sequence(request["prompt"], sampling, index=i, max_length=length) for i in range(request["n"])]
        truth = [network.expected(request["prompt"], sampling, s.index, seed, length) for s in samples]
        guesser.truth.update({s: t.token_ids for s, t in zip(samples, truth, strict=True)})
        requests.append((request, samples, truth))
        for sample in samples:
            sample.seed = seed

    for step in range(5000):
        for request, samples, _ in requests:
            if request["arrives"] == step:
                samples[0].siblings = samples[1:]
                runner.scheduler.add(samples[0])
            if request["cancelled"] == step and request["arrives"] <= step:
                for sample in samples:
                    if not sample.done:
                        sample.finish_reason = "cancelled"
                        runner.remove(sample)
        check_blocks(runner)
        if step > 12 and runner.scheduler.idle:
            break
        runner.step()
    else:
        pytest.fail("the workload never finished")

    assert runner.scheduler.pool.num_free == workload["num_blocks"]
    for _, samples, truth in requests:
        for sample, expected in zip(samples, truth, strict=True):
            if sample.finish_reason == "cancelled":
                assert sample.token_ids == expected.token_ids[: len(sample.token_ids)]
            else:
                assert sample.finish_reason == expected.finish_reason
                assert sample.token_ids == expected.token_ids
                assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def run_all(runner: Runner) -> None:
    while not runner.scheduler.idle:
        runner.step()


def test_preemption_happens_and_changes_nothing(seed):
    rng = random.Random(seed)
    network = FakeNetwork(seed)
    runner = Runner(fake_forward(network, 8, 4), max_batch=8, chunk=8, speculation="off")
    sampling = Sampling(temperature=1.0, seed=seed, max_tokens=16)
    sequences = [Sequence([rng.randrange(VOCAB) for _ in range(6)], sampling, max_length=22) for _ in range(5)]
    for sequence in sequences:
        runner.scheduler.add(sequence)
    run_all(runner)
    assert runner.scheduler.preemptions > 0
    for sequence in sequences:
        expected = network.expected(sequence.token_ids[:6], sampling, 0, seed, 22)
        assert sequence.token_ids == expected.token_ids


def test_samples_share_one_prompt(seed):
    network = FakeNetwork(seed)
    runner = Runner(fake_forward(network, 64, 4), max_batch=8, chunk=64, speculation="off")
    prompt = list(range(18))
    samples = [Sequence(prompt, Sampling(n=4, max_tokens=2), index=i, max_length=20) for i in range(4)]
    samples[0].siblings = samples[1:]
    runner.scheduler.add(samples[0])
    run_all(runner)
    first = {sample.token_ids[18] for sample in samples}
    assert network.rows_seen == [18, len(first)]  # the prompt once, then one row for each way to go on


def test_samples_that_agree_are_computed_once(seed):
    """Greedy ones always do; warm ones until they part, behind which each has rows of its own (and no guesses)."""
    network = FakeNetwork(seed)
    for temperature in (0.0, 0.7):
        runner = Runner(fake_forward(network, 64, 4), max_batch=8, chunk=64, speculation="off")
        network.rows_seen.clear()
        prompt = list(range(18))
        sampling = Sampling(n=6, max_tokens=9, temperature=temperature, logprobs=True)
        samples = [Sequence(prompt, sampling, index=i, max_length=27) for i in range(6)]
        for sample in samples:
            sample.seed = seed
        samples[0].siblings = samples[1:]
        runner.scheduler.add(samples[0])
        run_all(runner)
        texts = [sample.generated for sample in samples]
        assert network.rows_seen == [18, *(len({tuple(text[:n]) for text in texts}) for n in range(1, 9))]
        assert network.rows_seen == [18, *[1] * 8] or temperature
        for sample in samples:
            expected = network.expected(prompt, sampling, sample.index, seed, 27)
            assert sample.token_ids == expected.token_ids
            assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
            assert sample.num_cached == (18 if sample.index else 0)


def test_long_prompt_does_not_stall_replies(seed):
    network = FakeNetwork(seed)
    runner = Runner(fake_forward(network, 64, 4), max_batch=8, chunk=8, speculation="off")
    talking = Sequence([1, 2, 3], Sampling(max_tokens=30), max_length=33)
    runner.scheduler.add(talking)
    runner.step()
    runner.scheduler.add(Sequence([4] * 100, Sampling(max_tokens=1), max_length=101))
    for _ in range(10):
        before = talking.num_generated
        runner.step()
        assert talking.num_generated == before + 1
        assert network.rows_seen[-1] == 8


def test_next_turn_finds_the_conversation_in_the_cache(seed):
    network = FakeNetwork(seed)
    runner = Runner(fake_forward(network, 64, 4), max_batch=8, chunk=64, speculation="off")
    first = Sequence(list(range(10)), Sampling(max_tokens=9), max_length=19)
    runner.scheduler.add(first)
    run_all(runner)
    second = Sequence([*first.token_ids, 5, 6], Sampling(max_tokens=4), max_length=30)
    runner.scheduler.add(second)
    run_all(runner)
    assert second.num_cached == 16  # all whole blocks but the one with the token that was never computed
