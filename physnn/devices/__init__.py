"""Devices: what a transistor does, as a differentiable function, and its fit."""

from physnn.devices.ekv import EkvTransistor

__all__ = ["EkvTransistor"]
