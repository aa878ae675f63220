"""The benchmarks run, and what they measure can be read. No figure is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from package import PROJECT


def test_the_benchmarks_run(tmp_path: Path) -> None:
    """All but a boot, which is long, and whose container is tested."""
    measured = str(tmp_path / "bench.json")
    questions = ["commands", "passes", "watch", "files"]
    for words in (
        ["benchmarks", "--small", "--output", measured, *questions],
        ["benchmarks.results", measured, str(tmp_path)],
    ):
        subprocess.run(
            [sys.executable, "-m", *words],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": "tests"},
            stdout=subprocess.PIPE,
            check=True,
        )
    tables = json.loads(Path(measured).read_text())["tables"]
    page = (tmp_path / "benchmarks/RESULTS.md").read_text()
    assert tables
    for table in tables:
        assert f"## {table['title']}\n" in page
        assert all(f"\n| {side} |" in page for side in table["sides"])
    picture = "".join(ET.parse(tmp_path / "docs/speed.svg").getroot().itertext())
    assert all(each in picture for each in ("mountd reconcile", "the calls in C", "volumes"))
