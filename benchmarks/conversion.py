"""How fast published features are converted, and in how much memory.

``python -m benchmarks.conversion --gigabytes 4 --results results/conversion`` makes a dictionary of that size, laid out
as the published one of AVE (about 20 GB), converts it in a process of its own, and keeps seconds, MB/s and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.avcil_files import (
    audio_of,
    flat,
    many_visuals,
    stream_dictionary,
    videos,
    write_dictionary,
    write_lists,
)
from mcil.data.importers.avcil_features import AUDIO, VISUAL, import_avcil_features
from mcil.data.store import FeatureStore
from mcil.data.workers import cores
from mcil.files import write_json

_BYTES = 1568 * 768 * 4  # of one token map
_CLASSES = 28


def make(root: Path, count: int) -> Path:
    """Write the files of ``count`` videos, or a few less, and return the large one."""
    a_class = count // _CLASSES
    listed = videos({"train": a_class - 2 * (a_class // 8), "val": a_class // 8, "test": a_class // 8})
    names = flat(listed)
    write_lists(root, listed)
    write_dictionary(root / AUDIO, {name: audio_of(number) for number, name in enumerate(names)})
    stream_dictionary(root / VISUAL[0], zip(names, many_visuals(len(names)), strict=True))
    return root / VISUAL[0]


def convert(root: Path, out: Path) -> dict[str, Any]:
    """Convert, and return the seconds and the memory of this process in bytes, at its peak and before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.monotonic()
    import_avcil_features(root, out)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_memory_bytes": peak, "memory_before_bytes": before}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversion", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the dictionary of token maps")
    parser.add_argument("--results", type=Path, help="folder to keep conversion.json in")
    parser.add_argument("--convert", type=Path, nargs=2, metavar=("ROOT", "OUT"), help="only convert these files")
    chosen = parser.parse_args()
    if chosen.convert:
        print(json.dumps(convert(*chosen.convert)))
        return
    with tempfile.TemporaryDirectory(prefix="mcil-conversion-") as name:
        folder = Path(name)
        large = make(folder / "AVE", round(chosen.gigabytes * 1e9 / _BYTES))
        command = [sys.executable, "-m", "benchmarks.conversion", "--convert", folder / "AVE", folder / "store"]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured = json.loads(said)
        size, clips = large.stat().st_size, len(FeatureStore(folder / "store", verify=False))
    result = {
        "clips": clips,
        "file_bytes": size,
        "cores": cores(),
        "seconds": round(measured["seconds"], 1),
        "megabytes_per_second": round(size / 1e6 / measured["seconds"]),
        "peak_memory_megabytes": round(measured["peak_memory_bytes"] / 1e6),
        "memory_before_megabytes": round(measured["memory_before_bytes"] / 1e6),
    }
    print(json.dumps(result, indent=1))
    if chosen.results:
        write_json(chosen.results / "conversion.json", result)


if __name__ == "__main__":
    main()
