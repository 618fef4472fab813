"""``python -m bench.preference``: from the committed GPU results to what ``"auto"`` tries first.

For every major compute capability the newest full result counts. A class of shapes gets the backend
with the smaller geometric mean of time over the cases that both have right.
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.record import Result, Row, load
from mixnorm_cuda.kernels.preference import GPU_BACKENDS, MEASURED, shape_class

RESULTS = Path(__file__).resolve().parent / "results"


def find(results: list[Result]) -> dict[str, Any]:
    """What `mixnorm_cuda.kernels.preference` reads."""
    newest: dict[int, Result] = {}
    for result in sorted(results, key=lambda r: r.date):
        if result.environment["device_type"] == "cuda" and result.kind == "full":
            # "sm_90": the minor version is the last digit.
            newest[int(result.environment["capability"].removeprefix("sm_")[:-1])] = result
    return {
        "devices": [
            {
                "capability": capability,
                "device": result.environment["device"],
                "commit": result.environment["commit"],
                "date": result.environment["date"],
                "classes": classes(result.rows),
            }
            for capability, result in sorted(newest.items())
        ]
    }


def classes(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Class of shapes -> the faster backend, its cases, and how many times the other's time."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.implementation in GPU_BACKENDS and row.check == "ok" and row.median is not None:
            times[row.case][row.implementation] = row.median
    logs: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        # Once a case, under the first backend's row.
        if row.implementation == GPU_BACKENDS[0] and len(times[row.case]) == 2:
            first, second = (times[row.case][name] for name in GPU_BACKENDS)
            name = shape_class(
                row.x_bytes,
                row.dtype in ("bf16", "fp16"),
                row.num_components,
                1 < row.groups == row.size[1],
            )
            logs[name].append(math.log(first / second))
    found = {}
    for name, values in sorted(logs.items()):
        mean = sum(values) / len(values)
        faster = GPU_BACKENDS[mean > 0]
        found[name] = {
            "faster": faster, "times": round(math.exp(abs(mean)), 3), "cases": len(values)
        }  # fmt: skip
    return found


def main() -> int:
    paths = sorted(RESULTS.glob("cuda-*.json"))
    content = find([load(path) for path in paths])
    MEASURED.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{MEASURED.name}: {len(content['devices'])} devices from {len(paths)} GPU results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
