#!/bin/sh
# lm-evaluation-harness 0.4.13 tells a perplexity of 1e171, and ends with OverflowError when it estimates its error:
# the whole evaluation of a ruined model is lost at its end, accuracies too. Resampled perplexities are squared as
# Python floats, which raise where numpy's would be infinite; from about 1e154 on.
# Needs python3.11 or newer and the network; installs pinned packages into a temporary folder, and none of our code.
# Prints what it sees; the exit code is 1 when that is no longer what is described here.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lm_eval==0.4.13
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
from lm_eval.api.metrics import perplexity, stderr_for_metric

# Log-likelihoods of words, in nats, as a model without its super weight gives them; then those of a model that is merely bad.
ruined, bad = [-400.0, -401.0, -399.5, -380.0], [-40.0, -41.0, -39.5, -38.0]


def error_of(items):
    try:
        return f"{stderr_for_metric(perplexity, 1000)(items):.1e}"
    except OverflowError as error:
        return f"OverflowError: {error.args[-1]}"


for name, items in (("bad", bad), ("ruined", ruined)):
    print(f"{name}: perplexity {perplexity(items):.1e}, its error: {error_of(items)}")
seen = error_of(bad).startswith("Overflow"), error_of(ruined).startswith("Overflow")
raise SystemExit(seen != (False, True))
PYTHON
