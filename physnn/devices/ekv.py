"""EKV: the current of a transistor in all regions, one smooth function."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.units import thermal_voltage_V

Scalar = float | Float[Array, ""]

# Roundings of |v_ds| and of the bend of the slope [V].
SMOOTH_V = 0.05
BEND_V = 0.2
# The names of the parameters in the order of a fit; the last two need data with v_sb.
PARAMETERS = (
    "specific_current_A",
    "threshold_V",
    "slope",
    "mobility",
    "barrier",
    "saturation",
    "early_per_V",
    "body",
    "bend",
)


class EkvTransistor(eqx.Module):
    """A MOS transistor from weak to strong inversion, symmetric in drain and source.

    With all voltages to the bulk (of a pMOS: all signs reversed), sp(x) = ln(1 + e^x),
    e = 50 mV, w = 0.2 V:

        a  = √((v_d − v_s)² + e²) − e           smooth |v_ds|
        m  = (v_d + v_s − a)/2                  smooth min(v_d, v_s)
        v0 = (v_g − V_T + body·m + barrier·a)/n
        v_p = v0 + bend·w·sp(v0/w)
        q_f = sp((v_p − v_s)/2U_T),  q_r = sp((v_p − v_d)/2U_T)
        I_d = I_s·(q_f² − q_r²)·(1 + early·a)
              / (mobility·(q_f + q_r)/2 + √(1 + saturation²·(q_f − q_r)²))

    I_d is odd under exchange of drain and source, so it passes Gummel's symmetry test,
    is exactly 0 at v_ds = 0, and has all derivatives. Deep in weak inversion g_m tends
    to I_d/(n·U_T), n over 1 + bend at v0 > 0.

    A set of parameters holds for one drawn geometry in the window it was fitted in
    (`physnn.devices.fit`). Does not model: output conductance to better than tens of
    percent, leakage, charge, noise.

    Based on Enz, Krummenacher, Vittoz 1995 (DOI 10.1007/BF01239381); symmetry tests of
    McAndrew 2006 (DOI 10.1109/TED.2006.881005).
    """

    specific_current_A: Scalar  # I_s
    threshold_V: Scalar  # V_T at v_sb = 0
    slope: Scalar  # n
    mobility: Scalar = 0.0  # loss of mobility with charge
    barrier: Scalar = 0.0  # drain-induced barrier lowering
    saturation: Scalar = 0.0  # of velocity
    early_per_V: Scalar = 0.0  # channel length modulation
    body: Scalar = 0.0  # of threshold with source voltage
    bend: Scalar = 0.0  # of the slope above threshold
    polarity: int = eqx.field(static=True, default=1)  # 1 nMOS, -1 pMOS

    def __check_init__(self):
        if self.polarity not in (1, -1):
            raise ValueError(
                "Argument `polarity` must be 1 (nMOS) or -1 (pMOS), but is"
                f" {self.polarity}."
            )

    def current(self, v_g, v_d, v_s, *, temperature_K: Scalar = 300.15):
        """I_d [A] into the drain for voltages [V] to the bulk, arrays of any shape."""
        sign = self.polarity
        v_g, v_d, v_s = (sign * jnp.asarray(v) for v in (v_g, v_d, v_s))
        softplus = lambda x: jnp.logaddexp(0.0, x)
        u_t = thermal_voltage_V(temperature_K)
        # √(x² + e²) − e without the loss of digits at small x.
        x = v_d - v_s
        a = x * x / (jnp.sqrt(x * x + SMOOTH_V**2) + SMOOTH_V)
        m = (v_d + v_s - a) / 2
        v0 = (v_g - self.threshold_V + self.body * m + self.barrier * a) / self.slope
        v_p = v0 + self.bend * BEND_V * softplus(v0 / BEND_V)
        q_f = softplus((v_p - v_s) / (2 * u_t))
        q_r = softplus((v_p - v_d) / (2 * u_t))
        total, drift = q_f + q_r, q_f - q_r
        loss = self.mobility * total / 2
        loss += jnp.sqrt(1 + (self.saturation * drift) ** 2)
        gain = self.specific_current_A * (1 + self.early_per_V * a)
        return sign * gain * total * drift / loss

    def values(self) -> dict[str, float]:
        """The parameters by name, as plain numbers."""
        return {name: float(getattr(self, name)) for name in PARAMETERS}
