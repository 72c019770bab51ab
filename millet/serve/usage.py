"""Token counts as OpenAI's and DeepSeek's clients read them."""

from __future__ import annotations

from typing import Any

from millet.reasoning.reply import Usage


def openai_usage(usage: Usage) -> dict[str, Any]:
    """https://api-docs.deepseek.com/api/create-chat-completion, and OpenAI's names beside it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "prompt_cache_hit_tokens": usage.cached_tokens,
        "prompt_cache_miss_tokens": usage.prompt_tokens - usage.cached_tokens,
    }
