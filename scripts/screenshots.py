"""`make screenshots`: the pictures of the web app in docs/images, by Chromium in front of a real server.

The chat and the server's load are the default model's. It speaks no Chinese and writes nothing longer that is worth
looking at; so in the other pictures a model named "scripted" says what stands here.
"""

from __future__ import annotations

import base64
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import sync_playwright

from millet import Assistant, Engine, load
from millet.reasoning.reply import Event
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded
from tests.serve.fakes import FakeBackend, finish, running
from tests.web.conftest import CHROMIUM, FLAGS, PATIENCE, prefer

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 60_000  # bytes of a picture
MODEL = "millet-135m"
DESKTOP = {"width": 1120, "height": 780}
TALL = {"width": 1120, "height": 860}
LOW = {"width": 1120, "height": 620}
PHONE = {"width": 390, "height": 780}

# Fonts that `.ci/run` installs, so that the pictures are the same everywhere, in both languages.
FONTS = """<?xml version="1.0"?>
<fontconfig>
  <include>/etc/fonts/fonts.conf</include>
  <match><test name="family" qual="any"><string>DejaVu Sans</string></test>
    <edit name="family" mode="assign" binding="strong"><string>Noto Sans CJK SC</string></edit></match>
  <match><test name="family"><string>system-ui</string></test>
    <edit name="family" mode="assign" binding="strong"><string>Noto Sans CJK SC</string></edit></match>
  <match><test name="family"><string>monospace</string></test>
    <edit name="family" mode="assign" binding="strong"><string>DejaVu Sans Mono</string></edit></match>
</fontconfig>
"""

RANGE = (
    r"Without air, the range is $v^2 \sin(2\theta) / g$. With $v = 20$ m/s that is 40.8 m times $\sin 2\theta$, which "
    r"is largest at $2\theta = 90^\circ$. So 45°; 30° and 60° give the same.",
    r"""At **45°**. Without air, a ball thrown at speed $v$ and angle $\theta$ lands at

$$R = \frac{v^2 \sin 2\theta}{g}$$

| Angle | Range at 20 m/s |
| --- | --- |
| 30° | 35.3 m |
| 45° | 40.8 m |
| 60° | 35.3 m |

```python
from math import radians, sin

def reach(speed: float, angle: float, g: float = 9.81) -> float:
    return speed**2 * sin(radians(2 * angle)) / g
```
""",
)
PLAN = (
    "# Move\n\n- Keys: Tuesday\n- Van: Friday at nine, booked\n- Boxes: 40 by Thursday\n- Read the meters on Friday\n"
)
FRIDAY = (
    "The van comes on Friday at nine and is booked. The meters are read on Friday. The boxes are due the day before.",
    """By Friday, three things:

1. **Boxes**: 40 of them, by Thursday
2. **Van**: it comes on Friday at nine; it is booked
3. **Meters**: to be read on Friday

The keys come first, on Tuesday.
""",
)
SUMMER = (
    "夏天白天长，是因为地轴倾斜。北半球夏季时，北极朝向太阳，太阳在地平线以上的时间更长。可以用 "
    r"$\cos h = -\tan\varphi \tan\delta$ 算出昼长。北京纬度约 40°，夏至时赤纬约 23.4°。",
    r"""因为地球的自转轴是**倾斜**的（约 $23.4^\circ$）。夏天，北半球朝向太阳，太阳走过的弧更长，白天也更长。

昼长由纬度 $\varphi$ 和太阳赤纬 $\delta$ 决定：

$$\cos h = -\tan\varphi\,\tan\delta, \qquad T = \frac{2h}{15^\circ}\ \text{小时}$$

| 北京（$\varphi \approx 40^\circ$） | 昼长 |
| --- | --- |
| 夏至 | 约 14.8 小时 |
| 冬至 | 约 9.2 小时 |
""",
)


def scripted(reply: tuple[str, str], thought: int, tokens: int) -> FakeBackend:
    """thought, tokens: how many of the thought and of the whole it tells."""
    events = [Event("reasoning", reply[0], (1,)), Event("content", reply[1], (2,))]
    end = replace(
        finish(prompt=64, tokens=tokens, reasoning=thought), seconds=tokens / 40, thought_seconds=thought / 40
    )
    return FakeBackend([*events, end])


def ask(page: Any, url: str, question: str) -> None:
    """In a conversation of its own, and until it is answered."""
    page.goto(url)
    page.locator(".composer textarea").fill(question)
    send(page)


