import pytest
from hypothesis import given
from hypothesis import strategies as st

from millet.reasoning.vote import extract_answer, vote


@pytest.mark.parametrize(("content", "answer"), [
    (r"So \boxed{41}, no: \boxed{42}.", "42"),
    (r"\boxed{\frac{1}{2}}", "1/2"),
    (r"\boxed{\text{Paris}}", "paris"),
    (r"\boxed{{a}{b}} and \boxed{unfinished", "a b"),
    (r"The answer is $\boxed{1,234.50}$.", "2469/2"),
    ("The answer is 42.", "42"),
    ("**Answer:** 42", "42"),
    ("The final answer is: $42.", "42"),
    ("The answer is 42 apples.", "42"),
    ("Answer: x = -7", "-7"),
    ("The answer is 3.50 dollars, as 7 / 2 is that.", "3.50 dollars as 7 / 2 is that"),
    ("The answer is Paris. It has 2 million people.", "paris"),
    ("The answer is B.", "b"),
    ("I first thought the answer is 7.\nBut the answer is 8.\nThat was step 9.", "8"),
    ("3 + 4 = 7 apples in 2 baskets of 3.5", "7/2"),
    ("It costs 1,200 dollars", "1200"),
    ("half of it: 1/2", "1/2"),
    ("nothing: 1/0", "1/0"),
    ("Paris!", "paris"),
    ("  The capital is\n*Paris*. ", "the capital is paris"),
    ("", ""),
])  # fmt: skip
def test_extracts(content: str, answer: str) -> None:
    assert extract_answer(content) == answer


@pytest.mark.parametrize("texts", [
    ["The answer is 42", r"\boxed{42.0}", "so we get 42", r"**Answer**: $42$", "Answer = 42 km"],
    [r"\boxed{\frac{84}{2}}", r"\boxed{42\text{ km}}", "The answer is \\(42\\)."],
    ["The answer is Paris.", r"\boxed{\text{paris}}", "Answer: **Paris**", "PARIS"],
    ["The answer is 50%.", "about 50"],
])  # fmt: skip
def test_equal_answers_are_equal_strings(texts: list[str]) -> None:
    assert len({extract_answer(text) for text in texts}) == 1


def test_majority_with_its_share_and_counts() -> None:
    counted = vote(["It is 7.", "Maybe 8?", "So 8.", "The answer is 8", "7"])
    assert (counted.winner, counted.share, counted.votes) == (1, 0.6, {"8": 3, "7": 2})


def test_ties_go_to_the_first() -> None:
    assert vote(["a", "b", "b", "a"]).winner == 0
    assert vote(["c", "b", "a"]).winner == 0


def test_empty_replies_have_no_say() -> None:
    counted = vote(["", "", "7"])
    assert (counted.winner, counted.share, counted.votes) == (2, 1 / 3, {"7": 1})
    assert vote(["", ""]).winner == 0


@given(st.lists(st.text("ab1 \\{}$.answeri:/", max_size=20), min_size=1, max_size=6))
def test_any_texts_can_be_counted(contents: list[str]) -> None:
    counted = vote(contents)
    answers = [extract_answer(content) for content in contents]
    assert answers.index(answers[counted.winner]) == counted.winner
    assert counted.share == answers.count(answers[counted.winner]) / len(answers)
