"""A tokenizer built from a GGUF file's metadata.

GGUF keeps the vocabulary, the merges (or the scores) and the kind of every token, but names the way text is cut into
words only by a label, `tokenizer.ggml.pre` (the labels: github.com/ggml-org/llama.cpp, src/llama-vocab.cpp). What a
label stands for is in the `tokenizer.json` of the models that carry it, and is written here as a `tokenizers` pipeline.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from millet.errors import BadWeights, UnsupportedModel

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # tokenizer.ggml.token_type; 6 marks byte tokens
KEY = "tokenizer.ggml."
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, and the `tokenizer_config.json` that belongs to it.

    Raises UnsupportedModel for a kind of tokenizer or a `pre` label not known here, BadWeights for metadata that lack a
    part or contradict themselves.
    """
    tokens: list[str] = _required(metadata, "tokens")
    kinds: Sequence[int] = metadata.get(KEY + "token_type") or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise BadWeights(f"the GGUF has {len(tokens)} tokens but {len(kinds)} token types; pull or convert it again")
    config = _config(metadata, tokens)
    match metadata.get(KEY + "model"):
        case "gpt2":
            tokenizer = _byte_level(metadata, tokens, kinds)
        case "llama":
            tokenizer = _sentencepiece(metadata, tokens, kinds, config.get("unk_token"))
        case other:
            raise UnsupportedModel(
                f"the GGUF's tokenizer is of kind {other!r}; Millet reads 'gpt2' (byte-level BPE) and 'llama' "
                "(SentencePiece): use a directory with a tokenizer.json"
            )
    _add_tokens(tokenizer, tokens, kinds, config)
    return tokenizer, config


def _required(metadata: Mapping[str, Any], key: str) -> Any:
    if not metadata.get(KEY + key):
        raise BadWeights(f"the GGUF has no {KEY}{key}; use a file that was converted together with its tokenizer")
    return metadata[KEY + key]


