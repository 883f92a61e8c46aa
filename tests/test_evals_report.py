"""The report page, opened in a real browser, and the JSON beside it."""

import copy
import json
import math
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from evals import plots
from evals.bill_plots import by_line, by_part
from evals.doctor import find_tool
from evals.plots import smooth, times
from evals.report import plain, read_results, render, write_report
from evals.report_tables import tables
from evals.report_view import headline, merged, nearest, own_bill, verdict
from tests.report_results import physical_bill, results, span

SECTIONS = (
    "headline",
    "summary",
    "ratios",
    "evidence",
    "gain",
    "sensitivity",
    "limits",
    "sides",
    "bills",
    "left-out",
    "projection",
    "hand-off",
    "sources",
    "provenance",
)
OF_RUN = ("energy", "curves", "chips", "amdahl", "bill-lines", "bill-parts")
PLOTS = (
    *(f"plot-{name}" for name in OF_RUN),
    *(f"plot-{name}-0-{m}" for name in ("waterfall", "tornado") for m in "GAR"),
)
FILES = sorted(["report.html", "results.json", *tables(results())])


# Measures the page from inside and writes what it found into a last element.
PROBE = """<script>
const box = (e) => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
const list = (q) => [...document.querySelectorAll(q)];
const rows = (e) => e.tBodies[0].rows.length;
const found = {
  sections: Object.fromEntries(list("section").map((e) => [e.id, box(e)[1]])),
  plots: Object.fromEntries(list("figure").map((e) => [e.id, {
    svg: e.querySelector("svg") ? box(e.querySelector("svg")) : null,
    shapes: e.querySelectorAll("svg path, svg use").length,
    words: [...e.querySelectorAll("svg text")].map((t) => t.textContent),
    title: (e.querySelector("svg > title") || {}).textContent,
    why: (e.querySelector(".why") || {}).textContent,
  }])),
  tables: Object.fromEntries(list("table[id]").map((e) => [e.id, rows(e)])),
  bills: list("table.bill").map(rows),
  overflow: document.documentElement.scrollWidth - innerWidth,
  twice: list("[id]").map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
  dead: list("a[href^='#']").filter((a) => !document.querySelector(a.hash)).length,
};
const out = document.createElement("pre");
out.id = "probe"; out.textContent = JSON.stringify(found);
document.body.append(out);
</script>"""


class _Probe(HTMLParser):
    inside, text = False, ""

    def handle_starttag(self, tag, attrs):
        self.inside = self.inside or ("id", "probe") in attrs

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "pre"

    def handle_data(self, data):
        self.text += data if self.inside else ""


def chromium(page: Path, folder: Path, width: int) -> tuple[str, str]:
    """The page's DOM after it ran in a real browser, and all the console said."""
    browser = find_tool("chromium").path
    assert browser is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
        " --disable-background-networking --disable-component-update --disable-sync"
        f" --window-size={width},900 --user-data-dir={folder / str(width)}"
        " --enable-logging=stderr --v=0 --virtual-time-budget=2000 --dump-dom"
    )
    command = [browser, *flags.split(), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def inspect(results: dict, folder: Path, width: int = 1200) -> dict:
    """Write the report, open it, and return what is really on the page."""
    page = write_report(results, folder)
    html = page.read_text(encoding="utf-8")
    # The page itself says nothing; the probe goes into a copy.
    _, console = chromium(page, folder, width) if width == 1200 else ("", "")
    assert console == ""
    probed = folder / "probed.html"
    probed.write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom, console = chromium(probed, folder, width)
    assert console == ""
    parser = _Probe()
    parser.feed(dom)
    return json.loads(parser.text)


@pytest.mark.needs_chromium
def test_every_section_plot_and_table_is_on_the_page(tmp_path):
    given = results()
    page = inspect(given, tmp_path)
    assert set(page["sections"]) == set(SECTIONS)
    assert all(height > 40 for height in page["sections"].values())
    assert set(page["plots"]) == set(PLOTS)
    for name, plot in page["plots"].items():
        assert plot["svg"] is not None, (name, plot["why"])
        assert min(plot["svg"]) > 100, name
        assert plot["shapes"] > 8, name
        assert plot["title"], name
        assert any("[" in w or "bits per byte" in w for w in plot["words"]), name
    lines = {
        row["line"]
        for s in given["systems"]
        for b in s["bills"].values()
        for row in [*b["rows"], *b["zeros"]]
    }
    assert page["tables"] == {
        "table-summary": 4,
        "table-chips": 8,
        "table-amdahl": 4,
        "table-rulers": 2,
        "table-ratios": 3,
        "table-factors-1": 2,
        "table-next-1": 1 + 2,
        "table-projection": 3,
        "table-sides": len(lines),
        "table-zeros": 3 + 3,
        "table-verify": 2,
        "table-sources": 9,
    }
    # The four mixers and channels are one row each way they spend.
    assert page["bills"] == [4 + 5] + 9 * [4]
    assert page["twice"] == []
    assert page["dead"] == 0
    # All systems are named in the learning curves, the ratios on the ladder.
    assert {s["name"] for s in given["systems"]} <= set(
        page["plots"]["plot-curves"]["words"]
    )
    ours = given["systems"][0]
    ratios = {f"{m}: {times(r['nominal'])}" for m, r in ours["ratios"].items()}
    assert ratios <= set(page["plots"]["plot-energy"]["words"])
    # Every factor and every price is on its plot.
    for machine in "GAR":
        steps = ours["waterfall"][machine]["steps"]
        said = {step["name"] for step in steps} | {times(s["factor"]) for s in steps}
        assert said <= set(page["plots"][f"plot-waterfall-0-{machine}"]["words"])
        said = {"leak.7.sram (ours)", "ovh.vr (both)", "price low", "price high"}
        assert said <= set(page["plots"][f"plot-tornado-0-{machine}"]["words"])


@pytest.mark.needs_chromium
def test_fits_a_narrow_screen(tmp_path):
    page = inspect(results(), tmp_path, width=500)
    assert page["overflow"] <= 0
    assert all(300 < plot["svg"][0] <= 500 for plot in page["plots"].values())


def test_asks_nothing_of_the_network_and_runs_no_script(tmp_path):
    html = write_report(results(), tmp_path).read_text(encoding="utf-8")
    assert "http" not in html
    assert "<script" not in html
    assert "url(" not in html.replace("url(#", "")
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', html) == [
        "data:,",
        "results.json",
        *tables(results()),
    ]


