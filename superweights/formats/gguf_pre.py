"""llama.cpp's name for the way in which a tokenizer cuts text before it merges (`tokenizer.ggml.pre`).

No file of a tokenizer holds that name, and a wrong one gives other tokens without a word. So llama.cpp is asked: a
name is taken when llama.cpp, given the vocabulary under that name, cuts every one of many texts into the tokens that
the tokenizer cuts it into.
"""

from __future__ import annotations

import json
import random
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from superweights.errors import SuperweightsError
from superweights.formats.gguf_vocabulary import CONVERT, Vocabulary

# Names that llama.cpp's src/llama-vocab.cpp knows, one for each way of cutting. None is believed: each is tried, and
# one that the installed llama.cpp does not know is passed over.
NAMES = (
    "gpt-2", "llama-bpe", "smollm", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder",
    "deepseek-v3", "falcon", "falcon3", "starcoder", "command-r", "refact", "mpt", "olmo", "stablelm2", "dbrx",
    "bloom", "poro-chat", "viking", "chatglm-bpe", "exaone", "superbpe", "bailingmoe", "seed-coder", "hunyuan",
    "kimi-k2", "minerva-7b", "jais", "trillion", "default",
)  # fmt: skip
_TEXTS = (
    "Hello world",
    "  two  spaces   and\ttabs\t\tand an end ",
    "I'm sure they'd say we've won, it's what she'll do, isn't it? YOU'RE RIGHT, IT'S SO",
    "1 12 123 1234 12345 1234567 3.14159 1,000,000 2024-02-29 v1.2.3 x86_64 ½ ² ٣٤٥ １２３",
    "one\ntwo\n\nthree\r\nfour\n \n  five\n\n\n   six \n",
    "def f(x):\n    return {'a': [x ** 2, -x], \"b\": x != 0}  # comment\n\n\nprint(f(10))",
    "https://example.org/a-b_c?d=e&f=%20#g user@host.net $9.99 100% <b>bold</b> a+b=c ~^|`",
    "Zażółć gęślą jaźń. Ünïcödé e\u0301 a\u0308o\u0302 naïve ÀÉÎ ǅ ﬁ",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界！今天天气怎么样？ こんにちは、世界。カタカナ 한국어 문장입니다.",
    "🙂👍🏽👨‍👩‍👧 ❤️ ∑∫≠≤ → ½ “quoted” ‘single’ — dash… \u00a0nbsp\u2003em\u200bzero\u3000wide",
    "camelCase PascalCase ALLCAPS mixedCASEWord snake_case kebab-case aB1cD2 C++ C# .NET",
    "!!! ??? ... --- *** ((([[{{}}]]))) ;;; :-) '' \"\" \\\\ // /* */ 'S 'T 'm",
)
_DRAWN = 256  # texts of the tokenizer's own tokens, each of so many:
_LENGTH = 64


# What was found in this process: quantize looks before the work, and writes after it.
_FOUND: dict[tuple[Vocabulary, str], str] = {}


def pre_tokenizer(vocabulary: Vocabulary, tokenizer: Any, where: str) -> str:
    """The first name under which llama.cpp cuts every probe as `tokenizer` does. Raises where there is none."""
    if find_spec("xllamacpp") is None:
        raise SuperweightsError(
            f"Which pre-tokenizer of llama.cpp's {where} has is found by asking llama.cpp, which is not installed.",
            hint=f"pip install xllamacpp, or {CONVERT}",
        )
    asked = vocabulary, tokenizer.backend_tokenizer.to_str()
    if asked not in _FOUND:
        _FOUND[asked] = _tried(vocabulary, tokenizer, where)
    return _FOUND[asked]


def _tried(vocabulary: Vocabulary, tokenizer: Any, where: str) -> str:
    probes = probes_of(tokenizer)
    wanted = [tokenizer(text, add_special_tokens=False).input_ids for text in probes]
    framed = tokenizer(_TEXTS[0]).input_ids
    with tempfile.TemporaryDirectory(prefix="superweights-") as folder:
        for name in NAMES:
            path = Path(folder, f"{name}.gguf")
            _write_probe(path, vocabulary, name)
            with _asked(path) as ask:
                asked = zip(probes, wanted, strict=True)
                if (
                    ask is not None
                    and ask(_TEXTS[0], True) == framed
                    and all(ask(text, False) == ids for text, ids in asked)
                ):
                    return name
            path.unlink()
    raise SuperweightsError(
        f"llama.cpp has no pre-tokenizer among {len(NAMES)} that cuts {len(probes)} texts as the tokenizer of {where} "
        "does.",
        hint=CONVERT,
    )


def probes_of(tokenizer: Any) -> list[str]:
    """Texts that tell ways of cutting apart: of many scripts, of the vocabulary's own tokens, and around added ones."""
    draw = random.Random(0)
    numbers = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder))
    drawn = (tokenizer.decode(draw.choices(numbers, k=_LENGTH)) for _ in range(_DRAWN))
    added = [str(each.content) for each in list(tokenizer.added_tokens_decoder.values())[:16]]
    return [*_TEXTS, *(text for text in drawn if text), *(f"a {text} b{text}c" for text in added)]


def _write_probe(path: Path, vocabulary: Vocabulary, name: str) -> None:
    """The smallest model that llama.cpp loads with this vocabulary; its weights are zeros."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter

    width, size = 32, len(vocabulary.tokens)
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(width)
    for add in (writer.add_block_count, writer.add_head_count, writer.add_head_count_kv):
        add(1)
    writer.add_rope_dimension_count(width)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    vocabulary.add_to(writer, name)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {f"blk.0.{each}.weight": (width, width) for each in square}
    shapes |= {f"blk.0.{each}.weight": (width,) for each in ("attn_norm", "ffn_norm")}
    for tensor, shape in {
        **shapes,
        "output_norm.weight": (width,),
        "token_embd.weight": (size, width),
    }.items():
        writer.add_tensor(tensor, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def _asked(path: Path) -> Iterator[Any]:
    """A function (text, with special tokens) to the tokens of llama.cpp; None where it cannot load the file."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 32
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = -1
    params.cpuparams.n_threads = 1
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError):
        yield None
        return
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine

    def ask(text: str, special: bool) -> list[int] | None:
        body = json.dumps({"content": text, "add_special": special, "parse_special": True}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["tokens"]
        except (urllib.error.URLError, OSError, ValueError):
            return None

    yield ask
