"""What a person sees of a reply: on an emulated terminal, on a dumb one, and in a pipe."""

import io
import random
import re
import subprocess
import sys

import pytest
from rich.console import Console

from millet.cli import render
from millet.cli.markdown import markdown_lines, split_finished, text_lines
from millet.cli.render import LiveView, PlainView, play, remark, view_on
from millet.cli.screen import Screen
from millet.cli.terminal import clean
from millet.reasoning.reply import Event, Usage
from tests.cli.fakes import Terminal, events, shredded, words

ANSWER = """\
# Result

The *sum* of `2` and **2** is 4, because 2*3*4 = 24 and x**2 + y**2 = z**2.
A second line, which stays one.

1. First, with a text that is long enough to be folded on a narrow terminal, twice at least
2. Second
   - nested
   - also nested

```python
def f(x):
    return x + 1
```

| name | value |
|------|------:|
| one  | 1     |
| two  | 22    |

> quoted
> words

Finally \\(\\frac{1}{2}\\) and \\[x = 4\\] and <b>no HTML</b>.
"""


@pytest.fixture(autouse=True)
def _paint_every_event(monkeypatch):
    monkeypatch.setattr(render, "FRAME_SECONDS", 0.0)
    monkeypatch.setattr(render, "PAINT_SHARE", 1e9)


def plain(lines):
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def shown(terminal, chunks, reasoning=()):
    stream = [Event("reasoning", text, (1,)) for text in reasoning] + [Event("content", text, (1,)) for text in chunks]
    usage = Usage(completion_tokens=len(stream), reasoning_tokens=len(reasoning))
    end = Event("finish", finish_reason="stop", usage=usage)
    return play((event for event in [*stream, end]), LiveView(terminal.console), "toy")


def body(terminal, answer):
    """What is shown but for the remark at the end."""
    rows = sum(-(-len(line) // terminal.width) for line in plain(text_lines(terminal.console, remark(answer))))
    return terminal.lines()[:-rows]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (24, 60), (80, 4), (7, 12)])
def test_streamed_markdown_ends_up_as_if_rendered_at_once(width, height, seed):
    terminal = Terminal(width, 200)
    answer = shown(terminal, shredded(ANSWER, seed))
    expected = plain(markdown_lines(terminal.console, ANSWER))
    if width >= 20:  # below, the terminal itself folds lines
        assert body(terminal, answer) == expected
    # A terminal lower than the text: nothing lost, nothing twice. (A table's columns may have been narrower when its
    # first rows scrolled away, and a heading's underline comes later, so compare without spaces and rules.)
    low = Terminal(width, height)
    answer = shown(low, shredded(ANSWER, seed + 1))
    letters = "".join(body(low, answer)).replace(" ", "").replace("─", "")
    assert letters == "".join(expected).replace(" ", "").replace("─", "")


def test_any_markdown_streams_to_what_it_is_at_once(seed):
    generator = random.Random(seed)
    pieces = [
        "# ",
        "- ",
        "1. ",
        "> ",
        "```",
        "\n",
        "\n",
        "\n\n",
        "    ",
        "| a |",
        "|-|\n",
        "word ",
        "**",
        "*",
        "_",
        "`",
    ]
    pieces += ["[x](y)", "\\(", "\\)", "$", "<b>", "\t", "漢字", "---\n", "===\n", "\u2028", "12. ", "#", "w", "***"]
    for _ in range(60):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 25))).strip()
        terminal = Terminal(60, 100)
        answer = shown(terminal, shredded(text, generator.random()))
        assert body(terminal, answer) == plain(markdown_lines(terminal.console, text + "\n")), repr(text)


def test_list_longer_than_the_screen_shows_every_item_once():
    terminal = Terminal(40, 10)
    text = "\n".join(f"{n}. item{n} with some words that need a second row" for n in range(1, 31))
    shown(terminal, [text[i : i + 20] for i in range(0, len(text), 20)])
    assert re.findall(r"item\d+", "\n".join(terminal.lines())) == [f"item{n}" for n in range(1, 31)]


