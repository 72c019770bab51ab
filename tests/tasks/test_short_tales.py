"""The recipe's questions of a single calculation."""

import random
import re

from millet.tasks.find import find_task


def test_one_calculation_answers_each():
    task = find_task("recipes/millet-135m/short_tales.py")
    rng = random.Random(0)
    prompts = set()
    for _ in range(200):
        problem = task.sample(rng, 0)
        ((label, expression, result),) = problem.meta["steps"]
        assert str(result) == problem.answer
        assert len(re.findall(r"\d+", expression)) >= 2
        reply = task.work(problem)
        assert reply.reasoning.startswith(f"{label}: ")
        assert task.grade(problem, reply).passed
        prompts.add(problem.prompt)
    assert len(prompts) > 190
