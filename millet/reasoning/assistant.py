"""The assistant: messages in, a thought and an answer out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest, PromptTooLong, UnsupportedModel
from millet.models.chat_template import ChatTemplate
from millet.models.load import load
from millet.models.model import Model
from millet.reasoning.calls import call_format
from millet.reasoning.completion import completion_prompt
from millet.reasoning.format import think_format
from millet.reasoning.grammar import Grammar, Grammars
from millet.reasoning.masks import TokenMasks
from millet.reasoning.prompt import Mode, Prompt, Think, build_prompt, check_messages, parse_think
from millet.reasoning.reply import Event, Reply, Usage, total
from millet.reasoning.run import Prepared
from millet.reasoning.state import Phase, ReplyState
from millet.reasoning.tools import Choice, Tools, parse_tools, shown_messages, tool_template
from millet.reasoning.vote import vote as count_votes

__all__ = ["Assistant", "Event", "Options", "Prepared", "Reply", "Usage"]

Messages = Sequence[Mapping[str, Any]]
Thinks = Literal["template", "prompt"]

RESERVE = 1024  # tokens that a thought leaves to the answer, or a quarter of all where that is less
LEAST_RESERVE = 16
NEVER = 2**62  # tokens: more than any reply has
NOT_SAMPLING = ("think", "tools", "tool_choice", "schema")
VOTE_TEMPERATURE = 0.6  # R1's; of greedy replies all would be the same


class Options(TypedDict, total=False):
    """What a caller may ask of a reply; None and what is left out mean the default.

    think: "off", "auto" (as the model is used to; the default), "on", or a budget: the most tokens of a thought, its
        closing not counted. A thought always leaves room for an answer within max_tokens.
    max_tokens: most tokens generated, thought included; 512 by default, and never more than the context holds.
    temperature, top_k, top_p, min_p, repetition_penalty: as the model's authors recommend by default.
    seed: the same seed gives the same reply. stop: strings that end the content; they are looked for in nothing else.
    n: samples, told apart by their events' `index`; not for `chat`.
    tools: functions that the model may call, in OpenAI's format. tool_choice: "none", "auto" (the default), "required",
        or {"type": "function", "function": {"name": ...}}.
    schema: a JSON schema that the content must satisfy; the thought is free. Cut off at max_tokens it may not.
    logprobs: tell each token's log-probability; top_logprobs: those of so many of the likeliest beside it, at most 20.
    The rest as in `Sampling`.
    """

    think: Think
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: Choice | None
    schema: Mapping[str, Any] | None
    logprobs: bool | None
    top_logprobs: int | None


class Assistant:
    """Talks with a model. Threads may share one: replies under way are computed together.

    source: a name or path as for `load`, a `Model`, or an `Engine`. An engine that the assistant made itself is closed
    with it. A model without a chat template can only go on with a text, with `prepare_completion`.
    """

    def __init__(self, source: str | Path | Model | Engine) -> None:
        model = load(source) if isinstance(source, (str, Path)) else source
        self._owns_engine = isinstance(model, Model)
        self.engine = Engine(model) if isinstance(model, Model) else model
        self.model = self.engine.model
        template = self.model.template or ChatTemplate("", {})
        self._think = think_format(template, self.model.tokenizer)
        self._calls = call_format(template, self.model.tokenizer)
        self._shows = tool_template(template)
        self._end_ids = frozenset(self.model.eos_token_ids)
        about = (self.model.tokenizer, self._think, self._end_ids, self.model.config.vocab_size)
        self._masks, self._call_masks = TokenMasks(*about), TokenMasks(*about, openers=self._calls.openers)
        self._grammars = Grammars(self.model.tokenizer, self._end_ids, self.model.config.vocab_size)

    @property
    def thinks(self) -> Thinks | None:
        """Whether the model was made to think, or has to be asked to. None for one that only goes on with a text."""
        if self.model.template is None:
            return None
        return "template" if self._think.own else "prompt"

    def chat(self, messages: Messages, *, vote: int = 1, **options: Unpack[Options]) -> Reply:
        """The whole reply. vote: sample so many, and return the first of those whose answer most agree on.

        Raises BadRequest for messages or options that make no sense, PromptTooLong, and UnsupportedModel where there is
        no chat template.
        """
        if _given(options, "n", 1) != 1:
            raise BadRequest("chat gives one reply; take the best of several with vote, or all of them with stream")
        if isinstance(vote, bool) or not isinstance(vote, int) or vote < 1:
            raise BadRequest(f"vote is {vote!r}; it must be the number of replies to sample, at least 1")
        if vote > 1:
            recommended = self.model.sampling_defaults.get("temperature", 1.0)
            temperature = options.get("temperature") or recommended or VOTE_TEMPERATURE
            options = {**options, "temperature": temperature, "n": vote}
        events = list(self.prepare(messages, **options).events())
        replies = [Reply.of(event for event in events if event.index == index) for index in range(vote)]
        if vote == 1:
            return replies[0]
        counted = count_votes([reply.content for reply in replies])
        return replace(
            replies[counted.winner],
            usage=total(reply.usage for reply in replies),
            seconds=max(reply.seconds for reply in replies),
            vote_share=counted.share,
            votes=counted.votes,
        )

    def stream(self, messages: Messages, **options: Unpack[Options]) -> Generator[Event, None, None]:
        """The reply as it comes; the last event of each sample is of kind "finish". Closing the generator cancels it.

        Raises what `chat` raises, here and not at the first event.
        """
        return self.prepare(messages, **options).events()

    def prepare(self, messages: Messages, **options: Unpack[Options]) -> Prepared:
        """Check and render a request, at no cost to the engine. Raises what `chat` raises."""
        _check_names(options)
        check_messages(messages)
        mode, budget = parse_think(_given(options, "think", "auto"))
        sampling = self._sampling(options)
        tools = parse_tools(options.get("tools"), options.get("tool_choice"))
        prompt = self._prompt(messages, mode, tools)
        room = self._room(prompt, sampling)
        if room < 1 and mode != "off":  # no room for a thought and an answer
            prompt, budget = self._prompt(messages, "off", tools), 0
        grammar = self._grammar(prompt, options.get("schema"), tools)
        return self._prepared(prompt, sampling, budget, room, grammar, tools)

    def prepare_completion(self, prompt: str, suffix: str | None = None, **options: Unpack[Options]) -> Prepared:
        """Check and encode a plain text for the model to go on from, without template or thought.

        suffix: what follows the gap that the model is to fill; BadRequest where the model has no tokens for that.
        The events' kinds are "content" and "finish". Raises BadRequest, PromptTooLong.
        """
        _check_names(options)
        if (think := _given(options, "think", "off")) not in ("off", "auto"):
            raise BadRequest(f"think is {think!r}, and a plain completion has no thought; ask with messages for one")
        if parse_tools(options.get("tools"), options.get("tool_choice")):
            raise BadRequest("a plain completion has no tools; send messages to use some")
        ids = completion_prompt(self.model.tokenizer, prompt, suffix)
        begun = Prompt(ids, Phase.CONTENT)
        grammar = self._grammar(begun, options.get("schema"), None)
        return self._prepared(begun, self._sampling(options), budget=0, room=0, grammar=grammar)

    def close(self) -> None:
        """End the engine, if the assistant made it, with all replies under way. Safe to call twice."""
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _prompt(self, messages: Messages, mode: Mode, tools: Tools | None) -> Prompt:
        if self.model.template is None:
            raise UnsupportedModel(f"{self.model.name} has no chat template; use a chat model, or a plain completion")
        shown = shown_messages(self._shows, messages, tools)
        listed = tools.listed if tools and self._shows.offered else None
        return build_prompt(self.model.template, self.model.tokenizer, self._think, shown, mode, listed)

    def _grammar(self, prompt: Prompt, schema: Any, tools: Tools | None) -> Grammar | None:
        """The form of the content, as far as the prompt has it already."""
        if tools and tools.must:
            patterns = {name: self._calls.pattern(name) for name in tools.must}
            return self._grammars.of_calls(patterns, tools.functions)
        if schema is None:
            return None
        grammar = self._grammars.of_schema(schema)
        if not all(map(grammar.push, prompt.written)) or grammar.ended:
            raise BadRequest("the beginning of the reply is none that the schema lets go on; change either")
        return grammar

    def _limit(self, prompt: Prompt, sampling: Sampling) -> int:
        """The most tokens that a reply may have."""
        context = self.engine.context_length
        if len(prompt.token_ids) >= context:
            raise PromptTooLong(
                f"the messages are {len(prompt.token_ids)} tokens and the context holds {context}, the reply included; "
                "shorten them, or start a new conversation",
                len(prompt.token_ids),
            )
        return min(sampling.max_tokens, context - len(prompt.token_ids))

    def _room(self, prompt: Prompt, sampling: Sampling) -> int:
        """After how many tokens a thought must close, for an answer to follow."""
        limit = self._limit(prompt, sampling)
        return limit - len(self._think.closing) - max(LEAST_RESERVE, min(RESERVE, limit // 4))

    def _prepared(
        self,
        prompt: Prompt,
        sampling: Sampling,
        budget: int | None,
        room: int,
        grammar: Grammar | None,
        tools: Tools | None = None,
    ) -> Prepared:
        # A thought that letters would open cannot be told from a content that has a form.
        guessed = grammar is not None and self._think.spelled and prompt.phase is Phase.OPENING
        phase = Phase.CONTENT if guessed else prompt.phase

        def new_state(free: bool = False) -> ReplyState:
            return ReplyState(
                self.model.tokenizer,
                self._think,
                self._call_masks if tools else self._masks,
                phase=phase,
                end_ids=self._end_ids,
                budget=None if free else budget,
                room=NEVER if free else room,
                stop=sampling.stop,
                begun=prompt.begun,
                calls=self._calls if tools else None,
                names=tools.functions if tools else (),
                grammar=grammar.copy() if grammar else None,
                must_call=bool(tools and tools.must),
                patient=free,
            )

        self.engine.check(prompt.token_ids, sampling)
        # Stop strings are the state machine's: the engine would look for them in the thought too.
        without_stop = replace(sampling, stop=())
        return Prepared(
            self.engine,
            prompt.token_ids,
            without_stop,
            self._limit(prompt, sampling),
            new_state,
            self.model.tokenizer.token_bytes,
        )

    def _sampling(self, options: Options) -> Sampling:
        given: dict[str, Any] = {
            name: value for name, value in options.items() if name not in NOT_SAMPLING and value is not None
        }
        return Sampling(**{**self.model.sampling_defaults, **given})


def _check_names(options: Options) -> None:
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option {min(unknown)!r}; there are {', '.join(Options.__annotations__)}")


def _given(options: Options, name: str, default: Any) -> Any:
    value = options.get(name)
    return default if value is None else value
