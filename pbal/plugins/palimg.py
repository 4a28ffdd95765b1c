r"""palimg: pictures with a palette are sent in other colours, as their names say.

    LOAD palimg
    CREATE SERVICE pictures
      SET role    = web_server
      SET listen  = 0.0.0.0:80
      SET docroot = /srv/www
      SET plugins = palimg
    ENABLE pictures

/palimg/NAME.EXT/pSPEC is the GIF or PNG /palimg/NAME.EXT of docroot with another palette. SPEC is in small hexadecimal digits, one of:

- `gIIRRGGBBIIRRGGBB`: a gradient; the entries of the palette between two, which get these colours.
- `tRRGGBB`, `tRRGGBBRRGGBB`: a tint; what was white gets the first colour, what was black the second one, or black.
- up to six times `IRRGGBB`: these entries, of the first sixteen, get these colours.

Any other SPEC, and an entry that the palette has not, is answered 404. A picture without a palette, and a JPEG, is sent as it is. It
needs Pillow: `pip install 'pbal[images]'`.

Source: Perlbal's Palimg. differs: a PNG is answered whole; a wrong SPEC is answered 404; a picture of several frames, or above
palimg_max_size or palimg_max_pixels, is refused.
"""

# Pillow reads and writes pictures in a thread, AT_ONCE of them at a time, so that many large ones hold up neither the loop nor all threads
# for files. How many pixels a picture has is in its head, and is looked at before any is unpacked.

import asyncio
import io
import re
from typing import Any, Final

from pbal.api import INT, SIZE, Counter, Exchange, Explanation, FileFound, Lookup, Plugin, Tunable, Verdict, hook, spawn

NAME: Final = re.compile(rb"(/palimg/.+\.(?:gif|png|jpe?g))/p([^/]*)", re.IGNORECASE | re.DOTALL)
TYPES: Final = {b".gif": ("GIF", b"image/gif"), b".png": ("PNG", b"image/png")}
AT_ONCE: Final = 2

Colours = dict[int, tuple[int, int, int]]


