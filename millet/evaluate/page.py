"""The shell of a report: one HTML page that needs nothing else, runs nothing, and shows texts as nothing but text."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files

# Control characters become visible signs, as in the terminal; what cannot be written, or would show a text in an order
# that it does not have, a question mark in a box.
_HARMLESS: dict[int, int] = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_HARMLESS |= {0x7F: 0x2421}
_HARMLESS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0x202A, 0x202F)], 0xFFFD)
_HARMLESS |= dict.fromkeys([*range(0x2066, 0x206A), 0xFFFE, 0xFFFF], 0xFFFD)


def escape(text: object) -> str:
    """As it may stand anywhere in the page, attributes in double quotes included."""
    return html.escape(str(text).translate(_HARMLESS), quote=True)


def page(title: str, body: str) -> str:
    """title: text. body: HTML, whose texts were escaped. The policy lets a browser load nothing but the style here."""
    style = files("millet.evaluate").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def paragraph(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], last_is_sum: bool = False) -> str:
    """heads: texts. rows: cells of HTML, the first of a row its head."""
    body = [f'<tr><th scope="row">{head}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
            for head, *cells in rows]  # fmt: skip
    foot = f"<tfoot>{body.pop()}</tfoot>" if last_is_sum else ""
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody>{foot}</table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of what is what: texts."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"
