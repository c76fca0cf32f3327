"""The page served: the address is taken before anything is loaded, so that what cannot be served is said at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from superweights.artefacts.reading import read_text
from superweights.errors import SuperweightsError
from superweights.explorer.door import LOOPBACK, Door

# Where the token may stand, because what is given as an argument can be seen by everybody on the machine.
VARIABLE = "SUPERWEIGHTS_TOKEN"


def chosen_token(given: str | None, file: Path | None) -> str | None:
    """The token: of the file, as given, or of the environment variable `SUPERWEIGHTS_TOKEN`; None where there is none.

    Raises `SuperweightsError` for a file that cannot be read, and for one that is empty.
    """
    if file is None:
        return given or os.environ.get(VARIABLE) or None
    hint = "write the token into it, in one line."
    token = read_text(file, hint=hint, largest=4096).strip()
    if not token:
        raise SuperweightsError(f"{file} holds no token.", hint=hint)
    return token


@contextmanager
def listening(host: str, port: int, token: str | None) -> Iterator[socket.socket]:
    """A socket that holds the address, for `serve`.

    Raises `SuperweightsError` for an address that others can reach without `token`, and for one that is taken.
    """
    if host not in LOOPBACK and not token:
        raise SuperweightsError(
            f"{host} can be reached by others.",
            hint=f"give a token that they must enter (--token-file, {VARIABLE} or --token), or leave --host out.",
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise SuperweightsError(
                f"Port {port} of {host} cannot be used: {error.strerror or error}.",
                hint="choose another with --port.",
            ) from error
        yield listener


def application(page: Any, host: str, token: str | None, names: Collection[str] = ()) -> Door:
    """The page (gradio's Blocks) behind its door, as an ASGI application that also answers to `names`."""
    import gradio
    from fastapi import FastAPI

    from superweights.explorer.page import look

    bare = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return Door(gradio.mount_gradio_app(bare, page, path="/", **look()), host, token, names)


def serve(
    page: Any, listener: socket.socket, host: str, token: str | None, names: Collection[str] = ()
) -> Iterator[str]:
    """Serve `page` until the process is stopped; yields its address once it listens."""
    import uvicorn

    door = application(page, host, token, names)
    server = uvicorn.Server(uvicorn.Config(door, log_level="error", timeout_graceful_shutdown=1))
    shown = f"[{host}]" if ":" in host else host
    yield f"http://{shown}:{listener.getsockname()[1]}"
    server.run(sockets=[listener])