def send(page: Any) -> None:
    replies = page.locator(".message.assistant")
    before = replies.count()
    page.locator(".composer textarea").press("Enter")
    page.wait_for_url("**/c/*")
    replies.nth(before).wait_for()
    page.locator(".thread:not([data-running])").wait_for()


def open_thought(page: Any) -> None:
    page.locator(".reasoning button").first.click()


def take(page: Any, name: str) -> None:
    page.evaluate("document.documentElement.style.caretColor = 'transparent'")
    page.mouse.move(0, 0)
    page.wait_for_function("document.fonts.status === 'loaded'")
    page.wait_for_timeout(500)  # colours fade in, and what was scrolled to settles
    session = page.context.new_cdp_session(page)
    clip = {"x": 0, "y": 0, **page.viewport_size, "scale": 1.5}
    shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": 60, "clip": clip})
    data = base64.b64decode(shot["data"])
    if len(data) > LARGEST:
        raise SystemExit(f"{name}.webp has {len(data)} bytes, more than {LARGEST}: show less")
    (IMAGES / f"{name}.webp").write_bytes(data)
    print(f"docs/images/{name}.webp: {len(data)} bytes")


def chat(context: Any, url: str) -> None:
    page = context.new_page()
    for question in ("Name a fruit that is yellow.", "Sort 31, 7, 64.", "What is the capital of France?"):
        ask(page, url, question)
    ask(page, url, "What is 37 + 58 - 12?")
    open_thought(page)
    take(page, "chat")
    page.close()


def server_load(context: Any, url: str) -> None:
    """Three clients keep the server busy while the page watches."""
    page = context.new_page()
    page.set_viewport_size(LOW)
    page.goto(f"{url}/admin?tab=load")
    ended = threading.Event()

    def client(question: str) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 600}
        while not ended.is_set():
            httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120)

    topics = ("bread", "bridges", "rivers")
    clients = [
        threading.Thread(target=client, args=(f"Write an essay about the history of {topic}.",)) for topic in topics
    ]
    for thread in clients:
        thread.start()
    page.wait_for_timeout(40_000)
    take(page, "load")
    ended.set()
    for thread in clients:
        thread.join()


def dark(context: Any, url: str) -> None:
    page = context.new_page()
    ask(page, url, "At which angle does a ball fly farthest?")
    open_thought(page)
    take(page, "dark")


def phone(context: Any, url: str) -> None:
    page = context.new_page()
    page.goto(url)
    page.locator("input[type=file]").set_input_files(
        {"name": "plan.md", "mimeType": "text/markdown", "buffer": PLAN.encode()}
    )
    page.get_by_text("plan.md").wait_for()
    page.locator(".composer textarea").fill("What has to be done by Friday?")
    send(page)
    take(page, "phone")


def chinese(context: Any, url: str) -> None:
    page = context.new_page()
    for question in (
        "用三句话解释天空为什么是蓝色的。",
        "写一个判断回文的 Python 函数。",
        "为什么夏天的白天比冬天长？",
    ):
        ask(page, url, question)
    open_thought(page)
    take(page, "chinese")


@contextmanager
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        raise SystemExit("Chromium is not installed; install it, or name it in MILLET_CHROMIUM")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        fonts = Path(folder, "fonts.conf")
        fonts.write_text(FONTS, "utf-8")
        environment: dict[str, Any] = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, env=environment)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, **settings: Any) -> Iterator[Any]:
    """A browser's context: desktop width, light and English unless the settings say otherwise."""
    chosen = {"viewport": DESKTOP, "locale": "en-US", **settings}
    with browser.new_context(**chosen) as context:
        context.set_default_timeout(PATIENCE)
        prefer(context, temperature=0, thinking="on")
        yield context


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        default = Embedded.of(Assistant(Engine(load(MODEL))), MODEL)
        with running({MODEL: default}, ServeConfig(port=0)) as url, visit(browser) as context:
            chat(context, url)
            server_load(context, url)
        scenes: list[tuple[Any, Any, dict[str, Any]]] = [
            (dark, scripted(RANGE, 96, 310), {"color_scheme": "dark", "viewport": TALL}),
            (phone, scripted(FRIDAY, 48, 130), {"viewport": PHONE, "has_touch": True, "is_mobile": True}),
            (chinese, scripted(SUMMER, 84, 290), {"locale": "zh-CN"}),
        ]
        for scene, backend, settings in scenes:
            with running({"scripted": backend}, ServeConfig(port=0)) as url, visit(browser, **settings) as context:
                scene(context, url)


if __name__ == "__main__":
    main()
