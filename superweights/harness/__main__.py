"""lm-evaluation-harness's own command, with our model and our tasks known to it."""

from __future__ import annotations

import sys

from lm_eval.__main__ import cli_evaluate

from superweights.errors import SuperweightsError
from superweights.harness import PACK


def main() -> int:
    """The exit code of lm-eval's command line; our errors in one sentence and a hint."""
    if "--tasks" in sys.argv and not any(word.startswith("--include_path") for word in sys.argv):
        sys.argv += ["--include_path", str(PACK)]
    try:
        cli_evaluate()
    except SuperweightsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
