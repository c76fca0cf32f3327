"""`designs`: the page of the three designs."""

from __future__ import annotations

from pathlib import Path


def designs(folder: Path | str, out: Path | str) -> Path:
    """The HTML file `out`, drawn from the results that `benchmarks/designs.py` keeps in `folder`.

    Raises `SuperweightsError` for a folder without any.

    >>> designs("build/designs", "designs.html")  # doctest: +SKIP
    """
    from superweights.artefacts.file import write_text
    from superweights.lab.designs.page import designs_page

    write_text(Path(out), designs_page(Path(folder)))
    return Path(out)
