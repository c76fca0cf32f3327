"""The page: gradio's blocks around `Explorer`. Nothing on it comes from elsewhere, and nothing leaves it."""

from __future__ import annotations

import itertools
import os
import threading
from html import escape
from typing import Any

from superweights.errors import SuperweightsError
from superweights.explorer.states import LARGEST_FACTOR, LONGEST_PROMPT, MOST_TOKENS, Explorer, State
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import svg

_HINT = "pip install 'superweights[app]'."
_STYLE = """
.gradio-container { max-width: 1100px !important; margin: 0 auto; }
.sw-text { border: 1px solid #8886; border-radius: 10px; padding: 12px 14px; min-height: 7.5rem; }
.sw-text { white-space: pre-wrap; overflow-wrap: anywhere; margin-bottom: 8px; }
.sw-text h4, .sw-bars h4 { margin: 0 0 6px; font-size: .85rem; opacity: .75; }
.sw-bars div { display: grid; grid-template-columns: 9rem 1fr 4rem; gap: 8px; align-items: center; font-size: .9rem; }
.sw-bars i { display: block; height: 10px; border-radius: 5px; background: #0072b2; }
.sw-bars i.was { background: #8888; height: 4px; margin-top: 2px; }
.sw-bars code { overflow: hidden; text-overflow: ellipsis; white-space: pre; }
.sw-picture svg { width: 100%; height: auto; background: #fff; border-radius: 10px; }
"""


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
        name: str, factor: float, prompt: str, tokens: float, pinned: State | None, request: gradio.Request
    ):
        wanted = turns.take(str(request.session_hash))
        try:
            for state in explorer.run(name, factor, prompt, int(tokens), wanted):
                yield (*shown(state, pinned), state)
        except SuperweightsError as error:
            yield note(f"{error.message} {error.hint}"), "", "", "", None

    def left(request: gradio.Request):
        turns.leave(str(request.session_hash))

    for handler in (react, left):  # gradio looks for the class, and the annotation here is only its name
        handler.__annotations__["request"] = gradio.Request
    return _laid_out(gradio, title, list(explorer.weights), react, left)


def _laid_out(gradio: Any, title: str, names: list[str], react: Any, left: Any) -> Any:
    """Where everything stands, and what asks for what."""
    with gradio.Blocks(title=f"{title}: super weights", analytics_enabled=False) as page:
        gradio.Markdown(
            f"# Pull a super weight of {escape(title)}\nOne number of the model, times a factor. At 1 it is as it "
            "was; at 0 it is gone. Choose the control to see what any other weight does."
        )
        state, pinned = gradio.State(None), gradio.State(None)
        with gradio.Row():
            weight = gradio.Dropdown(names, value=names[0], label="Weight", scale=3)
            factor = gradio.Slider(0, LARGEST_FACTOR, value=1.0, step=0.05, label="Times", scale=4)
        with gradio.Row():
            prompt = gradio.Textbox(
                "The capital of France is", label="Prompt", max_length=LONGEST_PROMPT, scale=5
            )
            tokens = gradio.Slider(1, MOST_TOKENS, value=40, step=1, label="New tokens", scale=2)
        text = gradio.HTML(note("Move the slider."))
        bars = gradio.HTML("")
        with gradio.Row():
            channel, sinks = (
                gradio.HTML("", elem_classes="sw-picture"),
                gradio.HTML("", elem_classes="sw-picture"),
            )
        with gradio.Row():
            pin = gradio.Button("Pin this state, to compare")
            unpin = gradio.Button("Unpin")
        asks = {
            "fn": react,
            "inputs": [weight, factor, prompt, tokens, pinned],
            "outputs": [text, bars, channel, sinks, state],
            "show_progress": "hidden",
            "concurrency_limit": None,
            "trigger_mode": "multiple",
        }
        for event in (factor.change, weight.change, prompt.submit, page.load):
            event(**asks)
        pin.click(lambda now: now, state, pinned, show_progress="hidden").then(**asks)
        unpin.click(lambda: None, None, pinned, show_progress="hidden").then(**asks)
        page.unload(left)
    return page


def shown(state: State, pinned: State | None) -> tuple[str, str, str, str]:
    """The four parts of the page for one state, everything from the model escaped."""
    words = f"{state.address} = {state.value:.4g} ({state.factor:g} times)"
    text = _text(words, state.prompt, state.text)
    if pinned is not None:
        text += _text(f"pinned: {pinned.address} ({pinned.factor:g} times)", pinned.prompt, pinned.text)
    was = dict(state.base.tokens)
    rows = "".join(
        f'<div><code>{escape(token)}</code><span><i style="width:{100 * p:.1f}%"></i>'
        f'<i class="was" style="width:{100 * was.get(token, 0):.1f}%"></i></span>{100 * p:.1f} %</div>'
        for token, p in state.reading.tokens
    )
    bars = f'<div class="sw-bars"><h4>next token (grey: as the model is)</h4>{rows}</div>'
    return (
        text,
        bars,
        _lines("Residual channel", "largest |value|", state, pinned, "channel", True),
        _lines("Attention on the first token", "mean weight", state, pinned, "sinks", False),
    )


def note(words: str) -> str:
    """A sentence in the place of the text."""
    return f'<div class="sw-text">{escape(words)}</div>'


def _text(heading: str, prompt: str, text: str) -> str:
    return f'<div class="sw-text"><h4>{escape(heading)}</h4><b>{escape(prompt)}</b>{escape(text)}</div>'


def _lines(title: str, unit: str, state: State, pinned: State | None, part: str, log: bool) -> str:
    series = [
        Series.over_layers(f"{state.factor:g} times", getattr(state.reading, part)),
        Series.over_layers("as it is", getattr(state.base, part), dashed=True),
    ]
    if pinned is not None:
        series.append(Series.over_layers(f"pinned, {pinned.factor:g} times", getattr(pinned.reading, part)))
    return svg([line_chart(title, "layer", unit, series, log=log)])


def look() -> dict[str, Any]:
    """Theme and style, with the fonts of the person's own machine."""

    from gradio.themes import Soft

    theme = Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": _STYLE, "footer_links": []}
