"""What is measured: real shapes with their origin, the settings they are run at, and the plans."""

import dataclasses
import math
from dataclasses import dataclass

import torch

CPU_ELEMENTS = 2**25
"""Larger tensors are left out on a CPU: the eager baselines would need minutes for each."""

LAYOUTS = ("contiguous", "channels_last")
PHASES = ("train", "forward", "eval", "em")


@dataclass(frozen=True)
class Shape:
    """A tensor some network really normalizes.

    ``kind`` is ``"image"`` (the geometric means are taken over these), ``"signal"``, ``"volume"``,
    ``"latency"`` (so small that launches, not bytes, cost), ``"scaling"`` (one extent varied), or
    ``"huge"`` (more than 2³¹ elements).
    """

    name: str
    size: tuple[int, ...]
    origin: str
    kind: str = "image"
    repeats: int = 1
    """The batch is one block repeated this often, so that its float64 reference needs one block."""

    @property
    def channels(self) -> int:
        return self.size[1]

    @property
    def elements(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True)
class Case:
    """A shape at one setting. ``groups`` is a number, or ``"C/16"`` or ``"C"``.

    ``phase`` is ``"forward"`` (training forward), ``"train"`` (forward and backward), ``"eval"``,
    or ``"em"`` (a fit of ten EM steps).
    """

    shape: Shape
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    num_components: int = 3
    groups: int | str = 1
    em_iters: int = 0
    phase: str = "train"

    @property
    def num_groups(self) -> int:
        if isinstance(self.groups, int):
            return self.groups
        return self.shape.channels // {"C": 1, "C/16": 16}[self.groups]

    @property
    def dtype_name(self) -> str:
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.dtype]

    @property
    def bytes(self) -> int:
        """B: the bytes of x."""
        return self.shape.elements * self.dtype.itemsize

    @property
    def setting(self) -> str:
        em = f" em{self.em_iters}" if self.em_iters else ""
        groups = "" if self.groups == 1 else f" G={self.groups}"
        return f"{self.phase} {self.dtype_name} {self.layout} K={self.num_components}{groups}{em}"

    @property
    def id(self) -> str:
        return f"{self.shape.name} {self.setting}"

    def vary(self, **changes: object) -> "Case":
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


CNN = "5-layer CNN of the paper on CIFAR-10, batch 256"
DENSE40 = "DenseNet-40 (k = 12) on CIFAR-10, batch 64: last layer of the block"
DENSE100 = "DenseNet-100 (k = 12) on CIFAR-10, batch 64: last layer of the block"
INCEPTION = "Inception-V3 at 299², batch 64"
DCGAN = "DCGAN generator for 64² images"
RESNET = "ResNet-50 at 224²"

SHAPES: tuple[Shape, ...] = (
    Shape("cifar-cnn.conv1", (256, 64, 32, 32), CNN),
    Shape("cifar-cnn.conv2", (256, 128, 16, 16), CNN),
    Shape("cifar-cnn.conv3", (256, 128, 8, 8), CNN),
    Shape("cifar-cnn.conv4", (256, 256, 4, 4), CNN),
    Shape("densenet40.block1", (64, 148, 32, 32), DENSE40),
    Shape("densenet40.block2", (64, 292, 16, 16), DENSE40),
    Shape("densenet40.block3", (64, 436, 8, 8), DENSE40),
    Shape("densenet100.block1", (64, 388, 32, 32), DENSE100),
    Shape("densenet100.block2", (64, 772, 16, 16), DENSE100),
    Shape("densenet100.block3", (64, 1156, 8, 8), DENSE100),
    Shape("inception3.35x35", (64, 96, 35, 35), f"{INCEPTION}: Mixed_5, double 3×3 branch"),
    Shape("inception3.17x17", (64, 192, 17, 17), f"{INCEPTION}: Mixed_6, 7×7 branch"),
    Shape("inception3.8x8", (64, 448, 8, 8), f"{INCEPTION}: Mixed_7, double 3×3 branch"),
    Shape("dcgan64.4x4", (64, 512, 4, 4), f"{DCGAN}, batch 64"),
    Shape("dcgan64.8x8", (64, 256, 8, 8), f"{DCGAN}, batch 64"),
    Shape("dcgan64.16x16", (64, 128, 16, 16), f"{DCGAN}, batch 64"),
    Shape("dcgan64.32x32", (64, 64, 32, 32), f"{DCGAN}, batch 64"),
    Shape("dcgan128.4x4", (128, 512, 4, 4), f"{DCGAN}, batch 128"),
    Shape("dcgan128.32x32", (128, 64, 32, 32), f"{DCGAN}, batch 128"),
    Shape("resnet50-b64.stem", (64, 64, 112, 112), f"{RESNET}, batch 64: conv1"),
    Shape("resnet50-b64.layer1", (64, 256, 56, 56), f"{RESNET}, batch 64: layer1 conv3"),
    Shape("resnet50-b64.layer2", (64, 512, 28, 28), f"{RESNET}, batch 64: layer2 conv3"),
    Shape("resnet50-b64.layer3", (64, 256, 14, 14), f"{RESNET}, batch 64: layer3 conv2"),
    Shape("resnet50-b64.layer4", (64, 2048, 7, 7), f"{RESNET}, batch 64: layer4 conv3"),
    Shape("resnet50-b256.stem", (256, 64, 112, 112), f"{RESNET}, batch 256: conv1"),
    Shape("resnet50-b256.layer2", (256, 512, 28, 28), f"{RESNET}, batch 256: layer2 conv3"),
    Shape("resnet50-b256.layer3", (256, 256, 14, 14), f"{RESNET}, batch 256: layer3 conv2"),
    Shape("resnet50-b256.layer4", (256, 2048, 7, 7), f"{RESNET}, batch 256: layer4 conv3"),
    Shape("pointnet.mlp2", (32, 128, 1024), "PointNet, 1,024 points, batch 32", "signal"),
    Shape("r3d18.layer2", (16, 128, 8, 28, 28), "R3D-18, 16 × 112² clips, batch 16", "volume"),
    Shape("mlp.hidden", (128, 256), "an MLP's hidden layer, batch 128", "latency"),
    Shape("tiny.train", (8, 64, 8, 8), "fine-tuning at batch 8: a late layer", "latency"),
    Shape("tiny.call", (4, 16, 4, 4), "a thousand numbers: what a call costs", "latency"),
    Shape("tiny.serve", (1, 256, 14, 14), "ResNet-50 layer3 serving one image", "latency"),
    Shape(
        "resnet50.2^31",
        (37 * 73, 64, 112, 112),
        f"{RESNET}, conv1 at a batch that passes 2³¹ elements",
        "huge",
        # 2³¹ is no multiple of the block, so an index that wraps reads other data.
        repeats=73,
    ),
)

