"""The explorer: its states against the model itself, many readers at once, and the page in a real browser."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from superweights.address import Address
from superweights.cli import run
from superweights.errors import SuperweightsError
from superweights.explorer import Explorer, PassSummary, State

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
    pytest.importorskip("gradio", reason="gradio is not installed")
    from superweights.explorer.page import note, shown

    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    reading = PassSummary(((hostile, 0.9),), (1.0, 2.0), (0.1, 0.2))
    state = State(hostile, 0.5, 1.0, hostile, reading, reading, hostile)
    for part in (*shown(state, state), note(hostile)):
        assert "<script" not in part
        assert "<img" not in part


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
        "--no-open",
    ]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("http"))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield line.split()[0], process
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
        boxes = browser.find_elements("css selector", ".sw-text")
        text = boxes[0].text if boxes else ""
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
    assert len(browser.find_elements("css selector", ".sw-picture svg path")) > 4
    assert len(browser.find_elements("css selector", ".sw-bars code")) == 10
    pin = next(b for b in browser.find_elements("tag name", "button") if b.text.startswith("Pin"))
    pin.click()
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
