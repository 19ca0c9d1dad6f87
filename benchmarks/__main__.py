"""Every benchmark, one after the other: ``python -m benchmarks [--quick]``. Each prints a table and JSON."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("core", "gateway", "adapter", "fanout")

if __name__ == "__main__":
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        arguments = sys.argv[1:] if name == "fanout" else []
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)