def test_same_results_same_bytes(tmp_path):
    pages = [write_report(results(), tmp_path / name) for name in ("a", "b", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    twins = [(tmp_path / name / "results.json").read_bytes() for name in ("a", "b")]
    assert twins[0] == twins[1]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == FILES


def test_json_holds_every_figure_and_draws_the_same_page(tmp_path):
    page = write_report(results(), tmp_path)
    again = read_results(tmp_path)
    assert again == results()
    assert render(again) == page.read_text(encoding="utf-8")


def test_numbers_of_any_library_become_plain():
    given = {"a": np.float32(0.5), "b": jnp.arange(2), "c": (1, math.nan), 3: math.inf}
    assert plain(given) == {"a": 0.5, "b": [0, 1], "c": [1, None], "3": None}


@pytest.mark.needs_chromium
def test_hostile_names_are_text(tmp_path):
    given = results()
    evil = "<script>oops()</script>&\"'$x_1$"
    system = given["systems"][1]
    system["name"] = evil
    given["title"] = given["data"]["name"] = given["provenance"]["command"] = evil
    given["notes"] = [evil]
    ours = given["systems"][0]
    ours["waterfall"]["G"]["steps"][0]["name"] = evil
    ours["tornado"]["G"][0]["price"] = ours["next_to_shrink"][0]["line"] = evil
    ours["amdahl"][0]["line"] = given["verify"][0]["name"] = evil
    for row in given["systems"][0]["bills"]["analog28"]["rows"]:
        row["source"] = row["part"] = row["line"] = evil
    page = inspect(given, tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert evil in page["plots"]["plot-curves"]["words"]
    assert page["tables"]["table-summary"] == 4


def test_a_long_name_leaves_room_for_the_bars():
    found = results()
    physical = next(s for s in found["systems"] if s["kind"] == "physical")
    physical["name"] = "a long name " * 12
    # Matplotlib warns where there is no room, and a warning is an error here.
    assert "plot-waterfall-0-G" in render(found)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("ratios", "No ratio: this run did not compare"),
        ("waterfall", "No waterfall:"),
        ("tornado", "No tornado:"),
        ("projection", "No projection:"),
        ("verify", "No check: the exported cells"),
        ("provenance", "No provenance:"),
        ("bills", "No bill: no system of this run was priced."),
        ("curve", "No learning curve:"),
        ("quality", "No chip-to-chip plot:"),
    ],
)
def test_what_is_missing_says_why(missing, sentence):
    given = results()
    given.pop(missing, None)
    for system in given["systems"]:
        system.pop(missing, None)
        if missing == "curve":
            del system["validation"]
    html = render(given)
    assert sentence in html
    # A plot is drawn or explained, never empty.
    for figure in re.findall(r"<figure.*?</figure>", html, flags=re.S):
        assert ("<svg" in figure) != ('class="why"' in figure)
    assert html.count("<section") == len(SECTIONS)


def test_a_bare_result_still_makes_a_page():
    html = render({"systems": [{"name": "x", "kind": "physical"}]})
    assert "<svg" not in html
    assert html.count('class="why"') >= len(PLOTS)


def test_headline_is_honest():
    physical = results()["systems"][0]
    own = own_bill(physical)
    ratios = {
        "G": span(300.0) | {"relation": ">="},
        "A": span(1.2),
        "R": span(0.3),
    }
    said = headline(physical, own, ratios)
    assert "≥ 300× the energy on G (150× to 600×)" in said
    assert "0.3× the energy on R" in said
    assert verdict(ratios) == (
        "Cheaper than G at every price assumed. Undecided against A: the prices"
        " overlap. Dearer than R at every price assumed."
    )
    below = {
        "G": {"low": None, "nominal": None, "high": None, "verdict": "below ladder"}
    }
    assert "No ratio at equal quality" in headline(physical, own, below)
    assert "below ladder" in headline(physical, own, below)
    assert "Not comparable with G" in verdict(below)


def test_a_ratio_below_the_ladder_is_drawn_as_none():
    given = results()
    for ratio in given["systems"][0]["ratios"].values():
        ratio |= dict.fromkeys(("low", "nominal", "high", "opponent_J"))
        ratio |= {"relation": "below ladder", "verdict": "below ladder: no rung"}
    html = render(given)
    assert html.count("no ratio</b>") == 3
    assert "below ladder: no rung" in html


def test_sums_of_a_bill_keep_the_total():
    bill = physical_bill()
    total = bill["total_J"]["nominal"]
    for sums in (by_line(bill), by_part(bill)):
        assert sum(energy[1] for energy in sums.values()) == pytest.approx(total)
        order = [energy[1] for energy in sums.values()]
        assert order == sorted(order, reverse=True)
    assert by_part(bill)["channel"][1] == pytest.approx(4 * 0.3e-10 * 0.9)
    rows = merged(bill["rows"])
    assert sum(row["energy_J"]["nominal"] for row in rows) == pytest.approx(
        total, rel=1e-6, abs=0
    )
    assert {"mixer*.input.amplifiers"} < {row["part"] for row in rows}
    assert bill == physical_bill(), "merging must leave the bill itself alone"


def test_several_physical_systems_each_have_their_plots():
    given = results()
    second = copy.deepcopy(given["systems"][0]) | {"name": "oscillators"}
    given["systems"].insert(1, second)
    html = render(given)
    for i in range(2):
        for name in ("waterfall", "tornado"):
            assert html.count(f'<figure id="plot-{name}-{i}-G"') == 1
    assert "oscillators: 2.2" in html
    assert html.count("table-next-") == 2


def test_latency_of_digital_machines_is_a_bound_for_each():
    page = render(results())
    assert "G ≥ 20 ns" in page
    assert "A ≥ 540 ns" in page
    assert "R ≥" not in page  # nothing is known of it here
    assert "not modeled" not in page


def test_opponent_is_the_nearest_in_quality():
    physical, *transformers = results()["systems"]
    assert nearest(physical, transformers) is transformers[1]


def test_smoothing_keeps_lines_and_quiets_noise():
    line = np.linspace(3.0, 2.0, 500)
    np.testing.assert_allclose(smooth(line), line[6:-6], atol=1e-12)
    noise = np.random.default_rng(0).normal(size=5000)
    assert smooth(noise)[100:-100].std() < 0.15


def test_colors_stay_with_the_system():
    systems = results()["systems"]
    chosen = plots.colors(systems)
    assert len(set(chosen.values())) == len(systems)
    assert chosen[systems[0]["name"]] in plots.PHYSICAL_COLORS


def test_a_failed_write_loses_nothing(tmp_path):
    page = write_report(results(), tmp_path)
    before = page.read_bytes()
    (tmp_path / "results.json").unlink()
    (tmp_path / "results.json").mkdir()
    changed = copy.deepcopy(results()) | {"title": "another"}
    with pytest.raises(OSError, match=r"could not be written .* again"):
        write_report(changed, tmp_path)
    assert page.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no results file"),
        ("{", "not valid JSON"),
        ('{"a": 1}', "no list `systems`"),
        ("[]", "no list `systems`"),
    ],
)
def test_a_bad_results_file_gets_one_sentence(tmp_path, content, words):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_results(tmp_path)


def test_results_without_systems_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one entry under `systems`"):
        write_report({"systems": []}, tmp_path)
