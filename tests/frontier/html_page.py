"""What a browser would make of a report, without a browser."""

from __future__ import annotations

from html.parser import HTMLParser

from plotly.offline import get_plotlyjs

PLOTLY = get_plotlyjs()


class Page(HTMLParser):
    """Collects what a browser would: tags, their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        # Not ours, and 5 MB long.
        self.feed(html.replace(PLOTLY, ""))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    @property
    def words(self) -> str:
        """The visible text on one line."""
        return " ".join(self.text.split())
