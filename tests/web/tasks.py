"""How long the page's main thread was busy at a stretch, from Chromium's own trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def traced_tasks(browser: Any, page: Any) -> Iterator[list[float]]:
    """Milliseconds of processor time of each of the page's tasks meanwhile, filled in at the end.

    Processor time and not the clock's: whoever else uses the machine's cores makes no task of this page longer.
    """
    tasks: list[float] = []
    browser.start_tracing(page=page, categories=["toplevel"])
    try:
        yield tasks
    finally:
        trace = json.loads(browser.stop_tracing())["traceEvents"]
    main = {(each["pid"], each["tid"]) for each in trace if each.get("args", {}).get("name") == "CrRendererMain"}
    tasks += [
        each["tdur"] / 1000
        for each in trace
        if each["name"].endswith("RunTask") and "tdur" in each and (each["pid"], each["tid"]) in main
    ]
