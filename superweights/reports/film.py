"""A film on a page: grey images as PNG inside it, one of each reel shown at a time."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

from superweights.reports.blocks import Film

# From white to the dark blue of the house's heat maps.
_WHITE, _FULL = (255, 255, 255), (0, 68, 136)


def film_html(film: Film) -> str:
    """The film with a button and a slider; without its script the last frame is seen."""
    last = len(film.captions) - 1
    reels = "".join(
        f"<div><h3>{escape(reel.name)}</h3>"
        + "".join(
            f'<img src="{data_uri(image)}" alt="" {"" if number == last else "hidden"}>'
            for number, image in enumerate(reel.images)
        )
        + "</div>"
        for reel in film.reels
    )
    captions = "".join(
        f"<span{'' if n == last else ' hidden'}>{escape(caption)}</span>"
        for n, caption in enumerate(film.captions)
    )
    return (
        f'<figure class="film"><figcaption>{escape(film.title)}</figcaption>'
        f'<p class="caption">{escape(film.says)}</p><p class="run"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Frame of the film">'
        f'<output aria-live="polite">{captions}</output></p><div class="reels">{reels}</div></figure>'
    )


def data_uri(rows: Sequence[bytes]) -> str:
    """An image that a page holds itself."""
    return "data:image/png;base64," + base64.b64encode(png(rows)).decode()


def png(rows: Sequence[bytes]) -> bytes:
    """Rows of bytes as a PNG with a palette from white (0) to blue (255)."""
    palette = bytes(
        round(white + (full - white) * level / 255)
        for level in range(256)
        for white, full in zip(_WHITE, _FULL, strict=True)
    )
    size = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    parts = ((b"IHDR", size), (b"PLTE", palette), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, held) for name, held in parts)


def _chunk(name: bytes, held: bytes) -> bytes:
    return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))
