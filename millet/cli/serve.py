"""`millet serve`: the API, and what comes with it, on a port of this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millet.cli.ask import QuantizeOption, parse_quantize
from millet.cli.pull import ensure
from millet.cli.terminal import clean, console
from millet.errors import BadRequest
from millet.models.catalog import default_model
from millet.models.hub import locate

if TYPE_CHECKING:
    from millet.serve.chat import Backend
    from millet.serve.config import ServeConfig


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="What to serve, as in `millet chat`; the first is the default. May be given several times.",
            metavar="NAME",
            show_default=default_model(),
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Where to listen; others reach it only with --users.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, show_default="8080")] = None,
    users: Annotated[bool, typer.Option("--users", help="Accounts: people log in, programs need an API key.")] = False,
    database: Annotated[
        str | None,
        typer.Option(
            help="Where conversations and accounts are kept: sqlite:///FILE or postgresql://USER@HOST/NAME.",
            metavar="URL",
            show_default="millet.db in MILLET_HOME or ~/.local/share/millet",
        ),
    ] = None,
    quantize: QuantizeOption = None,
    config: Annotated[
        Path | None, typer.Option(help="A serve.toml with these settings and more; options win.", metavar="FILE")
    ] = None,
    browser: Annotated[
        bool | None,
        typer.Option("--browser/--no-browser", help="Open the page.", show_default="when started from a desktop"),
    ] = None,
) -> None:
    """Serve models to programs, in the forms of OpenAI, DeepSeek and Anthropic."""
    from millet.serve.config import ServeConfig, read_config
    from millet.serve.server import check_address, listen

    settings = read_config(config) if config else ServeConfig()
    given: dict[str, Any] = {
        "models": tuple(model or ()) or settings.models or (() if settings.upstreams else (default_model(),)),
        "host": host or settings.host,
        "port": settings.port if port is None else port,
        "users": users or settings.users,
        "database": database or settings.database,
        "quantize": parse_quantize(quantize) or settings.quantize,
    }
    settings = replace(settings, **given)
    check_address(settings)
    with listen(settings) as listener:
        _run(replace(settings, port=listener.getsockname()[1]), listener, browser)


def _run(settings: ServeConfig, listener: Any, browser: bool | None) -> None:
    from millet.serve import logs
    from millet.serve.accounts import Accounts
    from millet.serve.app import create_app
    from millet.serve.config import default_database
    from millet.serve.metrics import serve_metrics
    from millet.serve.server import Server
    from millet.serve.store import Store

    failures: list[Exception] = []
    url = f"http://{'[' + settings.host + ']' if ':' in settings.host else settings.host}:{settings.port}"
    for name in settings.models:
        locate(name)  # whether there is such a model; the server fetches it, and says meanwhile how far it is
    with Store.open(settings.database or default_database()) as store, ExitStack() as stack:
        app = create_app(settings, _backends(settings), store)
        if settings.metrics_port != 0:
            stack.enter_context(serve_metrics(app.state.metrics, settings.metrics_port or settings.port + 1))
        link = Accounts(store).first_token() if settings.users else None

        def give_up(error: Exception) -> None:
            failures.append(error)
            server.should_exit = True

        app.state.on_failure = give_up
        server = Server(app, settings, on_open=lambda: _announce(url, list(app.state.service.backends), link, browser))
        logs.configure()
        # uvicorn hands it on when it has stopped, and by default it would end the process before the store is closed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _announce(url: str, models: Sequence[str], link: str | None, browser: bool | None) -> None:
    """link: the token with which the first administrator makes an account."""
    screen = console(stderr=True)
    screen.print(clean(f"Millet serves {', '.join(models)} at {url} (API: {url}/v1). Ctrl-C ends it."), soft_wrap=True)
    if link is not None:
        screen.print(f"Make the first account, an administrator's, at {url}/invite#{link}", soft_wrap=True)
    if browser if browser is not None else _on_a_desktop():
        import webbrowser

        webbrowser.open(url)


def _backends(settings: ServeConfig) -> Mapping[str, Backend]:
    from millet.serve.embedded import Embedded, served_name

    backends: dict[str, Backend] = {}
    for source in settings.models:
        name = served_name(source)
        if name in backends:
            raise BadRequest(f"two models would be called {name}; rename one, or serve one")
        backends[name] = Embedded(source, quantize=settings.quantize, slots=settings.slots, fetch=ensure)
    for name, upstream in settings.upstreams.items():
        from millet.serve.upstream import Upstream

        if name in backends:
            raise BadRequest(f"a model and an upstream are both called {name}; rename the upstream")
        backends[name] = Upstream(name, upstream)
    return backends


def _on_a_desktop() -> bool:
    shown = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return shown and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ
