"""The peers that run in PyTorch, each alone in a process of `make peers`.

    python peers_torch.py CASE CONTENDER

Imports nothing of physnn: it runs in an environment of its own.
"""
# pyright: reportMissingImports=false

import sys
import types

import torch
from peer_process import BATCH, serve
from torch import nn
from torch.nn import functional as F


def trained(module, shape):
    """A step of plain gradient descent on a fixed batch; also the inputs' gradient."""
    x = torch.rand(*shape)

    def step():
        inputs = x.clone().requires_grad_()
        module(inputs).square().mean().backward()
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= 1e-3 * p.grad
                    p.grad = None

    return step


def linear():
    return trained(nn.Linear(512, 512), (BATCH, 512))


class NoisyLinear(nn.Module):
    """By hand: noise on weights and outputs, 8 bits in and out, straight-through."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(512, 512) / 512**0.5)

    @staticmethod
    def coded(x, full_scale):
        step = full_scale / 127
        held = x.clamp(-full_scale, full_scale)
        return held + (torch.round(held / step) * step - held).detach()

    def forward(self, x):
        largest = self.weight.detach().abs().amax(1, keepdim=True)
        w = self.weight + 0.02 * largest * torch.randn_like(self.weight)
        y = F.linear(self.coded(x, 1.0), w)
        return self.coded(y + 0.06 * torch.randn_like(y), 12.0)


def noisy_by_hand():
    return trained(NoisyLinear(), (BATCH, 512))


def lightning():
    from aihwkit_lightning.nn import AnalogLinear
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig
    from aihwkit_lightning.simulator.parameters.enums import WeightNoiseInjectionType

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = 254
    config.forward.out_noise, config.forward.out_bound = 0.06, 12.0
    config.modifier.std_dev = 0.02
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    config.pre_post.input_range.enable = True
    config.pre_post.input_range.init_from_data = 0
    return trained(AnalogLinear(512, 512, rpu_config=config), (BATCH, 512))


def torchlogix(k: int, parametrization: str):
    # Its exporter needs Python 3.12; training does not.
    stub = types.ModuleType("torchlogix.circuit")
    stub.Circuit = None  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["torchlogix.circuit"] = stub
    from torchlogix.layers import LogicDense

    layer = LogicDense(1024, 4096, lut_rank=k, parametrization=parametrization)
    return trained(layer, (BATCH, 1024))


class Kuramoto(nn.Module):
    """dθ = (ω + s·cos θ − c·sin θ) dt + σ dW with two products per step."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, n: int):
        super().__init__()
        self.omega = nn.Parameter(torch.randn(n))
        self.coupling = nn.Parameter(torch.randn(n, n) / n)

    def f(self, t, theta):
        s, c = torch.sin(theta), torch.cos(theta)
        return self.omega + c * (s @ self.coupling) - s * (c @ self.coupling)

    def g(self, t, theta):
        return 0.05 * torch.ones_like(theta)


def torchsde():
    from torchsde import sdeint

    system, theta = Kuramoto(256), torch.rand(64, 256)
    times = torch.linspace(0.0, 1.0, 17)

    def step():
        found = sdeint(system, theta, times, method="euler", dt=1 / 16)
        torch.sin(found).square().mean().backward()
        for p in system.parameters():
            p.grad = None

    return step


def lstm():
    layer = nn.LSTM(128, 128)
    x = torch.rand(1024, 16, 128)

    def step():
        layer(x)[0].square().mean().backward()
        for p in layer.parameters():
            p.grad = None

    return step


class Block(nn.Module):
    """Rotary attention and a gated unit, each behind an RMS norm."""

    def __init__(self, width: int, n_heads: int, n_hidden: int):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 2 * n_hidden, bias=False)
        self.down = nn.Linear(n_hidden, width, bias=False)

    def forward(self, x, turn):
        batch, time_, width = x.shape
        split = lambda y: y.view(batch, time_, self.n_heads, -1).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norms[0](x)).chunk(3, -1))
        q, k = rotated(q, turn), rotated(k, turn)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time_, width))
        gate, up = self.up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotated(x, turn):
    a, b = x.chunk(2, -1)
    cosine, sine = turn
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)


def transformer():
    width, n_blocks, n_heads, n_hidden, context, batch = 128, 4, 4, 384, 256, 16
    embed = nn.Embedding(256, width)
    blocks = nn.ModuleList([Block(width, n_heads, n_hidden) for _ in range(n_blocks)])
    norm, head = nn.RMSNorm(width), nn.Linear(width, 256)
    model = nn.ModuleList([embed, blocks, norm, head])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    half = width // n_heads // 2
    angle = torch.outer(torch.arange(context), 1e-4 ** (torch.arange(half) / half))
    turn = torch.cos(angle), torch.sin(angle)
    tokens = torch.randint(0, 256, (batch, context + 1))

    def step():
        x = embed(tokens[:, :-1])
        for block in blocks:
            x = block(x, turn)
        logits = head(norm(x))
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


CONTENDERS = {
    ("mac", "torch Linear, no noise"): linear,
    ("mac", "torch, noise by hand"): noisy_by_hand,
    ("mac", "aihwkit-lightning"): lightning,
    **{
        (f"lookup {k}", f"torchlogix, {how}"): lambda k=k, how=how: torchlogix(k, how)
        for k in (2, 4, 6)
        for how in ("raw", "warp")
        if not (k > 2 and how == "raw")
    },
    ("kuramoto", "torchsde, Euler"): torchsde,
    ("states", "torch LSTM"): lstm,
    ("transformer", "torch"): transformer,
}


if __name__ == "__main__":
    torch.manual_seed(0)
    serve(CONTENDERS[sys.argv[1], sys.argv[2]]())
