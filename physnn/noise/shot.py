"""Shot noise: charge arrives in electrons."""

from physnn.process import Process
from physnn.units import ELEMENTARY_CHARGE_C


def shot_variance(charge_C, *, full_scale_C, process: Process):
    """Variance of what `charge_C` of current has moved [full scale²].

    A current I has the one-sided density 2qI; over a time t its charge has the variance
    q·I·t, q times the charge Q itself (Schottky 1918, DOI 10.1002/andp.19183622304). If
    `full_scale_C` moves a node by full scale: q·Q/Q_fs², times `shot_noise` of the
    process.

    **Not to be added to the thermal noise of the same transistor.** In weak inversion
    4kT·γ·g_m with γ = n/2 and g_m = I/(n·U_T) *is* 2qI (Sarpeshkar, Delbrück & Mead
    1993, DOI 10.1109/101.261888), so a node whose noise is stated as `thermal_noise`
    times kT/C has it already. It is for currents that flow without a loop that senses
    the node: tails that are integrated, photocurrents, leaking junctions.
    """
    # Ratios first: q·Q alone would leave float32.
    scale = full_scale_C * process.capacitance
    return process.shot_noise * (ELEMENTARY_CHARGE_C / scale) * (charge_C / scale)
