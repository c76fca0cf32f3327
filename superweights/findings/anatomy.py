"""What goes on inside a model: the findings of `anatomy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Anatomy:
    """The answers to one question, or to all that one pass can answer."""

    conditions: dict[str, Any]
    """On what it was measured: text, cut, BOS, dtype, whether weights were removed, and which."""
    answers: dict[str, Any]
    """Each question's answer, a dataclass of `interpretability`; as JSON values in a record that was read back."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a question could not be answered for this model, by question."""

    def picture(self) -> str:
        """The answers drawn, as SVG. Raises `SuperweightsError` where none has a picture, or all were read back."""
        from superweights.picture import svg

        drawn = [answer for answer in self.answers.values() if hasattr(answer, "panels")]
        panels = [panel for answer in drawn for panel in answer.panels()]
        if not panels:
            raise SuperweightsError("This answer has no picture.", hint="leave out --picture.")
        return svg(panels)
