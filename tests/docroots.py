"""A web_server with a docroot in a folder that holds a secret too, and requests to it."""

from pathlib import Path

from lab import Lab, Pbal


def get(path: str | bytes, *fields: str, method: str = "GET") -> bytes:
    """A request without a body."""
    target = path.encode() if isinstance(path, str) else path
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method.encode(), target), b"Host: h", *(field.encode() for field in fields), b"", b""])


async def docroot(lab: Lab, *statements: str) -> tuple[Path, Pbal]:
    """An empty docroot, and a pbal whose service `site` serves it as `statements` say."""
    folder = lab.folder / "docroot"
    folder.mkdir()
    (lab.folder / "secret").write_text("secret")
    service = f"CREATE SERVICE site\nSET role = web_server\nSET listen = 127.0.0.1:0\nSET docroot = {folder}\n"
    return folder, await lab.pbal(service + "\n".join((*statements, "ENABLE site")))
