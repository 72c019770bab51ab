import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millet.errors import BadRequest, UnsupportedModel
from millet.reasoning.format import think_format
from millet.reasoning.prompt import build_prompt
from millet.reasoning.state import Phase
from millet.train.data import (
    Example,
    Packing,
    Renderer,
    first_fit_decreasing,
    read_chats,
    render_files,
    thinking_template,
)
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import unthinking_model

ASK = {"role": "user", "content": "What is 2 + 2?"}
THOUGHT = {"role": "assistant", "reasoning": "Two and two.", "content": "It is 4."}
PLAIN = {"role": "assistant", "content": "It is 4."}


def shown(example: Example, tokenizer: Any) -> tuple[str, str]:
    """The text that is given, and the text that is learned where what is given ends."""
    ids, first = example.ids.tolist(), example.first
    assert example.learned[first:].all()
    return tokenizer.decode(ids[:first], skip_special=False), tokenizer.decode(ids[first:], skip_special=False)


def render(messages: list[dict[str, Any]], fixture: str = "qwen3", template: str | None = None) -> tuple[str, str]:
    model = toy_model(0, fixture, template=template)
    (example,) = Renderer(model).examples(messages)
    return shown(example, model.tokenizer)


def test_a_thought_is_marked_as_the_model_marks_it() -> None:
    prompt, reply = render([ASK, THOUGHT])
    assert prompt.endswith("<|im_start|>assistant\n")
    assert reply == "<think>\nTwo and two.\n</think>\n\nIt is 4.<|im_end|>"


def test_a_spelt_answer_is_learned_character_by_character() -> None:
    model = toy_model(0, "qwen3")
    answer = "Mr, sih ä"
    (whole,), (spelt,) = (
        Renderer(model).examples([ASK, {"role": "assistant", "reasoning": "So:", "content": answer, **said}])
        for said in ({}, {"spelt": True})
    )
    assert shown(spelt, model.tokenizer) == shown(whole, model.tokenizer)
    characters = [model.tokenizer.encode_plain(each, at_start=False) for each in answer]
    ids = [id for each in characters for id in each]
    assert spelt.ids[-len(ids) - 1 : -1].tolist() == ids
    assert len(spelt) > len(whole)


def test_what_the_template_opens_is_not_learned() -> None:
    prompt, reply = render([ASK, THOUGHT], "r1_distill_qwen")
    assert prompt.endswith("<think>\n")
    assert reply == "Two and two.\n</think>\n\nIt is 4.<｜end▁of▁sentence｜>"


def test_without_a_thought_the_prompt_is_that_of_thinking_off() -> None:
    for fixture in ("qwen3", "r1_distill_qwen"):
        model = toy_model(0, fixture)
        assert model.template is not None
        (example,) = Renderer(model).examples([ASK, PLAIN])
        think = think_format(model.template, model.tokenizer)
        expected = build_prompt(model.template, model.tokenizer, think, [ASK], "off").token_ids
        assert example.ids[: example.first].tolist() == expected
        assert shown(example, model.tokenizer)[1].startswith("It is 4.")


def test_the_prompt_is_the_one_that_an_assistant_sends() -> None:
    model = toy_model(0, "qwen3")
    assert model.template is not None
    (example,) = Renderer(model).examples([ASK, THOUGHT])
    think = think_format(model.template, model.tokenizer)
    sent = build_prompt(model.template, model.tokenizer, think, [ASK], "on").token_ids
    assert example.ids[: len(sent)].tolist() == sent  # the opened thought included, which here is learned
    assert sent[: example.first] == example.ids[: example.first].tolist()


def test_a_model_that_never_thought_learns_to_without_the_examples_in_its_prompt() -> None:
    model = unthinking_model(0)
    (example,) = Renderer(model).examples([ASK, THOUGHT])
    prompt, reply = shown(example, model.tokenizer)
    assert prompt == "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert reply == "<think>\nTwo and two.\n</think>\n\nIt is 4.<|im_end|>"


def test_a_model_that_was_taught_to_think_is_asked_as_it_was_taught() -> None:
    model = unthinking_model(0)
    assert model.template is not None
    renderer = Renderer(model)
    renderer.examples([ASK, PLAIN])
    assert not renderer.teaches_thinking
    (example,) = renderer.examples([ASK, THOUGHT])
    assert renderer.teaches_thinking
    template = thinking_template(model.template)
    think = think_format(template, model.tokenizer)
    assert think.own
    asked = build_prompt(template, model.tokenizer, think, [ASK], "auto")
    assert (asked.token_ids, asked.phase) == (example.ids[: example.first].tolist(), Phase.OPENING)
    forced = build_prompt(template, model.tokenizer, think, [ASK], "on").token_ids
    assert forced == example.ids[: len(forced)].tolist()


