"""The protocol a chip in the loop speaks: JSON lines over a socket, arrays in base64.

`docs/hardware_in_the_loop.md` describes it; both ends here use these functions.
"""

import base64
import binascii
import json
import math
from typing import Any

import numpy as np

PROTOCOL = "physnn-chip 1"
# No message is longer: a bad sender must not fill the memory.
LONGEST = 1 << 30


class ProtocolError(ValueError):
    """A message is not one of the protocol; the text is a predicate without subject."""


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array as `{"shape": [...], "float32": base64 of little-endian C order}`."""
    array = np.asarray(array, "<f4", order="C")
    text = base64.b64encode(array.tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": text}


def decode_array(value: Any) -> np.ndarray:
    """The array that `encode_array` wrote. Raises `ProtocolError` for anything else."""
    try:
        shape = [int(n) for n in value["shape"]]
        data = base64.b64decode(value["float32"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise ProtocolError('sent no array {"shape": ..., "float32": ...}') from error
    if min(shape, default=1) < 0 or len(data) != 4 * math.prod(shape):
        raise ProtocolError(f"sent {len(data)} bytes as an array of shape {shape}")
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)


def encode(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of a line. Raises `ProtocolError` for what is no JSON object."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError("sent a line that is no JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("sent JSON that is no object")
    return message
