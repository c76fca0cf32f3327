"""Task accuracy by lm-evaluation-harness, wrapped once; and our models registered in it.

Importing this room registers the model `superweights`, after which lm-eval's own command knows it. 0.4.13
looks for no entry points, so `python -m superweights.harness` is lm-eval's command with the import done:

    python -m superweights.harness --model superweights \\
        --model_args 'pretrained=embedded,edits=model.layers.11.mlp.down_proj.weight[507, 1229]=0' \\
        --tasks last_word --metadata '{"data": "passages.jsonl"}'
"""

from superweights.errors import SuperweightsError

try:
    import lm_eval  # noqa: F401
except ModuleNotFoundError:
    raise SuperweightsError(
        "Task accuracy needs lm-evaluation-harness.", hint='pip install "superweights[eval]"'
    ) from None

from superweights.harness.evaluate import Conditions, accuracy
from superweights.harness.model import SuperweightsLM
from superweights.harness.tasks import PACK

__all__ = ["PACK", "Conditions", "SuperweightsLM", "accuracy"]
