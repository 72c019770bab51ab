"""`millet ask`: one question, one reply. The options it shares with `millet chat` are here too."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from millet.cli.conversation import Answer, Conversation
from millet.cli.pull import ensure
from millet.cli.render import View, play, play_whole, view_on
from millet.cli.terminal import console
from millet.errors import BadRequest
from millet.models.catalog import default_model

if TYPE_CHECKING:
    from millet.models.packing import Quantize
    from millet.reasoning.assistant import Assistant, Options
    from millet.reasoning.prompt import Think

DEFAULT_MODEL = default_model()
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A name from `millet models`, a directory, a .gguf file, or hf:ORG/NAME.", metavar="NAME"
    ),
]
QuantizeOption = Annotated[
    str | None,
    typer.Option(
        help="q8 or q4 for smaller weights than the file's, off for fp32.",
        metavar="HOW",
        show_default="as the file has them",
    ),
]
ThinkOption = Annotated[
    str,
    typer.Option(
        help="on, off, auto (as the model was trained), or the most tokens a thought may take.", metavar="MODE"
    ),
]
MaxTokensOption = Annotated[int, typer.Option(help="The most tokens of a reply, the thought included.")]
TemperatureOption = Annotated[
    float | None, typer.Option(help="Randomness; 0 always takes the likeliest.", show_default="as the model recommends")
]
TopPOption = Annotated[
    float | None, typer.Option(help="Sample among the likeliest tokens with this sum.", show_default="as recommended")
]
SeedOption = Annotated[int | None, typer.Option(help="The same seed gives the same reply.", show_default="random")]
VoteOption = Annotated[
    int, typer.Option(help="Sample this many replies and show what most of them answer.", metavar="K")
]
SystemOption = Annotated[str | None, typer.Option(help="Instructions that stand before the conversation.")]


def reply_options(
    think: str, max_tokens: int, temperature: float | None, top_p: float | None, seed: int | None
) -> Options:
    """What `Assistant.stream` is asked for. Raises BadRequest for a mode of thinking that there is not."""
    return {
        "think": parse_think(think),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }


def parse_think(text: str) -> Think:
    """A mode, or a budget in tokens. Raises BadRequest."""
    match text.strip().lower():
        case "off" | "auto" | "on" as mode:
            return mode
        case number if number.isascii() and number.isdigit():
            return int(number)
    raise BadRequest(f"think is {text!r}; it must be off, auto, on, or a number of tokens such as 256")


def parse_quantize(text: str | None) -> Quantize | None:
    """How to keep weights. Raises BadRequest, before anything is loaded."""
    match text:
        case None | "q8" | "q4" | "off":
            return text
    raise BadRequest(f"quantize is {text!r}; it must be q8, q4 or off")


def ask(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; standard input is added to it, or taken alone.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = None,
    think: ThinkOption = "on",
    max_tokens: MaxTokensOption = 2048,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    vote: VoteOption = 1,
    system: SystemOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask one question and see the model think, then answer."""
    options = reply_options(think, max_tokens, temperature, top_p, seed)
    conversation = Conversation(system)
    conversation.ask(with_input(question))
    out = console()
    view = SilentView() if as_json else view_on(out, console(stderr=True))
    answer = answer_once(model, conversation, options, view, quantize=parse_quantize(quantize), vote=vote)
    if as_json:
        typer.echo(json.dumps(answer.to_dict()))
    if answer.stopped:
        raise typer.Exit(INTERRUPTED)


class SilentView:
    """Shows nothing: the whole answer is printed when it is there."""

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()

    def add(self, kind: str, text: str, so_far: Answer) -> None:
        pass

    def end(self, answer: Answer) -> None:
        pass


def with_input(question: str | None) -> str:
    """The question, with standard input below it where that is no terminal. Raises BadRequest without either."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    parts = [part.strip("\n") for part in (question or "", piped) if part.strip()]
    if not parts:
        raise BadRequest('there is no question; write millet ask "...", or pipe one in')
    return "\n\n".join(parts)


def open_assistant(name: str, view: View, quantize: Quantize | None = None) -> Assistant:
    """The model by that name, ready to answer; pulled first, with a progress bar, where it is not here yet."""
    ensure(name)
    with view.waiting(f"Loading {name}…"):
        from millet.models.load import load
        from millet.reasoning.assistant import Assistant

        return Assistant(load(name, quantize=quantize))


def answer_once(
    model: str,
    conversation: Conversation,
    options: Options,
    view: View,
    *,
    quantize: Quantize | None = None,
    vote: int = 1,
) -> Answer:
    """Answer the conversation's last question. Where Ctrl-C stops the reply, what came of it is returned."""
    with open_assistant(model, view, quantize) as assistant:
        messages = conversation.messages()
        if vote == 1:
            return play(assistant.stream(messages, **options), view, assistant.model.name)
        return play_whole(lambda: assistant.chat(messages, vote=vote, **options), view, assistant.model.name)
