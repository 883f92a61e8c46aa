"""Measured Joules: what decoding a transformer takes by this machine's counters."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from evals.decode import decode, empty_cache
from physnn.energy import Measured, Modeled, bill, load_prices
from physnn.units import readable
from train.baseline import FlaxModel, TransformerConfig
from train.loop import TrainedRun, load_run

POWERCAP = Path("/sys/class/powercap")
# Counters of accelerators update every 0.1 s: below 5 s they mean little
# (fact ovh.nvml.granularity in configs/hardware/energy_facts.csv).
WINDOW_S = 5.0
# Domains of a processor that are inside another one, or hold all of them.
_COUNTED_ELSEWHERE = ("core", "uncore", "psys")


class CannotMeasure(RuntimeError):
    """This machine has no counter that can be read; the message says why."""


@runtime_checkable
class Meter(Protocol):
    """An instrument: `measure` runs something and says what it took."""

    def measure(self, work: Callable[[], Any]) -> Measured: ...


@dataclass(frozen=True)
class RaplMeter:
    """Energy counters of a processor and its memory, as Linux shows them in powercap.

    Sums the packages and their DRAM. A counter starts anew at `max_energy_range_uj`,
    which takes a minute at full power: `measure` is right across one such turn.
    Reference: Running Average Power Limit, Intel SDM volume 3, "Power and thermal
    management"; Documentation/power/powercap of the Linux kernel.

    Raises `CannotMeasure` when the folder has no such counter or forbids to read it.
    """

    folder: Path = POWERCAP

    def __post_init__(self):
        self.read_uJ()

    def read_uJ(self) -> dict[Path, tuple[int, int]]:
        """Every counter that is summed: what it shows, and where it turns over [µJ]."""
        found = {}
        try:
            for zone in sorted(self.folder.glob("intel-rapl:*")):
                name = (zone / "name").read_text().strip()
                if name.split("-")[0] not in _COUNTED_ELSEWHERE:
                    shown = int((zone / "energy_uj").read_text())
                    turn = int((zone / "max_energy_range_uj").read_text())
                    found[zone] = (shown, turn)
        except (OSError, ValueError) as error:
            raise CannotMeasure(
                f"Nothing is measured: the energy counters in {self.folder} cannot be"
                f" read ({error}); run as root, or let your user read `energy_uj`."
            ) from error
        if not found:
            raise CannotMeasure(
                "Nothing is measured: this machine shows no GPU to JAX and no energy"
                f" counter of its processor in {self.folder}."
            )
        return found

    def measure(self, work: Callable[[], Any]) -> Measured:
        """Run `work`; the energy of all domains meanwhile."""
        before, began = self.read_uJ(), time.monotonic()
        work()
        after, ended = self.read_uJ(), time.monotonic()
        if before.keys() != after.keys():
            raise CannotMeasure(
                "Nothing is measured: the energy counters changed while they were read."
            )
        total_uJ = sum(
            (shown - before[zone][0]) % (turn + 1)
            for zone, (shown, turn) in after.items()
        )
        what = f"RAPL, {len(after)} domains of packages and DRAM"
        return Measured(1e-6 * total_uJ, ended - began, what)


@dataclass(frozen=True)
class GpuMeter:
    """The energy counter of one NVIDIA GPU, read through Zeus (`physnn[measure]`).

    Zeus: You et al. 2023, "Zeus: understanding and optimizing GPU energy consumption of
    DNN training", NSDI 2023. Raises `CannotMeasure` without the package or a GPU.
    """

    index: int = 0

    def __post_init__(self):
        self._monitor()

    def _monitor(self) -> Any:
        try:
            zeus = importlib.import_module("zeus.monitor")
        except ImportError as error:
            raise CannotMeasure(
                "Nothing is measured: reading a GPU's counter takes Zeus, which is not"
                " installed: `pip install 'physnn[measure]'`."
            ) from error
        try:
            return zeus.ZeusMonitor(
                gpu_indices=[self.index], cpu_indices=[], sync_execution_with="jax"
            )
        except Exception as error:  # of NVML, whatever its kind
            raise CannotMeasure(
                f"Nothing is measured: Zeus cannot read GPU {self.index}: {error}."
            ) from error

    def measure(self, work: Callable[[], Any]) -> Measured:
        """Run `work`; the energy of the whole board meanwhile."""
        monitor = self._monitor()
        monitor.begin_window("physnn")
        work()
        found = monitor.end_window("physnn")
        what = f"NVML through Zeus, the board of GPU {self.index}"
        return Measured(float(found.total_energy), float(found.time), what)


def find_meter() -> Meter:
    """The meter of what JAX computes on. Raises `CannotMeasure` if it has none."""
    if jax.default_backend() == "gpu":
        return GpuMeter()
    return RaplMeter()


@dataclass(frozen=True)
class Decoding:
    """What decoding took: with everything, doing nothing, and what a price list says.

    - `active`, `idle`: two windows, of work and of none.
    - `model`: the bill of a token on `list`; None where no list is of this machine.
    """

    active: Measured
    idle: Measured
    tokens: int
    batch: int
    device: str
    list: str
    model: Modeled | None

    @property
    def idle_W(self) -> float:
        return self.idle.energy / self.idle.window_s

    @property
    def token_J(self) -> Measured:
        """Of one token, idle power subtracted."""
        above = self.active.energy - self.idle_W * self.active.window_s
        return Measured(
            above / self.tokens,
            self.active.window_s,
            f"{self.active.instrument}, idle subtracted",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "instrument": self.active.instrument,
            "batch": self.batch,
            "tokens": self.tokens,
            "window_s": self.active.window_s,
            "idle_window_s": self.idle.window_s,
            "active_J": self.active.energy,
            "idle_W": self.idle_W,
            "measured_J_per_token": self.token_J.energy,
            "measured_J_per_token_with_idle": self.active.energy / self.tokens,
            "list": self.list,
            "modeled_J_per_token": self.model and self.model.to_json(),
        }

    def __str__(self):
        each, whole = self.token_J.energy, self.active.energy / self.tokens
        lines = [
            f"measured   {readable(each, 'J')} per token above idle,"
            f" {readable(whole, 'J')} with it: {self.tokens:,} tokens in batches of"
            f" {self.batch} in {readable(self.active.window_s, 's')} on {self.device}",
            f"           by {self.active.instrument};"
            f" idle {readable(self.idle_W, 'W')}, over"
            f" {readable(self.idle.window_s, 's')}",
        ]
        if self.model is None:
            lines.append("modeled    no price list is of such a machine")
        else:
            ratio = whole / self.model.nominal
            lines.append(
                f"modeled    {self.model} per token on {self.list}: measured with idle"
                f" is {ratio:.3g}x of it"
            )
        return "\n".join(lines)


def measure_run(
    folder: str | Path, *, batch: int = 8, prices: str = "h100"
) -> Decoding:
    """Measure the decoding of a run's transformer by what this machine has.

    Raises `CannotMeasure` when it has no counter, `ValueError` for a run that is no
    transformer and a batch below one, and what `load_run` raises.
    """
    run = load_run(folder)
    check_measurable(run, batch)
    return measure_decoding(run, find_meter(), batch=batch, prices=prices)


def measured_or_why(
    folder: str | Path, *, batch: int, prices: str
) -> tuple[Decoding | None, str]:
    """`measure_run`, or the sentence that says what this machine lacks for it."""
    try:
        return measure_run(folder, batch=batch, prices=prices), ""
    except CannotMeasure as error:
        return None, str(error)


def check_measurable(run: TrainedRun, batch: int) -> None:
    """Raises `ValueError` unless decoding this run can be measured."""
    config = run.experiment.model
    if not isinstance(config, TransformerConfig):
        raise ValueError(
            "What is measured must be a transformer, because no circuit here is of"
            f" silicon, but the model is of kind `{config.kind}`."
        )
    if batch < 1:
        raise ValueError(f"Argument `batch` must be at least 1, but is {batch}.")


def measure_decoding(
    run: TrainedRun,
    meter: Meter,
    *,
    batch: int,
    prices: str = "h100",
    window_s: float = WINDOW_S,
) -> Decoding:
    """Idle for `window_s`, then decode for as long; both measured.

    Sequences as long as the trained context are decoded from their first token with a
    KV cache, each token drawn from the logits before it, all within one compiled loop:
    the mean token attends to half of the context, as in the bill.
    """
    model, context = run.model, run.experiment.task.context
    assert isinstance(model, FlaxModel)
    sequence = jax.jit(partial(_sequence, batch=batch, context=context))
    # Compiles, and settles clocks.
    jax.block_until_ready(sequence(model, jr.key(0)))
    idle = meter.measure(lambda: time.sleep(window_s))
    done = 0

    def work() -> None:
        nonlocal done
        began, key = time.monotonic(), jr.key(1)
        while time.monotonic() - began < window_s:
            key = jr.fold_in(key, done)
            jax.block_until_ready(sequence(model, key))
            done += 1

    active = meter.measure(work)
    device = jax.devices()[0]
    listed = None
    if device.platform == "gpu":
        served = load_prices(prices).at_batch(batch)
        listed = bill(model, served, process=run.process, period_s=1e-6).total
    return Decoding(
        active,
        idle,
        done * batch * context,
        batch,
        device.device_kind,
        prices,
        listed,
    )


def _sequence(model: FlaxModel, key: Key[Array, ""], *, batch: int, context: int):
    """`batch` sequences of `context` tokens, drawn one token after the other."""

    def step(carry, key):
        cache, tokens = carry
        cache, logits = decode(model, cache, tokens)
        return (cache, jr.categorical(key, logits)), tokens

    start = empty_cache(model, batch=batch, context=context)
    first = (start, jnp.zeros(batch, jnp.int32))
    return jax.lax.scan(step, first, jr.split(key, context))[1]