def _config(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in NAMED.items():
        token_id = metadata.get(f"{KEY}{key}_token_id")
        if token_id is not None and token_id < len(tokens):  # 2^32 - 1 stands for none
            config[name] = tokens[token_id]
    by_default = metadata.get(KEY + "model") == "llama" or metadata.get(KEY + "pre") in LLAMA3
    config["add_bos_token"] = bool(metadata.get(KEY + "add_bos_token", by_default)) and "bos_token" in config
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if context is not None:
        config["model_max_length"] = context
    return config


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    pre = metadata.get(KEY + "pre", "default")
    normalizer, words = _words(pre)
    merges = [tuple(merge.split(" ", 1)) for merge in _required(metadata, "merges")]
    # Llama 3 was tokenized by tiktoken, which takes a word that is in the vocabulary whole, whatever the merges say.
    tokenizer = _bpe(_vocabulary(tokens, kinds), merges, ignore_merges=pre in LLAMA3)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int], unknown: str | None
) -> Tokenizer:
    scores: Sequence[float] = _required(metadata, "scores")
    if len(scores) != len(tokens):
        raise BadWeights(f"the GGUF has {len(tokens)} tokens but {len(scores)} scores; pull or convert it again")
    # Only normal pieces are ever merged: "</s>" must not come out of "<", "/", "s", ">".
    pieces = {token: score for token, score, kind in zip(tokens, scores, kinds, strict=True) if kind == NORMAL}
    tokenizer = _bpe(
        _vocabulary(tokens, kinds), merges_from_scores(pieces), byte_fallback=True, fuse_unk=True, unk_token=unknown
    )
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    texts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get(KEY + "add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("▁"))
        texts.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(texts)
    return tokenizer


def merges_from_scores(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a piece out of two others, best score first: SentencePiece's order of merging, as BPE merges.

    Splits of one piece tie; the one with the longer left part goes first, as in the `tokenizer.json` files that
    transformers' converter writes.
    """
    found = []
    for piece, score in pieces.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                found.append((score, cut, len(right), left, right))
    found.sort(key=itemgetter(0, 1, 2), reverse=True)
    return [(left, right) for *_, left, right in found]


def _vocabulary(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    # Unused ids only fill the embedding up to a round size: they stand for no text.
    return {token: index for index, token in enumerate(tokens) if kinds[index] != UNUSED}


def _bpe(vocabulary: dict[str, int], merges: list[Any], **options: Any) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    except Exception as error:  # the library raises bare Exception for a merge of pieces that the vocabulary lacks
        raise BadWeights("the GGUF's merges do not fit its vocabulary; pull or convert it again") from error


def _add_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int], config: dict[str, Any]) -> None:
    # Some converters forget to mark the tokens that begin and end a sequence.
    ends = {config.get("bos_token"), config.get("eos_token")}
    control, plain = [], []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, UNKNOWN) or token in ends:
            control.append(AddedToken(token, normalized=False, special=True))
        elif kind == USER_DEFINED:
            plain.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(plain)
    if config["add_bos_token"]:  # for other readers of a saved tokenizer; Millet's own `encode` never adds one
        bos = config["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )


LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
QWEN2 = ("qwen2", "deepseek-r1-qwen")

# The letters that DeepSeek-LLM's tokenizer.json counts as having a case, as inclusive ranges of code points. Not quite
# Unicode's Lu + Ll + Lt: lower-case Armenian and Georgian, for instance, are left out there.
CASED = (
    "41-5a 61-7a b5-b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 37b-37d 37f-37f 386-386 388-38a "
    "38c-38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b "
    "1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59-1f59 1f5b-1f5b 1f5d-1f5d 1f5f-1f7d "
    "1f80-1fb4 1fb6-1fbc 1fbe-1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102-2102 "
    "2107-2107 210a-2113 2115-2115 2119-211d 2124-2124 2126-2126 2128-2128 212a-212d 212f-2134 2139-2139 213c-213f "
    "2145-2149 214e-214e 2183-2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2-2cf3 a640-a66d a680-a69b a722-a76f a771-a787 "
    "a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 "
    "10cc0-10cf2 118a0-118df 1e900-1e943"
)


def _words(pre: str) -> tuple[Any, Any]:
    """The normalizer (or None) and the cutter into words behind a `pre` label."""
    match pre:
        case "smollm":  # digits one by one, then GPT-2's words
            return None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _bytes(gpt2=True)])
        case "gpt-2" | "default":
            return None, _bytes(gpt2=True)
        case _ if pre in LLAMA3:
            return None, _cut(_tiktoken_words(r"\p{N}{1,3}"))
        case _ if pre in QWEN2:
            return normalizers.NFC(), _cut(_tiktoken_words(r"\p{N}"))
        case "deepseek-llm":
            cased = "".join(f"{chr(int(a, 16))}-{chr(int(b, 16))}" for a, b in (r.split("-") for r in CASED.split()))
            punctuation = r"!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}"
            east_asian = r"\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}"
            return None, _cut(
                r"[\r\n]", rf"\s?[{cased}]+", rf"\s?[{punctuation}]+", r"\s+$", f"[{east_asian}]+", r"\p{N}"
            )
        case "deepseek-v3":
            chinese_and_kana = r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+"
            words = (
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
            return None, _cut(r"\p{N}{1,3}", chinese_and_kana, words)
        case _:
            known = ", ".join(("smollm", *QWEN2, *LLAMA3, "deepseek-llm", "deepseek-v3", "gpt-2", "default"))
            raise UnsupportedModel(
                f"the GGUF's pre-tokenizer is {pre!r}; Millet knows {known}: use a directory with a tokenizer.json"
            )


def _tiktoken_words(number: str) -> str:
    """The pattern of OpenAI's cl100k_base, which Llama 3 and Qwen took over; they differ in how digits are grouped."""
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _cut(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """One pattern after the other: matches and what lies between them become words; then bytes become letters."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*cuts, _bytes(gpt2=False)])


def _bytes(*, gpt2: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
