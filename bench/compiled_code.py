"""What compiled code allows: tables of its counts, and the bounds that they put on a GPU's time."""

import json
from pathlib import Path
from typing import Any

from bench.report import number, table

# NVIDIA H200 SXM, from its data sheet: what a prediction assumes, not what was measured.
H200_MULTIPROCESSORS, H200_SHARED_MEMORY, H200_CACHE = 132, 227 << 10, 50 << 20
H200_BYTES_PER_S, H200_LANES_PER_S = 4.8e12, H200_MULTIPROCESSORS * 128 * 1.98e9
# Of a scheduler, for a product of m16n8k8: 495 TFLOP/s in tensor-float-32.
H200_CYCLES_OF_A_PRODUCT = 4
PASSES = {
    "moments": 1, "normalize": 2, "output_sums": 2, "input_gradient": 3, "evaluate": 2,
    "moments, kept": 0, "normalize, kept": 1, "input_gradient, kept": 1,
}  # fmt: skip
"""Tensors as large as x that a sweep reads or writes; "kept": over tiles that stayed on chip."""


def compiled_section(path: Path) -> str:
    """What an element costs in each sweep's machine code, and the bound that it puts on the time.

    The bound is the larger of the bytes that the sweep must move over the bandwidth and of its
    instructions over the issue rate of an H200; a BatchNorm's is its bytes over the bandwidth.
    """
    if not path.exists():
        return "No kernel has been counted so far."
    content = json.loads(path.read_text())
    components, channels = content["num_components"], content["shape"][1]
    compiler = f"Triton {content['triton']}" if "triton" in content else content["compiler"]
    lines = []
    totals: dict[tuple[str, str], tuple[float, float]] = {}
    for row in content["rows"]:
        size = {"float32": 4, "bfloat16": 2}[row["dtype"]]
        moved = PASSES[row["kernel"]] * size
        training = row["kernel"] != "evaluate" and not row["kernel"].endswith(", kept")
        if "triton" in content and training:
            # ν, K float32 values a position, which the CUDA kernels compute again.
            moved += 4 * components / channels
        memory = moved / H200_BYTES_PER_S
        issue = row["instructions"] / H200_LANES_PER_S
        setting = (row["dtype"], row["layout"])
        if training:
            bound, batch_norm = totals.get(setting, (0.0, 8 * size / H200_BYTES_PER_S))
            totals[setting] = (bound + max(memory, issue), batch_norm)
        lines.append(
            (row["kernel"], *setting, str(row["registers"]), number(row["instructions"], 1),
             number(row["arithmetic"], 1), number(row["shuffles"], 1), number(moved, 1),
             number(issue * 1e12, 2), number(memory * 1e12, 2))
        )  # fmt: skip
    columns = ("kernel", "dtype", "layout", "registers", "instructions", "fp32 arithmetic",
               "shuffles", "bytes", "issue bound, ps", "memory bound, ps")  # fmt: skip
    ratios = [
        (*setting, number(bound * 1e12, 2), number(batch_norm * 1e12, 2),
         number(bound / batch_norm, 2), "not measured")
        for setting, (bound, batch_norm) in totals.items()
    ]  # fmt: skip
    parts = [
        f"{compiler}, {content['target']}, x of {content['shape']}, K = {components}, "
        f"G = {content['groups']}; per element of x:",
        table(columns, lines, markdown=True),
        "Predicted, not measured: the sum of each sweep's larger bound, over BatchNorm's bytes "
        "at the same bandwidth (H200 data sheet, 4.8 TB/s; 132 × 128 lanes at 1.98 GHz):",
        table(
            ("dtype", "layout", "bound, ps", "BatchNorm's, ps", "ratio", "ratio on a GPU"),
            ratios,
            markdown=True,
        ),
    ]
    if "moments" in content:
        parts += [
            "The moments with multiply-adds, which from some K on need a sweep for ν and one for "
            "the sums, or with `tl.dot` (three products of tensor-float-32 for one), contiguous, "
            "28 × 28. Bounds are in ps, the larger of issue and memory. The table takes what has "
            "the smaller bound until it is measured; `-`: no tile of `tl.dot` holds as many "
            "channels:",
            _moments_table(content["moments"], path.with_name("tuning.json")),
        ]
    return "\n\n".join(parts)


def _moments_table(rows: list[dict[str, Any]], tuning: Path) -> str:
    """Both kinds of product, over the sweeps that make ν and the moments, per element of x;
    ``tuning`` is what `tools/tune_triton.py` wrote on a GPU, if it has run."""
    timed = json.loads(tuning.read_text())["products"] if tuning.exists() else []
    measured = {
        (row["dtype"], row["channels"], row["num_components"]): min(
            ("multiply-adds", "tl.dot"), key=lambda how: row[how]
        )
        for row in timed
    }
    found: dict[tuple[str, int, int], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        key = (row["dtype"], row["channels"], row["num_components"])
        found.setdefault(key, {}).setdefault(row["how"], []).append(row)
    lines = []
    for (dtype, channels, components), products in found.items():
        cells, bounds = [], {}
        for how in ("multiply-adds", "tl.dot"):
            kernels = products.get(how)
            if kernels is None:
                cells += ["-"] * 3
                continue
            size = {"float32": 4, "bfloat16": 2}[dtype] + 4 * components / channels
            bounds[how] = sum(
                max(row["instructions"] / H200_LANES_PER_S, size / H200_BYTES_PER_S)
                for row in kernels
            )
            instructions = sum(row["instructions"] for row in kernels)
            kind = len(kernels) if how == "multiply-adds" else sum(r["matrix"] for r in kernels)
            cells += [number(instructions, 1), number(kind, 0), number(bounds[how] * 1e12, 2)]
        taken = min(bounds, key=lambda how: bounds[how])
        lines.append(
            (
                dtype,
                str(channels),
                str(components),
                *cells,
                taken,
                measured.get((dtype, channels, components), "not measured"),
            )
        )
    columns = ("dtype", "C", "K", "multiply-adds: instructions", "sweeps", "bound",
               "tl.dot: instructions", "matrix", "bound", "fewer", "measured")  # fmt: skip
    return table(columns, lines, markdown=True)


def matrix_section(path: Path) -> str:
    """Sums of joint mixtures of many components by matrix products and by multiply-adds."""
    content = json.loads(path.read_text())
    lines = []
    for row in content["rows"]:
        bounds = (
            row["instructions"] / H200_LANES_PER_S,
            row["matrix"] * H200_CYCLES_OF_A_PRODUCT / H200_LANES_PER_S,
            4 * PASSES[row["kernel"]] / H200_BYTES_PER_S,
        )
        lines.append(
            (str(row["num_components"]), row["kernel"], row["how"], str(row["registers"]),
             number(row["instructions"], 1), number(row["matrix"], 1),
             *(number(bound * 1e12, 2) for bound in bounds), "not measured")
        )  # fmt: skip
    columns = ("K", "kernel", "sums by", "registers", "instructions", "of them products",
               "issue bound, ps", "tensor cores, ps", "memory bound, ps", "on a GPU")  # fmt: skip
    return table(columns, lines, markdown=True)
