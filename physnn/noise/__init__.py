"""Temporal noise: each source with a physical size and a source in the literature."""

from physnn.noise.bow import bowed as bowed
from physnn.noise.coupling import coupled as coupled
from physnn.noise.flicker import flicker_poles as flicker_poles
from physnn.noise.flicker import flicker_variance as flicker_variance
from physnn.noise.flips import bit_flip_probability as bit_flip_probability
from physnn.noise.flips import flip_bits as flip_bits
from physnn.noise.flips import flipped_places as flipped_places
from physnn.noise.flips import is_rare as is_rare
from physnn.noise.flips import misread as misread
from physnn.noise.metastable import decided_sign as decided_sign
from physnn.noise.metastable import metastable_window as metastable_window
from physnn.noise.shot import shot_variance as shot_variance
from physnn.noise.thermal import is_zero as is_zero
from physnn.noise.thermal import noisy as noisy
from physnn.noise.thermal import rms as rms
from physnn.noise.thermal import thermal_noise as thermal_noise
from physnn.noise.white import white as white
