"""Price lists: what loads, and what is refused with one sentence."""

import pytest

from physnn.configs import config_folder
from physnn.energy import LINES, bill, load_prices
from physnn.energy.facts import joules_per, load_facts
from physnn.process import load_process

PROCESS = load_process("cmos28")
LISTS = sorted(path.stem for path in (config_folder() / "hardware").glob("*.toml"))
PRICE = """
[[price]]
line = "arithmetic"
event = "mac"
low = 1
nominal = 2
high = 4
unit = "pJ/op"
source = "a test"
confidence = "high"
"""

PLAN = """
[floor_plan]
memory = "in place"
bit = "area.sram.allin"
chip = "chip.area.max"
"""


class Nothing:
    """A design that makes nothing happen."""

    def events(self, process, *, period_s):
        del process, period_s
        return ()


@pytest.fixture
def write(tmp_path):
    def write(text, *, head='description = "for a test"\n'):
        path = tmp_path / "own.toml"
        path.write_text(head + text)
        return path

    return write


@pytest.mark.parametrize("name", LISTS)
def test_every_list_loads_and_answers_for_every_line(name):
    prices = load_prices(name)
    assert prices.rows
    for price in prices.rows:
        assert 0 <= price.low <= price.nominal <= price.high
        assert price.source
        assert price.fact, "our own lists hold nothing but facts"
    empty = bill(Nothing(), prices, process=PROCESS, period_s=1e-6)
    assert empty.total.nominal == 0
    lines = {price.line for price in prices.rows}
    lines |= {each.line for each in prices.multipliers}
    assert lines | set(prices.zero_lines) == set(LINES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRICE.replace('source = "a test"\n', ""), "a `source`, but has neither"),
        (PRICE.replace('"a test"', '" "'), "a `source`, but has neither"),
        (PRICE.replace("low = 1", "low = 3"), "low <= nominal <= high"),
        (PRICE.replace("high = 4", "high = inf"), "low <= nominal <= high"),
        (PRICE.replace("nominal = 2", 'nominal = "two"'), "'two'"),
        (PRICE.replace("low = 1", "low = -1"), "not be negative"),
        (PRICE.replace('"high"', '"sure"'), "`confidence` must be one of"),
        (PRICE.replace("arithmetic", "arithmetics"), "`line` must be one of"),
        (PRICE.replace('"mac"', '"multiply"'), "`event` must be one of"),
        (PRICE.replace("unit", "units"), "also has `units`"),
        (PRICE.replace("pJ/op", "pJ/byte"), "energy per op, but is `pJ/byte`"),
        (PRICE.replace("pJ/op", "pW"), "such as `pJ/op`"),
        (PRICE + 'fact = "dig.7.int8.mac"', "`low` beside the fact"),
        (PRICE + "times = 8", "must have `times_why`"),
        (PRICE + 'times = 0\ntimes_why = "x"', "`times` must be positive"),
        (PRICE + "bits = 8", "`width` must be an id"),
        (PRICE + 'bits = 8\nwidth = "wire.7.default"', "an exponent that is"),
        (PRICE + 'width = "dig.mac.width"', "`bits` must be the positive width"),
        (PRICE + 'bits = 0\nwidth = "dig.mac.width"', "but is 0"),
        (PRICE + 'per = "token"', '`per` must be "batch"'),
        (PRICE + "zero = true", "must have a `reason`"),
        (PRICE + 'zero = true\nreason = "x"', "must have no price"),
        ('[[price]]\nzero = true\nreason = "x"', "has neither"),
        (
            '[[price]]\nline = "arithmetic"\nevent = "mac"\nfact = "dig.9"',
            "'dig.9'",
        ),
        (
            PRICE + '[[price]]\nzero = true\nevent = "mac"\nreason = "x"',
            "either priced or zero, but is both",
        ),
        ('[[multiplier]]\nline = "regulators"\nfact = "io.pcie5"', "`pJ/bit`"),
        ('[floor_plan]\nmemory = "in place"', "must hold `memory`"),
        (PLAN.replace("in place", "everywhere"), "one of ['in place'"),
        (PLAN.replace("area.sram.allin", "wire.7.default"), "in um2/bit, but is"),
        (PLAN.replace("chip.area.max", "chip"), "in mm2, but is 'chip'"),
        ("[[prices]]", "also has `prices`"),
        ("batch = 0", "`batch` must be at least 1"),
        ("[price]", "written as [[price]]"),
        ("price = [", "must be a TOML file"),
    ],
)
def test_bad_lists_get_one_sentence_with_file_and_row(write, text, said):
    path = write(text)
    with pytest.raises(ValueError, match="must") as error:
        load_prices(path)
    message = str(error.value)
    assert said in message
    assert str(path) in message
    assert "\n" not in message


def test_row_of_the_error_is_named(write):
    path = write(PRICE + PRICE.replace("low = 1", "low = 3"))
    with pytest.raises(ValueError, match=r"price 2 \(`mac`\)"):
        load_prices(path)


def test_unknown_list_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="gpu2030"):
        load_prices("gpu2031")


def test_units_of_facts():
    assert joules_per("pJ/op") == (1e-12, "op")
    assert joules_per("pJ/64b") == pytest.approx((1e-12 / 64, "bit"))
    assert joules_per("uJ/token") == (1e-6, "token")
    assert joules_per("fJ/bit/mm") == pytest.approx((1e-12, "bit·m"))
    assert joules_per("mW/Mib") == pytest.approx((1e-3 / 2**20, "bit·s"))
    assert joules_per("J/image") is None
    assert joules_per("x") is None


def test_fact_given_twice_is_refused(tmp_path):
    path = tmp_path / "facts.csv"
    table = (config_folder() / "hardware" / "energy_facts.csv").read_text()
    first, second, *_ = table.splitlines()
    path.write_text("\n".join([first, second, second]))
    with pytest.raises(ValueError, match=r"phys\.kT\.300K.*twice"):
        load_facts(path)


def test_unseen_facts_are_unverified():
    facts = load_facts()
    assert facts["mem.rom.bit.est"].confidence == "unverified"
    assert facts["founding.hbm.byte"].confidence == "high"
