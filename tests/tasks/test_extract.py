import pytest

from millet.tasks.extract import LONGEST, extract_answer, to_number


@pytest.mark.parametrize(
    "content",
    [
        "42",
        "42.",
        " **42** ",
        "$42$",
        "$42.",
        "The answer is 42.",
        "The answer is: **42**",
        "**Answer:** 42",
        "Final answer: $42",
        "Answer:\n42",
        "the answer is 42, since 6 times 7 is that",
        "I add.\n37 + 5 = 42",
        "x = 42",
        "So she has 42 apples.",
        "The 3 boys have 42 apples in all.",
        "\\boxed{42}",
        "The answer is \\(\\boxed{42}\\).",
        "First 12, then 30.\n#### 42",
        "<answer> 42 </answer>",
        "It is 41. No: the answer is 41.\nWait. The answer is 42.",
        "<think>It may be 7.</think>\n42",
        "```\n42\n```",
    ],
)
def test_a_number_in_whatever_form(content: str):
    assert extract_answer(content, "42") == "42"


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("It is -42", "-42"),
        ("10 - 52 = −42", "-42"),
        ("$1,234.50", "1234.50"),
        ("\\boxed{\\frac{3}{4}}", "3/4"),
        ("1.5e-3", "1.5e-3"),
        ("It is 3/4.", "3/4"),
        ("He pays 7 dollars", "7"),
        ("0042", "0042"),
    ],
)
def test_numbers_keep_their_form(content: str, answer: str):
    assert extract_answer(content, "1") == answer


@pytest.mark.parametrize(
    "content",
    [
        "",
        "  \n ",
        "7, 12, 42",
        "7 12 42",
        "12 or 42",
        "The answer is 42 or 7.",
        "The answer is 7, 12 and 42",
        "\\boxed{7, 42}",
        "7\n12\n42",
        "[7, 42]",
        "<think>The answer is 42",
        "<think>\n42",
        "I do not know.",
        "48 - 6",
        "42 " * LONGEST,
    ],
)
def test_who_lists_candidates_has_no_answer(content: str):
    assert extract_answer(content, "42") == ""


def test_only_one_candidate_is_ever_taken():
    assert extract_answer("The answer is 42. The answer is 7.", "42") == "7"
    assert extract_answer("\\boxed{42} or else \\boxed{7}", "42") == "7"
    assert extract_answer("42 of them\nare 7", "42") == "7"


@pytest.mark.parametrize(
    ("content", "right", "answer"),
    [
        ("Monday", "Sunday", "Monday"),
        ("It came to me.\nMonday.", "Sunday", "Monday"),
        ("The answer is **Monday**. I am sure.", "Sunday", "Monday"),
        ('"Monday"', "Sunday", "Monday"),
        ("\\boxed{\\text{Monday}}", "Sunday", "Monday"),
        ("Monday, Sunday", "Sunday", "Monday, Sunday"),
        ("['1', '2']", "['2', '1']", "['1', '2']"),
        ('["a", "b"]', '["b"]', '["a", "b"]'),
        ("A dog ran.", "A cat sat.", "A dog ran."),
        ("$\\frac{1}{2}$", "$\\frac{1}{3}$", "$\\frac{1}{2}$"),
        ("Here it is:\n```\n1 2\n3 4\n```\nDone.", "1 2\n3 5", "1 2\n3 4"),
        ("1 2\n3 4\n", "1 2\n3 5", "1 2\n3 4"),
        ("The answer is:\n1 2\n3 4", "1 2\n3 5", "1 2\n3 4"),
        ("_ Q\nQ _", "_ Q\nQ _", "_ Q\nQ _"),
    ],
)
def test_texts_and_blocks(content: str, right: str, answer: str):
    assert extract_answer(content, right) == answer


def test_values():
    assert to_number("1,234.50") == to_number("1234.5")
    assert to_number("1/2") == to_number(".5")
    assert to_number("1/0") is None
    assert to_number("nan") is None
    assert to_number("7" * 1_000_000) is None


def test_what_repeats_the_prompt_is_no_answer():
    prompt = "How many are 40 + 2? If you cannot tell, return 0."
    assert extract_answer(prompt, "0", prompt) == ""
    assert extract_answer(f"{prompt}\nIt is 42.", "42", prompt + "\n") == "42"