_BY_NAME = {shape.name: shape for shape in SHAPES}

FEW = (
    "cifar-cnn.conv1",
    "cifar-cnn.conv2",
    "densenet40.block1",
    "inception3.17x17",
    "dcgan128.32x32",
    "resnet50-b64.layer3",
    "resnet50-b256.stem",
    "resnet50-b256.layer3",
)
"""The image shapes that are also run in half precision and phase by phase."""

QUICK = (
    "resnet50-b64.layer3",
    "cifar-cnn.conv3",
    "inception3.17x17",
    "densenet40.block3",
    "dcgan64.16x16",
)
"""The image shapes of ``--quick``: between 7 and 14 MB each."""

QUICK_HEAVY = ("dcgan64.16x16", "tiny.train")
"""Where ``--quick`` shows the eager formulas."""


def _both_layouts(case: Case) -> list[Case]:
    return [case.vary(layout=layout) for layout in LAYOUTS]


def _sweep(base: Case) -> list[Case]:
    """One factor at a time around ``base``: K, G, EM steps, precision."""
    varied = [base.vary(num_components=k) for k in (1, 2, 5, 8)]
    varied += [base.vary(groups=g) for g in ("C/16", "C")]
    varied += [base.vary(em_iters=e) for e in (1, 2)]
    for dtype in (torch.bfloat16, torch.float16):
        varied += _both_layouts(base.vary(dtype=dtype))
    return varied


def scaling_cases(quick: bool) -> list[Case]:
    """The paper CNN's second convolution with more samples (M) and with more channels (C)."""
    origin = "cifar-cnn.conv2 with one extent varied"
    batches = (4, 16, 64) if quick else (1, 4, 16, 64, 1024)
    widths = (16, 64, 256) if quick else (16, 32, 64, 128, 256, 512, 1024)
    shapes = [Shape(f"scaling.N{n}", (n, 128, 16, 16), origin, "scaling") for n in batches]
    shapes += [Shape(f"scaling.C{c}", (64, c, 16, 16), origin, "scaling") for c in widths]
    return [Case(shape) for shape in shapes]


def em_cases() -> list[Case]:
    return [Case(_BY_NAME[name], phase="em") for name in ("dcgan64.16x16", "cifar-cnn.conv3")]


def fits(case: Case, device_type: str) -> bool:
    return device_type != "cpu" or case.shape.elements <= CPU_ELEMENTS


def full_plan() -> list[Case]:
    """The declared grid, most wanted first: a budget that runs out cuts it at the end.

    Base setting (fp32, K = 3, G = 1, no EM step, forward + backward) of every shape in both
    layouts; precision and phase for a few shapes; one-factor sweeps around two of them.
    """
    plan = [
        case for s in SHAPES if s.kind in ("image", "volume") for case in _both_layouts(Case(s))
    ]
    plan += [Case(s, phase=p) for s in SHAPES if s.kind == "latency" for p in PHASES[:3]]
    plan += [Case(s) for s in SHAPES if s.kind == "signal"]
    few = [Case(_BY_NAME[name]) for name in FEW]
    plan += [c for case in few for c in _both_layouts(case.vary(dtype=torch.bfloat16))]
    plan += [c for case in few for p in PHASES[1:3] for c in _both_layouts(case.vary(phase=p))]
    for name in ("cifar-cnn.conv2", "resnet50-b64.layer3"):
        plan += _sweep(Case(_BY_NAME[name]))
    plan += scaling_cases(quick=False)
    plan += em_cases()
    plan += [Case(s, dtype=torch.bfloat16) for s in SHAPES if s.kind == "huge"]
    return list(dict.fromkeys(plan))


def quick_plan() -> list[Case]:
    """A cut through the full grid that two CPU cores finish within 90 seconds."""
    plan = [case for name in QUICK for case in _both_layouts(Case(_BY_NAME[name]))]
    base = Case(_BY_NAME["resnet50-b64.layer3"])
    plan += [base.vary(num_components=k) for k in (1, 8)]
    plan += [base.vary(em_iters=2), base.vary(groups="C"), base.vary(dtype=torch.bfloat16)]
    plan += [base.vary(phase=phase) for phase in PHASES[1:3]]
    plan += [Case(_BY_NAME["tiny.train"]), em_cases()[0]]
    plan += [base.vary(num_components=k) for k in (2, 5)]
    plan += scaling_cases(quick=True)
    return plan


def shows_heavy(case: Case, quick: bool) -> bool:
    """Whether the eager formulas and Mode Normalization are measured on this case, too."""
    if case.phase == "em":
        return not quick
    base = Case(case.shape, layout=case.layout)
    shapes = QUICK_HEAVY if quick else (*FEW, "tiny.train")
    return case == base and case.shape.name in shapes
