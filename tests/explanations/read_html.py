"""A page taken apart: its shown numbers, its texts by their source, and all other text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "link"}
UNSHOWN = {"script", "style", "title"}


@dataclass
class Piece:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Html(HTMLParser):
    """Feed it a page with :func:`taken_apart`."""

    pieces: list[Piece] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    _open: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        piece = Piece(tag, dict(attrs))
        self.pieces.append(piece)
        if tag not in VOID:
            self._open.append(piece)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.pieces.append(Piece(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        closed = self._open.pop()
        assert closed.tag == tag, f"<{closed.tag}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        for piece in self._open:
            piece.text += data
        if not any(map(_has_source, self._open)):
            self.outside.append(data)

    def shown(self, tag: str) -> list[Piece]:
        return [piece for piece in self.pieces if piece.tag == tag]

    def one(self, **attributes: str) -> Piece:
        (found,) = (
            piece
            for piece in self.pieces
            if all(piece.attributes.get(name) == value for name, value in attributes.items())
        )
        return found


def _has_source(piece: Piece) -> bool:
    named = piece.attributes.keys() & {"data-from", "data-key-of"}
    is_scale = piece.attributes.get("class") == "scale"
    return bool(named) or is_scale or piece.tag in UNSHOWN | {"code"}


def taken_apart(page: str) -> Html:
    html = Html()
    html.feed(page)
    html.close()
    assert not html._open, f"never closed: {[piece.tag for piece in html._open]}"
    return html
