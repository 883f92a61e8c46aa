"""Labeled images in the IDX format of MNIST and Fashion-MNIST."""

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.corpus.files import DataError
from train.tasks.base import AbstractTask, Windows

# The held-out end of the training images: what is tuned is tuned on these.
VALIDATION_IMAGES = 5000
# IDX: unsigned bytes in so many dimensions (LeCun et al. 1998, the page of MNIST).
MAGIC = {1: 0x801, 3: 0x803}


@dataclass(frozen=True)
class ImagesConfig:
    """Images, one class each.

    `path`: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the
    same two of `t10k`, each may end in `.gz`. A relative path in a config file is
    relative to that file.
    """

    kind: Literal["images"] = "images"
    path: str | None = None
    mirror: bool = False  # half of the training images
    shift: int = 0  # training images, by up to so many pixels both ways

    def __post_init__(self):
        if self.shift < 0:
            raise ValueError(
                f"Argument `shift` must not be negative, but is {self.shift}."
            )

    @property
    def context(self) -> int:
        """A window is one image, scored once."""
        return 1

    def build(self) -> "Images":
        """Read the images. Raises `DataError` for files that are missing or damaged."""
        if self.path is None:
            raise DataError(
                "Images must come from a folder of IDX files, but `task.path` is not"
                " given."
            )
        return Images(Path(self.path), mirror=self.mirror, shift=self.shift)


class Images(AbstractTask):
    """The pixels of an image, row by row, and its class as the token that follows."""

    def __init__(self, folder: Path, *, mirror: bool = False, shift: int = 0):
        self.source, self.mirror, self.shift = str(folder), mirror, shift
        pixels, labels = _labeled(folder, "train")
        held_out = _labeled(folder, "t10k")
        for images, classes in ((pixels, labels), held_out):
            if len(images) != len(classes) or images.shape[1:] != pixels.shape[1:]:
                raise DataError(
                    f"The images in {folder} must have one size and a label each, but"
                    f" there are {images.shape} pixels and {len(classes)} labels."
                )
        self.height, self.width = pixels.shape[1:]
        self.vocabulary = int(max(labels.max(), held_out[1].max())) + 1
        self.context = 1
        n = len(pixels) - min(VALIDATION_IMAGES, len(pixels) // 6)
        self._splits = {
            "train": (pixels[:n], labels[:n]),
            "validation": (pixels[n:], labels[n:]),
            "test": held_out,
        }
        digest = hashlib.sha256()
        for images, classes in self._splits.values():
            digest.update(images.tobytes() + classes.tobytes())
        self.digest = digest.hexdigest()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.height, self.width

    def n_bytes(self, split: str) -> int:
        """Images of a split: each is scored once."""
        return len(self._splits[split][0])

    def labels(self, split: str) -> np.ndarray:
        """The class of every image of a split."""
        return self._splits[split][1]

    def batch(self, step, *, seed, batch, rows=slice(None)):
        images, labels = self._splits["train"]
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(0, len(images), batch)
        drawn = images[chosen]
        if self.mirror:
            turned = rng.random(batch) < 0.5
            drawn = np.where(turned[:, None, None], drawn[:, :, ::-1], drawn)
        if self.shift:
            drawn = _shifted(drawn, self.shift, rng)
        return _windows(drawn, labels[chosen])[rows]

    def windows(self, split, *, batch, stride=None, limit=0):
        del stride
        images, labels = self._splits[split]
        chosen = np.arange(len(images))
        if 0 < limit < len(images):
            chosen = np.linspace(0, len(images) - 1, limit).astype(int)
        for first in range(0, len(chosen), batch):
            part = chosen[first : first + batch]
            tokens = np.zeros((batch, self.height * self.width + 1), np.uint8)
            tokens[: len(part)] = _windows(images[part], labels[part])
            yield Windows(tokens, np.arange(batch)[:, None] < len(part))


def _windows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)


def _shifted(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to `most` pixels both ways, black where it was."""
    padded = np.pad(images, ((0, 0), (most, most), (most, most)))
    height, width = images.shape[1:]
    down, right = rng.integers(0, 2 * most + 1, (2, len(images)))
    rows = down[:, None, None] + np.arange(height)[:, None]
    columns = right[:, None, None] + np.arange(width)
    return padded[np.arange(len(images))[:, None, None], rows, columns]


def _labeled(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read(folder, f"{part}-images-idx3-ubyte")
    return images, _read(folder, f"{part}-labels-idx1-ubyte")


def _read(folder: Path, name: str) -> np.ndarray:
    """One IDX file: big-endian magic number and sizes, then bytes."""
    path = next(
        (p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None
    )
    if path is None:
        raise DataError(
            f"{folder} must hold {name} or {name}.gz, but there is neither."
        )
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} must be a gzip file, but: {error}.") from error
    rank = 3 if "images" in name else 1
    head = np.frombuffer(data[: 4 * (rank + 1)].ljust(4 * (rank + 1), b"\0"), ">u4")
    shape = tuple(int(size) for size in head[1:])
    body = data[4 * (rank + 1) :]
    if head[0] != MAGIC[rank] or math.prod(shape) != len(body) or not shape[0]:
        raise DataError(
            f"{path} must be an IDX file of bytes in {rank} dimensions, but its head"
            f" says {head.tolist()} and {len(body)} bytes follow."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)
