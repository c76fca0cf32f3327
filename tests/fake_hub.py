"""A server on this machine that plays the hub, well or badly, for tests."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PIECE = 1 << 16
_CATCH_UP = 0.05
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Enough of the hub: model_info, resolve with ranges, redirects to another host, and misbehaviour on demand."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.refuse: tuple[int, str] | None = None  # every answer, with this X-Error-Code
        self.refuse_files: tuple[int, str] | None = None  # answers about files only
        self.busy = 0  # so many range requests get a 503 first
        self.cut = 0  # so many range requests break in the middle
        self.stall = 0.0  # seconds to wait in the middle of the next range
        self.drop_all = False  # every range request is dropped
        self.gate = threading.Event()  # answers about parts of files wait for it
        self.gate.set()
        self.delay = 0.0  # seconds before each such answer
        self.rate = 0.0  # bytes in a second, of all answers together; 0: as fast as it goes
        self._free, self._line = 0.0, threading.Lock()
        self.ranges = True
        self.shift = 0  # ranges begin so many bytes late
        self.redirect = False  # weights are on "another host"
        self.expire = 0  # so many signed addresses are refused
        self.made: dict[str, dict[str, Any]] = {}  # repositories that were created, by name
        self.pushed: dict[str, dict[str, bytes]] = {}  # their files
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def carry(self, data: bytes) -> None:
        """Wait until a line of this rate would have carried `data`, behind all that others have put on it."""
        if self.rate:
            with self._line:
                late = time.monotonic() - _CATCH_UP  # a sleep that took too long is made good
                self._free = max(self._free, late) + len(data) / self.rate
                free = self._free
            time.sleep(max(0.0, free - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are the point of some tests."""

    def asked(self, ending: str) -> list[str]:
        """The ranges asked of files that end so."""
        return [
            h.get("range", "") for method, path, h in self.seen if method == "GET" and path.endswith(ending)
        ]


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """Repositories are made, and commits of small files taken."""
        hub = self.server
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if hub.refuse:
            return self._send(hub.refuse[0], {"X-Error-Code": hub.refuse[1]})
        if self.path == "/api/repos/create":
            asked = json.loads(sent)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            hub.made[name] = asked
            return self._json({"url": f"{hub.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if match is None or match[1] not in hub.made:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        if match[2] == "preupload":
            paths = [file["path"] for file in json.loads(sent)["files"]]
            kind = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._json({"files": [{"path": path, **kind} for path in paths]})
        lines = [json.loads(line) for line in sent.decode().splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        hub.pushed[match[1]] = {file["path"]: base64.b64decode(file["content"]) for file in files}
        return self._json({"commitUrl": f"{hub.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})

    def _json(self, data: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(data).encode())

    def _answer(self, *, body: bool) -> None:
        hub = self.server
        hub.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if hub.refuse:
            return self._send(hub.refuse[0], {"X-Error-Code": hub.refuse[1]})
        if self.path.startswith("/api/models/org/model"):
            if "/tree/" in self.path:
                tree = [{"type": "file", "path": f, "size": len(d), "oid": f} for f, d in hub.files.items()]
                return self._send(200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
            revision = self.path.partition("/revision/")[2]
            if revision not in ("", "main", "v2", COMMIT):
                return self._send(404, {"X-Error-Code": "RevisionNotFound"})
            info = {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": f} for f in hub.files]}
            return self._send(200, {"Content-Type": "application/json"}, json.dumps(info).encode())
        match = re.fullmatch(r"(/signed)?/org/model/resolve/([^/]+)/([^?]+)", self.path)
        if match is None:
            return self._send(404, {"X-Error-Code": "RepoNotFound"})
        self._file(match, body)

    def _file(self, match: re.Match[str], body: bool) -> None:
        hub, name = self.server, match[3]
        if hub.refuse_files:
            return self._send(hub.refuse_files[0], {"X-Error-Code": hub.refuse_files[1]})
        if name not in hub.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound"})
        common = {"X-Repo-Commit": COMMIT, "ETag": f'"{abs(hash(name)):x}"'}
        if hub.redirect and not match[1] and name.endswith(".safetensors"):
            there = f"http://localhost:{hub.server_port}/signed{self.path}"
            return self._send(302, {**common, "Location": there})
        if match[1] and hub.expire > 0:
            hub.expire -= 1
            return self._send(403, {})
        data, wanted = hub.files[name], self.headers.get("Range")
        if not (wanted and hub.ranges):
            return self._send(200, common, data, body=body)
        self._range(name, data, wanted, common)

    def _range(self, name: str, data: bytes, wanted: str, common: dict[str, str]) -> None:
        hub = self.server
        if hub.busy > 0:
            hub.busy -= 1
            return self._send(503, {"Retry-After": "0"})
        hub.gate.wait(30)
        time.sleep(hub.delay)
        first, last = (int(n) for n in re.findall(r"\d+", wanted))
        first += hub.shift
        if first >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"})
        part = data[first : last + 1]
        common["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        if hub.drop_all or (hub.cut > 0 and len(part) > 100):
            hub.cut -= 1
            return self._send(206, common, part, stop_after=0 if hub.drop_all else len(part) // 2)
        stall, hub.stall = hub.stall, 0.0
        self._send(206, common, part, stop_after=100 if stall else None, stall=stall)

    def _send(
        self,
        status: int,
        headers: dict[str, str],
        data: bytes = b"",
        *,
        body: bool = True,
        stop_after: int | None = None,
        stall: float = 0.0,
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        sent = (data if body else b"")[:stop_after]
        for start in range(0, len(sent), _PIECE):
            piece = sent[start : start + _PIECE]
            self.server.carry(piece)
            self.wfile.write(piece)
        if stop_after is not None:
            self.wfile.flush()
            time.sleep(stall)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
