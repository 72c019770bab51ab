"""Oracles: the tokenizer.json that the metadata were taken from, SentencePiece's rule in plain Python, transformers'
reading of the same metadata, and words cut by hand."""

import json
import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
from transformers.tokenization_utils_base import generate_merges

from millet.errors import BadWeights, UnsupportedModel
from millet.models.gguf import GGUFFile
from millet.models.gguf_tokenizer import merges_from_scores, tokenizer_from_gguf
from millet.models.tokenizer import BYTE_ALPHABET, Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEY = "tokenizer.ggml."

TEXTS = [
    "",
    "Hello, world! It's 2024-11-24; I'd say THEY'LL come.",
    "x = 12\n\n34\n 5  67   890 \n\n\n1. one\n2. two",
    "   \t indented\r\n\r\nlines   ",
    "for (int i = 0; i < 10; ++i) { a[i] += 3.14e-10; } // done",
    "你好,世界!日本語 한국어 العربية ½ ² ٣ Ⅷ",
    "👩‍👩‍👧‍👦 naïve e\u0301 ﬁ \u200b\u00a0x \x00",
    "<|im_start|>user\n<|im_end|> <|endoftext|><think></think> <tool_call>",
]


@cache
def toy(pre: str) -> dict[str, Any]:
    """GGUF metadata with the vocabulary of the Qwen3 fixture, as a converter would write them."""
    file = json.loads((FIXTURES / "qwen3" / "tokenizer.json").read_text())
    added = {token["id"]: token for token in file["added_tokens"]}
    spelled = {index: token for token, index in file["model"]["vocab"].items()}
    spelled |= {index: token["content"] for index, token in added.items()}
    kinds = [1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(spelled))]
    return {
        "general.architecture": "qwen3",
        "qwen3.context_length": 4096,
        KEY + "model": "gpt2",
        KEY + "pre": pre,
        KEY + "tokens": [*(spelled[i] for i in range(len(spelled))), "[PAD609]", "[PAD610]"],
        KEY + "token_type": [*kinds, 5, 5],
        KEY + "merges": [" ".join(pair) for pair in file["model"]["merges"]],
        KEY + "eos_token_id": 602,
        KEY + "bos_token_id": 601,
        KEY + "padding_token_id": 2**32 - 1,
    }


def theirs(metadata: dict[str, Any]) -> Any:
    """transformers' tokenizer for the same metadata."""
    renames = GGUF_TOKENIZER_MAPPING["tokenizer"].items()
    fields = {new: metadata[f"tokenizer.{old}"] for old, new in renames if f"tokenizer.{old}" in metadata}
    return convert_gguf_tokenizer(metadata.get("general.architecture", "llama"), fields)[0]


def test_a_vocabulary_read_back_gives_the_ids_of_its_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(toy("qwen2"))
    original = Tokenizer.from_file(FIXTURES / "qwen3" / "tokenizer.json", {})
    tokenizer.save(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode(text) == original.encode(text) == saved.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text, special=False) == original.encode(text, special=False)
    assert tokenizer.special_ids == original.special_ids == {600, 601, 602}
    assert tokenizer.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert tokenizer.vocab_size == 609, "unused ids stand for no text"
    assert tokenizer.token_bytes(609) == b""
    assert (saved.eos_token, saved.model_max_length) == ("<|im_end|>", 4096)


WORDS = {
    "smollm": [
        ("a  12\n\n34", "a|  |1|2|\n\n|3|4"),
        ("I'm 5½ THEY'LL", "I|'m| |5|½| THEY|'|LL"),
        ("x+=1 \n y", "x|+=|1| \n| y"),
    ],
    "gpt-2": [("a  12\n\n34", "a| | 12|\n|\n|34"), ("I'm 5½ THEY'LL", "I|'m| 5½| THEY|'|LL")],
    "default": [("a  12", "a| | 12")],
    "qwen2": [
        ("a  12\n\n34", "a| | |1|2|\n\n|3|4"),
        ("I'M 5½ (they'll)!\n\n x", "I|'M| |5|½| (|they|'ll|)!\n\n| x"),
        ("e\u0301", "é"),
    ],
    "deepseek-r1-qwen": [("a  12\n\n34", "a| | |1|2|\n\n|3|4")],
    "llama-bpe": [("a  1234\n\n34", "a| | |123|4|\n\n|34"), ("I'M #tag e\u0301", "I|'M| #|tag| e|\u0301")],
    "llama3": [("12345", "123|45")],
    "llama-v3": [("12345", "123|45")],
    "deepseek-v3": [
        ("12345 x67", "123|45| x|67"),
        ("你好,世界ですカナ한국", "你好|,|世界ですカナ|한국"),
        ("a.b _c f(d)\n\ne\u0301 x", "a|.b| _|c| f|(d|)\n\n|e\u0301| x"),
    ],
    "deepseek-llm": [
        ("Hi there 123\n\nx", "Hi| there| |1|2|3|\n|\n|x"),
        ("(a), \uff01b 你好!  ", "(|a|),| \uff01|b| |你好|!|  "),
        ("a \u201cb", "a| |\u201c|b"),  # its range of East Asian characters holds quotation marks too
        ("Աա Ωé", "Ա|ա| Ωé"),
    ],
}


