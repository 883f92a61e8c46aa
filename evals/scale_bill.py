"""The bill of a design that nobody built: Joules, watts, area, latency of a config."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from evals.generator import generator
from evals.latency import least_latency, memory_B, served_at
from evals.rulers import event_rulers, ruler_table
from evals.scale import Unbuilt, count_parameters, grown, shapes_of
from evals.scale_notes import bytes_in_token, notes_of_circuit, notes_of_machine
from physnn.bank import Bank
from physnn.configs import config_folder
from physnn.energy import Ledger, Modeled, Prices, bill, load_prices
from physnn.energy.floor_plan import site_of
from physnn.process import Process, load_process
from physnn.units import readable
from train.baseline import TransformerConfig
from train.experiment import ModelConfig, load_experiment
from train.tasks import ImagesConfig

CLASSES = 10
# Tokens per second of a digital machine where nobody says: sets the time that its
# memories leak for per token.
RATE = 1000.0


@dataclass(frozen=True)
class Asked:
    """What `physnn bill` is asked: the design, then the machine, then the service.

    Of the design: `parameters` and `process` (None: the config's own), `context`
    [tokens], `vocabulary`, `bits` of its weights, and for a transformer `kv_heads`,
    `experts`, `active_experts`, `cache_bits`. `batch`, `tokens_per_pass`, `drafted` and
    `cache_waste` are those of `physnn.energy.Serving`; `prefill` computes a prompt of
    `context` tokens, `image_passes` so often an image of `context` patches.
    `tokens_per_second` is the rate of the machine, `user_rate` the least of each user:
    the batch is then the largest that allows it.
    """

    config: Path
    parameters: float | None = None
    context: int | None = None
    vocabulary: int | None = None
    kv_heads: int | None = None
    experts: int | None = None
    active_experts: int | None = None
    bits: int | None = None
    cache_bits: int | None = None
    process: str | None = None
    machine: str | None = None
    batch: float | None = None
    tokens_per_pass: float | None = None
    drafted: float | None = None
    cache_waste: float | None = None
    prefill: bool = False
    image_passes: int | None = None
    tokens_per_second: float | None = None
    user_rate: float | None = None
    bytes_per_token: float | None = None


@dataclass(frozen=True)
class ScaledBill:
    """The bill of one token, with what follows from it.

    - `multiplied`: multiplications with a weight per token; None where charges add.
    - `latency_s`: of one token of one user, or of an image; for a digital machine the
      least it can be (`evals.latency`); None: the list tells nothing of time.
    - `area_m2`: drawn area of all unit devices; None: not known (digital). The floor
      plan of the ledger has that of the parts, and the chips they take.
    - `tokens_per_image`: patches computed for an image; None: it makes none.
    - `memory_B`: weights and caches that are held, and `devices` that hold them.
    """

    name: str
    config: ModelConfig
    parameters: int
    multiplied: float | None
    ledger: Ledger
    tokens_per_second: float
    bytes_per_token: float
    bytes_per_token_source: str
    latency_s: float | None
    area_m2: float | None
    memory_B: float
    devices: int | None
    tokens_per_image: int | None
    notes: tuple[str, ...]

    @property
    def power_W(self) -> Modeled:
        return self.ledger.total.scaled(self.tokens_per_second)

    @property
    def image_J(self) -> Modeled | None:
        """Energy of a generated image [J]."""
        n = self.tokens_per_image
        return None if n is None else self.ledger.total.scaled(float(n))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, in SI units."""
        total = self.ledger.total
        return {
            "name": self.name,
            "config": dataclasses.asdict(self.config),
            "parameters": self.parameters,
            "multiplied_per_token": self.multiplied,
            "J_per_token": total.to_json(),
            "J_per_byte": total.scaled(1 / self.bytes_per_token).to_json(),
            "bytes_per_token": self.bytes_per_token,
            "bytes_per_token_source": self.bytes_per_token_source,
            "J_per_parameter": total.scaled(1 / self.parameters).to_json(),
            "tokens_per_image": self.tokens_per_image,
            "J_per_image": self.image_J and self.image_J.to_json(),
            "tokens_per_second": self.tokens_per_second,
            "power_W": self.power_W.to_json(),
            "latency_s": self.latency_s,
            "area_m2": self.area_m2,
            "memory_B": self.memory_B,
            "devices": self.devices,
            "largest": self.ledger.largest(),
            "caution": self.ledger.caution(),
            "notes": list(self.notes),
            "bill": self.ledger.to_json(),
            "rulers": [each.to_json() for each in event_rulers(self.ledger)],
        }

    def __str__(self):
        total, power = self.ledger.total, self.power_W
        each = total.scaled(1 / self.parameters)
        latency = "not modeled for this machine"
        if self.latency_s is not None:
            bound = "at least " if self.multiplied is not None else ""
            latency = bound + readable(self.latency_s, "s")
            most = "at most " if bound else ""
            what = "tokens" if self.tokens_per_image is None else "images"
            latency += f", {most}{1 / self.latency_s:.3g} {what}/s for one user"
        active = ""
        if self.multiplied is not None:
            active = f", {self.multiplied:.4g} multiplications per token"
        text = (
            f"  per byte       {total.scaled(1 / self.bytes_per_token)}"
            f" ({self.bytes_per_token:g} bytes per token:"
            f" {self.bytes_per_token_source})"
        )
        if self.image_J is not None:
            text = f"  per image      {self.image_J} ({self.tokens_per_image} patches)"
        lines = [
            f"{self.name}: {self.parameters:.4g} parameters{active}",
            f"  per token      {total}",
            text,
            f"  per parameter  {each}",
            f"  power          {readable(power.nominal, 'W')}"
            f" ({readable(power.low, 'W')} to {readable(power.high, 'W')}) at"
            f" {self.tokens_per_second:g} tokens/s",
            f"  latency        {latency}",
            f"  memory         {readable(self.memory_B, 'B')} of"
            f" {'stored codes' if self.multiplied is None else 'weights and caches'}"
            + (f", in {self.devices} of the device" if self.devices else ""),
            f"  area           {self._area()}",
            *(f"  note: {note}" for note in self.notes),
            "",
            str(self.ledger),
            ruler_table(event_rulers(self.ledger)),
        ]
        return "\n".join(lines)

    def _area(self) -> str:
        plan = self.ledger.plan
        if plan is not None:
            drawn = ""
            if self.area_m2 is not None:
                drawn = f"; {self.area_m2 * 1e6:.3g} mm² are drawn devices"
            chips = "one chip" if plan.chips <= 1 else f"{plan.chips} chips"
            return f"{plan.area_m2 * 1e6:.3g} mm² on {chips}, by its floor plan{drawn}"
        if self.area_m2 is None:
            return "not known for this machine"
        return (
            f"{self.area_m2 * 1e6:.3g} mm² of drawn devices; switches, spacing, stored"
            " codes and all that is digital are left out"
        )


def scaled_bill(asked: Asked) -> ScaledBill:
    """The bill that `asked` describes, from shapes alone.

    Raises `ValueError` for what does not fit together, in one sentence.
    """
    path = _config_path(asked.config)
    experiment = load_experiment(path)
    config = _asked_of(experiment.model, asked)
    process = load_process(asked.process or experiment.process)
    _check_bits(experiment.model, config, process)
    images = isinstance(experiment.task, ImagesConfig)
    task = experiment.task
    own = (CLASSES, 1.0) if isinstance(task, ImagesConfig) else task.symbols()
    vocabulary = asked.vocabulary or own[0]
    if asked.vocabulary is not None and asked.vocabulary < 2:
        raise ValueError(
            f"Argument `vocabulary` must be at least 2, but is {asked.vocabulary}."
        )
    if asked.parameters is not None:
        config = grown(config, asked.parameters, vocabulary=vocabulary, process=process)
    # What states no time per token is arithmetic, done by whatever machine.
    digital = not hasattr(config, "period_s")
    design = (Unbuilt if digital else shapes_of)(
        config, vocabulary=vocabulary, process=process
    )
    per_image = None
    if asked.image_passes is not None:
        design, per_image = generator(
            design, config, passes=asked.image_passes, patches=asked.context
        )
    prices = load_prices(asked.machine or ("gpu2030" if digital else "analog28"))
    own_s = None if digital else float(getattr(config, "period_s", 0.0))
    own_rate = RATE if own_s is None else 1 / own_s
    rate = own_rate if asked.tokens_per_second is None else asked.tokens_per_second
    if not 0 < rate < math.inf:
        raise ValueError(
            "Argument `tokens_per_second` must be positive and finite, but is"
            f" {asked.tokens_per_second}."
        )
    period_s = 1 / rate if own_s is None else own_s
    # A digital machine's period is the wait and the work; an analog one's is its work.
    busy = 1.0 if own_s is None else min(1.0, rate * own_s)
    prices = _served(prices, asked, config).served(utilization=busy)
    events = design.events(process, period_s=period_s)
    timed = {"period_s": period_s, "n_layers": site_of(design, process).n_layers}
    if asked.user_rate is not None:
        if not digital or asked.batch is not None:
            why = "`batch` is given, too: leave one of them out"
            if not digital:
                why = "this is a circuit, whose time per token is its own: leave it out"
            raise ValueError(
                f"Argument `user_rate` sets the batch of a digital machine, but {why}."
            )
        prices = served_at(asked.user_rate, events, prices, **timed)
    ledger = bill(design, prices, process=process, period_s=period_s)
    multiplied = sum(float(e.count) for e in events if e.name == "mac")
    held_B = memory_B(events, prices, period_s)
    devices, latency_s = None, own_s
    if digital:
        devices, latency_s = least_latency(events, prices, **timed)
        if per_image and not devices:
            # Of hard-wired layers nobody says how many patches they take at once.
            latency_s = None
    if per_image and latency_s is not None:
        latency_s = per_image * latency_s
    bytes_per_token, source = bytes_in_token(
        asked.bytes_per_token, vocabulary, images=images, own=own
    )
    area_m2 = None if digital else drawn_area_m2(design)
    return ScaledBill(
        name=f"{path.stem if path.stem != 'experiment' else path.parent.name} on"
        f" {prices.name}",
        config=config,
        parameters=design.parameters if digital else count_parameters(design),
        multiplied=multiplied if digital else None,
        ledger=ledger,
        tokens_per_second=rate,
        bytes_per_token=bytes_per_token,
        bytes_per_token_source=source,
        latency_s=latency_s,
        area_m2=area_m2,
        memory_B=held_B,
        devices=devices,
        tokens_per_image=per_image,
        notes=notes_of_machine(
            ledger,
            prices,
            rate,
            context=asked.context,
            trained=task.context,
            passes=asked.image_passes or 0,
        )
        if own_s is None
        else notes_of_circuit(
            own_s,
            rate,
            context=asked.context,
            drawn=per_image is not None,
            grown=asked.parameters is not None,
        ),
    )


def drawn_area_m2(design: Any) -> float:
    """Area of all unit devices of a design's banks, built or not [m²]."""
    banks = jax.tree.leaves(design, is_leaf=lambda node: isinstance(node, Bank))
    return sum(
        math.prod(bank.value.shape) * bank.n_units * bank.area_m2
        for bank in banks
        if isinstance(bank, Bank)
    )


def _config_path(path: Path) -> Path:
    """A TOML file, a run folder, or the name of a file in configs/experiments."""
    if path.is_dir():
        return path / "experiment.toml"
    named = config_folder() / "experiments" / f"{path}.toml"
    if path.suffix or path.is_file():
        return path
    if not named.is_file():
        known = sorted(each.stem for each in named.parent.glob("*.toml"))
        raise ValueError(
            f"Argument `config` must be a TOML file, a run folder or one of {known},"
            f" but is `{path}`."
        )
    return named


def _asked_of(config: ModelConfig, asked: Asked) -> ModelConfig:
    """The config with what was asked of the design itself."""
    names = {
        "kv_heads": "n_kv_heads",
        "experts": "n_experts",
        "active_experts": "n_active",
        "bits": "bits",
        "cache_bits": "cache_bits",
    }
    changes = {
        theirs: getattr(asked, ours)
        for ours, theirs in names.items()
        if getattr(asked, ours) is not None
    }
    for name in ("context", "kv_heads", "cache_bits"):
        least = getattr(asked, name)
        if least is not None and least < 1:
            raise ValueError(f"Argument `{name}` must be at least 1, but is {least}.")
    if isinstance(config, TransformerConfig):
        if asked.context is not None:
            changes["context"] = asked.context
        if asked.kv_heads and asked.parameters is not None:
            # Queries follow the width; here they only have to fit.
            changes["n_heads"] = config.n_heads * asked.kv_heads
        return dataclasses.replace(config, **changes)
    # Weights of a circuit, or of an image network, have bits, too.
    named = {each.name for each in dataclasses.fields(config)}
    for name in ("bits", "weight_bits"):
        if set(changes) == {"bits"} and name in named:
            return dataclasses.replace(config, **{name: changes["bits"]})
    if changes:
        ours = next(key for key, theirs in names.items() if theirs in changes)
        raise ValueError(
            f"Argument `{ours}` must be left out of a model of kind `{config.kind}`:"
            " it has none."
        )
    return config


def _check_bits(own: ModelConfig, asked: ModelConfig, process: Process) -> None:
    """Raises `ValueError` for other bits of weights in a design that has no weights."""
    name = "weight_bits"
    if getattr(own, name, None) == getattr(asked, name, None):
        return
    events = (
        shapes_of(each, vocabulary=CLASSES, process=process).events(
            process, period_s=1e-6
        )
        for each in (own, asked)
    )
    counts = [[(e.name, e.part, float(e.count)) for e in each] for each in events]
    if counts[0] == counts[1]:
        raise ValueError(
            f"Argument `bits` must be left out of a design without weights, but is"
            f" {getattr(asked, name)}: nothing in this `{own.kind}` is coded by it, its"
            " bill would be the same."
        )


def _served(prices: Prices, asked: Asked, config: ModelConfig) -> Prices:
    if hasattr(config, "period_s") and asked.batch not in (None, 1):
        raise ValueError(
            f"Argument `batch` must be left out of a circuit, but is {asked.batch:g}:"
            " its state is of one sequence, and nothing is shared by several."
        )
    names = ("batch", "tokens_per_pass", "drafted", "cache_waste")
    serving: dict[str, Any] = {
        name: getattr(asked, name) for name in names if getattr(asked, name) is not None
    }
    if not isinstance(config, TransformerConfig):
        shared = [k for k in serving if k != "batch"]
        if asked.prefill or shared:
            raise ValueError(
                f"Argument `{'prefill' if asked.prefill else shared[0]}` must be left"
                f" out of a model of kind `{config.kind}`: it reads no weights that"
                " several tokens could share."
            )
    elif asked.prefill or asked.image_passes:
        serving["prompt"] = config.context
    return prices.served(**serving)
