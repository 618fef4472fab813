from typing import TypedDict

class BuildInfo(TypedDict):
    compiler: str
    python: str
    torch: str
    cuda: str | None
    cuda_archs: str | None

def build_info() -> BuildInfo: ...