def test_thought_is_dimmed_and_counted_and_apart_from_the_answer(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(render.time, "monotonic", lambda: float(next(clock)) / 10)
    terminal = Terminal()
    answer = shown(terminal, ["It", " is", " **4**."], ["\n", "Two and two.", "\n\n", "Yes", " four.", "\n"])
    lines = terminal.lines()
    assert lines[:3] == ["Two and two.", "", "Yes four."]
    assert re.fullmatch(r"Thought for \d+\.\d s, 6 tokens", lines[3])
    assert lines[4:6] == ["", "It is 4."]
    assert re.fullmatch(r"9 tokens, \d+\.\d tokens/s", lines[6])
    assert answer.reasoning == "Two and two.\n\nYes four."
    assert answer.content == "It is **4**."
    assert "\x1b[2mTwo and two." in terminal.raw
    assert "\x1b[1m4" in terminal.raw


def test_the_time_and_count_run_while_the_model_thinks():
    terminal = Terminal()
    seen = []

    def stream():
        for word in ("one ", "two ", "three "):
            yield Event("reasoning", word, (7,))
            seen.append(terminal.lines())
        yield Event("content", "done", (8,))
        yield Event("finish", finish_reason="stop", usage=Usage(completion_tokens=4, reasoning_tokens=3))

    play(stream(), LiveView(terminal.console), "toy")
    assert [lines[-1].split(", ")[1] for lines in seen] == ["1 token", "2 tokens", "3 tokens"]
    assert all(lines[-1].startswith("Thinking for") for lines in seen)
    assert "Thinking" not in "\n".join(terminal.lines())


@pytest.mark.parametrize("kind", ["reasoning", "content"])
@pytest.mark.parametrize("live", [True, False])
def test_model_text_cannot_control_the_terminal(kind, live):
    evil = (
        "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\re\x08f &#27;[31m &#12; \u202eg [x](http://a/\x1b[31m) \ud800 [red]h[/red]"
    )
    terminal = Terminal(200, 24)
    view = LiveView(terminal.console) if live else PlainView(terminal.console, Terminal().console)
    stream = [Event(kind, evil, (1,)), Event("finish", finish_reason="stop", usage=Usage())]
    play((event for event in stream), view, "toy")
    allowed = r"\x1b\[[0-9;]*[mAK]|\r|\x1b\[\?25[hl]|\n|[\ue000]"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", re.sub(allowed, "", terminal.raw))
    assert terminal.screen.title == ""
    assert "[red]h[/red]" in "\n".join(terminal.lines())


def test_hyperlinks_show_their_address():
    terminal = Terminal()
    shown(terminal, ["see [my bank](http://evil.example/)"])
    assert terminal.lines()[0] == "see my bank (http://evil.example/)"
    assert "\x1b]8" not in terminal.raw


@pytest.mark.parametrize("width", [40, 23])
def test_resize_while_painting_leaves_no_remains(width, seed):
    terminal = Terminal(80, 30)
    view = LiveView(terminal.console)
    text = "These are enough words to fill more than one row of a terminal which is soon to be made narrower. " * 2
    pieces = words(text.strip())

    def stream():
        for index, word in enumerate(pieces):
            if index == len(pieces) - 5:
                terminal.resize(width)
            yield Event("content", word, (1,))
        yield Event("finish", finish_reason="stop", usage=Usage())

    answer = play(stream(), view, "toy")
    assert " ".join(body(terminal, answer)).split() == text.split()


def test_screen_gives_up_top_lines_only_once():
    terminal = Terminal(20, 5)
    screen = Screen(terminal.console)
    lines = [text_lines(terminal.console, f"line {n}")[0] for n in range(12)]
    for count in range(1, 13):
        screen.show([], lines[:count])
    screen.show(lines, [])
    screen.show(text_lines(terminal.console, "end"))
    assert terminal.lines() == [f"line {n}" for n in range(12)] + ["end"]


def test_screen_shrinks():
    terminal = Terminal(20, 10)
    screen = Screen(terminal.console)
    line = {name: text_lines(terminal.console, name)[0] for name in "abc"}
    screen.show([], [line["a"], line["b"], line["c"]])
    screen.show([], [line["a"]])
    assert terminal.lines() == ["a"]
    screen.show([line["a"]], [line["b"]])
    assert terminal.lines() == ["a", "b"]


def test_unchanged_lines_are_not_written_again():
    terminal = Terminal()
    screen = Screen(terminal.console)
    first, second, third = (text_lines(terminal.console, name)[0] for name in ("first", "second", "third"))
    screen.show([], [first, second])
    terminal.raw = ""
    screen.show([], [first, second])
    assert terminal.raw == ""
    screen.show([], [first, second, third])
    assert "first" not in terminal.raw


def test_ctrl_c_keeps_what_came():
    terminal = Terminal()
    closed = []

    def stream():
        try:
            yield Event("reasoning", "Hmm.", (1, 2))
            yield Event("content", "The answer", (3,))
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    answer = play(stream(), LiveView(terminal.console), "toy")
    assert closed
    assert answer.stopped
    assert (answer.reasoning, answer.content) == ("Hmm.", "The answer")
    assert answer.usage == {"completion_tokens": 3, "reasoning_tokens": 2}
    assert terminal.lines()[-2] == "The answer"
    assert terminal.lines()[-1].endswith("stopped")


def test_ctrl_c_in_the_view_closes_the_stream():
    closed = []

    def stream():
        try:
            yield Event("content", "one", (1,))
            yield Event("content", "two", (1,))
        finally:
            closed.append(True)

    class Interrupted(PlainView):
        def add(self, kind, text, so_far):
            raise KeyboardInterrupt

    assert play(stream(), Interrupted(Terminal().console, Terminal().console), "toy").stopped
    assert closed


def test_an_error_shows_what_came_and_goes_on():
    terminal = Terminal()

    def stream():
        yield Event("content", "Half a repl", (1,))
        raise RuntimeError("engine broke")

    with pytest.raises(RuntimeError, match="engine broke"):
        play(stream(), LiveView(terminal.console), "toy")
    assert terminal.lines()[0] == "Half a repl"


def test_plain_view_marks_the_thought_and_adds_nothing():
    out, err = io.StringIO(), io.StringIO()
    view = view_on(Console(file=out), Console(file=err))
    play(events("  Let me see.\n\nYes.\n", "\n\n**4**\n"), view, "toy")
    assert out.getvalue() == "<think>\nLet me see.\n\nYes.\n</think>\n\n**4**\n"
    assert err.getvalue() == ""


def test_plain_view_without_a_thought():
    out = io.StringIO()
    play(events("", "4"), view_on(Console(file=out), Console(file=io.StringIO())), "toy")
    assert out.getvalue() == "4\n"


def test_plain_view_says_on_standard_error_that_a_reply_is_incomplete():
    out, err = io.StringIO(), io.StringIO()
    play(events("", "4 and", "length"), view_on(Console(file=out), Console(file=err)), "toy")
    assert out.getvalue() == "4 and\n"
    assert err.getvalue().rstrip().endswith("cut off at the limit of tokens")


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_dumb_terminal_gets_no_control_sequences(environment):
    terminal = Terminal(environment=environment)
    play(events("Hm.", ANSWER), view_on(terminal.console, terminal.console), "toy")
    assert "\x1b" not in terminal.raw
    assert "</think>\n\n# Result" in terminal.raw


def test_no_color_keeps_the_layout_and_drops_colours():
    terminal = Terminal(environment={"TERM": "xterm-256color", "NO_COLOR": "1"})
    shown(terminal, words(ANSWER))
    codes = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", terminal.raw) for code in codes.split(";")}
    assert codes <= {"", "0", "1", "2", "3", "4"}


def test_remark_says_how_the_thought_and_the_reply_ended():
    answer = play(
        events("a a", "b", "loop", "budget"), PlainView(Console(file=io.StringIO()), Terminal().console), "toy"
    )
    answer.tokens_per_second = 12.34
    answer.vote_share = 0.6
    assert remark(answer) == (
        "3 tokens, 12.3 tokens/s, 60% of the replies agreed, thought ended at its budget, "
        "ended because it repeated itself"
    )


def test_clean_keeps_newline_and_tab_and_all_scripts():
    assert clean("a\n\tb 漢字 é 👩‍👩‍👧 עברית") == "a\n\tb 漢字 é 👩‍👩‍👧 עברית"


@pytest.mark.parametrize(
    "text", ["- " * 60 + "deep", "> " * 40 + "deep", "| a " * 60 + "\n" + "|-" * 60 + "\n" + "| b " * 60]
)
def test_what_has_no_room_in_a_layout_is_shown_as_written(text):
    shown_text = "".join(plain(markdown_lines(Terminal(24, 24).console, text)))
    assert shown_text.count("deep") == text.count("deep")
    assert shown_text.count("b") == text.count("b")


def test_a_line_still_being_written_changes_nothing_before_it():
    assert split_finished("para\n***") == ([], "para\n***")
    assert split_finished("para\n***\nmore") == (["para\n"], "***\nmore")
    assert split_finished("one\n\ntwo") == ([], "one\n\ntwo")
    assert split_finished("one\n\ntwo\n") == (["one\n\n"], "two\n")


def test_output_that_cannot_encode_gets_lookalikes():
    program = (
        "from millet.cli.terminal import console, can_repaint\n"
        "out = console()\n"
        "out.print('• “naïve” – 2×3 → 漢', soft_wrap=True)\n"
        "assert not can_repaint(out)\n"
    )
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout == '* "naive" - 2x3 -> ?\n'
