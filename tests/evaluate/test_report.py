"""The page of an evaluation: it needs nothing, runs nothing, and shows hostile texts as texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from millet.evaluate.page import escape
from millet.evaluate.plot import curve, distribution, intervals
from millet.evaluate.provenance import Origin, origin
from millet.evaluate.report import LONGEST, Report, warnings
from millet.evaluate.results import Evaluation, Group, read_transcripts, write_transcripts
from tests.evaluate.toys import ADD, attempt, evaluation, sample, solved

HOSTILE = "</pre></details><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&lt;\x00\x1b[2J\u202e\ud800"
ORIGIN = Origin("millet eval toy --tasks add", "2030-01-02 03:04 UTC", "a machine", {"millet": "0.1.0"})
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Evaluation:
    bad = sample(0, reasoning=HOSTILE, content=HOSTILE, answer=HOSTILE, reason="timeout" + HOSTILE)
    group = Group(HOSTILE, 1)
    attempts = [attempt(0, bad, bad, group=group, prompt=HOSTILE), *solved(0.5, 1, k=2)]
    return evaluation(attempts, k=2, model=HOSTILE, asked=9)


def report(first: Evaluation, second: Evaluation | None = None, **origin: Any) -> Report:
    fields = {"command": ORIGIN.command, "date": ORIGIN.date, "machine": ORIGIN.machine, "versions": ORIGIN.versions}
    return Report.of(Origin(**(fields | origin)), first, second)


def two() -> Report:
    before, after = evaluation(solved(0, 0, 1), model="base"), evaluation(solved(1, 1, 1), model="better")
    return report(before, after)


def test_hostile_texts_are_texts() -> None:
    one, other = hostile(), hostile()
    one.lineage = other.lineage = {HOSTILE: HOSTILE}
    made = report(one, other, command=HOSTILE, machine=HOSTILE, versions={HOSTILE: HOSTILE})
    html = made.to_html()
    html.encode()  # no lone surrogates
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    assert "<script>alert(1)</script>" in page.text
    assert not set(html) & {"\x00", "\x1b", "\u202e"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]


def test_the_page_needs_nothing_else() -> None:
    page = Page(two().to_html())
    for _, attributes in page.tags:
        assert not attributes.keys() & {"src", "href", "xlink:href", "srcset", "action", "data"}
    assert "url(" not in two().to_html()
    assert "@import" not in two().to_html()


def test_its_policy_allows_its_own_style_and_nothing_more() -> None:
    html = two().to_html()
    policy = next(
        attributes["content"]
        for tag, attributes in Page(html).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_what_a_reader_must_find() -> None:
    page = Page(two().to_html())
    for text in (ORIGIN.command, ORIGIN.date, "a machine", "base", "better", "millet 0.1.0", "temperature 0.6"):
        assert text in page.text
    assert "better solves 100.0% at the first try" in page.text
    assert "The difference is +66.7 points" in page.text
    assert {"right", "wrong"} <= {attributes.get("class") for tag, attributes in page.tags if tag == "span"}


def test_what_one_of_two_solves_is_shown_with_what_both_say() -> None:
    def said(*scores: int) -> Evaluation:
        attempts = [
            attempt(i, sample(score, reasoning=f"thought {i} {'ab'[score]}"), prompt=f"problem {i}?")
            for i, score in enumerate(scores)
        ]
        return evaluation(attempts, model="ab"[scores[0]])

    page = Page(report(said(0, 0, 1, 0, 1), said(1, 0, 0, 1, 1)).to_html())
    told = page.text[page.text.index("Before and after: a, b") : page.text.index("Length of a")]
    assert "2 gained, 1 lost" in told
    assert [int(n) for n in re.findall(r"(?:gained|lost) · problem (\d)", told)] == [0, 3, 2]
    for index in (0, 2, 3):
        assert told.index(f"problem {index}?") < told.index(f"thought {index} ")
        assert f"thought {index} a" in told
        assert f"thought {index} b" in told
    assert "problem 1?" not in told
    same = report(said(0, 1), said(0, 1)).to_html()
    assert "Before and after" not in same


def test_lineage_is_shown_where_there_is_one() -> None:
    assert "Lineage" not in Page(two().to_html()).text
    made = evaluation(solved(1, 0))
    made.lineage = {"parents": ["a base"]}
    shown = Page(report(made).to_html()).text
    assert "Lineage of toy" in shown
    assert "a base" in shown


def test_two_models_of_one_name_have_a_lineage_each() -> None:
    before, after = evaluation(solved(1, 0), model="2-grpo"), evaluation(solved(1, 1), model="2-grpo")
    before.lineage, after.lineage = {"sha256": "this"}, {"sha256": "that"}
    made = report(before, after)
    assert [each["lineage"]["sha256"] for each in made.to_dict()["models"]] == ["this", "that"]
    shown = Page(made.to_html()).text
    assert '"this"' in shown
    assert '"that"' in shown


def test_versions_are_also_those_of_what_makes_problems() -> None:
    assert {"millet", "torch", "python", "reasoning-gym", "math-verify"} <= origin("millet eval toy").versions.keys()


def test_long_transcripts_are_cut_and_say_so() -> None:
    long = evaluation([attempt(0, sample(0, reasoning="x" * (LONGEST + 1234)))])
    text = Page(report(long).to_html()).text
    assert "1,234 more characters" in text
    assert "x" * LONGEST in text
    assert "x" * (LONGEST + 1) not in text


def test_it_warns_of_what_spoils_the_figures() -> None:
    found = warnings(hostile())
    assert "interrupted after 3 of 9 problems" in found[0]
    assert "(2 x timeout)" in found[1]
    assert warnings(evaluation(solved(1, 0))) == []


def test_nothing_at_all_is_a_page_too() -> None:
    made = report(evaluation([], asked=5))
    assert "interrupted after 0 of 5" in Page(made.to_html()).text
    assert made.to_dict()["models"][0]["tasks"] == []


def test_a_second_that_did_not_begin_takes_nothing_away() -> None:
    begun, nothing = evaluation(solved(1, 0), model="mine"), evaluation([], model="other", asked=2)
    made = report(nothing, begun)
    assert made.partial
    assert made.difference is None
    page = Page(made.to_html())
    assert "mine solves 50.0%" in page.text
    assert "other: interrupted after 0 of 2" in page.text
    assert [each["problems"] for each in made.to_dict()["models"]] == [0, 2]


def test_for_programs() -> None:
    found = json.loads(json.dumps(two().to_dict()))
    base, better = found["models"]
    assert (base["model"], better["model"]) == ("base", "better")
    assert base["tasks"][0]["figures"]["pass@1"]["value"] == pytest.approx(1 / 3)
    assert found["difference"]["mean"]["pass@1"]["value"] == pytest.approx(2 / 3)
    assert found["settings"]["k"] == 1
    assert "difference" not in report(evaluation(solved(1, 0))).to_dict()
    nothing = report(evaluation([attempt(0, sample(1, reasoning_tokens=0, thought_ended=None))]))
    assert nothing.to_dict()["models"][0]["mean"]["closed_itself"] is None


def test_transcripts_are_lines_of_json(tmp_path: Any) -> None:
    made = evaluation([attempt(3, sample(1, content="a\nb"), sample(0))], k=2)
    write_transcripts([evaluation([]), made], tmp_path / "t.jsonl")
    _, head, *lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert head["settings"]["k"] == 2
    assert read_transcripts(tmp_path / "t.jsonl") == made
    assert [(line["index"], line["sample"], line["score"]) for line in lines] == [(3, 0, 1.0), (3, 1, 0.0)]
    assert lines[0]["content"] == "a\nb"
    assert (lines[0]["model"], lines[0]["task"], lines[0]["level"]) == ("toy", ADD.task, ADD.level)


def test_transcripts_of_any_text_are_read_as_they_were_written(tmp_path: Any) -> None:
    """With what Python takes for the end of a line and JSON does not."""
    text = "one\u2028two\u2029three\x85four\x0bfive\r\nsix\n\nseven\x1e"
    made = evaluation([attempt(0, sample(1, reasoning=text, content=text, answer=text), sample(0))], k=2)
    made.lineage = {"stage": text}
    write_transcripts([made], tmp_path / "t.jsonl")
    assert read_transcripts(tmp_path / "t.jsonl") == made


def test_escape_leaves_newlines_and_letters() -> None:
    assert escape("a\n\tb 中 é 😀") == "a\n\tb 中 é 😀"
    assert escape("<&\">'\x07") == "&lt;&amp;&quot;&gt;&#x27;␇"


def test_a_distribution_counts_every_reply() -> None:
    plot = distribution("c", [0, 4, 5, 99, 99, 24], "tokens", bins=20)
    bars = re.findall(r"<title>(\d+) to (\d+): (\d+)</title>", plot)
    assert [bar for bar in bars if bar[2] != "0"] == [
        ("0", "4", "2"),
        ("5", "9", "1"),
        ("20", "24", "1"),
        ("95", "99", "2"),
    ]
    assert len(bars) == 20


def test_plots_are_well_formed_whatever_the_figures() -> None:
    figures = report(evaluation(solved(0, 0.5, 1, k=4), k=4)).summaries[0].mean
    point = figures["pass@1"]
    assert point is not None
    for plot in (
        intervals("c", [("a" * 90, [point, None]), (HOSTILE, [None, point])], -0.013, 0.013, ["x", "y"]),
        intervals("c", [("a", [point])], 0.0, 1.0, ["x"]),
        curve("c", {1: point}, "k"),
        curve("c", {1: point, 2: point, 3: point}, "k"),
        distribution("c", [0], "tokens"),
        distribution("c", [0, 5, 4096, 4096], "tokens"),
    ):
        Page(plot)
        assert "nan" not in plot
        assert "inf" not in plot
