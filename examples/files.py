"""Find files with the same content, by hashing all of them.

``ordered=False`` delivers each result as soon as it is there. So that one knows whose it is, the function
returns its path too; ``outcomes()`` would tell as well.
"""

import hashlib
import tempfile
from collections import defaultdict
from pathlib import Path

import treadle


def digest(path: Path) -> tuple[str, Path]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path


def make_files(folder: Path) -> None:
    for number in range(300):
        text = "the same old story\n" if number % 100 == 7 else f"story {number}\n"
        (folder / f"{number:03}.txt").write_text(text * 1000)


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    make_files(folder)

    same = defaultdict(list)
    for checksum, path in treadle.map(digest, folder.iterdir(), ordered=False, max_workers=8):
        same[checksum].append(path.name)

print(f"{sum(map(len, same.values()))} files, {len(same)} different ones")
for names in same.values():
    if len(names) > 1:
        print("the same:", ", ".join(sorted(names)))
