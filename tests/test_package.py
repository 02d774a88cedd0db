"""What others get: a wheel that installs and runs, and a site of the pages without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from raydrop import RaydropError

ROOT = Path(__file__).parent.parent


def _run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    result = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_wheel_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"raydrop"}
    assert "raydrop/frontier/report/templates/report.html" in names

    home, uv = tmp_path / "fresh", Path(sys.executable).with_name("uv")
    _run(sys.executable, "-m", "venv", "--without-pip", home)
    python, place = home / "bin" / "python", sysconfig.get_path("purelib", "venv", {"base": home})
    _run(uv, "pip", "install", "--offline", "--no-deps", "--python", python, wheel)
    # What it needs lies beside the package that is tested here, which must not be found there.
    Path(place, "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import raydrop; print(raydrop.__file__)"
    assert _run(python, "-c", where, cwd=tmp_path).startswith(place)
    version = _run(home / "bin" / "raydrop", "--version", cwd=tmp_path)
    assert version.split()[-1] == wheel.name.split("-")[1]


def test_pages_and_docstrings_become_a_site_without_a_warning(tmp_path: Path) -> None:
    sphinx = Path(sys.executable).with_name("sphinx-build")
    _run(sphinx, "-W", "--keep-going", "-q", "docs", tmp_path / "site", OMP_NUM_THREADS="1")
    first, reference = (
        (tmp_path / "site" / f"{page}.html").read_text() for page in ("index", "reference")
    )
    assert "Two commands" in first
    assert RaydropError.__doc__ is not None
    assert RaydropError.__doc__.splitlines()[0].split("`")[0].strip() in reference
