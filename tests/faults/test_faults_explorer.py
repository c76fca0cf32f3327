"""The explorer's door: every registered route, hosts, origins, wrong tokens, and what is said before loading."""

from __future__ import annotations

import asyncio
import re
import runpy
import socket
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from starlette.routing import Route
from starlette.testclient import TestClient

import superweights.explorer.door as door_module
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.explorer.door import Door, is_own_name
from superweights.explorer.page import build
from superweights.explorer.serving import VARIABLE, application, chosen_token, listening

pytestmark = pytest.mark.tiny
BASE = "http://127.0.0.1:7860"
TOKEN = "open sesame"


class Nothing:
    """What the page needs of an `Explorer` to be built."""

    weights = {"a weight": None}  # noqa: RUF012


@pytest.fixture(scope="module")
def page():
    return build(Nothing(), "a model with a secret name")  # type: ignore[arg-type]


@pytest.fixture
def behind(page, monkeypatch):
    """A client of the page behind a token."""
    monkeypatch.setattr(door_module, "FIRST_DELAY", 0.0)
    return TestClient(application(page, "127.0.0.1", TOKEN), base_url=BASE, follow_redirects=False)


@pytest.fixture
def open_page(page):
    return TestClient(application(page, "127.0.0.1", None), base_url=BASE, follow_redirects=False)


def paths_of(routes, before=""):
    """Every path that the framework registers, and its methods, with something in the place of each parameter."""
    for route in routes:
        path = before + re.sub(r"\{[^}]*\}", "x", getattr(route, "path", ""))
        if isinstance(route, Route):
            yield path, sorted(route.methods or {"GET"})
        else:  # a mount, or a router that is taken in when it is first asked
            yield path or "/", ["GET"]
            inner = getattr(route, "routes", None) or getattr(
                getattr(route, "original_router", None), "routes", ()
            )
            yield from paths_of(inner, path)


def every_door(client: TestClient):
    found = {path or "/": methods for path, methods in paths_of(client.app._inner.routes)}  # type: ignore[attr-defined]
    for known in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/reset", "/config"):
        assert known in found, "the framework's routes were not all found"
    return found


def test_every_route_that_is_registered_is_behind_the_token(behind):
    for path, methods in every_door(behind).items():
        for method in {*methods, "GET", "POST", "OPTIONS"} - {"HEAD"}:
            if (path, method) == ("/login", "POST"):
                continue
            answer = behind.request(method, path)
            assert (answer.status_code, path, method) == (401, path, method)
            assert "secret name" not in answer.text


def enter(client: TestClient, word: str, **headers: str):
    return client.post("/login", data={"username": "explorer", "password": word}, headers=headers)


