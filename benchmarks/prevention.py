"""What the suites of the lab gave, written into docs/lab.md: the output of the command, and claims beside it.

superweights lab run prevention --to DIR
python benchmarks/prevention.py DIR
python benchmarks/prevention.py --claims SIGNS DEPTH        # what was claimed in other suites, from their folders
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from superweights.lab.claims import claims
from superweights.lab.running import read_suite
from superweights.reports.blocks import Table
from superweights.reports.markdown import table_lines

PAGE = Path(__file__).parent.parent / "docs" / "lab.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="of the suite prevention")
    parser.add_argument("--claims", type=Path, nargs="*", default=[], help="folders of other suites")
    options = parser.parse_args()
    if options.folder is not None:
        put("prevention", f"```text\n{printed('lab', 'compare', str(options.folder))}```")
        put("claims", claimed(options.folder)[1])
        put("profile", f"```text\n{printed('profile', 'embedded', '--windows', '4')}```")
    for folder in options.claims:
        put(*claimed(folder))


def claimed(folder: Path) -> tuple[str, str]:
    """The name of the suite in `folder`, and a table of what was claimed."""
    run = read_suite(folder)
    rows = tuple((row.claim, row.paper, row.ours, row.verdict) for row in claims(run.suite, run.judged))
    return run.suite.name, table_lines(Table("", ("claim", "paper", "ours", "verdict"), rows))


def printed(*arguments: str) -> str:
    """What the command prints, up to its table of claims, which stands in a section of its own."""
    command = [sys.executable, "-m", "superweights", *arguments]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.rstrip() for line in shown.splitlines()]
    claimed = next((n for n, line in enumerate(lines) if line.split()[:2] == ["claim", "paper"]), len(lines))
    return "\n".join(line for line in lines[:claimed] if line) + "\n"


def put(name: str, text: str) -> None:
    """Write `text` between the marks `name` of the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = PAGE.read_text(encoding="utf-8").split(begin)
    tail = rest.split(end)[1]
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
