"""`superweights.lab_run`: a whole suite trained, measured alike, and judged."""

from __future__ import annotations

from pathlib import Path

from superweights.artefacts.file import write_text
from superweights.lab.page import suite_page
from superweights.lab.running import run_suite
from superweights.lab.sheets import Shown, suite_shown
from superweights.lab.suites import suite_named
from superweights.progress import Progress, silent
from superweights.stopping import kept_in


def lab_run(
    suite: str,
    to: Path | str,
    *,
    quick: bool = False,
    workers: int = 1,
    ray: bool = False,
    progress: Progress = silent,
) -> Shown:
    """The tables of a suite, trained in the folder `to`; `to/page.html` is its page.

    Killed at any moment and called again it goes on where it was; an interrupt says so in a note. `quick` is a few
    steps and arms with one seed, to see that everything works; `workers` processes share the runs, one thread each,
    or with `ray` actors of a Ray cluster whose machines share the folder.
    """
    chosen = suite_named(suite)
    with kept_in(to):
        done = run_suite(chosen.quick() if quick else chosen, to, workers=workers, ray=ray, progress=progress)
    write_text(Path(to) / "page.html", suite_page(done))
    return suite_shown(done)