def test_the_right_token_opens_the_page_and_its_cookie_goes_nowhere_else(behind):
    assert enter(behind, "wrong").status_code == 401
    answer = enter(behind, TOKEN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "SameSite=Strict" in cookie
    assert "HttpOnly" in cookie
    assert "secret name" in behind.get("/").text
    assert behind.get("/config").status_code == 200
    assert (
        TestClient(behind.app, base_url=BASE, cookies={door_module.COOKIE: "guess"}).get("/").status_code
        == 401
    )


def test_doors_that_the_page_does_not_need_are_shut_for_everybody(open_page, behind):
    enter(behind, TOKEN)
    for client in (open_page, behind):
        for path in (
            "/upload",
            "/gradio_api/upload",
            "/docs",
            "/openapi.json",
            "/gradio_api/file=/etc/passwd",
        ):
            assert client.get(path).status_code == 404
            assert client.post(path, files={"files": b"x"}).status_code == 404
        shut = [path for path in every_door(client) if "upload" in path or "file" in path or "proxy" in path]
        assert shut
        assert {client.request(m, path).status_code for path in shut for m in ("GET", "POST")} == {404}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:7860"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_other_names_and_other_pages_are_refused(open_page, headers):
    """A page elsewhere can point a name of its own at this machine."""
    for path in ("/", "/config", "/gradio_api/queue/join"):
        answer = open_page.request("POST" if "join" in path else "GET", path, headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_our_own_page_is_answered_without_a_word_for_others(open_page):
    for headers in ({}, {"origin": BASE}, {"host": "localhost:7860"}, {"host": "[::1]:7860"}):
        answer = open_page.get("/", headers=headers)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_beyond_this_machine_numbers_and_the_own_name_will_do():
    own = socket.gethostname().lower()
    assert [is_own_name(name, "0.0.0.0") for name in ("10.1.2.3", own, "evil.example", "")] == [
        True,
        True,
        False,
        False,
    ]
    assert [is_own_name(name, "127.0.0.1") for name in ("10.1.2.3", "localhost", "::1")] == [
        False,
        True,
        True,
    ]


def test_wrong_tokens_cost_more_each_time_also_side_by_side(monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(door_module.asyncio, "sleep", sleep)
    guesses = door_module._Guesses()

    async def guess():
        return [await guesses.of("10.0.0.1").weigh(right) for right in (False, False, False, True, False)]

    assert asyncio.run(guess()) == [False, False, False, True, False]
    assert slept == [0.5, 1.0, 2.0, 0.5]
    monkeypatch.undo()
    monkeypatch.setattr(door_module, "FIRST_DELAY", 0.01)

    async def many():
        fresh = door_module._Guesses()
        return await asyncio.gather(*(fresh.of("10.0.0.1").weigh(False) for _ in range(12)))

    assert asyncio.run(many()).count(None) == 4


def test_a_long_form_and_another_kind_of_form_are_no_token(behind):
    assert behind.post("/login", content=b"x" * 10_000).status_code == 413
    assert behind.post("/login", json={"password": TOKEN}).status_code == 413
    assert enter(behind, TOKEN, origin="http://evil.example").status_code == 403


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Door(None, "127.0.0.1", None)({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- before anything is loaded ----------------------------------------------------------------------------


def test_an_open_address_without_a_token_is_refused_before_the_model_is_opened(monkeypatch, capsys):
    """It took 36 seconds of loading to say so."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("superweights.checkpoint.open_checkpoint", None)
    assert run(["explore", "embedded", "--host", "0.0.0.0", "--no-open"]) == 1
    assert "can be reached by others" in capsys.readouterr().err
    with listening("127.0.0.1", 0, None) as taken:
        taken.listen()
        assert run(["explore", "embedded", "--port", str(taken.getsockname()[1]), "--no-open"]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_the_token_may_stand_where_ps_does_not_show_it(tmp_path, monkeypatch):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv(VARIABLE, "from the environment")
    assert chosen_token(None, None) == "from the environment"
    assert chosen_token("given", None) == "given"
    assert chosen_token("given", tmp_path / "token") == TOKEN
    (tmp_path / "empty").write_text("\n")
    for wrong in ("empty", "absent", "."):
        with pytest.raises(SuperweightsError, match="hint: write the token"):
            chosen_token(None, tmp_path / wrong)


def test_what_the_page_itself_asks_for_is_there(open_page):
    """Scripts, styles and what the page's own program asks first; a queue that it joins."""
    page = open_page.get("/").text
    named = set(re.findall(r'(?:src|href)="(?:\./|/)?([^":#?]+\.(?:js|css|json)(?:\?[^"]*)?)"', page))
    assert named
    for path in [*named, "config", "gradio_api/startup-events", "gradio_api/info", "theme.css"]:
        assert open_page.get(f"/{path}").status_code == 200, path
    assert open_page.post("/gradio_api/queue/join", json={}).status_code == 422  # the framework's own answer


# --- the page of a Space ----------------------------------------------------------------------------------

SPACE = Path(__file__).parent.parent.parent / "examples" / "space" / "app.py"


def app_of_a_space(monkeypatch, **environment: str) -> int:
    """The exit code of the app as a Space runs it."""
    for variable in ("MODEL", "SPACE_HOST", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SPACE), run_name="__main__")
    return ended.value.code  # type: ignore[return-value]


def test_a_space_that_others_can_reach_is_refused_without_a_token(monkeypatch, capsys):
    monkeypatch.setattr("superweights.checkpoint.open_checkpoint", None)
    assert app_of_a_space(monkeypatch, GRADIO_SERVER_NAME="0.0.0.0") == 1
    assert "can be reached by others" in capsys.readouterr().err


def test_the_page_of_a_space_stands_behind_the_door_and_answers_to_its_own_name(page, monkeypatch):
    """It was launched by the framework itself: every route was open, and any host was answered."""
    served = []

    def serve(_page, _listener, host, token, names):
        served.append(application(page, host, token, names))
        yield "http://somewhere"

    weight = "blk.0.ffn_down.weight[0, 0]"
    monkeypatch.setattr("superweights.verbs.explore.serve", serve)
    monkeypatch.setattr("superweights.verbs.explore._named", lambda *_: {weight: None})
    monkeypatch.setattr("superweights.verbs.explore._chosen", lambda *_: ())
    monkeypatch.setattr("superweights.verbs.explore.build", lambda *_: page)
    environment = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "0"}
    environment |= {"SPACE_HOST": "me-page.hf.space", VARIABLE: TOKEN}
    assert app_of_a_space(monkeypatch, **environment) == 0
    client = TestClient(served[0], base_url="https://me-page.hf.space", follow_redirects=False)
    for path, methods in every_door(client).items():
        for method in {*methods, "GET", "POST", "OPTIONS"} - {"HEAD"}:
            if (path, method) != ("/login", "POST"):
                assert client.request(method, path).status_code == 401, (path, method)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"origin": "https://evil.example"}).status_code == 403
    assert enter(client, TOKEN, origin="https://me-page.hf.space").status_code == 303
    assert client.get("/config").status_code == 200
