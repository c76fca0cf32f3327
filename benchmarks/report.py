"""Writing a report and its first paint, beside a page of the same charts by plotly.

    python benchmarks/report.py RECORD... [--rounds 5]

Both pages are self-contained. Paint is Chromium's own first-contentful-paint (headless, selenium and chromedriver
needed), the median of the rounds, in turns; plotly's page has the charts alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from superweights.reports import read_records, render


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    records = read_records(options.records)
    start = time.perf_counter()
    page = render(records)
    written = time.perf_counter() - start
    pages = {"superweights report": page, "plotly, charts alone": by_plotly(page)}
    with tempfile.TemporaryDirectory() as folder:
        paints = painted(Path(folder), pages, options.rounds)
    print(f"written in {1000 * written:.0f} ms from {len(records)} records")
    print("| page | MB | first paint, ms |\n|---|--:|--:|")
    for name, text in pages.items():
        print(f"| {name} | {len(text.encode()) / 1e6:.2f} | {paints[name]:.0f} |")


def by_plotly(page: str) -> str:
    """The same charts, as one would write them in a notebook."""
    import plotly.graph_objects as go

    found = re.search(r'id="charts">(.*?)</script>', page)
    parts = []
    for chart in json.loads(found.group(1)) if found else []:
        figure = go.Figure(
            [go.Scatter(x=chart["x"], y=one["values"], name=one["name"]) for one in chart["series"]]
        )
        figure.update_layout(title=chart["title"], yaxis_type="log" if chart["log"] else "linear")
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    return f"<!doctype html><html><body>{''.join(parts)}</body></html>"


def painted(folder: Path, pages: dict[str, str], rounds: int) -> dict[str, float]:
    """Median milliseconds to the first contentful paint."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    times: dict[str, list[float]] = {name: [] for name in pages}
    with webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    ) as browser:
        for turn in range(rounds + 1):  # the first warms up
            for number, (name, text) in enumerate(pages.items()):
                path = folder / f"{number}.html"
                path.write_text(text, encoding="utf-8")
                browser.get(path.as_uri())
                time.sleep(1.5)
                script = "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
                found = browser.execute_script(script)
                if turn and found:
                    times[name].append(found[0])
    return {name: statistics.median(each) for name, each in times.items()}


if __name__ == "__main__":
    main()