def test_beside_thoughts_a_reply_without_one_is_asked_for_as_with_thinking_off(tmp_path: Path) -> None:
    """Wherever it stands in the data, and whether the model learns to think or does already."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": [ASK, reply]}) + "\n" for reply in (PLAIN, THOUGHT)))
    model = unthinking_model(0)
    assert model.template is not None
    untaught, taught = model.template, thinking_template(model.template)
    think = think_format(taught, model.tokenizer)
    expected = build_prompt(taught, model.tokenizer, think, [ASK], "off").token_ids
    assert think.own
    for template in (untaught, taught):
        model.template = template
        example = render_files([(path, Renderer(model))])[0]
        assert example.ids[: example.first].tolist() == expected
        assert shown(example, model.tokenizer)[1].startswith("It is 4.")


def test_turns_that_the_template_repeats_are_one_sequence() -> None:
    model = unthinking_model(0)
    (example,) = Renderer(model).examples(
        [ASK, PLAIN, {"role": "user", "content": "Sure?"}, {**PLAIN, "content": "Yes"}]
    )
    learned = [int(i) for i in example.ids[example.learned]]
    assert model.tokenizer.decode(learned, skip_special=False) == "It is 4.<|im_end|>Yes<|im_end|>"
    assert model.tokenizer.decode(example.ids.tolist(), skip_special=False).count("It is 4.") == 1


def test_thoughts_that_the_template_forgets_make_a_sequence_of_each_turn() -> None:
    model = toy_model(0)
    first, second = Renderer(model).examples([ASK, THOUGHT, {"role": "user", "content": "Sure?"}, THOUGHT])
    assert shown(first, model.tokenizer)[1] == shown(second, model.tokenizer)[1]
    assert "Two and two" not in shown(second, model.tokenizer)[0]


def test_a_conversation_that_follows_another_is_read_with_it_and_learned_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    system = {"role": "system", "content": "Be brief."}
    chats = [[{"role": "user", "content": f"Question {i}?"}, {**THOUGHT, "content": f"Reply {i}"}] for i in range(40)]
    chats[7].insert(0, system)
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    model = toy_model(0)
    alone = [shown(example, model.tokenizer) for example in render_files([(path, Renderer(model))])]
    examples = [shown(example, model.tokenizer) for example in render_files([(path, Renderer(model))], 0.5, seed=3)]
    assert sorted(learned for _, learned in examples) == sorted(learned for _, learned in alone)
    behind = 0
    for prompt, learned in examples:
        own = prompt.rfind("Question")
        assert f"Question {learned.rpartition('Reply ')[2].partition('<')[0]}?" in prompt[own:]
        assert prompt.count("Question") == prompt.count("Reply") + 1
        assert "Two and two" not in prompt[:own], "the thoughts of earlier turns are gone"
        assert prompt.find("Be brief.") in (-1, next((p.find("Be brief.") for p, _ in alone if "Be brief." in p), -1))
        behind += prompt.count("Question") > 1
    assert 12 <= behind <= 28
    again = render_files([(path, Renderer(model))], 0.5, seed=3)
    assert [shown(example, model.tokenizer) for example in again] == examples
    other = render_files([(path, Renderer(model))], 0.5, seed=4)
    assert [shown(example, model.tokenizer) for example in other] != examples


def test_what_follows_is_learned_once_where_the_template_repeats_turns(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps({'messages': [ASK, PLAIN]})}\n" * 20)
    model = unthinking_model(0)
    examples = render_files([(path, Renderer(model))], 0.9, seed=0)
    assert [shown(example, model.tokenizer)[1] for example in examples] == ["It is 4.<|im_end|>"] * 20
    assert max(shown(example, model.tokenizer)[0].count("It is 4.") for example in examples) > 2


def test_what_would_be_too_long_behind_another_begins_a_chat(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps({'messages': [ASK, PLAIN]})}\n" * 20)
    (alone,) = Renderer(toy_model(0)).examples([ASK, PLAIN])
    free, held = (
        [len(each) for each in render_files([(path, Renderer(toy_model(0)))], 0.9, 0, limit)]
        for limit in (None, 3 * len(alone))
    )
    assert max(free) > 3 * len(alone) >= max(held) > len(alone)
    assert len(held) == len(free) == 20


def test_what_was_cut_off_is_learned_without_an_end_and_nothing_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    cut = {**THOUGHT, "content": "It is", "unfinished": True}
    path.write_text(f"{json.dumps({'messages': [ASK, cut]})}\n" * 20)
    model = toy_model(0)
    examples = render_files([(path, Renderer(model))], 0.9, seed=0)
    (whole,) = Renderer(model).examples([ASK, {**cut, "unfinished": False}])
    for example in examples:
        assert example.ids.tolist() == whole.ids[:-1].tolist()
        assert example.learned.tolist() == whole.learned[:-1].tolist()
    assert shown(whole, model.tokenizer)[1] == f"{shown(examples[0], model.tokenizer)[1]}<|im_end|>"


def test_an_error_in_what_follows_names_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [[ASK, PLAIN]] * 9 + [[ASK, {**PLAIN, "content": " "}]]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    with pytest.raises(BadRequest, match=r"data.jsonl line 10: a reply's content must be some text"):
        render_files([(path, Renderer(toy_model(0)))], 0.9, seed=1)


def test_no_text_forges_a_control_token() -> None:
    model = toy_model(0)
    bad = "a<|im_end|>b</think>c"
    (example,) = Renderer(model).examples([ASK, {"role": "assistant", "reasoning": bad, "content": bad}])
    reply = example.ids[example.first :].tolist()
    assert reply.count(model.tokenizer.added_tokens["<|im_end|>"]) == 1
    assert reply.count(model.tokenizer.added_tokens["</think>"]) == 1


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ASK], "no reply"),
        ([PLAIN], "messages must be"),
        ([ASK, {"role": "assistant", "content": ""}], "must be some text"),
        ([ASK, {"role": "assistant", "content": "x", "spelt": "no"}], "spelt must be true or false"),
        ([ASK, {"role": "assistant", "content": "x", "unfinished": 1}], "unfinished must be true or false"),
        ([ASK, {"role": "assistant", "content": "x", "tool_calls": [{}]}], "tool calls"),
        ([{"role": "usr", "content": "x"}, PLAIN], "did you mean user"),
    ],
)
def test_what_cannot_be_learned_is_refused(messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        Renderer(toy_model(0)).examples(messages)


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="chat template"):
        Renderer(toy_model(0, template=""))


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"messages": []}', '{"messages": "secret"}', '{"messages": [{"role": "user"}]}']
)
def test_errors_name_file_and_line_and_repeat_no_text(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [ASK, PLAIN]}) + "\n\n" + line + "\n")
    with pytest.raises(BadRequest, match=r"chats\.jsonl line 3") as caught:
        render_files([(path, Renderer(toy_model(0)))])
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"nothing\.jsonl cannot be read"):
        list(read_chats(tmp_path / "nothing.jsonl"))


def test_bins_are_those_of_first_fit_decreasing() -> None:
    lengths = [4, 8, 1, 4, 2, 1]
    assert first_fit_decreasing(range(6), lengths, 10) == [[1, 4], [0, 3, 2, 5]]


def test_every_epoch_has_every_example_once_within_the_budget(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randrange(1, 100) for _ in range(2500)]
    packing = Packing(lengths, 100, seed, epochs=2)
    packs = packing.take(len(packing))
    assert packing.take(1) == []
    assert all(sum(lengths[i] for i in pack) <= 100 for pack in packs)
    assert sorted(i for pack in packs for i in pack) == sorted([*range(2500)] * 2)
    assert sum(lengths) * 2 / (100 * len(packs)) > 0.95, "packs are nearly full"
    half = next(n for n in range(len(packs)) if sum(map(len, packs[:n])) == 2500)
    assert sorted(i for pack in packs[:half] for i in pack) == [*range(2500)]
    assert packs[:half] != packs[half:], "each epoch has an order of its own"


def test_packs_depend_on_the_seed_alone_and_go_on_anywhere(seed: int) -> None:
    lengths = [1 + i % 7 for i in range(50)]
    whole = Packing(lengths, 16, seed, epochs=3)
    packs = whole.take(len(whole))
    assert packs != Packing(lengths, 16, seed + 1, epochs=3).take(len(whole))
    cut = random.Random(seed).randrange(len(packs))
    first = Packing(lengths, 16, seed, epochs=3)
    begun = [pack for _ in range(cut) for pack in first.take(1)]
    second = Packing(lengths, 16, seed, epochs=3)
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + second.take(len(packs)) == packs


def test_examples_know_where_learning_begins() -> None:
    example = Example.of([5, 6, 7, 8], [False, False, True, False])
    assert (example.first, len(example), example.ids.dtype) == (2, 4, np.int32)
