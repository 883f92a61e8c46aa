"""The CSV beside a report: every figure of the gain, and empty where it is unknown."""

import csv
import io
import math

import pytest

from evals.report_tables import tables
from tests.report_results import results


def test_tables_hold_every_figure_of_the_gain():
    given = results()
    found = {n: [*csv.DictReader(io.StringIO(t))] for n, t in tables(given).items()}
    assert {name: len(rows) for name, rows in found.items()} == {
        "ladder.csv": 1 + 3 * 3,
        "ratios.csv": 3,
        "waterfall.csv": 3 * (1 + 2 + 1),
        "amdahl.csv": 4,
        "rulers.csv": 2,
        "next_to_shrink.csv": 2 * 3,
        "tornado.csv": 2 * 3,
    }
    ours = given["systems"][0]
    for row in found["ratios.csv"]:
        ratio = ours["ratios"][row["machine"]]
        assert float(row["ratio"]) == ratio["nominal"]
        # An open end is empty, not a number.
        assert row["seeds_high"] == ""
    for machine in "GAR":
        rows = [r for r in found["waterfall.csv"] if r["machine"] == machine]
        product = math.prod(float(r["factor"]) for r in rows if r["factor"])
        assert product == pytest.approx(ours["ratios"][machine]["nominal"])
        ranges = [(r["factor_low"], r["factor_high"]) for r in rows if r["factor"]]
        assert ranges == [("0.7", "0.9"), ("", "")]
    # Without a comparison the columns are there, and nothing else.
    bare = tables({"systems": [{"name": "x"}]})
    assert all(text.count("\n") == 1 for text in bare.values())
