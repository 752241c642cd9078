"""Growth tables, pictures, and that the documents quote the last results and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import growth_table, quote
from tests.bench.test_report import a_run, built

ROOT = Path(__file__).resolve().parents[2]
POINT = {
    "rate_per_s": 1234.5, "mb_per_s": 5.0, "latency_us": 60.0, "cpu_us_per_request": 12.0, "cpu_s_per_gib": 3.0,
    "wakeups_per_request": 0.5, "log_writes_per_request": 0.25, "others_cpu_share": 0.0,
}  # fmt: skip
GROWTH = {
    "dimensions": {
        "device": [{"x": "1 GiB", "attach_s": 0.1, "anonymous_mib": 20.0}],
        "depth": [{"x": "1", **POINT}, {"x": "2", **POINT, "others_cpu_share": 0.5}],
        "log": [{"x": "half", **POINT}],
    }
}


def test_a_dimension_is_a_table_and_a_disturbed_point_is_marked():
    """Columns by what the dimension is about; what was not measured stays empty."""
    text = growth_table.markdown(GROWTH)
    assert "| 1 | 1,234 | 5 | 60 | 12.0 | 3.00 | 0.500 |" in text and "| 2 (n) |" in text
    assert "| 1 GiB | 0.10 | 20 |  |" in text and "log writes per request" in text


def test_pictures_are_drawn_for_every_row_and_dimension(tmp_path):
    """PNG and SVG, from what the reports say."""
    plots = pytest.importorskip("benchmarks.plots", reason="matplotlib is not installed")
    group = built(a_run("pydrbd", 0, 500), a_run("nbdkit", 0, 1000))
    (tmp_path / "latest.json").write_text(json.dumps({"schema": 2, "groups": [group]}))
    (tmp_path / "growth.json").write_text(json.dumps(GROWTH))
    assert plots.main([str(tmp_path)]) == 0
    for name in ("rates", "cpu", "latency", "growth-device", "growth-depth", "growth-log"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_the_documents_quote_the_last_results(name):
    """`python -m benchmarks.quote` would change nothing."""
    text = (ROOT / name).read_text()
    assert quote.quoted(text) == text and "<!-- end -->" in text
