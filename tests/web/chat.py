"""The chat page as a person uses it: what they see and press, by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LONG = "Write an essay of 2000 words about the history of bread."  # the likeliest reply of SmolLM2 is as long


@dataclass
class Chat:
    """page: a Playwright page. Names are those of the English page."""

    page: Any

    def open(self, url: str, path: str = "/") -> Chat:
        self.page.goto(f"{url}{path}")
        self.box.wait_for()
        return self

    @property
    def box(self) -> Any:
        return self.page.get_by_role("textbox", name="Ask anything")

    @property
    def questions(self) -> Any:
        return self.page.locator(".message.user")

    @property
    def replies(self) -> Any:
        return self.page.locator(".message.assistant")

    @property
    def answer(self) -> Any:
        """The text of the last reply, without its thought."""
        return self.replies.last.locator(".answer")

    @property
    def thought(self) -> Any:
        return self.replies.last.locator(".thought")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def wait(self) -> None:
        """Until the last reply has ended."""
        self.page.locator(".thread:not([data-running])").wait_for()

    def say(self, text: str) -> None:
        self.ask(text)
        self.page.wait_for_url("**/c/*")
        self.wait()

    def options(self, action: str) -> None:
        """An entry of the open conversation's menu."""
        self.page.locator("header.top").get_by_role("button", name="Options").click()
        self.page.get_by_role("menuitem", name=action).click()

    def think(self, how: str) -> None:
        self.page.get_by_role("combobox", name="Thinking").select_option(how)

    def longest(self, tokens: int) -> None:
        """The longest reply, as the settings have it."""
        self.button("Settings").click()
        self.page.get_by_label("Longest reply, in tokens").fill(str(tokens))
        self.page.keyboard.press("Escape")