class Unsuitable(Exception):
    """A picture that cannot be changed as asked. The text is for the client."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _colour(digits: str) -> tuple[int, int, int]:
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)


def _mixed(first: int, last: int, part: int, whole: int) -> int:
    """What is `part` of `whole` on the way from one to the other; as Perlbal, cut to an integer."""
    return int(first + (last - first) * part / whole)


class Change:
    """What is to be made of a palette. Raises: ValueError for a SPEC that is none."""

    def __init__(self, spec: str) -> None:
        self.gradient: tuple[int, int] | None = None
        self.tint = False
        self.colours: list[tuple[int, int, int]] = []
        self.entries: Colours = {}
        if re.fullmatch(r"g(?:[0-9a-f]{8}){2}", spec):
            self.gradient = int(spec[1:3], 16), int(spec[9:11], 16)
            self.colours = [_colour(spec[3:9]), _colour(spec[11:17])]
        elif re.fullmatch(r"t(?:[0-9a-f]{6}){1,2}", spec):
            self.tint = True
            self.colours = [_colour(spec[1:7]), _colour(spec[7:13] or "000000")]
        elif re.fullmatch(r"(?:[0-9a-f]{7}){1,6}", spec):
            self.entries = {int(spec[at], 16): _colour(spec[at + 1 : at + 7]) for at in range(0, len(spec), 7)}
        else:
            raise ValueError(spec)

    def of(self, palette: list[int]) -> list[int]:
        """A palette, three numbers for each entry, after it. Raises: Unsuitable."""
        entries = [(palette[at], palette[at + 1], palette[at + 2]) for at in range(0, len(palette) - 2, 3)]
        if self.tint:
            light, dark = self.colours
            made = [tuple(_mixed(dark[part], light[part], each[part], 255) for part in range(3)) for each in entries]
        else:
            changed = self.entries if self.gradient is None else self._gradient(*self.gradient)
            if max(changed) >= len(entries):
                raise Unsuitable(404, f"The palette of this picture has {len(entries)} entries.\n")
            made = [changed.get(place, each) for place, each in enumerate(entries)]
        return [number for each in made for number in each]

    def _gradient(self, first: int, last: int) -> Colours:
        begin, end = self.colours
        if last < first:
            first, last, begin, end = last, first, end, begin
        whole = max(last - first, 1)
        steps = range(last - first + 1)
        return {
            first + step: (
                _mixed(begin[0], end[0], step, whole), _mixed(begin[1], end[1], step, whole), _mixed(begin[2], end[2], step, whole),
            )
            for step in steps
        }  # fmt: skip


def asked(path: bytes) -> tuple[bytes, Change] | None:
    """The file and the change that a decoded path names; None of any other path. Raises: ValueError for a SPEC that is none."""
    found = NAME.fullmatch(path)
    return None if found is None else (found[1], Change(found[2].decode("ascii")))


def repainted(data: bytes, kind: str, change: Change, most: int) -> bytes:
    """A picture in other colours; one without a palette as it is. Raises: Unsuitable. For a thread."""
    from PIL import Image  # Pillow is an extra

    try:
        picture: Any = Image.open(io.BytesIO(data), formats=[kind])
        if picture.width * picture.height > most:
            raise Unsuitable(500, f"The picture has more than {most} pixels.\n")
        if getattr(picture, "n_frames", 1) > 1:
            raise Unsuitable(500, "The picture has several frames.\n")
        palette = picture.getpalette() if picture.mode == "P" else None
        if palette is None:
            return data
        picture.putpalette(change.of(palette))
        made = io.BytesIO()
        picture.save(made, kind)
        return made.getvalue()
    except Unsuitable:
        raise
    except Exception as error:  # a decoder raises what it likes
        raise Unsuitable(500, f"The picture cannot be read: {type(error).__name__}.\n") from error


class Palimg(Plugin):
    """The pictures of one service."""

    roles = frozenset({"web_server"})
    needs = {"PIL": "pbal[images]"}
    tunables = (
        Tunable("palimg_max_size", SIZE, default="1m", minimum="1", unit="bytes", source="pbal", roles=roles,
                summary="The largest file that palimg changes. A larger one is answered 500."),
        Tunable("palimg_max_pixels", INT, default="4000000", minimum="1", unit="pixels", source="pbal", roles=roles,
                summary="The largest picture that palimg changes. A larger one is answered 500."),
    )  # fmt: skip
    counters = (
        Counter("palimg_changed", "Pictures sent in other colours."),
        Counter("palimg_refused", "Pictures that were not changed: too large, several frames, or not to be read. They were answered 500."),
    )

    def __init__(self, service: Any, world: Any) -> None:
        super().__init__(service, world)
        self._places = asyncio.Semaphore(AT_ONCE)

    @hook.start_serve_request
    def find_the_file(self, exchange: Exchange, lookup: Lookup) -> Verdict:
        try:
            found = asked(lookup.path)
        except ValueError:
            exchange.error(404, b"There are no such colours.\n")
            return Verdict.TAKEN
        if found is not None:
            lookup.path = found[0]
        return Verdict.PASS

    @hook.start_send_file
    def repaint(self, exchange: Exchange, file: FileFound) -> Verdict:
        kind = TYPES.get(file.path[-4:].lower())
        try:
            found = None if kind is None else asked(exchange.plain_path)
        except ValueError:
            return Verdict.PASS
        if kind is None or found is None:
            return Verdict.PASS
        if file.size > self.service["palimg_max_size"]:
            self._refuse(exchange, Unsuitable(500, "The file is larger than palimg_max_size.\n"))
            return Verdict.TAKEN
        etag = b'"%x-%x-%b"' % (file.modified, file.size, exchange.plain_path.rpartition(b"/p")[2])
        known = [each.strip().removeprefix(b"W/") for each in exchange.request.fields.get(b"if-none-match", b"").split(b",")]
        if etag in known or b"*" in known:
            exchange.respond(304, [(b"ETag", etag)])
        else:
            spawn(self, self._send(exchange, file, found[1], *kind, etag), "palimg")
        return Verdict.TAKEN

    async def _send(self, exchange: Exchange, file: FileFound, change: Change, kind: str, media: bytes, etag: bytes) -> None:
        try:
            async with self._places:
                most = self.service["palimg_max_pixels"]
                made = await asyncio.to_thread(repainted, await file.read(file.size), kind, change, most)
        except Unsuitable as error:
            self._refuse(exchange, error)
        except OSError as error:
            self._refuse(exchange, Unsuitable(500, f"The file cannot be read: {error.strerror}.\n"))
        else:
            self.counts["palimg_changed"] += 1
            exchange.respond(200, [(b"Content-Type", media), (b"ETag", etag)], made)

    def _refuse(self, exchange: Exchange, why: Unsuitable) -> None:
        if why.status >= 500:
            self.counts["palimg_refused"] += 1
            self.world.log_limited(
                f"palimg {self.service.name}",
                "service %(service)s: %(path)s is not sent in other colours: %(text)s",
                {
                    "event": "picture_refused",
                    "service": self.service.name,
                    "path": exchange.path.decode("latin-1"),
                    "text": str(why).strip(),
                },
            )
        exchange.error(why.status, str(why).encode())

    def explain(self, exchange: Exchange) -> Explanation | None:
        """See Plugin."""
        try:
            found = asked(exchange.plain_path)
        except ValueError:
            return Explanation(["404: there are no such colours"], takes=True)
        return None if found is None else Explanation([f"the picture {found[0].decode('utf-8', 'replace')} in other colours"])
