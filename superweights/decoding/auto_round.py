"""AutoRound's own format: GPTQ's or AWQ's words, with bits and groups told layer by layer.

Source: AutoRound 0.16.1, `export/export_to_autoround` (what `packing_format` means: `inference/backend.py`) and
`auto_round_extension/torch`, with which the tests compare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from superweights.checkpoint import Checkpoint
from superweights.decoding.awq import decode_awq
from superweights.decoding.decoded import Decoded, Format, Said, modules_with
from superweights.decoding.gptq import Zeros, decode_gptq

_GPTQ: dict[str, Zeros] = {
    "auto_round:auto_gptq": "less one",
    "auto_round": "as they are",
    "auto_round:gptqmodel": "as they are",
}
_AWQ = ("auto_round:auto_awq",)


def auto_round(checkpoint: Checkpoint, said: Said) -> Format:
    """The format of a checkpoint that says `quant_method: auto-round` (or the older `intel/auto-round`)."""
    said.known("auto-round", "auto-round settings")
    said.inert("rotation_config", "desc_act")
    packing = said.settings.get("packing_format", said.settings.get("backend", "auto_round:auto_gptq"))
    if packing not in _GPTQ and packing not in _AWQ:
        raise said.refused("packing_format", "cannot be read")
    if not str(said.settings.get("data_type", "int")).startswith("int"):
        raise said.refused("data_type", "cannot be read")
    parts = modules_with(checkpoint, "qweight", ("qzeros", "scales", "g_idx"))

    def decode(name: str) -> Decoded:
        module = name.removesuffix(".weight")
        rule = _rule_of(module, said.settings.get("extra_config") or {}, said)
        bits = int(rule.get("bits", said.whole("bits")))
        if packing in _AWQ:
            if bits != 4:
                raise said.refused("bits", "cannot be read: AWQ has 4 bits")
            return decode_awq(checkpoint, module)
        size = int(rule.get("group_size", said.settings.get("group_size", 128)))
        return decode_gptq(checkpoint, module, bits, size, zeros=_GPTQ[packing])

    return Format("auto-round", parts, decode)


def _rule_of(module: str, rules: Mapping[str, Any], said: Said) -> Mapping[str, Any]:
    """What `extra_config` says of a module, by its name or by a regular expression."""
    if module in rules:
        return rules[module]
    for pattern, rule in rules.items():
        try:
            if re.fullmatch(pattern, module):
                return rule
        except re.error as error:
            raise said.refused(
                "extra_config", f"holds {pattern!r}, no regular expression ({error}), so it is not read"
            ) from None
    return {}
