"""What stands before the page: which names it answers to, who may come in, and which doors there are at all.

The page is gradio's, which opens many doors (uploads, files, docs, queues). Here the few that the page needs are named;
whatever a new version adds stays shut. A page elsewhere can make a browser ask us by a name of its own that it points
at this machine, so only names of this machine are answered to.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "superweights_session"
USER = "explorer"
# The doors that the page needs, by method and path; with a token, all of them behind it.
_DOORS = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon(/[0-9]+)?|/(assets|static|svelte)/.*"
        r"|/gradio_api/(startup-events|theme\.css|info|queue/data|heartbeat/[^/]+|static/.*)"
    ),
    "POST": re.compile(r"/gradio_api/queue/join/?|/gradio_api/(reset|cancel)/?"),
}
# Seconds that the n-th wrong token in a row costs: half a second, doubled each time, up to a minute.
FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0
_MOST_SESSIONS, _MOST_ADDRESSES, _LARGEST_FORM = 1024, 4096, 4096
# Nothing but this server and what stands in its answers: fonts and scripts of other hosts stay out.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Token</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<body style="font-family: system-ui, sans-serif; max-width: 24rem; margin: 20vh auto; padding: 0 1rem">
<form method="post" action="/login"><label>Token <input type="password" name="password" autofocus required></label>
<button>Enter</button></form></body></html>"""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Door:
    """An ASGI application that lets through to `inner` only what may come in.

    403: a host that is none of this machine's, or a page of another origin. 401: no token yet, whatever is asked for.
    404: a door that the page does not need. 413, 429: a form that is none, too many at the same time.
    """

    def __init__(self, inner: App, host: str, token: str | None, names: Collection[str] = ()):
        self._inner, self._host, self._token = inner, host, token
        # By which it is known beyond this machine: those of a proxy before it.
        self._names = frozenset(name.lower() for name in names if name)
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._guesses = _Guesses()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._inner(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        path, method = scope["path"], scope["method"]
        if not self._is_ours(headers):
            return await _say(send, 403, "This page answers to names of its own machine only.")
        if self._token and path == "/login" and method == "POST":
            return await self._enter(scope, headers, receive, send)
        if self._token and not self._knows(headers):
            return await _say(send, 401, LOGIN if path in ("/", "/login") else "Enter the token first.")
        door = _DOORS.get("GET" if method == "HEAD" else method)
        if door is None or not door.fullmatch(path):
            return await _say(send, 404, "There is nothing here.")
        await self._inner(scope, receive, _shut(send))

    def _is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether the host that was asked for is this machine's, and the page that asks is ours."""
        host = headers.get("host", "")
        name = _name_in(f"//{host}")
        if name not in self._names and not is_own_name(name, self._host):
            return False
        origin = headers.get("origin")
        other = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        return not other and (origin is None or (origin != "null" and urlsplit(origin).netloc == host))

    def _knows(self, headers: Mapping[str, str]) -> bool:
        try:
            held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return held is not None and held.value in self._sessions

    async def _enter(self, scope: Message, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        """Give a session for the right token; a wrong one costs time, more each time."""
        form = await _form(headers, receive)
        if form is None:
            return await _say(send, 413, "That is no token.")
        assert self._token is not None
        asked_by = (scope.get("client") or ("",))[0]
        right = hmac.compare_digest(form.get("password", "").encode(), self._token.encode())
        if not (known := await self._guesses.of(asked_by).weigh(right)):
            return (
                await _say(send, 401, LOGIN)
                if known is False
                else await _say(send, 429, "Too many at a time.")
            )
        session = secrets.token_urlsafe(32)
        self._sessions[session] = None
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict"
        return await _say(send, 303, "", (b"set-cookie", cookie.encode()), (b"location", b"/"))


class _Guesses:
    """Wrong tokens in a row, by the address that they came from; those of one address wait for each other."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Guess] = OrderedDict()

    def of(self, address: str) -> _Guess:
        guess = self._held.setdefault(address, _Guess())
        self._held.move_to_end(address)
        while len(self._held) > _MOST_ADDRESSES:
            self._held.popitem(last=False)
        return guess


class _Guess:
    """One address: how often it was wrong, and who waits."""

    _MOST_WAITING = 8

    def __init__(self) -> None:
        self._failures = self._waiting = 0
        self._lock = asyncio.Lock()

    async def weigh(self, right: bool) -> bool | None:
        """`right` after its time, which a wrong one has to wait, longer each time; None where too many wait already."""
        if self._waiting >= self._MOST_WAITING:
            return None
        self._waiting += 1
        try:
            async with self._lock:
                self._failures = 0 if right else self._failures + 1
                if not right:
                    await asyncio.sleep(min(FIRST_DELAY * 2 ** min(self._failures - 1, 20), LONGEST_DELAY))
                return right
        finally:
            self._waiting -= 1


def is_own_name(name: str, host: str) -> bool:
    """Whether `name` is one that the page on `host` answers to: a loopback name; where it listens beyond this machine
    also that address, any other written in numbers (nobody can point those elsewhere), and the machine's own name."""
    if name in LOOPBACK or (name and name == host.lower()):
        return True
    if host in LOOPBACK:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and name == socket.gethostname().lower()
    return True


def _name_in(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


async def _form(headers: Mapping[str, str], receive: Receive) -> dict[str, str] | None:
    """The fields of a small urlencoded form; None for anything else."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _LARGEST_FORM or message["type"] == "http.disconnect":
            return None
        if not message.get("more_body"):
            break
    if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    return dict(parse_qsl(body.decode("utf-8", "replace")))


def _shut(send: Send) -> Send:
    """`send` with our own rules for browsers on every answer, and without any word for pages elsewhere."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(n, v) for n, v in message["headers"] if not n.lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *_RULES]}
        await send(message)

    return guarded


_RULES = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


async def _say(send: Send, status: int, words: str, *headers: tuple[bytes, bytes]) -> None:
    kind = b"text/html; charset=utf-8" if words.startswith("<") else b"text/plain; charset=utf-8"
    body = words.encode()
    length = (b"content-length", str(len(body)).encode())
    told = [(b"content-type", kind), length, (b"cache-control", b"no-store"), *_RULES, *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})
