"""A small random network that speaks with a real tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from millet.models.chat_template import ChatTemplate
from millet.models.config import ModelConfig
from millet.models.model import Model
from millet.models.network import build
from millet.models.tokenizer import Tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
ENDS = {"qwen3": "<|im_end|>", "r1_distill_qwen": "<｜end▁of▁sentence｜>"}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def toy_model(
    seed: int,
    fixture: str = "qwen3",
    *,
    template: str | None = None,
    context: int = 512,
    sizes: Mapping[str, int] = SIZES,
) -> Model:
    """template: instead of the fixture's own. sizes: by their names in `config.json`. The embedding has a few more rows
    than the tokenizer."""
    tokenizer = Tokenizer.from_file(FIXTURES / fixture / "tokenizer.json", {})
    source = (FIXTURES / fixture / "chat_template.jinja").read_text() if template is None else template
    settings: dict[str, Any] = {
        "model_type": "qwen2",
        "vocab_size": tokenizer.vocab_size + 21,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    config = ModelConfig.from_hf({**settings, **sizes})
    torch.manual_seed(seed)
    return Model(
        name="toy",
        path=Path(),
        config=config,
        network=build(config).eval(),
        tokenizer=tokenizer,
        template=ChatTemplate(source, {}) if source else None,
        sampling_defaults={},
        eos_token_ids=(tokenizer.added_tokens[ENDS[fixture]],),
    )
