"""The explorer: its states against the model itself, many readers at once, and the page in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pages import faults_of, until
from small import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from superweights.address import Address
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.explorer import Channel, Explorer, PassSummary, State
from superweights.explorer.page import answers
from superweights.explorer.view import note, shown

try:
    from selenium.webdriver import Keys
except ImportError:  # then there is no browser either
    Keys = None

pytestmark = pytest.mark.tiny

SUPER = Address("model.layers.0.mlp.down_proj.weight", (5, 7))
OTHER = Address("model.layers.1.mlp.down_proj.weight", (9, 3))
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny Llama whose tokens are bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.get_parameter(SUPER.tensor).data[SUPER.index] = 9.0
    to = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(to)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(to)
    return to


@pytest.fixture
def explorer(folder) -> Explorer:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Explorer(model, tokenizer, {"super": SUPER, "control": OTHER})


def written_by_transformers(explorer: Explorer, factor: float, tokens: int) -> str:
    model = explorer.model
    before = model.get_parameter(SUPER.tensor)[SUPER.index].item()
    model.get_parameter(SUPER.tensor).data[SUPER.index] = before * factor
    ids = torch.tensor([explorer.tokenizer(PROMPT).input_ids])
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    model.get_parameter(SUPER.tensor).data[SUPER.index] = before
    return explorer.tokenizer.decode(out)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5])
def test_it_writes_what_transformers_writes_with_that_weight(explorer, factor):
    states = list(explorer.run("super", factor, PROMPT, 12))
    assert states[-1].done
    assert states[-1].text == written_by_transformers(explorer, factor, 12)
    assert [len(state.text) > 0 for state in states][:2] == [False, True], (
        "first what the prompt shows, then tokens"
    )
    assert states[0].value == pytest.approx(9.0 * factor)
    assert explorer.model.get_parameter(SUPER.tensor)[SUPER.index] == 9.0


def test_a_reading_is_what_the_models_own_outputs_say(explorer):
    state = next(explorer.run("super", 0.0, PROMPT, 1))
    ids = torch.tensor([explorer.tokenizer(PROMPT).input_ids])
    with torch.no_grad():
        out = explorer.model(ids, output_hidden_states=True, output_attentions=True)
    probabilities = out.logits[0, -1].softmax(-1)
    assert [p for _, p in state.base.tokens] == pytest.approx(
        probabilities.topk(10).values.tolist(), rel=1e-4
    )
    assert state.base.channel[0] == pytest.approx(out.hidden_states[1][0, :, 5].abs().max().item(), rel=1e-5)
    sinks = [weights[..., 1:, 0].mean().item() for weights in out.attentions]
    assert list(state.base.sinks) == pytest.approx(sinks, rel=1e-4)
    assert state.reading != state.base


def test_many_readers_at_once_do_not_disturb_each_other(explorer):
    factors = [0.0, 0.5, 1.0, 2.0, 3.0]
    alone = {factor: list(explorer.run("super", factor, PROMPT, 10))[-1].text for factor in factors}
    together: dict[float, str] = {}

    def read(factor: float) -> None:
        together[factor] = list(explorer.run("super", factor, PROMPT, 10))[-1].text

    threads = [threading.Thread(target=read, args=(factor,)) for factor in factors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert len(set(alone.values())) > 1, "the factors make no difference, so nothing was tested"


def test_a_stream_that_nobody_wants_ends_at_its_next_step(explorer):
    answers = itertools.chain([True] * 4, itertools.repeat(False))
    states = list(explorer.run("super", 0.0, PROMPT, 100, lambda: next(answers)))
    assert 1 < len(states) < 6
    assert not states[-1].done


BAD = [
    ("nobody", 1.0, PROMPT, 5),
    ("super", -0.1, PROMPT, 5),
    ("super", 3.1, PROMPT, 5),
    ("super", float("nan"), PROMPT, 5),
    ("super", "1", PROMPT, 5),
    ("super", 99, PROMPT, 5),
    ("super", 10**400, PROMPT, 5),
    ("super", None, PROMPT, 5),
    ("super", True, PROMPT, 5),
    (["super"], 1.0, PROMPT, 5),
    ({}, 1.0, PROMPT, 5),
    ("super", 1.0, "   ", 5),
    ("super", 1.0, PROMPT, None),
    ("super", 1.0, PROMPT, "5"),
    ("super", 1.0, "", 5),
    ("super", 1.0, "x" * 2001, 5),
    ("super", 1.0, None, 5),
    ("super", 1.0, PROMPT, 0),
    ("super", 1.0, PROMPT, 1000),
]


@pytest.mark.parametrize("asked", BAD, ids=lambda each: str(each)[:40])
def test_what_is_out_of_bounds_is_refused(explorer, asked):
    with pytest.raises(SuperweightsError):
        next(explorer.run(*asked))


def test_what_a_model_writes_is_escaped():
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    reading = PassSummary(((hostile, 0.9),), (1.0, 2.0), (0.1, 0.2))
    state = State(hostile, Channel(5, True), 0.5, 1.0, hostile, reading, reading, hostile)
    for part in (*shown(state, state), note(hostile)):
        assert "<script" not in part
        assert "<img" not in part


def test_a_negative_weight_at_zero_is_zero(explorer):
    negative = Address(SUPER.tensor, (5, 8))
    explorer.model.get_parameter(SUPER.tensor).data[negative.index] = -2.0
    explorer.weights["negative"] = negative
    state = next(explorer.run("negative", 0.0, PROMPT, 1))
    assert f"{state.value:g}" == "0"
    assert "-0 " not in shown(state, state)[0]


def test_the_channel_is_the_weights_output_however_it_is_stored(explorer):
    """Conv1D keeps [inputs, outputs], and what a gate writes is no residual channel."""
    ids = tuple(explorer.tokenizer(PROMPT).input_ids)
    assert explorer._channel(SUPER, ids) == Channel(5, True)
    assert explorer._channel(Address("model.layers.1.post_attention_layernorm.weight", (3,)), ids) == Channel(
        3, True
    )
    gate = explorer._channel(Address("model.layers.0.mlp.gate_proj.weight", (47, 2)), ids)
    with torch.no_grad():
        stream = explorer.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
    assert gate == Channel(int(torch.stack(stream).abs().flatten(0, 2).amax(0).argmax()), False)
    sizes = {"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 48}
    turned = tiny(GPT2Config(**sizes, attn_implementation="eager"))
    other = Explorer(turned, explorer.tokenizer, {})
    place = Address("transformer.h.1.mlp.c_proj.weight", (40, 6))
    assert other._channel(place, ids) == Channel(6, True)


def test_lines_share_a_picture_only_where_they_show_the_same_channel(explorer):
    state = next(explorer.run("super", 0.0, PROMPT, 1))
    again = next(explorer.run("super", 2.0, "Twice upon a time", 1))
    other = next(explorer.run("control", 2.0, PROMPT, 1))
    for pinned, pictures in ((None, 2), (state, 2), (again, 2), (other, 3)):
        *_, drawn = shown(state, pinned)
        headings = re.findall(r"<h4>(.*?)</h4>", drawn)
        assert len(headings) == drawn.count("<svg") == pictures
        assert "channel 5, the output of" in headings[0]
    words = re.sub("<[^>]*>", "", drawn)
    assert f"pinned: residual channel 9, the output of {OTHER}" in words
    assert f"residual channel 5, the output of {SUPER}" in words
    assert "pinned, another weight, 2 times" in words
    assert "pinned, another prompt, 2 times" in re.sub("<[^>]*>", "", shown(state, again)[-1])


def test_whatever_is_sent_gets_a_sentence(explorer):
    """As it comes from the network: the server's own checks, no traceback."""
    for asked in BAD:
        (parts,) = answers(explorer, asked, None, lambda: True)
        assert parts[0].startswith('<div class="sw-text">')
        assert parts[1:] == ("", "", None)


