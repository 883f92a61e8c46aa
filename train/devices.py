"""Devices that may stand in for the model in the forward pass, and their configs."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Key

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit, run
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.process import Process


class DeviceError(RuntimeError):
    """The device did not do what it was asked; the message says what and what to do."""


@runtime_checkable
class Device(Protocol):
    """What computes forward: a simulation of a chip, or a way to a real one."""

    def run(
        self,
        name: str,
        circuit: AbstractCircuit,
        xs: Float[Array, "time batch n_in"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Float[Array, "time batch n_out"]:
        """What circuit `name`, programmed like `circuit`, gives from rest; traceable.

        `key` is of its temporal noise, as far as that can be chosen.
        """
        ...


@dataclass(frozen=True)
class GapConfig:
    """A simulated chip that deliberately is not what the model says.

    - `nonlinearity`: the transfer of every layer is y ↦ (1 + η)·y − η·y³: its slope is
      wrong by η, its full scale is right;
    - `coupling`: relative standard deviation of every trained weight (bank of two
      axes), frozen, beside the process's own mismatch;
    - `input_noise`: standard deviation of what is added to every input of a layer, new
      each time [full scale].

    The defaults are the amounts of the physics-aware training of coupled oscillators
    (Wright et al. 2022, DOI 10.1038/s41586-021-04223-6, and its public code, where
    the argument of the oscillators' sine is wrong by 10 %).
    """

    kind: Literal["gap"] = "gap"
    nonlinearity: float = 0.1
    coupling: float = 0.2
    input_noise: float = 0.02
    seed: int = 0  # of what is frozen

    def __post_init__(self):
        for name in ("nonlinearity", "coupling", "input_noise", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"Argument `{name}` of the device must not be negative, but is"
                    f" {getattr(self, name)}."
                )

    def build(self) -> "GapDevice":
        return GapDevice(self)


@dataclass(frozen=True)
class ServedConfig:
    """A chip behind a socket that speaks the protocol of docs/hardware_in_the_loop.md.

    `physnn serve-chip RUN` plays one, as a model or with ngspice.
    """

    kind: Literal["served"] = "served"
    address: str = "127.0.0.1:7070"
    timeout_s: float = 30.0

    def __post_init__(self):
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(
                "Argument `address` of the device must be HOST:PORT, but is"
                f" {self.address!r}."
            )
        if not self.timeout_s > 0:
            raise ValueError(
                "Argument `timeout_s` of the device must be positive, but is"
                f" {self.timeout_s}."
            )

    def build(self) -> Device:
        from train.served import ServedDevice

        return ServedDevice(self.address, timeout_s=self.timeout_s)


DeviceConfig = GapConfig | ServedConfig


@dataclass(frozen=True)
class HardwareInTheLoop:
    """A device, and what it does in training.

    - `physics_aware`: forward through the device, backward through our model;
    - `in_silico`: training does not see the device;
    - `exact`: forward and backward through the device, which only a simulated one can:
      the ceiling.
    """

    training: Literal["physics_aware", "in_silico", "exact"] = "physics_aware"
    device: DeviceConfig = field(default_factory=GapConfig)

    def __post_init__(self):
        if self.training == "exact" and not isinstance(self.device, GapConfig):
            raise ValueError(
                "Training through the device itself (`exact`) must have one of kind"
                f" `gap`, which can be differentiated, but it is `{self.device.kind}`."
            )


class GapDevice:
    """The simulated chip of `GapConfig`."""

    def __init__(self, config: GapConfig):
        self.config = config

    def run(self, name, circuit, xs, *, process, key):
        c = self.config
        chip = self.chip(name, circuit, process)
        xs = xs + c.input_noise * jr.normal(stream(key, "input"), xs.shape)
        ys = run(chip, xs, process=process, key=stream(key, "noise"))
        return (1 + c.nonlinearity) * ys - c.nonlinearity * ys**3

    def chip(self, name: str, circuit: AbstractCircuit, process: Process):
        """The fabricated circuit with its wrong weights; frozen by the seed."""
        key = stream(stream(jr.key(self.config.seed), "device"), name)
        chip = fabricate(circuit, process, key=stream(key, "fabricate"))

        def wrong(path, leaf):
            if not isinstance(leaf, Bank) or leaf.value.ndim < 2:
                return leaf
            of_bank = stream(key, f"coupling{jtu.keystr(path)}")
            # Straight through the nominal value: a spread is not trained.
            error = (
                self.config.coupling
                * jax.lax.stop_gradient(leaf.nominal())
                * jr.normal(of_bank, leaf.value.shape)
            )
            if leaf.error is not None:
                error = error + leaf.error
            return eqx.tree_at(
                lambda bank: bank.error, leaf, error, is_leaf=lambda x: x is None
            )

        return jtu.tree_map_with_path(
            wrong, chip, is_leaf=lambda leaf: isinstance(leaf, Bank)
        )


def words(key: Key[Array, ""]) -> Array:
    """A seed of 32 bits for a device outside, drawn from `key`."""
    return jr.bits(key, (), jnp.uint32)
