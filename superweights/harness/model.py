"""Our models as lm-evaluation-harness sees them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from torch import nn

from superweights.checkpoint import open_checkpoint
from superweights.editing import Edit, edited
from superweights.errors import SuperweightsError
from superweights.stream import streaming
from superweights.subject import device_of, is_streamed

_OPENING = ("revision", "allow_pickle", "trust_remote_code")
_STREAMING = ("dtype", "device", "resident")
_HFLM: Any = huggingface.HFLM  # lm-eval's decorator hides the class from type checkers
# Rows at a time by default: more where each batch reads the weights again.
_ROWS, _ROWS_STREAMED = 8, 32


class SuperweightsLM(_HFLM):
    """Any checkpoint that we open, streamed where it does not fit, with edits: lm-eval's `--model superweights`.

    `pretrained` is what `open_checkpoint` takes, or a loaded model (then `tokenizer` is needed); `edits` are
    written `TENSOR[i, j]=FACTOR`, several separated by `;`. Of the other settings `revision`, `allow_pickle`,
    `trust_remote_code`, `dtype`, `device` and `resident` open the checkpoint as elsewhere; the rest is
    lm-eval's own (`max_length`, `add_bos_token`, ...). Edits last until `close`.
    """

    def __init__(
        self,
        pretrained: str | nn.Module,
        edits: str | Iterable[str | Edit] = (),
        *,
        tokenizer: Any = None,
        batch_size: int | str | None = None,
        **settings: Any,
    ):
        self.name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        self.edits = parse_edits(edits)
        self._stack = ExitStack()
        opening = {key: settings.pop(key) for key in _OPENING if key in settings}
        placing = {key: settings.pop(key) for key in _STREAMING if key in settings}
        try:
            model = pretrained
            if isinstance(pretrained, str):
                checkpoint = self._stack.enter_context(open_checkpoint(pretrained, **opening))
                tokenizer = tokenizer or checkpoint.tokenizer()
                model = self._stack.enter_context(streaming(checkpoint, **placing))
            self._start(model, tokenizer, batch_size, settings)
        except BaseException:
            self._stack.close()
            raise

    def _start(
        self, model: Any, tokenizer: Any, batch_size: int | str | None, settings: dict[str, Any]
    ) -> None:
        """Make the edits and hand the model to lm-eval."""
        if tokenizer is None:
            raise SuperweightsError(
                f"{self.name} has no tokenizer.", hint="put its tokenizer.json beside the weights."
            )
        self._stack.enter_context(edited(model, self.edits))
        streamed = is_streamed(model)
        rows = batch_size or (_ROWS_STREAMED if streamed else _ROWS)
        # lm-eval gives the tokenizer a padding token if it has none: not the caller's.
        _HFLM.__init__(
            self, pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=rows, **settings
        )
        self._device = device_of(model)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> SuperweightsLM:
        """As lm-eval's command reads `--model_args`: commas inside brackets do not separate."""
        return cls.create_from_arg_obj(key_val_to_dict(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> SuperweightsLM:
        """From model arguments and what else stood on lm-eval's command line, whose default device is cuda:0."""
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if str(given.get("device")).startswith("cuda") and not torch.cuda.is_available():
            del given["device"]
        return cls(**given | arg_dict)

    def close(self) -> None:
        """Undo the edits and close the checkpoint."""
        self._stack.close()

    def get_model_info(self) -> dict[str, Any]:
        """What goes into lm-eval's results about the model; asks no hub."""
        return {
            "model_num_parameters": sum(p.numel() for p in self.model.parameters()),
            "model_dtype": str(self.model.dtype),
            "model_revision": None,
            "model_sha": "",
            "edits": [str(edit) for edit in self.edits],
        }

    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        quiet = disable_tqdm or not sys.stderr.isatty()
        with torch.no_grad():
            return super()._loglikelihood_tokens(requests, disable_tqdm=quiet, override_bs=override_bs)


register_model("superweights")(SuperweightsLM)


def parse_edits(edits: str | Iterable[str | Edit]) -> tuple[Edit, ...]:
    """Edits from their written form: one string with `;` between them, or several; ready ones stay."""
    parts = edits.split(";") if isinstance(edits, str) else edits
    return tuple(
        e if isinstance(e, Edit) else Edit.parse(e) for e in parts if not isinstance(e, str) or e.strip()
    )
