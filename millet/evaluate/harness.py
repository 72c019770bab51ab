"""Asks a model the problems of an evaluation, many at once, and has its replies graded while the next ones come."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from millet.errors import PromptTooLong
from millet.evaluate.results import Attempt, Evaluation, Group, Sample, Settings
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Event, Reply
from millet.reasoning.run import Prepared, Run
from millet.tasks.draw import draw
from millet.tasks.extract import extract_answer, to_number
from millet.tasks.task import Grade, ItemTask, Problem, Task, countable

BATCH = 64  # replies that an engine computes at once, unless it was told otherwise


@dataclass(frozen=True, slots=True)
class Question:
    """One problem of an evaluation. index: in its group."""

    group: Group
    index: int
    task: Task
    problem: Problem


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an evaluation is: problems answered of those asked, replies graded and right, tokens, seconds."""

    done: int
    asked: int
    graded: int
    solved: int
    tokens: int
    seconds: float


Graded = tuple[Task, Problem, Reply]

# The grades of some replies, in order. Called from one thread of the harness's own.
Grading = Callable[[Sequence[Graded]], Sequence[Grade]]


def questions(tasks: Sequence[tuple[Task, int]], settings: Settings) -> list[Question]:
    """Problems of the evaluation split, which no training draws from; the same ones every time.

    tasks: each with a level. Of a task over a fixed list no problem is asked twice, so there may be fewer of it. One
    problem of each in turn, so that an interrupted evaluation has some of all.
    """
    return [
        Question(Group(task.name, level), index, task, draw(task, "eval", level, index))
        for index in range(settings.problems)
        for task, level in tasks
        if not isinstance(task, ItemTask) or index < len(task.items("eval"))
    ]


def evaluate(
    assistant: Assistant,
    asked: Sequence[Question],
    settings: Settings,
    grade: Grading,
    watch: Callable[[Standing], None] | None = None,
    batch: int = BATCH,
) -> Evaluation:
    """The model's replies to all questions, graded. Ctrl-C ends it early, with the problems that are done.

    batch: as many replies as the engine computes at once; twice as many are kept under way.
    Raises PromptTooLong before anything is generated, and what a request may raise.
    """
    prepared = [_prepare(assistant, question, settings) for question in asked]
    began = time.perf_counter()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="millet-grading") as grading:
        tally = _Tally(len(asked))
        try:
            with closing(replies_to(prepared, 2 * batch)) as answered:
                for number, replies in answered:
                    tally.add(replies, grading.submit(_attempt, asked[number], replies, grade))
                    standing = tally.standing(time.perf_counter() - began)
                    if watch:
                        watch(standing)
        except KeyboardInterrupt:
            pass
        seconds = time.perf_counter() - began
        attempts = {(attempt.group, attempt.index): attempt for attempt in tally.attempts()}
    return Evaluation(
        model=assistant.model.name,
        settings=settings,
        attempts=[attempts[key] for q in asked if (key := (q.group, q.index)) in attempts],
        asked=len(asked),
        seconds=seconds,
    )


def replies_to(requests: Sequence[Prepared], most: int) -> Generator[tuple[int, list[Reply]], None, None]:
    """(index, its replies) of each request as it is done, with up to `most` samples under way; at least one request.

    Closing the generator cancels the rest.
    """
    news: SimpleQueue[int] = SimpleQueue()
    waiting = deque(enumerate(requests))
    running: dict[int, Run] = {}
    events: dict[int, list[Event]] = {}
    samples = 0
    try:
        while waiting or running:
            while waiting and (not running or samples + waiting[0][1].sampling.n <= most):
                index, request = waiting.popleft()
                running[index] = request.start(partial(news.put, index))
                events[index] = []
                samples += request.sampling.n
            for index in _rung(news):
                # Nothing is read before a sample has ended: texts in the making are nobody's concern here.
                if index not in running or not running[index].ended:
                    continue
                events[index] += running[index].poll()
                if running[index].done:
                    count = requests[index].sampling.n
                    samples -= count
                    del running[index]
                    said = events.pop(index)
                    yield index, [Reply.of(event for event in said if event.index == i) for i in range(count)]
    finally:
        for run in running.values():
            run.cancel()


def _rung(news: SimpleQueue[int]) -> set[int]:
    """Whoever has news; waits for the first."""
    rung = {news.get()}
    while True:
        try:
            rung.add(news.get_nowait())
        except Empty:
            return rung


def _prepare(assistant: Assistant, question: Question, settings: Settings) -> Prepared:
    try:
        return assistant.prepare(
            [{"role": "user", "content": question.problem.prompt}],
            think=settings.think,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=_seed(settings.seed, question),
            n=settings.k,
        )
    except PromptTooLong as error:
        raise PromptTooLong(f"problem {question.index} of {question.group}: {error}", error.prompt_tokens) from error


def _seed(seed: int, question: Question) -> int:
    """The same for the same problem, whatever else is asked beside it."""
    name = f"{seed}/{question.group.task}/{question.group.level}/{question.index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _attempt(question: Question, replies: Sequence[Reply], grade: Grading) -> Attempt:
    grades = grade([(question.task, question.problem, reply) for reply in replies])
    return Attempt(
        group=question.group,
        index=question.index,
        prompt=question.problem.prompt,
        expected=question.problem.answer,
        samples=tuple(
            _sample(reply, _answer(question, reply), given) for reply, given in zip(replies, grades, strict=True)
        ),
    )


def _answer(question: Question, reply: Reply) -> str | None:
    """What the reply answers, as graders read it; equal numbers are equal strings. See `Sample`."""
    problem = question.problem
    if not countable(question.task, problem):
        return None
    answer = extract_answer(reply.content, like=problem.answer, prompt=problem.prompt)
    number = to_number(answer)
    return answer if number is None else str(number)


def _sample(reply: Reply, answer: str | None, given: Grade) -> Sample:
    return Sample(
        reasoning=reply.reasoning,
        content=reply.content,
        answer=answer,
        score=given.score,
        reason=given.reason,
        finish_reason=reply.finish_reason,
        thought_ended=reply.thought_ended,
        completion_tokens=reply.usage.completion_tokens,
        reasoning_tokens=reply.usage.reasoning_tokens,
        seconds=reply.seconds,
    )


class _Tally:
    """Counts while replies come and grades follow, both in the same order."""

    def __init__(self, asked: int) -> None:
        self._asked = asked
        self._attempts: list[Future[Attempt]] = []
        self._tokens = self._read = self._graded = self._solved = 0

    def add(self, replies: Sequence[Reply], attempt: Future[Attempt]) -> None:
        self._attempts.append(attempt)
        self._tokens += sum(reply.usage.completion_tokens for reply in replies)

    def standing(self, seconds: float) -> Standing:
        """Raises what broke the grading."""
        while self._read < len(self._attempts) and self._attempts[self._read].done():
            samples = self._attempts[self._read].result().samples
            self._read += 1
            self._graded += len(samples)
            self._solved += sum(sample.solved for sample in samples)
        return Standing(len(self._attempts), self._asked, self._graded, self._solved, self._tokens, seconds)

    def attempts(self) -> list[Attempt]:
        """All of them, when the last is graded."""
        return [attempt.result() for attempt in self._attempts]
