"""The parts of `transformer_parts.py` in PyTorch, each alone in a process.

    python transformer_parts_torch.py PART

Imports nothing of physnn: it runs in an environment of its own.
"""
# pyright: reportMissingImports=false

import sys

import torch
from peer_process import serve
from peers_torch import rotated, transformer
from torch import nn
from torch.nn import functional as F

TIME, BATCH, WIDTH, HEADS, HIDDEN = 256, 16, 128, 4, 384
HEAD = (BATCH, HEADS, TIME, WIDTH // HEADS)


def both_ways(function, *given):
    """A step: the value, and its gradient to all that is given."""
    given = [x.requires_grad_() for x in given]
    with torch.no_grad():
        to_y = torch.randn(function(*given).shape)

    def step():
        for x in given:
            x.grad = None
        function(*given).backward(to_y)

    return step


def product(n_in, n_out):
    return both_ways(F.linear, torch.randn(BATCH, TIME, n_in), torch.randn(n_out, n_in))


def embedding():
    tokens = torch.randint(0, 256, (BATCH, TIME))
    return both_ways(lambda table: F.embedding(tokens, table), torch.randn(256, WIDTH))


def rotation():
    half = WIDTH // HEADS // 2
    angle = torch.outer(torch.arange(TIME), 1e-4 ** (torch.arange(half) / half))
    turn = torch.cos(angle), torch.sin(angle)
    turned = lambda q, k: torch.stack([rotated(q, turn), rotated(k, turn)])
    return both_ways(turned, torch.randn(HEAD), torch.randn(HEAD))


def later():
    """What a query must not see."""
    return torch.ones(TIME, TIME, dtype=torch.bool).triu(1)


def plain(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return torch.softmax(scores.masked_fill(LATER, -torch.inf), -1) @ v


def cross_entropy():
    targets = torch.randint(0, 256, (BATCH * TIME,))
    loss = lambda logits: F.cross_entropy(logits, targets)
    return both_ways(loss, torch.randn(BATCH * TIME, 256))


def optimizer():
    shapes = [(256, WIDTH), (WIDTH,), (256, WIDTH)]
    shapes += 4 * [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (WIDTH, WIDTH)]
    shapes += 4 * [(2 * HIDDEN, WIDTH), (WIDTH, HIDDEN)]
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    for p in params:
        p.grad = torch.ones_like(p)

    def step():
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


LATER = later()
SCORES = (BATCH, HEADS, TIME, TIME)
PARTS = {
    "embedding": embedding,
    "rms norm": lambda: both_ways(
        lambda x, scale: F.rms_norm(x, (WIDTH,), scale),
        torch.randn(BATCH, TIME, WIDTH),
        torch.ones(WIDTH),
    ),
    "product to queries, keys, values": lambda: product(WIDTH, 3 * WIDTH),
    "rotation of queries and keys": rotation,
    "attention": lambda: both_ways(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        *(torch.randn(HEAD) for _ in "qkv"),
    ),
    "product of the output": lambda: product(WIDTH, WIDTH),
    "product up": lambda: product(WIDTH, 2 * HIDDEN),
    "gate": lambda: both_ways(
        lambda a, b: F.silu(a) * b, *(torch.randn(BATCH, TIME, HIDDEN) for _ in "ab")
    ),
    "product down": lambda: product(HIDDEN, WIDTH),
    "head": lambda: product(WIDTH, 256),
    "cross entropy": cross_entropy,
    "clipping and AdamW": optimizer,
    "whole step": transformer,
    "plain attention": lambda: both_ways(plain, *(torch.randn(HEAD) for _ in "qkv")),
    "its scores": lambda: both_ways(
        lambda q, k: q @ k.transpose(-1, -2), torch.randn(HEAD), torch.randn(HEAD)
    ),
    "its mask and softmax": lambda: both_ways(
        lambda scores: torch.softmax(scores.masked_fill(LATER, -torch.inf), -1),
        torch.randn(SCORES),
    ),
    "its sum of values": lambda: both_ways(
        torch.matmul, torch.randn(SCORES), torch.randn(HEAD)
    ),
}


if __name__ == "__main__":
    torch.manual_seed(0)
    serve(PARTS[sys.argv[1]]())