@pytest.mark.parametrize(("pre", "text", "words"), [(pre, *case) for pre, cases in WORDS.items() for case in cases])
def test_words_are_cut_as_the_label_says(pre: str, text: str, words: str) -> None:
    tokenizer, _ = tokenizer_from_gguf(toy(pre))
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    spelled = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
    assert [bytes(BYTE_ALPHABET[c] for c in word).decode() for word in spelled] == words.split("|")


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "deepseek-r1-qwen", "gpt-2"])
def test_ids_are_those_of_transformers_on_the_same_metadata(pre: str) -> None:
    tokenizer, oracle = Tokenizer.from_gguf(toy(pre)), theirs(toy(pre))
    for text in TEXTS:
        if "\u0301" not in text:  # transformers leaves out Qwen's normalization to NFC when it reads a GGUF
            assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids, text


def test_llama3_takes_a_word_of_the_vocabulary_whole() -> None:
    metadata = toy("llama-bpe")
    merges = [merge for merge in metadata[KEY + "merges"] if merge.replace(" ", "") != "Ġassistant"]
    without = {**metadata, KEY + "merges": merges}
    assistant = metadata[KEY + "tokens"].index("Ġassistant")
    assert Tokenizer.from_gguf(without).encode(" assistant") == [assistant]
    assert Tokenizer.from_gguf({**without, KEY + "pre": "qwen2"}).encode(" assistant") != [assistant]


def test_smollm2s_ids_are_those_of_its_published_pipeline(smollm2_path: Path, seed: int) -> None:
    metadata = GGUFFile(smollm2_path).metadata
    tokenizer, oracle = Tokenizer.from_gguf(metadata), theirs(metadata)
    # SmolLM2's tokenizer.json cuts digits apart before it cuts words; transformers forgets that when it reads the GGUF.
    oracle.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    parts = [*TEXTS, *"07aé世😀 \n\t", "'s", "<|im_end|>", "  ", "\n\n", "the", " Answer:", "'ll"]
    choose = random.Random(seed)
    mixed = ["".join(choose.choices(parts, k=12)) for _ in range(200)]
    for text in [*TEXTS, *mixed]:
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(ids, skip_special=False) == text
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (49152, frozenset(range(17)))
    assert tokenizer.special_tokens["eos_token"] == "<|im_end|>"


LETTERS = "abcde"


def sentencepiece_metadata(seed: int, **changes: Any) -> dict[str, Any]:
    """A random vocabulary of pieces with distinct scores, longer pieces made of shorter ones."""
    choose = random.Random(seed)
    pieces = ["▁", *LETTERS, "<", "/", "s", ">", "s>", "</"]
    while len(pieces) < 90:
        made = choose.choice(pieces) + choose.choice(pieces)
        if made not in pieces and made not in ("<s>", "</s>") and len(made) < 7:
            pieces.append(made)
    scores = [-float(rank) for rank in choose.sample(range(1000), len(pieces))]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "<user>"]
    return {
        KEY + "model": "llama",
        KEY + "pre": "default",
        KEY + "tokens": tokens,
        KEY + "scores": [0.0] * 259 + scores + [0.0],
        KEY + "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4],
        KEY + "bos_token_id": 1,
        KEY + "eos_token_id": 2,
        KEY + "unknown_token_id": 0,
        **changes,
    }


