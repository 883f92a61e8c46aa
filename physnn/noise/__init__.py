"""Temporal noise: each source with a physical size and a source in the literature."""

from physnn.noise.thermal import thermal_noise as thermal_noise
from physnn.noise.white import white as white
