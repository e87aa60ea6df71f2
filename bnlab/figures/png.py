"""Replaces Pillow's PNG encoder, which tries five filters on every row; delete when it can be told to use one.

A stacked sweep writes one picture per network, and line art gains nothing from the other filters. Figures:
bnlab/bench/records/library_functions.md.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["png"]


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of opaque `pixels`, (height, width, 4): red, green, blue and alpha, which is left out.

    Each row is stored as its difference from the row above: mostly zeros, so that zlib searches for runs only.

    Source: Portable Network Graphics (PNG) Specification, W3C, sections 5.3 (chunks), 9.2 (filters) and 11 (IHDR).
    """
    height, width, _ = pixels.shape
    colours = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):  # one by one, which NumPy copies faster than all at once
        colours[..., channel] = pixels[..., channel]
    flat = colours.reshape(height, -1)
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 2  # the filter: up
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    content = deflate.compress(rows.data) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits each of RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
