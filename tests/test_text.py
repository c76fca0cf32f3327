"""Texts, and the windows and prompts cut from them."""

from __future__ import annotations

import hashlib
import logging
import re
from pydoc_data.topics import topics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import embedded_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from superweights.errors import SuperweightsError
from superweights.subject.text import (
    PROMPTS,
    Text,
    cut,
    embedded_prose,
    encode,
    raw_prompts,
    read_passages,
    read_text,
    token_prompts,
    window_bytes,
    windows,
    without_last_word,
)


def bytewise(**special) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes: every count is known."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={ch: i for i, ch in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **special)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return bytewise()


@pytest.fixture(scope="module")
def with_bos() -> PreTrainedTokenizerFast:
    return bytewise(bos_token="<s>")


@pytest.mark.unit
def test_the_embedded_prose_is_paragraphs_of_this_pythons_manual():
    prose = embedded_prose()
    assert prose.sha256 == hashlib.sha256(prose.text.encode()).hexdigest()
    paragraphs = prose.text.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 100
    assert all(len(paragraph.split()) > 50 and "|" not in paragraph for paragraph in paragraphs)
    manual = re.sub(r"\s+", " ", " ".join(topics.values()))
    assert all(paragraph in manual for paragraph in paragraphs)
    assert embedded_prose() == prose


@pytest.mark.unit
def test_a_file_is_read_with_its_name_and_hash(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\n")
    assert read_text(file) == Text(str(file), "naïve\n", hashlib.sha256("naïve\n".encode()).hexdigest())


@pytest.mark.unit
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no text"),
        (b" \n\t", "no text"),
        (b"caf\xe9", "byte 3 is 0xe9"),
        (b"ab\0c", "binary"),
        (None, "no file"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, word):
    file = tmp_path / "a.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SuperweightsError, match=word):
        read_text(file)


@pytest.mark.unit
def test_a_folder_is_refused_as_a_text(tmp_path):
    with pytest.raises(SuperweightsError, match="folder"):
        read_text(tmp_path)


@pytest.mark.unit
def test_passages_are_read_line_by_line(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"text": "a b"}\n\n{"text": "c d", "more": 1}\n{"word": 1}\n')
    assert read_passages(file, 2) == ("a b", "c d")
    with pytest.raises(SuperweightsError, match="Passage 3"):
        read_passages(file)


@pytest.mark.unit
@pytest.mark.parametrize("line", ["x", "[]", '{"text": 1}', '"text"', "{"])
def test_a_line_that_is_no_passage_is_named(tmp_path, line):
    file = tmp_path / "p.jsonl"
    file.write_text(line)
    with pytest.raises(SuperweightsError, match="Passage 1"):
        read_passages(file)


@pytest.mark.tiny
def test_windows_are_the_texts_tokens_in_order(tokenizer):
    text = "the quick brown fox jumps over the lazy dog"
    found = windows(tokenizer, text, 8)
    assert found.shape == (5, 8)
    assert found.dtype == torch.int64
    assert tokenizer.decode(found.flatten()) == text[:40]


@pytest.mark.tiny
def test_a_text_longer_than_the_tokenizers_limit_gives_no_warning(tokenizer, caplog, recwarn):
    logging.getLogger("transformers").propagate = True
    windows(tokenizer, "word " * 100, 16)
    assert not caplog.records
    assert not recwarn.list


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.one_of(st.none(), st.integers(1, 10)))
@pytest.mark.unit
def test_windows_start_every_stride_and_never_silently_vanish(tokens, length, stride, count):
    ids = torch.arange(tokens)
    starts = [start for start in range(0, tokens, stride) if start + length <= tokens]
    if len(starts) < (count or 1):
        with pytest.raises(SuperweightsError, match="too few"):
            cut(ids, length, count, stride)
        return
    assert cut(ids, length, count, stride).tolist() == [
        list(range(start, start + length)) for start in starts[:count]
    ]


