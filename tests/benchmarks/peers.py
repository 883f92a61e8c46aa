"""Ours against the peers, on their own ground: each alone in a process, in turns.

    make peers

installs PyTorch (CPU), torchsde, torchlogix and aihwkit-lightning into `.cache/peers`,
beside our own environment, and prints a table for each kind of work: medians of the
rounds, and ratios to ours. aihwkit has no wheel on the package index and LinOSS no
package: of the latter the equations are in `peers_jax.py`, written here.
"""

import argparse
import sys
from pathlib import Path

from tests.benchmarks.peer_process import in_turns
from tests.benchmarks.peers_jax import CONTENDERS

HERE = Path(__file__).parent
# What runs in PyTorch, which is not imported here.
IN_TORCH = {
    "mac": ("torch Linear, no noise", "torch, noise by hand", "aihwkit-lightning"),
    "lookup 2": ("torchlogix, raw", "torchlogix, warp"),
    "lookup 4": ("torchlogix, warp",),
    "lookup 6": ("torchlogix, warp",),
    "kuramoto": ("torchsde, Euler",),
    "states": ("torch LSTM",),
    "transformer": ("torch",),
}
WORK = {
    "mac": "noisy layer, 512 to 512, 256 rows",
    "lookup 2": "soft tables of 2 inputs, 1,024 bits to 4,096, 256 rows",
    "lookup 4": "soft tables of 4 inputs",
    "lookup 6": "soft tables of 6 inputs",
    "kuramoto": "256 coupled noisy rings, 64 rows, 16 steps",
    "states": "128 oscillatory states, 16 rows of 1,024 tokens",
    "transformer": "training step, 4 x 128, 16 x 256 bytes",
}


def compared(case: str, torch_python: str, *, rounds: int) -> dict[str, float]:
    """Median seconds of a step of every contender, in turns."""
    ours = [name for kind, name in CONTENDERS if kind == case]
    own = [sys.executable, "-m", "tests.benchmarks.peers_jax", case]
    other = [torch_python, str(HERE / "peers_torch.py"), case]
    commands = {name: [*own, name] for name in ours}
    commands |= {name: [*other, name] for name in IN_TORCH[case]}
    return in_turns(commands, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--case", action="append", choices=[*WORK])
    given = parser.parse_args()
    for case in given.case or WORK:
        medians = compared(case, given.torch_python, rounds=given.rounds)
        ours = next((n for n in medians if n.startswith("physnn")), None)
        floor = medians[ours or "torch"]
        print(f"\n{WORK[case]}")
        for name, value in medians.items():
            print(f"  {name:<38}{value * 1e3:9.2f} ms {value / floor:7.2f}", flush=True)


if __name__ == "__main__":
    main()
