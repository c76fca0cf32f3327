"""Words taken out: texts by hand, matched random controls, endings that stay; what the embedded model loses."""

from __future__ import annotations

import re

import families
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laid_open import study
from torch.nn import functional

from superweights.errors import SuperweightsError
from superweights.interpretability import Study
from superweights.interpretability.stopword_ablation import question
from superweights.interpretability.stopword_ablation.question import investigate, read_endings
from superweights.interpretability.stopword_ablation.word_classes import (
    CLASSES,
    members,
    remove,
    remove_random,
)

pytestmark = pytest.mark.unit

TEXT = "The cat, a tabby (old), sat on the mat; it didn't move. An end?"


@pytest.mark.parametrize(
    ("classes", "left"),
    [
        (["articles"], "cat, tabby (old), sat on mat; it didn't move. end?"),
        (["punctuation"], "The cat a tabby old sat on the mat it didn't move An end"),
        (["stop words"], "cat, tabby (old), sat mat; didn't move. end?"),
        (["stop words", "punctuation"], "cat tabby old sat mat didn't move end"),
    ],
)
def test_each_class_leaves_the_rest_as_it_was(classes, left):
    assert remove(TEXT, classes) == left


def test_kept_spans_are_not_touched():
    start = TEXT.index("the mat")
    assert remove(TEXT, ["articles"], [(start, start + 7)]).startswith("cat, tabby (old), sat on the mat")
    assert remove_random(TEXT, 1000, len, 0, [(0, len(TEXT))]) == TEXT


# An apostrophe belongs to a word only between two letters: without its article "a'" leaves a mark, no new word.
WORD = re.compile(r"\w+(?:'\w+)*")


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab the,. \n'é", max_size=60))
def test_removing_leaves_no_member_and_no_new_word(text):
    for name in CLASSES:
        left = remove(text, [name])
        if name != "punctuation":  # without its mark "a.b" is one word
            assert set(WORD.findall(left)) <= set(WORD.findall(text))
        assert len(left) <= len(text)


@pytest.mark.parametrize("tokens", [0, 1, 3, 7, 100])
def test_the_control_loses_as_many_tokens(tokens):
    text = "one two three four five six seven eight nine ten"
    left = remove_random(text, tokens, lambda t: len(t.split()), seed=3)
    assert len(left.split()) == max(0, 10 - tokens)
    assert [word for word in text.split() if word in left.split()] == left.split(), "the order stays"
    other = remove_random(text, tokens, lambda t: len(t.split()), seed=4)
    assert (left == other) == (tokens in (0, 100))


def test_unknown_classes_are_refused():
    for classes in (["verbs"], []):
        with pytest.raises(SuperweightsError, match="class of words"):
            members(TEXT, classes)


@pytest.mark.tiny
def test_endings_are_read_as_alone_whatever_stands_in_the_batch():
    model = families.tiny_model("llama")
    generator = torch.Generator().manual_seed(0)
    contexts = [torch.randint(3, 250, (n,), generator=generator).tolist() for n in (1, 9, 4)]
    endings = torch.randint(3, 250, (3, 5), generator=generator)
    found = read_endings(model, contexts, endings, batch_size=2)
    for number, context in enumerate(contexts):
        ids = torch.cat([torch.tensor(context), endings[number]])[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(context) - 1 : -1]
        expected = functional.cross_entropy(logits, endings[number]).item()
        assert found.losses[number].item() == pytest.approx(expected, rel=1e-5)
        assert found.right[number].item() == pytest.approx(
            (logits.argmax(-1) == endings[number]).double().mean()
        )


@pytest.mark.tiny
def test_short_windows_and_missing_tokenizers_are_refused():
    model = families.tiny_model("llama")
    for ids in (torch.ones(1, 64, dtype=torch.long), torch.ones(4, 64, dtype=torch.long)):
        with pytest.raises(SuperweightsError, match="needs a tokenizer"):
            investigate(Study(model, ids))


@pytest.mark.real
def test_punctuation_costs_the_embedded_model_more_than_as_many_tokens_at_random_do(monkeypatch):
    monkeypatch.setattr(
        "superweights.interpretability.stopword_ablation.question.ROWS", (("punctuation", ("punctuation",)),)
    )
    monkeypatch.setattr(question, "_DRAWS", 1)
    found = investigate(study(16))
    (row,) = found.rows
    assert row.random_tokens_gone == pytest.approx(row.tokens_gone, rel=0.1)
    assert row.loss.value > 3 * row.loss.standard_error
    assert row.beyond_random.value > -0.2
