"""What a run is about, asked once: the model and its facts, the text and how it is cut, what is predicted of it."""

from superweights.subject.batch import Batch
from superweights.subject.bos import begins_with_bos, resolve_bos
from superweights.subject.facts import check_windows, context_of, device_of, vocabulary_of
from superweights.subject.loaded import (
    WeightStream,
    announce,
    check_next_token,
    is_streamed,
    layout_of,
    objective_of,
    stream_of,
)
from superweights.subject.objective import NextToken, Objective
from superweights.subject.reading import Reading
from superweights.subject.source import Source
from superweights.subject.text import Text, embedded_prose, read_text, windows

__all__ = [
    "Batch",
    "NextToken",
    "Objective",
    "Reading",
    "Source",
    "Text",
    "WeightStream",
    "announce",
    "begins_with_bos",
    "check_next_token",
    "check_windows",
    "context_of",
    "device_of",
    "embedded_prose",
    "is_streamed",
    "layout_of",
    "objective_of",
    "read_text",
    "resolve_bos",
    "stream_of",
    "vocabulary_of",
    "windows",
]
