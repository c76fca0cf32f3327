"""The page: gradio's blocks around `Explorer`. Nothing on it comes from elsewhere, and nothing leaves it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from html import escape
from typing import Any

from superweights.errors import SuperweightsError
from superweights.explorer.states import LARGEST_FACTOR, LONGEST_PROMPT, MOST_TOKENS, Explorer, State
from superweights.explorer.view import STYLE, breakable, note, shown

_HINT = "pip install 'superweights[app]'."
# Seconds without another letter after which a prompt that is being written is read.
_PAUSE = 0.4


class Turns:
    """Which request of each tab is the latest: older ones stop at their next step."""

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}
        self._count = itertools.count()
        self._lock = threading.Lock()

    def take(self, session: str) -> Any:
        """A question that says yes until this tab asks for something else or goes away."""
        with self._lock:
            turn = self._latest[session] = next(self._count)
        return lambda: self._latest.get(session) == turn

    def leave(self, session: str) -> None:
        """The tab was closed."""
        with self._lock:
            self._latest.pop(session, None)


def build(explorer: Explorer, title: str) -> Any:
    """The page as gradio's Blocks, ready to launch or to mount. Raises `SuperweightsError` without gradio."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise SuperweightsError("The explorer needs gradio.", hint=_HINT) from error
    turns = Turns()

    def react(
        name: Any, factor: Any, prompt: Any, tokens: Any, pinned: State | None, request: gradio.Request
    ):
        wanted = turns.take(str(request.session_hash))
        yield from answers(explorer, (name, factor, prompt, tokens), pinned, wanted)

    def typed(
        name: Any, factor: Any, prompt: Any, tokens: Any, pinned: State | None, request: gradio.Request
    ):
        wanted = turns.take(str(request.session_hash))
        time.sleep(_PAUSE)
        if wanted():
            yield from answers(explorer, (name, factor, prompt, tokens), pinned, wanted)

    def left(request: gradio.Request):
        turns.leave(str(request.session_hash))

    for handler in (
        react,
        typed,
        left,
    ):  # gradio looks for the class, and the annotation here is only its name
        handler.__annotations__["request"] = gradio.Request
    return _laid_out(gradio, title, list(explorer.weights), react, typed, left)


def answers(explorer: Explorer, asked: tuple[Any, Any, Any, Any], pinned: State | None, wanted: Any):
    """What the page shows for a name, a factor, a prompt and a number of tokens, whatever was sent as these:
    the parts of one state after the other, each with its state; a sentence and nothing else where they are refused."""
    try:
        for state in explorer.run(*asked, wanted):
            yield (*shown(state, pinned), state)
    except SuperweightsError as error:
        yield note(f"{error.message} {error.hint[:1].upper()}{error.hint[1:]}"), "", "", None


def _laid_out(gradio: Any, title: str, names: list[str], react: Any, typed: Any, left: Any) -> Any:
    """Where everything stands, and what asks for what."""
    with gradio.Blocks(title=f"{title}: super weights", analytics_enabled=False) as page:
        gradio.Markdown(
            f"# Pull a super weight of {escape(title)}\nOne number of the model, times a factor. At 1 it is as it "
            "was; at 0 it is gone. Choose the control to see what any other weight does."
        )
        state, pinned = gradio.State(None), gradio.State(None)
        with gradio.Row():
            weight = gradio.Radio(
                [(breakable(name), name) for name in names],
                value=names[0],
                label="Weight",
                elem_classes="sw-weights",
            )
            with gradio.Column():
                factor = gradio.Slider(0, LARGEST_FACTOR, value=1.0, step=0.05, label="Times")
                prompt = gradio.Textbox("The capital of France is", label="Prompt", max_length=LONGEST_PROMPT)
                tokens = gradio.Slider(1, MOST_TOKENS, value=40, step=1, label="New tokens")
        text, bars, pictures = gradio.HTML(note("Move the slider.")), gradio.HTML(""), gradio.HTML("")
        with gradio.Row():
            pin = gradio.Button("Pin this state, to compare")
            unpin = gradio.Button("Unpin")
        inputs = [weight, factor, prompt, tokens]
        for each in inputs:  # what is sent is checked by `Explorer`, which says what is wrong with it
            each.preprocess = _as_it_came
        asks = {
            "inputs": [*inputs, pinned],
            "outputs": [text, bars, pictures, state],
            "show_progress": "hidden",
            "concurrency_limit": None,
            "trigger_mode": "multiple",
        }
        for event in (factor.change, tokens.change, weight.change, prompt.submit, page.load):
            event(react, **asks)
        prompt.change(typed, **asks)
        pin.click(lambda now: now, state, pinned, show_progress="hidden").then(react, **asks)
        unpin.click(lambda: None, None, pinned, show_progress="hidden").then(react, **asks)
        page.unload(left)
    return page


def _as_it_came(payload: Any) -> Any:
    return payload


def look() -> dict[str, Any]:
    """Theme and style, with the fonts of the person's own machine."""

    from gradio.themes import Soft

    theme = Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": STYLE, "footer_links": []}
