"""What llama.cpp calls the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from superweights.checkpoint import Checkpoint
from superweights.errors import SuperweightsError


def gguf_names(checkpoint: Checkpoint, tensors: Sequence[str]) -> list[str]:
    """The name in a GGUF file of each of `tensors`; experts of one layer share one name, since GGUF stacks them.

    A GGUF checkpoint knows its own names. For others the tables of the gguf package are asked, of all architectures
    at once: which of them llama.cpp takes for a model type is written in its converter alone, but they agree on what a
    tensor of a given name becomes. Raises `SuperweightsError` where none knows it, or several disagree.
    """
    if checkpoint.format == "gguf" and checkpoint.path is not None:
        from superweights.checkpoint.gguf import GgufStore

        store = GgufStore(checkpoint.path)
        try:
            return [store.file_name(tensor) for tensor in tensors]
        finally:
            store.close()
    blocks = getattr(checkpoint.model_config().get_text_config(), "num_hidden_layers", 0)
    return list(dict.fromkeys(_name_of(tensor, blocks) for tensor in tensors))


def _name_of(tensor: str, blocks: int) -> str:
    try:
        import gguf
    except ImportError as error:
        raise SuperweightsError(
            "The names of tensors in GGUF files come from the gguf package.",
            hint="pip install 'superweights[gguf]'.",
        ) from error
    plain = re.sub(r"\.experts\.\d+\.", ".experts.", tensor)
    plain = plain.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
    found = set()
    for architecture in gguf.MODEL_TENSORS:
        # Asking for one with a table of its own changes the table of all others in this process (gguf 0.19).
        if architecture in gguf.TensorNameMap.arch_block_mappings_cfg:
            continue
        name = gguf.get_tensor_name_map(architecture, blocks).get_name(plain, try_suffixes=(".weight",))
        if name is not None:
            found.add(name if name.endswith(".weight") else f"{name}.weight")
    if len(found) != 1:
        several = f"several names ({', '.join(sorted(found))})" if found else "no name"
        raise SuperweightsError(
            f"The gguf package knows {several} for {tensor}.",
            hint="read the name off a GGUF file of this model, and give --tensor-type '^NAME$=q8_0'.",
        )
    return found.pop()
