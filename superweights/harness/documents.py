"""Local files as the documents of the offline tasks; each function is named in a task file of `pack`.

lm-eval calls them with the task's metadata; `data` is the path of the file. A file is JSON lines (an object a
line) or a JSON list of objects, UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from superweights.errors import SuperweightsError

Document = dict[str, Any]

_LINES = "write JSON lines, one object a line, or one JSON list of objects."


def texts(data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Objects with a `text` each: for perplexity."""
    return _documents(data, "perplexity", _text)


def last_words(data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Objects with a `text` each, split at the last space: `context`, and `continuation` with the space."""
    return _documents(data, "last_word", _last_word)


def questions(data: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Objects with `question`, `choices` (strings) and `answer` (an index from 0, or one of the choices)."""
    return _documents(data, "choice", _question)


def _documents(
    data: str | None, kind: str, read: Callable[[Document], Document | str]
) -> datasets.DatasetDict:
    """The documents of a file as lm-eval wants them; errors name the file and the document."""
    if data is None:
        raise SuperweightsError(
            f"The task {kind} needs a file of its own.",
            hint=f'write --tasks {kind}=FILE; with lm-eval\'s command, --metadata \'{{"data": "FILE"}}\'.',
        )
    found = []
    for number, document in enumerate(_objects(Path(data)), 1):
        read_one = read(document) if isinstance(document, dict) else "is not an object"
        if isinstance(read_one, str):
            raise SuperweightsError(
                f"Document {number} of {data} {read_one}.",
                hint=f"a document of {kind} looks like {_EXAMPLES[kind]}",
            )
        found.append(read_one)
    if not found:
        raise SuperweightsError(f"{data} holds no documents.", hint=_LINES)
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(found)})


_EXAMPLES = {
    "perplexity": '{"text": "It was a fine day."}',
    "last_word": '{"text": "It was a fine day."}',
    "choice": '{"question": "Two and two are", "choices": ["four", "five"], "answer": 0}',
}


def _text(document: Document) -> Document | str:
    text = document.get("text")
    if not isinstance(text, str) or not text.strip():
        return "has no text"
    return {"text": text}


def _last_word(document: Document) -> Document | str:
    text = document.get("text")
    if not isinstance(text, str):
        return "has no text"
    context, space, word = text.strip().rpartition(" ")
    if not space:
        return "is a single word, which has nothing before its last word"
    return {"context": context.rstrip(), "continuation": f" {word}"}


def _question(document: Document) -> Document | str:
    question, choices, answer = (document.get(key) for key in ("question", "choices", "answer"))
    missing = [key for key in ("question", "choices", "answer") if document.get(key) is None]
    if missing:
        return f"has no {missing[0]}"
    if not isinstance(question, str) or not question.strip():
        return "has a question that is no text"
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(c, str) and c for c in choices)
    ):
        return "needs two or more choices, each a text"
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        return f"has the answer {answer!r}, which is neither a choice nor the index of one"
    return {"question": question, "choices": choices, "answer": answer}


def _objects(path: Path) -> list[Any]:
    """Everything in a file of JSON lines, or in a JSON list."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise SuperweightsError(
            f"There is no file {path}.", hint="check the path of the documents."
        ) from error
    except UnicodeDecodeError as error:
        raise SuperweightsError(f"{path} is not UTF-8 text.", hint=_LINES) from error
    try:
        if content.lstrip().startswith("["):
            return json.loads(content)
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise SuperweightsError(f"{path} is not JSON: {error}.", hint=_LINES) from error
