"""The `millet` command: its subcommands, each imported when it is named, and one place where errors become one line.

Exit codes: 0 done; 2 something that a person can put right, told in one line; 130 interrupted; 1 nobody reads the
output any more, or a bug in Millet, with its traceback.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from millet import __version__
from millet.errors import MilletError

FAILED = 2
INTERRUPTED = 130
BROKEN_PIPE = 1

# Where each command is. Modules here keep PyTorch inside their functions, so that help and completion stay quick.
COMMANDS = {
    "ask": ("millet.cli.ask", "ask"),
    "chat": ("millet.cli.chat", "chat"),
    "serve": ("millet.cli.serve", "serve"),
    "pull": ("millet.cli.pull", "pull"),
    "models": ("millet.cli.pull", "models"),
    "doctor": ("millet.cli.doctor", "doctor"),
    "eval": ("millet.cli.eval", "evaluate"),
    "bench": ("millet.cli.bench", "app"),
    "task": ("millet.cli.task", "app"),
    "train": ("millet.cli.train", "train"),
    "export": ("millet.cli.export", "export"),
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for: one for a run, all for `millet --help`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = cmd_name
            return group
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(found)
        return typer.main.get_command(single)


app = typer.Typer(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})


def _show_version(value: bool) -> None:
    if value:
        print(f"millet {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def millet(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Ask a reasoning model on the hardware you have: it thinks in the open, then it answers."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits the process."""
    words = sys.argv[1:] if arguments is None else arguments
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    sys.exit(_run(kept + words[end:], debug=len(kept) < end))


def _run(words: list[str], debug: bool) -> int:
    try:
        code = app(words, prog_name="millet", standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that has gone away can still be handled
        return code if isinstance(code, int) else 0
    except MilletError as error:
        return _fail(error, debug)
    except typer.TyperException as error:
        return _fail_usage(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output once more on its way out; let it go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _fail(error: Exception, debug: bool, message: str | None = None) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    else:
        line = re.sub(r"\s+", " ", message if message is not None else str(error)).strip()
        print(f"millet: {line}", file=sys.stderr)
    return FAILED


def _fail_usage(error: typer.TyperException, debug: bool) -> int:
    """A mistake in the command line itself: what is wrong, and where the right way is described."""
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if not message:  # a group without a subcommand: its help has been shown
        return FAILED
    return _fail(error, debug, f"{message}; see {context.command_path if context else 'millet'} --help")


if __name__ == "__main__":
    main()
