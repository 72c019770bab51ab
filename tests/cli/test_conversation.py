"""Conversations: what the model is shown of them, and the files they are saved to."""

import json
import os
import stat
from pathlib import Path

import pytest

from millet.cli.conversation import Answer, Conversation
from millet.errors import BadRequest


@pytest.fixture
def conversation():
    conversation = Conversation(system="Be brief.")
    conversation.ask("1+1?").answer = Answer("toy", "One and one.", "2", "stop", "model", {"reasoning_tokens": 3})
    conversation.ask("And in\nChinese? 漢").answer = Answer("toy", "", "二", "stop")
    return conversation


def roles(conversation):
    return [(message["role"], message["content"]) for message in conversation.messages()]


def test_the_model_is_shown_answers_without_thoughts(conversation):
    conversation.ask("More")
    assert roles(conversation) == [
        ("system", "Be brief."),
        ("user", "1+1?"),
        ("assistant", "2"),
        ("user", "And in\nChinese? 漢"),
        ("assistant", "二"),
        ("user", "More"),
    ]


def test_a_reply_stopped_in_its_thought_joins_questions_so_that_roles_alternate(conversation):
    conversation.ask("Why?").answer = Answer("toy", "Because", "", "cancelled")
    conversation.ask("In one word")
    assert roles(conversation)[-2:] == [("assistant", "二"), ("user", "Why?\n\nIn one word")]


def test_a_partial_answer_is_shown(conversation):
    conversation.ask("Why?").answer = Answer("toy", "", "Because of", "cancelled")
    assert roles(conversation)[-1] == ("assistant", "Because of")


def test_forgetting_drops_oldest_turns_but_never_the_last_nor_the_system(conversation):
    conversation.ask("More")
    assert conversation.forget_oldest()
    assert roles(conversation)[:2] == [("system", "Be brief."), ("user", "And in\nChinese? 漢")]
    assert conversation.forget_oldest()
    assert roles(conversation) == [("system", "Be brief."), ("user", "More")]
    assert not conversation.forget_oldest()
    assert len(conversation.turns) == 3


def test_json_holds_everything(conversation, tmp_path):
    conversation.forgotten = 1
    conversation.save(tmp_path / "c.JSON")
    saved = json.loads((tmp_path / "c.JSON").read_text("utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert saved["messages"][2] == {"role": "assistant", **conversation.turns[0].answer.to_dict()}
    assert saved["messages"][2]["reasoning"] == "One and one."
    assert saved["messages"][3]["content"] == "And in\nChinese? 漢"


def test_markdown_reads_well(conversation, tmp_path):
    conversation.turns[0].answer.thought_seconds = 1.25
    conversation.turns[1].answer.finish_reason = "cancelled"
    conversation.save(tmp_path / "c.md")
    lines = (tmp_path / "c.md").read_text("utf-8").split("\n\n")
    assert lines[0].startswith("# Conversation of 20")
    assert lines[1:] == [
        "## System",
        "Be brief.",
        "## You",
        "1+1?",
        "## toy",
        "<details><summary>Thought for 1.2 s, 3 tokens</summary>",
        "> One and one.",
        "</details>",
        "2",
        "## You",
        "And in\nChinese? 漢",
        "## toy",
        "二",
        "*(stopped)*\n",
    ]


@pytest.mark.parametrize("name", ["c.txt", "c", "c.md.bak", "md"])
def test_other_suffixes_are_refused(conversation, tmp_path, name):
    with pytest.raises(BadRequest, match=r"neither \.md nor \.json"):
        conversation.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_overwritten_only_on_demand(conversation, tmp_path):
    path = tmp_path / "c.md"
    path.write_text("precious")
    with pytest.raises(BadRequest, match=r"exists; .*/save! "):
        conversation.save(path)
    assert path.read_text() == "precious"
    conversation.save(path, overwrite=True)
    assert "1+1?" in path.read_text("utf-8")


def test_a_link_stays_a_link(conversation, tmp_path):
    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to("real.md")
    conversation.save(tmp_path / "link.md", overwrite=True)
    assert (tmp_path / "link.md").is_symlink()
    assert "1+1?" in (tmp_path / "real.md").read_text("utf-8")


def test_home_is_expanded(conversation, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation.save(Path("~/c.md"))
    assert (tmp_path / "c.md").exists()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(conversation, tmp_path, monkeypatch):
    path = tmp_path / "c.md"
    path.write_text("precious")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadRequest, match="No space left on device"):
        conversation.save(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["c.md"]
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_one_line(conversation, tmp_path):
    with pytest.raises(BadRequest, match="cannot be written") as caught:
        conversation.save(tmp_path / "no" / "c.md")
    assert "\n" not in str(caught.value)


def test_text_that_no_file_can_hold_is_replaced(conversation, tmp_path):
    conversation.ask("\ud800")
    conversation.save(tmp_path / "c.md")
    conversation.save(tmp_path / "c.json")
    json.loads((tmp_path / "c.json").read_text("utf-8"))


def test_saved_files_have_ordinary_permissions(conversation, tmp_path):
    previous = os.umask(0o027)
    try:
        conversation.save(tmp_path / "c.md")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "c.md").stat().st_mode) == 0o640