def sentencepiece_rule(metadata: dict[str, Any], text: str) -> list[int]:
    """Merge the neighbours whose union scores best, the leftmost first, until none is a piece; the rest is bytes."""
    rows = zip(metadata[KEY + "tokens"], metadata[KEY + "scores"], metadata[KEY + "token_type"], strict=True)
    scores = {token: score for token, score, kind in rows if kind == 1}
    ids = {token: index for index, token in enumerate(metadata[KEY + "tokens"])}
    word = list(text.replace(" ", "▁"))
    while True:
        joined = [a + b for a, b in pairwise(word)]
        known = [(scores[piece], -at) for at, piece in enumerate(joined) if piece in scores]
        if not known:
            break
        at = -max(known)[1]
        word[at : at + 2] = [joined[at]]
    as_bytes = ([ids[piece]] if piece in scores else [ids[f"<0x{b:02X}>"] for b in piece.encode()] for piece in word)
    return [token_id for part in as_bytes for token_id in part]


def test_sentencepiece_ids_follow_its_rule(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(20):
        metadata = sentencepiece_metadata(choose.randrange(2**31))
        tokenizer = Tokenizer.from_gguf(metadata)
        for _ in range(20):
            text = "".join(choose.choices([*LETTERS, " ", "é", "\n", "</s>"], k=12))
            ids = tokenizer.encode(text, special=False)
            assert ids == sentencepiece_rule(metadata, " " + text)
            assert not tokenizer.special_ids & set(ids)
            assert tokenizer.decode(ids) == text


def test_sentencepiece_merges_are_those_of_transformers(seed: int) -> None:
    metadata = sentencepiece_metadata(seed)
    pieces = dict(zip(metadata[KEY + "tokens"][259:-1], metadata[KEY + "scores"][259:-1], strict=True))
    ties = {piece: round(score, -2) for piece, score in pieces.items()}
    ids = {piece: index for index, piece in enumerate(pieces)}
    for scores in (pieces, ties):
        assert merges_from_scores(scores) == generate_merges(ids, scores)


def test_sentencepiece_marks_the_text_after_every_token_unless_told_not_to(seed: int) -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(seed))
    start, user = tokenizer.id_of("<s>"), tokenizer.id_of("<user>")
    marked, bare = tokenizer.encode("\n"), [tokenizer.id_of("<0x0A>")]
    assert marked == [tokenizer.id_of("▁"), *bare]
    assert tokenizer.encode("<s>\n<user>\n") == [start, *marked, user, *marked]
    assert tokenizer.decode(tokenizer.encode("\n")) == "\n"
    assert (tokenizer.special_ids, tokenizer.config["add_bos_token"]) == ({0, 1, 2}, True)
    unmarked = Tokenizer.from_gguf(sentencepiece_metadata(seed, **{KEY + "add_space_prefix": False}))
    assert unmarked.encode("<s>\n<user>\n") == [start, *bare, user, *bare]
    assert unmarked.decode(unmarked.encode(" \n")) == " \n"


def test_a_saved_sentencepiece_tokenizer_is_the_same_in_transformers(seed: int, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(seed))
    tokenizer.save(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["abc de", " é\n", "<s>ab</s> <user>c"]:
        assert saved.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert saved.encode(text) == [1, *tokenizer.encode(text)], "add_bos_token is for other readers"


def test_unmarked_ends_of_a_sequence_are_control_tokens() -> None:
    plain = {**toy("qwen2"), KEY + "token_type": [1] * 611}
    tokenizer = Tokenizer.from_gguf(plain)
    assert tokenizer.special_ids == {601, 602}
    assert tokenizer.encode("<|im_start|>") == [601]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pre": "tekken"}, UnsupportedModel, "pre-tokenizer is 'tekken'"),
        ({"model": "bert"}, UnsupportedModel, "of kind 'bert'"),
        ({"model": None}, UnsupportedModel, "of kind None"),
        ({"tokens": None}, BadWeights, r"no tokenizer\.ggml\.tokens"),
        ({"merges": None}, BadWeights, r"no tokenizer\.ggml\.merges"),
        ({"merges": ["a"]}, BadWeights, "merges do not fit"),
        ({"merges": ["a nowhere"]}, BadWeights, "merges do not fit"),
        ({"token_type": [1, 2]}, BadWeights, "2 token types"),
        ({"model": "llama"}, BadWeights, r"no tokenizer\.ggml\.scores"),
        ({"model": "llama", "scores": [0.0]}, BadWeights, "1 scores"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(changes: dict[str, Any], error: type, message: str) -> None:
    metadata = toy("qwen2") | {KEY + key: value for key, value in changes.items()}
    with pytest.raises(error, match=message) as caught:
        Tokenizer.from_gguf(metadata)
    assert "\n" not in str(caught.value)
