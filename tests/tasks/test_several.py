"""The recipe's stories with several questions at once."""

import random
import re
import sys
from collections import Counter

from millet.tasks.find import find_task
from millet.tasks.task import PlainReply


def test_a_story_is_told_once_for_all_its_questions():
    task = find_task("recipes/millet-135m/several.py")
    rng = random.Random(0)
    counts = Counter()
    for _ in range(120):
        problem = task.sample(rng, 0)
        answers = problem.answer.split()
        counts[len(answers)] += 1
        assert "[" not in problem.prompt
        assert "{" not in problem.prompt
        steps = problem.meta["steps"]
        assert len(steps) == len(set(steps)), "each is calculated once"
        assert set(answers) <= {str(result) for _, _, result in steps}, "of one story, so with the same numbers"
        reply = task.work(problem)
        assert task.grade(problem, reply).passed
        turned = PlainReply("", f"The answers are {', '.join(reversed(answers))}.")
        assert task.grade(problem, turned).passed == (answers == answers[::-1]), "their order counts"
    assert set(counts) == {2, 3}
    assert min(counts.values()) > 20


def test_the_questions_stand_behind_what_they_ask_about():
    module = sys.modules[type(find_task("recipes/millet-135m/several.py")).__module__]
    tales = sys.modules[type(find_task("recipes/millet-135m/tales.py")).__module__]
    tale = tales.read(
        "STORY {F} has {a} [cats|dogs] and {b} birds.\nNUM a=2..90 b=2..90\n"
        "ASK How many [animals|pets] does {F} have?\n- Animals: a+b\n"
        "ASK How many legs have the birds of {F}?\n- Legs: 2*b"
    )
    for seed in range(20):
        problem = module._asked(tale, list(tale.questions), seed)
        found = re.fullmatch(
            r"(\w+) has (\d+) (?:cats|dogs) and (\d+) birds\. How many (?:animals|pets) does \1 have\? "
            r"How many legs have the birds of \1\?",
            problem.prompt,
        )
        assert found, problem.prompt
        assert problem.answer == f"{int(found[2]) + int(found[3])} {2 * int(found[3])}"
