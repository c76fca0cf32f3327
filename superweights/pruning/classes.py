"""How transformers opens a pruned checkpoint: a model type of its own, whose classes are those of the model it was.

`AutoConfig` gives the config of the original architecture, in a class of its own that says what is gone; `AutoModel...`
finds for that class the original's model class, which puts gaps in the place of what is gone as soon as it is built.
So everything that works on the original works here: generation, PEFT, Trainer, `save_pretrained`. Without
`import superweights` the model type is unknown to transformers, and that is an error.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import AutoModelForCausalLM
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from superweights.pruning.absent import Gaps
from superweights.pruning.mark import GAPS, marked


@cache
def pruned_config(original: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """`original` as the config of a pruned model: it writes what is gone, and AutoModelForCausalLM knows it."""

    def to_dict(self: Any) -> dict[str, Any]:
        return marked(original.to_dict(self))

    def to_diff_dict(self: Any) -> dict[str, Any]:
        return marked(original.to_diff_dict(self))

    methods = {"to_dict": to_dict, "to_diff_dict": to_diff_dict, "__module__": original.__module__}
    # another name than the original's: by that, other auto classes would build the whole model
    pruned = type(f"Pruned{original.__name__}", (original,), methods)
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(original, None)
    if model is not None:
        AutoModelForCausalLM.register(pruned, _pruned_model(model, pruned), exist_ok=True)
    return pruned


def _pruned_model(original: Any, config: type[PreTrainedConfig]) -> type:
    """The model class `original` with gaps."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        original.__init__(self, config, *args, **kwargs)
        Gaps.from_dict(getattr(config, GAPS)).apply(self)

    # transformers converts a checkpoint's tensors by the name of the class, and none for one outside its own modules
    held = {"__init__": build, "config_class": config, "__module__": original.__module__}
    return type(original.__name__, (original,), held)
