"""The recipe's quotients, parts and percentages."""

import random
import re

from millet.tasks.check import check
from millet.tasks.find import find_task
from millet.tasks.grading import Graders


def test_they_come_out_even_and_their_working_ends_with_the_answer():
    task = find_task("recipes/millet-135m/parts.py")
    rng = random.Random(0)
    kinds = set()
    for _ in range(400):
        problem = task.sample(rng, 0)
        reply = task.work(problem)
        assert re.search(rf"(?:so|=|\s){problem.answer}$", reply.reasoning), (problem, reply)
        assert task.grade(problem, reply).passed
        kinds.add(re.sub(r"\d+", "n", problem.prompt))
        if found := re.match(r"What is (\d+)% of (\d+)\?", problem.prompt):
            assert int(found[1]) * int(found[2]) == 100 * int(problem.answer)
        elif found := re.match(r"What is (\d+) / (\d+)\?", problem.prompt):
            assert int(found[1]) == int(found[2]) * int(problem.answer)
    assert len(kinds) > 12


def test_it_is_a_sound_task():
    with Graders(workers=2) as graders:
        assert [row for row in check(find_task("recipes/millet-135m/parts.py"), graders) if not row.accepted] == []
