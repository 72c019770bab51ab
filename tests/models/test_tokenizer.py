"""Oracles: the tokenizers library's own encode and decode, and transformers on what `save` wrote."""

import json
import random
import unicodedata
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from millet.errors import BadWeights, UnsupportedModel
from millet.models.tokenizer import TextStream, Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"

TEXTS = [
    "",
    "The user asks a question.",
    "  12 apples\n\n34 pears \n",
    "I don't think they'LL go; we've 3.14 reasons",
    "\tdef add(first, second):\r\n    return first + second   \n\n\n",
    "你好,世界!日本語のテキスト ½ ² ٣",
    "👩‍👩‍👧‍👦 🇫🇷 e\u0301 ﬁ ︎ \u200b\u00a0x",
    "<think>\nwhy</think>answer",
    "<|im_end|><｜User｜>x<|im_start|><｜begin▁of▁sentence｜>",
    "<｜Assistant｜ ><|im_end|",
    "\x00\x7f\uffff",
]


@cache
def byte_level(name: str) -> Tokenizer:
    folder = FIXTURES / name
    return Tokenizer.from_file(folder / "tokenizer.json", json.loads((folder / "tokenizer_config.json").read_text()))


@cache
def sentencepiece(spaces: str) -> tokenizers.Tokenizer:
    """A toy in SentencePiece's manner; spaces: how it marks words, as older ("prepend") or newer ("first") files do."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abc</s>", "▁a", "ab", "▁▁", "s>"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("▁", "a"), ("a", "b"), ("▁", "▁"), ("s", ">"), ("<", "/"), ("</", "s>")]
    vocabulary.setdefault("</", len(vocabulary))
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(decoder)
    if spaces == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    control = [AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(control)
    return tokenizer


@pytest.mark.parametrize("name", ["qwen3", "r1_distill_qwen"])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_librarys_and_no_bos_is_added(name: str, text: str) -> None:
    library = tokenizers.Tokenizer.from_file(str(FIXTURES / name / "tokenizer.json"))
    tokenizer = byte_level(name)
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special=False) == library.decode(ids, skip_special_tokens=False)
    assert tokenizer.decode(ids, skip_special=False) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("spaces", ["prepend", "first"])
def test_sentencepiece_ids_and_text_are_the_librarys(spaces: str) -> None:
    library = sentencepiece(spaces)
    tokenizer = Tokenizer(library, {})
    for text in ["ab  cab", " a", "  ", "", "héé 😀", "<s>ab</s> a", "a▁b"]:
        ids = tokenizer.encode(text)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, skip_special=False) == library.decode(ids, skip_special_tokens=False)
    assert tokenizer.token_bytes(tokenizer.id_of("<0xE9>")) == b"\xe9"
    assert tokenizer.token_bytes(tokenizer.id_of("▁a")) == b" a"


@given(ids=st.lists(st.integers(0, 630), max_size=30))
def test_streamed_text_is_the_decoded_text(ids: list[int]) -> None:
    for tokenizer in (byte_level("qwen3"), byte_level("r1_distill_qwen")):
        assert_streams(tokenizer, ids)


@given(ids=st.lists(st.integers(0, 3) | st.integers(255, 275), max_size=30))
def test_streamed_text_is_the_decoded_text_for_sentencepiece(ids: list[int]) -> None:
    assert_streams(Tokenizer(sentencepiece("prepend"), {}), ids)


def assert_streams(tokenizer: Tokenizer, ids: list[int]) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


@given(text=st.text())
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    tokenizer = byte_level("qwen3")
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)) == unicodedata.normalize("NFC", text).encode()
    stream, shown = TextStream(tokenizer), ""
    for token_id in ids:
        shown += stream.push(token_id)
        assert unicodedata.normalize("NFC", text).startswith(shown)
    assert stream.flush() == ""


def test_an_unfinished_character_appears_only_at_the_end() -> None:
    tokenizer = byte_level("qwen3")
    first, second, third = (tokenizer.id_of(spelling) for spelling in ("ð", "Ł", "ĺ"))  # the bytes f0 9f 98
    stream = TextStream(tokenizer)
    assert [stream.push(first), stream.push(second), stream.push(third), stream.flush()] == ["", "", "", "\ufffd"]
    stream = TextStream(tokenizer)
    assert [stream.push(first), stream.push(second), stream.push(tokenizer.id_of("a"))] == ["", "", "\ufffda"]


def test_control_tokens_stand_for_no_text() -> None:
    tokenizer = byte_level("r1_distill_qwen")
    user, think = tokenizer.id_of("<｜User｜>"), tokenizer.id_of("<think>")
    assert user in tokenizer.special_ids, "though tokenizer.json does not flag it"
    assert think not in tokenizer.special_ids
    assert (tokenizer.token_bytes(user), tokenizer.token_bytes(think)) == (b"", b"<think>")
    assert tokenizer.decode([user, think]) == "<think>"
    assert tokenizer.decode([user, think], skip_special=False) == "<｜User｜><think>"
    assert [tokenizer.bos_token, tokenizer.eos_token] == ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]


def test_ids_outside_the_vocabulary_stand_for_nothing() -> None:
    tokenizer = byte_level("qwen3")
    assert tokenizer.vocab_size == 609
    assert tokenizer.token_bytes(609) == tokenizer.token_bytes(-1) == b""
    assert tokenizer.decode([10_000, *tokenizer.encode("hi"), 609]) == "hi"
    assert tokenizer.id_of("no such token") is None


@pytest.mark.parametrize("text", TEXTS)
def test_plain_encoding_matches_no_added_token(text: str) -> None:
    tokenizer = byte_level("r1_distill_qwen")
    ids = tokenizer.encode(text, special=False)
    assert not set(ids) & set(tokenizer.added_tokens.values())
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_plain_encoding_keeps_merges_from_spelling_a_control_token(seed: int) -> None:
    library = sentencepiece("prepend")
    tokenizer, end = Tokenizer(library, {}), library.token_to_id("</s>")
    assert end in [token.id for token in library.model.tokenize("a</s>")], "the merges of this toy do spell it"
    for _ in range(50):
        text = "".join(random.Random(seed).choices(["</s>", "<s>", "a", " ", "b"], k=8))
        ids = tokenizer.encode(text, special=False)
        assert not set(ids) & tokenizer.special_ids
        assert tokenizer.decode(ids) == text
        seed += 1


def test_only_the_start_of_a_sequence_is_marked_where_the_tokenizer_says_so() -> None:
    newer, older = Tokenizer(sentencepiece("first"), {}), Tokenizer(sentencepiece("prepend"), {})
    marked, bare = [newer.id_of("▁a")], [newer.id_of("a")]
    assert (newer.encode_plain("a"), newer.encode_plain("a", at_start=False)) == (marked, bare)
    assert (older.encode_plain("a"), older.encode_plain("a", at_start=False)) == (marked, marked)


def test_lone_surrogates_are_read_as_replacement_characters() -> None:
    tokenizer = byte_level("qwen3")
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00", special=False)) == "😀"


@pytest.mark.parametrize("name", ["qwen3", "r1_distill_qwen"])
def test_transformers_loads_what_was_saved(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(name)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.from_file(
        tmp_path / "tokenizer.json", json.loads((tmp_path / "tokenizer_config.json").read_text())
    )
    assert (theirs.bos_token, theirs.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    assert again.special_tokens == tokenizer.special_tokens
    for text in TEXTS:
        assert tokenizer.encode(text) == again.encode(text) == theirs.encode(text, add_special_tokens=False)


def test_limits_in_the_file_are_lifted_and_tokens_of_the_config_added(tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(FIXTURES / "qwen3" / "tokenizer.json"))
    library.enable_truncation(3)
    library.enable_padding(length=8)
    library.save(str(tmp_path / "tokenizer.json"))
    listed = {"609": {"content": "<|new|>", "special": True, "normalized": False, "__type": "AddedToken"}}
    config = {"added_tokens_decoder": listed, "bos_token": {"content": "<|im_start|>"}, "eos_token": None}
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json", config)
    for text in ("x", "a text of more than three tokens"):
        assert tokenizer.encode(text) == byte_level("qwen3").encode(text)
    assert tokenizer.encode("<|new|>") == [609]
    assert tokenizer.special_tokens == {"bos_token": "<|im_start|>"}


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"tokenizer\.json is missing"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", {})
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model":')
    with pytest.raises(BadWeights, match="cannot be read") as caught:
        Tokenizer.from_file(tmp_path / "tokenizer.json", {})
    assert "\n" not in str(caught.value)
    words = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="decoder is WordPiece"):
        Tokenizer.from_file(tmp_path / "tokenizer.json", {})
