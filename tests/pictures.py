"""Small pictures with a palette, for tests. They need Pillow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GREY = [(16 * place,) * 3 for place in range(16)]
COLOURED = [(16 * place, 255 - 16 * place, 5 * place) for place in range(16)]


def paint(path: Path, palette: Sequence[tuple[int, ...]], more: int = 0) -> None:
    """Sixteen pixels, one of each colour; `more` frames behind it."""
    from PIL import Image

    frames: list[Any] = []
    for place in range(more + 1):
        picture = Image.new("P", (4, 4))
        picture.putpalette([number for colour in palette for number in colour])
        picture.putdata([(each + place) % 16 for each in range(16)])
        frames.append(picture)
    frames[0].save(path, save_all=bool(more), append_images=frames[1:])


def colours(data: bytes) -> list[tuple[int, ...]]:
    """Those of the pixels, in their order."""
    from PIL import Image

    picture: Any = Image.open(io.BytesIO(data)).convert("RGB")
    return [picture.getpixel((place % 4, place // 4)) for place in range(16)]
