import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from project import ROOT, Project

sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)
