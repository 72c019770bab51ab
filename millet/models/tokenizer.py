"""Text to token ids and back, by the model's own tokenizer.

The `tokenizers` library encodes. Decoding goes over bytes instead of through the library, token by token, so that text
can be streamed: the bytes of a sequence are the bytes of its tokens, one after the other.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

from millet.errors import BadWeights, UnsupportedModel
from millet.models.gguf_tokenizer import tokenizer_from_gguf

SURROGATE = re.compile("[\ud800-\udfff]")  # half of a UTF-16 pair: no character, and no UTF-8 for it
ADDED_TOKEN = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A model's tokenizer.

    config: `tokenizer_config.json`, kept for saving.
    added_tokens: text -> id of every token that is matched whole in text before BPE sees it.
    special_ids: those of them that control the model (begin, end, roles) and stand for no text of a reply; `<think>`
        and `<tool_call>` are added tokens but not special.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.config = dict(config)
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self.added_tokens = {token.content: token_id for token_id, token in added.items()}
        self.special_ids = frozenset(i for i, token in added.items() if token.special or _names_control(token.content))
        self._spell, self._drops_first_space = _decoder_of(backend)
        self._bytes = {i: b"" if i in self.special_ids else token.content.encode() for i, token in added.items()}

    @classmethod
    def from_file(cls, path: str | Path, config: Mapping[str, Any]) -> Self:
        """From a `tokenizer.json` and the content of the `tokenizer_config.json` beside it ({} where there is none).

        Raises BadWeights when the file is missing or broken, UnsupportedModel when it is of a kind not known here.
        """
        if not Path(path).is_file():
            raise BadWeights(f"{path} is missing; a model directory needs a tokenizer.json (transformers writes one)")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BadWeights(f"{path} cannot be read ({_one_line(error)}); get it again") from error
        listed = config.get("added_tokens_decoder") or {}
        missing = [spec for spec in listed.values() if backend.token_to_id(spec["content"]) is None]
        backend.add_tokens([AddedToken(**{k: v for k, v in spec.items() if k in ADDED_TOKEN}) for spec in missing])
        return cls(backend, config)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Self:
        """From a GGUF file's metadata; errors as in `gguf_tokenizer`."""
        return cls(*tokenizer_from_gguf(metadata))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of `text`; no BOS or EOS is added.

        special=False reads the whole text as plain: strings that spell added tokens become ordinary ids. A lone
        surrogate (half an emoji, from a client that cut a string) is read as U+FFFD.
        """
        if not special:
            return self.encode_plain(text)
        return self._backend.encode(valid(text), add_special_tokens=False).ids

    def encode_plain(self, text: str, at_start: bool = True) -> list[int]:
        """Ids of `text` with no added token matched.

        at_start=False: the text comes later in a sequence, which matters where only a sequence's first word is marked.
        """
        backend = self._plain if at_start else self._plain_inside
        ids = backend.encode(valid(text), add_special_tokens=False).ids
        if self.special_ids.isdisjoint(ids):
            return ids
        # A vocabulary whose merges spell a control token: keep its first character apart from the rest.
        return [part for i in ids for part in (self._split(i) if i in self.special_ids else [i])]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary stand for nothing."""
        bytes_of = self.token_bytes if skip_special else self._bytes_or_name
        return self._without_first_space(b"".join(map(bytes_of, ids)).decode("utf-8", "replace"))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for: b"" for control tokens and for ids outside the vocabulary."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id) if token_id >= 0 else None
            known = self._bytes[token_id] = self._spell(token) if token is not None else b""
        return known

    def id_of(self, token_text: str) -> int | None:
        """The id of a token as the vocabulary spells it ("<think>", "Ġthe"), or None."""
        return self._backend.token_to_id(token_text)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; a model's embedding may have more rows."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values())

    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary spells it, added ones too -> its id."""
        return self._backend.get_vocab(with_added_tokens=True)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The named tokens ("bos_token", ...) that the model has: a chat template's variables."""
        named = {name: self.config.get(name) for name in NAMED_TOKENS}
        texts = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
        return {name: text for name, text in texts.items() if text}

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        return self.special_tokens.get("pad_token")

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects BOS before a plain text."""
        told = self.config.get("add_bos_token")
        if told is not None:
            return bool(told)
        first = self._backend.encode("", add_special_tokens=True).tokens[:1]
        return bool(first) and first[0] == self.bos_token

    def to_json(self) -> str:
        """As in a `tokenizer.json`."""
        return self._backend.to_str()

    def save(self, directory: str | Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`, which transformers and others load."""
        self._backend.save(str(Path(directory) / "tokenizer.json"), pretty=False)
        text = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
        (Path(directory) / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        return self._without_added_tokens(self._backend.pre_tokenizer)

    @cached_property
    def _plain_inside(self) -> tokenizers.Tokenizer:
        state = _state(self._backend.pre_tokenizer)
        if state.get("type") != "Metaspace" or state["prepend_scheme"] != "first":
            return self._plain
        mark, split = state["replacement"], state["split"]
        return self._without_added_tokens(pre_tokenizers.Metaspace(mark, prepend_scheme="never", split=split))

    def _without_added_tokens(self, pre_tokenizer: Any) -> tokenizers.Tokenizer:
        plain = tokenizers.Tokenizer(self._backend.model)  # the model is shared, not copied
        if self._backend.normalizer is not None:
            plain.normalizer = self._backend.normalizer
        if pre_tokenizer is not None:
            plain.pre_tokenizer = pre_tokenizer
        return plain

    def _split(self, token_id: int) -> list[int]:
        text = self._backend.id_to_token(token_id) or ""
        return [token.id for part in (text[:1], text[1:]) for token in self._backend.model.tokenize(part)]

    def _bytes_or_name(self, token_id: int) -> bytes:
        if token_id not in self.special_ids:
            return self.token_bytes(token_id)
        return (self._backend.id_to_token(token_id) or "").encode()

    def _without_first_space(self, text: str) -> str:
        return text[1:] if self._drops_first_space and text.startswith(" ") else text


class TextStream:
    """Turns ids into text as they come: `push` returns what is certain, `flush` the rest.

    The pieces together are `tokenizer.decode(ids)`. A character whose bytes are spread over several tokens appears when
    it is whole, and U+FFFD only where no further byte could make one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True

    def push(self, token_id: int) -> str:
        return self._text(self._tokenizer.token_bytes(token_id), final=False)

    def flush(self) -> str:
        """The end of the text: an unfinished character becomes U+FFFD."""
        return self._text(b"", final=True)

    def _text(self, data: bytes, final: bool) -> str:
        text = self._decoder.decode(data, final)
        if text and self._at_start:
            self._at_start = False
            text = self._tokenizer._without_first_space(text)
        return text


def _names_control(text: str) -> bool:
    # DeepSeek's distilled models do not flag <｜User｜> and <｜Assistant｜> as special, though the chat rests on them.
    return text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>"))


def valid(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which no encoding can carry."""
    if SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _state(part: Any) -> dict[str, Any]:
    """A normalizer, pre-tokenizer or decoder as it stands in `tokenizer.json`; {} for none."""
    return json.loads(part.__getstate__()) if part is not None else {}


def _decoder_of(backend: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes], bool]:
    """How a token's spelling becomes bytes, and whether a text loses its first space (SentencePiece puts one there)."""
    state = _state(backend.decoder)
    steps = {step["type"]: step for step in state.get("decoders", [state]) if step}
    if "ByteLevel" in steps:
        return _byte_level_bytes, False
    if "ByteFallback" in steps or "Metaspace" in steps:
        stripped = steps.get("Strip", {}).get("start", 0) > 0
        return _sentencepiece_bytes, stripped or steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
    raise UnsupportedModel(
        f"the tokenizer's decoder is {' + '.join(steps) or 'missing'}; Millet reads byte-level BPE and SentencePiece"
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: those that print are themselves, the others the letters from U+0100 on, in order."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


BYTE_ALPHABET = _byte_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes([BYTE_ALPHABET[letter] for letter in token])
    except KeyError:
        return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
