"""A state as HTML, everything that comes from a model or a person escaped. Needs no gradio."""

from __future__ import annotations

from html import escape

from superweights.explorer.states import State
from superweights.picture.axis import GRID
from superweights.picture.lines import Series, line_chart
from superweights.picture.page import svg
from superweights.reports.html import worded

# Pixels that a picture is drawn with: half of the page, so that its words can be read on a phone.
_PICTURE_WIDTH = 380

STYLE = f"""
.gradio-container {{ max-width: 1100px !important; margin: 0 auto; }}
.sw-text {{ border: 1px solid #8886; border-radius: 10px; padding: 12px 14px; min-height: 7.5rem; }}
.sw-text {{ white-space: pre-wrap; overflow-wrap: anywhere; margin-bottom: 8px; }}
.sw-text h4, .sw-bars h4, .sw-chart h4 {{ margin: 0 0 6px; font-size: .85rem; font-weight: 600; opacity: .85; }}
.sw-bars div {{ display: grid; grid-template-columns: minmax(5rem, 9rem) 1fr 4rem; gap: 8px; align-items: center; }}
.sw-bars div {{ font-size: .9rem; }}
.sw-bars i {{ display: block; height: 10px; border-radius: 5px; background: #0072b2; }}
.sw-bars i.was {{ background: #8888; height: 4px; margin-top: 2px; }}
.sw-bars code {{ overflow-wrap: anywhere; white-space: pre-wrap; }}
.sw-charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 12px 24px; }}
.sw-chart {{ overflow-wrap: anywhere; }}
.sw-text .address, .sw-chart .address {{ overflow-wrap: normal; }}
.sw-text .place, .sw-chart .place {{ white-space: nowrap; }}
.sw-chart svg {{ width: 100%; height: auto; display: block; }}
.sw-chart svg > rect {{ fill: transparent; }}
.sw-chart svg text {{ fill: currentColor; }}
.sw-chart svg path[stroke="{GRID}"] {{ stroke: #8884; }}
.sw-chart svg [fill="#000000"] {{ fill: currentColor; }}
.sw-weights .wrap {{ max-height: 15rem; overflow-y: auto; }}
.sw-weights label {{ width: 100%; }}
.sw-weights label span {{ white-space: normal; }}
"""


def shown(state: State, pinned: State | None) -> tuple[str, str, str]:
    """The parts of the page for one state: the texts, the next tokens, and the pictures: the residual channel of the
    weight and the attention on the first token.

    The lines of a `pinned` state stand among those of `state` where both show the same thing; a pinned weight that
    writes into another channel has a picture of its own.
    """
    text = _text(_named(state), state)
    if pinned is not None:
        text += _text(f"pinned: {_named(pinned)}", pinned)
    was = dict(state.base.tokens)
    rows = "".join(
        f'<div><code>{escape(token)}</code><span><i style="width:{100 * p:.1f}%"></i>'
        f'<i class="was" style="width:{100 * was.get(token, 0):.1f}%"></i></span>{100 * p:.1f} %</div>'
        for token, p in state.reading.tokens
    )
    bars = f'<div class="sw-bars"><h4>next token (grey: as the model is)</h4>{rows}</div>'
    return text, bars, f'<div class="sw-charts">{_channels(state, pinned)}{_sinks(state, pinned)}</div>'


def breakable(words: str) -> str:
    """`words` with places (of no width) where a narrow page may go to a new line: between the parts of an address."""
    return words.replace(".", ".\u200b").replace("[", "\u200b[").replace(", ", ",\u00a0")


def note(words: str) -> str:
    """A sentence in the place of the text."""
    return f'<div class="sw-text">{escape(words)}</div>'


def _named(state: State) -> str:
    return f"{state.address} = {state.value:.4g} ({state.factor:g} times)"


def _text(heading: str, state: State) -> str:
    return f'<div class="sw-text"><h4>{worded(heading)}</h4><b>{escape(state.prompt)}</b>{escape(state.text)}</div>'


def _channels(state: State, pinned: State | None) -> str:
    """The channel of the weight, with the pinned state's line if it is of the same channel, else below it."""
    lines = _live(state.factor, state.reading.channel, state.base.channel)
    if pinned is None:
        return _channel(state, lines)
    line = Series.over_layers(_pinned(state, pinned), pinned.reading.channel)
    if pinned.channel == state.channel:
        return _channel(state, [*lines, line])
    own = _live(pinned.factor, pinned.reading.channel, pinned.base.channel)
    return _channel(state, lines) + _channel(pinned, own, "pinned: ")


def _channel(state: State, lines: list[Series], before: str = "") -> str:
    which = "the output of" if state.channel.own else "the largest, with"
    heading = f"{before}residual channel {state.channel.number}, {which} {state.address}"
    if not state.channel.own:
        heading += " changed"
    return _chart(heading, "largest |value|", lines, log=True)


def _sinks(state: State, pinned: State | None) -> str:
    lines = _live(state.factor, state.reading.sinks, state.base.sinks)
    if pinned is not None:
        lines.append(Series.over_layers(_pinned(state, pinned), pinned.reading.sinks))
    return _chart(f"attention on the first token, with {state.address} changed", "mean weight", lines)


def _live(factor: float, now: tuple[float, ...], base: tuple[float, ...]) -> list[Series]:
    as_it_is = Series.over_layers("as the model is", base, dashed=True)
    return [Series.over_layers(f"{factor:g} times", now), as_it_is]


def _pinned(state: State, pinned: State) -> str:
    """The name of a pinned line: its factor, and what else is not as in the other lines."""
    other = [
        words
        for words, differs in (
            ("another weight", pinned.address != state.address),
            ("another prompt", pinned.prompt != state.prompt),
        )
        if differs
    ]
    return ", ".join(["pinned", *other, f"{pinned.factor:g} times"])


def _chart(heading: str, unit: str, lines: list[Series], log: bool = False) -> str:
    """A picture under its heading, which breaks where the page is narrow."""
    drawn = svg([line_chart(unit, "layer", "", lines, log=log, width=_PICTURE_WIDTH)], _PICTURE_WIDTH)
    told = drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(heading)}" ', 1)
    return f'<div class="sw-chart"><h4>{worded(heading)}</h4>{told}</div>'
