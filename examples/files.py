"""Read many files and write many: pack 300 texts, each into a file of its own, and find those that are the same.

``ordered=False`` delivers each result as soon as it is there. A packed file appears under its name only when it is
complete, so that a program that is stopped half-way leaves no half of one.
"""

import gzip
import hashlib
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import treadle


@dataclass
class Packed:
    """One text, and the file it was packed into."""

    path: Path
    checksum: str
    size: int
    packed_size: int


def pack(path: Path) -> Packed:
    content = path.read_bytes()
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(gzip.compress(content))
    finished = unfinished.replace(path.with_suffix(".gz"))
    return Packed(finished, hashlib.sha256(content).hexdigest(), len(content), finished.stat().st_size)


def check(packed: Packed) -> bool:
    return hashlib.sha256(gzip.decompress(packed.path.read_bytes())).hexdigest() == packed.checksum


def make_texts(folder: Path) -> list[Path]:
    paths = [folder / f"{number:03}.txt" for number in range(300)]
    for number, path in enumerate(paths):
        path.write_text(("the same old story\n" if number % 100 == 7 else f"story {number}\n") * 1000)
    return paths


with tempfile.TemporaryDirectory() as name:
    texts = make_texts(Path(name))
    packed = list(treadle.map(pack, texts, ordered=False, max_workers=8))
    assert all(treadle.map(check, packed, max_workers=8))
    assert len(list(Path(name).glob("*.gz"))) == len(texts)

size, packed_size = sum(one.size for one in packed), sum(one.packed_size for one in packed)
print(f"{len(packed)} files packed and checked: {size:,} bytes before, {packed_size:,} after")

same = defaultdict(list)
for one in packed:
    same[one.checksum].append(one.path.stem)
for names in same.values():
    if len(names) > 1:
        print("the same:", ", ".join(sorted(names)))