def test_a_port_that_is_taken_and_an_open_door_are_refused(folder, capsys):
    pytest.importorskip("gradio", reason="gradio is not installed")
    common = ["explore", str(folder), "--weights", str(SUPER), "--no-open"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run([*common, "--port", str(taken.getsockname()[1])]) == 1
        assert "cannot be used" in capsys.readouterr().err
    assert run([*common, "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "--token" in capsys.readouterr().err
    assert run(["explore", str(folder), "--no-open", "--weights", "model.norm.weight[99]"]) == 1
    assert "hint:" in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(folder):
    """The page's address, served by a process of its own."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    command = [
        sys.executable,
        "-m",
        "superweights",
        "explore",
        str(folder),
        "--weights",
        str(SUPER),
        "--weights",
        str(OTHER),
        "--no-open",
    ]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("http"))
        said: list[str] = []
        threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
        try:
            yield line.split()[0], process
            assert said == [], "the terminal is told nothing, whatever is asked"
        finally:
            process.kill()


_SET = """
const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
const input = document.querySelector('input[type=number]');
for (const value of arguments[0]) {
  set.call(input, value);
  for (const kind of ['input', 'change', 'blur']) input.dispatchEvent(new Event(kind, { bubbles: true }));
}
"""


def seen(browser, words: str, seconds: float = 20) -> str:
    """The text box, once it says `words`."""
    end = time.monotonic() + seconds
    text = ""
    while time.monotonic() < end:
        text = browser.execute_script("return document.querySelector('.sw-text')?.innerText ?? ''")
        if words in text:
            return text
        time.sleep(0.1)
    raise AssertionError(f"{words!r} never came; the page says {text!r}")


def test_the_slider_the_pin_and_two_hundred_moves(browser, served, explorer):
    address, process = served
    browser.get(address)
    seen(browser, "(1 times)")
    browser.execute_script(_SET, ["0"])
    text = seen(browser, "(0 times)")
    assert len(browser.find_elements("css selector", ".sw-chart svg path")) > 4
    assert len(browser.find_elements("css selector", ".sw-bars code")) == 10
    click(browser, "button", "Pin")
    browser.execute_script(_SET, ["2"])
    seen(browser, "(2 times)")
    end = time.monotonic() + 30
    while len(browser.find_elements("css selector", ".sw-text")) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert "pinned" in browser.find_elements("css selector", ".sw-text")[1].text
    browser.execute_script(_SET, [f"{n % 60 / 20:.2f}" for n in range(200)] + ["3"])
    seen(browser, "(3 times)")
    assert process.poll() is None
    assert text
    urls = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in urls if m["method"] == "Network.requestWillBeSent"}
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture
def fresh(browser, served):
    """The page, once its first text is there."""
    browser.get(served[0])
    seen(browser, "(1 times)")
    return browser


def test_an_empty_prompt_a_number_beyond_the_end_and_another_weight_are_answered(fresh):
    box = fresh.find_element("css selector", "textarea, input[type=text]")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    assert seen(fresh, "The prompt is empty").startswith("The prompt is empty")
    assert not fresh.find_elements("css selector", ".sw-chart, .sw-bars")
    box.send_keys("Twice upon")
    seen(fresh, "Twice upon")
    number = fresh.find_element("css selector", "input[type=number]")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("99")
    seen(fresh, "The factor is 99. Give a number from 0 to 3.")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("2")
    seen(fresh, "(2 times)")
    click(fresh, "button", "Pin")
    until(lambda: "pinned:" in fresh.find_element("tag name", "body").text)
    click(fresh, "label", str(OTHER))
    assert str(OTHER) in seen(fresh, str(OTHER))
    until(lambda: any("channel 9, the output" in heading for heading in headings(fresh)))
    assert any(heading.startswith("pinned: residual channel 5, the output") for heading in headings(fresh))


def headings(browser) -> list[str]:
    """Of all pictures, read at one moment: they are drawn anew while one looks."""
    read = "return [...document.querySelectorAll('.sw-chart h4')].map(each => each.innerText)"
    return browser.execute_script(read)


def click(browser, tag: str, words: str) -> None:
    """Press the first element with these words (places to break a line apart)."""
    next(e for e in browser.find_elements("tag name", tag) if words in plain(e.text)).click()


def plain(words: str) -> str:
    return words.replace("\u200b", "").replace("\u00a0", " ")


def test_the_page_fits_a_phone_and_a_desk_by_day_and_at_night(browser, served):
    def ready() -> bool:
        return "(1 times)" in browser.find_element("tag name", "body").text

    assert faults_of(browser, served[0], ready) == []


def test_two_tabs_hold_their_own_factors_and_a_closed_one_harms_nobody(browser, served):
    address, process = served
    browser.get(address)
    seen(browser, "(1 times)")
    first = browser.current_window_handle
    browser.execute_script(_SET, ["0.5"])
    seen(browser, "(0.5 times)")
    browser.switch_to.new_window("tab")
    browser.get(address)
    seen(browser, "(1 times)")
    browser.execute_script(_SET, ["2.5"])
    browser.close()  # while it writes
    browser.switch_to.window(first)
    assert "(0.5 times)" in seen(browser, "(0.5 times)")
    browser.execute_script(_SET, ["1.5"])
    seen(browser, "(1.5 times)")
    assert process.poll() is None
