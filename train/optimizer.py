"""The optimizer: AdamW with warm-up and cosine decay, as an optax chain."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from train.sharpness import sharpness_aware


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with a cosine schedule."""

    peak_rate: float = 3e-3
    final_rate: float = 0.1  # of the peak, at the last step
    warmup: float = 0.05  # part of the steps in which the rate rises
    weight_decay: float = 0.1  # of matrices; vectors and scalars are left alone
    clip_norm: float = 1.0  # the global norm of a gradient is clipped to this
    b1: float = 0.9
    b2: float = 0.95
    # Radius of the ball in which the loss is to be low everywhere: sharpness-aware
    # minimization (Foret et al. 2021, arXiv 2010.01412), at twice the time; 0: none.
    sharpness: float = 0.0

    def __post_init__(self):
        if not 0 < self.peak_rate < math.inf:
            raise ValueError(
                "Argument `peak_rate` must be positive and finite, but is"
                f" {self.peak_rate}."
            )
        if not self.clip_norm > 0:
            raise ValueError(
                "Argument `clip_norm` must be positive (inf: gradients are not"
                f" clipped), but is {self.clip_norm}."
            )
        if not 0 <= self.final_rate <= 1:
            raise ValueError(
                "Argument `final_rate` must be from 0 to 1 of the peak, but is"
                f" {self.final_rate}."
            )
        for name in ("warmup", "b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"Argument `{name}` must be from 0 to below 1, but is"
                    f" {getattr(self, name)}."
                )
        for name in ("weight_decay", "sharpness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Argument `{name}` must be finite and not negative, but is"
                    f" {getattr(self, name)}."
                )

    def schedule(self, steps: int) -> optax.Schedule:
        """Learning rate by step: linear from 0 to the peak, then a cosine down."""
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.peak_rate,
            # Never zero, so that a first step of rate zero is not the whole warm-up.
            warmup_steps=max(1, round(self.warmup * steps)),
            decay_steps=max(2, steps),
            end_value=self.final_rate * self.peak_rate,
        )

    def build(
        self,
        *,
        steps: int,
        decay: optax.Schedule | None = None,
        sharpness: optax.Schedule | None = None,
        skip: int = 0,
    ) -> optax.GradientTransformationExtraArgs:
        """The chain; `decay` and `sharpness` are multiples of the config's by step.

        With `skip` its state is an `optax.ApplyIfFiniteState`: a gradient that is not
        finite changes nothing, up to `skip` of them in a row. Its update is given
        `slope` and `step`, which `sharpness_aware` reads.
        """
        weight_decay = self.weight_decay
        if decay is not None:
            weight_decay = lambda step: self.weight_decay * decay(step)
        chain = optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                self.schedule(steps),
                b1=self.b1,
                b2=self.b2,
                weight_decay=weight_decay,
                mask=lambda params: jax.tree.map(lambda p: jnp.ndim(p) >= 2, params),
            ),
        )
        chain = optax.apply_if_finite(chain, skip) if skip else chain
        if not self.sharpness:
            return optax.with_extra_args_support(chain)
        many = sharpness or (lambda step: 1.0)
        return sharpness_aware(chain, lambda step: self.sharpness * many(step))