@pytest.mark.unit
@pytest.mark.parametrize("sizes", [(0, None, None), (4, 0, None), (4, None, 0), (-1, None, None)])
def test_windows_of_no_size_are_refused(sizes):
    with pytest.raises(SuperweightsError, match="at least 1"):
        cut(torch.arange(9), *sizes)


@pytest.mark.tiny
def test_the_hint_says_how_many_windows_there_are(tokenizer):
    with pytest.raises(SuperweightsError, match="at most 2 windows"):
        windows(tokenizer, "a" * 20, 8, count=3)


@pytest.mark.tiny
def test_a_window_with_bos_is_one_token_of_text_shorter(with_bos):
    found = windows(with_bos, "abcdefghij", 4, bos=True)
    assert found.shape == (3, 4)
    assert (found[:, 0] == with_bos.bos_token_id).all()
    assert with_bos.decode(found[:, 1:].flatten()) == "abcdefghi"


@pytest.mark.tiny
def test_bos_is_refused_where_there_is_none(tokenizer):
    with pytest.raises(SuperweightsError, match="no beginning-of-sequence"):
        windows(tokenizer, "abcdefghij", 4, bos=True)


@pytest.mark.tiny
@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])).filter(str.strip))
def test_the_bytes_of_the_tokens_add_up_to_the_text(tokenizer, text):
    n = len(text.encode())
    nbytes = window_bytes(tokenizer, text, n)
    assert nbytes.shape == windows(tokenizer, text, n).shape == (1, n)
    assert nbytes.sum() == n
    if text.isascii():
        assert (nbytes == 1).all()


@pytest.mark.tiny
def test_a_beginning_token_stands_for_no_bytes(with_bos):
    assert window_bytes(with_bos, "abcdefghij", 4, bos=True).tolist() == [[0, 1, 1, 1]] * 3


@pytest.mark.unit
def test_a_tokenizer_without_offsets_cannot_count_bytes():
    with pytest.raises(SuperweightsError, match="which characters"):
        window_bytes(object(), "abc", 2)


@pytest.mark.tiny
def test_prompts_are_of_one_length_and_begin_with_the_reference_prompt(tokenizer, with_bos):
    prompts = token_prompts(tokenizer, 39)
    assert prompts.shape == (4, 39)
    assert tokenizer.decode(prompts[0]) == "Apple Inc. is a worldwide tech company."
    shortest = min(len(prompt.encode()) for prompt in PROMPTS)
    assert token_prompts(tokenizer, 10_000).shape == (4, shortest)
    begun = token_prompts(with_bos, 40, bos=True)
    assert begun[:, 1:].tolist() == prompts.tolist()
    with pytest.raises(SuperweightsError, match="no text in it"):
        token_prompts(with_bos, 1, bos=True)


@pytest.mark.unit
def test_raw_prompts_are_seeded_tokens_of_the_vocabulary():
    prompts = raw_prompts(50, 3, 200)
    assert prompts.shape == (3, 200)
    assert set(prompts.flatten().tolist()) == set(range(50))
    assert torch.equal(prompts, raw_prompts(50, 3, 200))
    assert not torch.equal(prompts, raw_prompts(50, 3, 200, seed=1))


@pytest.mark.unit
def test_the_last_word_is_what_follows_the_last_space():
    assert without_last_word(" It was a fine day.\n") == ("It was a fine", "day.")
    with pytest.raises(SuperweightsError, match="no last word"):
        without_last_word("word")


@pytest.mark.real
def test_the_embedded_models_tokens_spell_the_prose_back():
    tokenizer = embedded_tokenizer()
    prose = embedded_prose()
    n = len(encode(tokenizer, prose.text))
    assert tokenizer.decode(windows(tokenizer, prose, n)[0]) == prose.text
    assert window_bytes(tokenizer, prose, n).sum() == len(prose.text.encode())
