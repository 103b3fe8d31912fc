#!/usr/bin/env python3
"""Draws the module's icon: overlapping tiles over a round organ.

    python bindings/slicer/make_icon.py
"""

import struct
import zlib
from pathlib import Path

SIZE = 128
PATH = Path(__file__).parent / "Voxtile" / "Resources" / "Icons" / "VoxtileSegmentation.png"
TILES = [((14, 14), (74, 74)), ((54, 14), (114, 74)), ((14, 54), (74, 114)), ((54, 54), (114, 114))]


def pixel(x, y):
    organ = ((x - 64) / 44) ** 2 + ((y - 64) / 34) ** 2 <= 1
    depth = sum(a <= x < c and b <= y < d for (a, b), (c, d) in TILES)
    edge = any(
        a <= x < c and b <= y < d and min(x - a, c - 1 - x, y - b, d - 1 - y) < 3
        for (a, b), (c, d) in TILES
    )
    if edge:
        return 30, 90, 140, 255
    if organ:
        return 221, 130 - 12 * depth, 101, 255
    return (205, 225, 240, 70 + 40 * depth) if depth else (0, 0, 0, 0)


def main():
    rows = b"".join(b"\0" + bytes(v for x in range(SIZE) for v in pixel(x, y)) for y in range(SIZE))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 6, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    PATH.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


if __name__ == "__main__":
    main()
