"""The wheel carries the data and the weights and works away from the checkout, offline."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

EDIT = """
import pathlib, sys
import lorweb_mini as lw
assert pathlib.Path(lw.__file__).is_relative_to(sys.argv[1]), lw.__file__

editor = lw.load("starter")
analogy = next(iter(lw.analogies(split="test", n=1)))
result = editor.edit(analogy.a, analogy.a_prime, analogy.b, steps=2, seed=0)

assert result.image.size == (64, 64) and result.image.mode == "RGB"
assert len(result.images) == 1
batch, layers, n = result.coefficients.shape
assert batch == 1 and layers > 1 and n > 1
assert (result.coefficients.sum(-1) - 1).abs().max() < 1e-5
print("edited")
"""


def _run(command: list[str], **options) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)])
    (built,) = folder.glob("lorweb_mini-*.whl")
    return built


def test_wheel_holds_package_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {info.filename: info.file_size for info in archive.infolist()}

    data = ROOT / "data"
    expected = {
        f"lorweb_mini/data/{path.relative_to(data).as_posix()}": path.stat().st_size
        for part in ("emoji", "weights", "relations.json", "splits.json", "text.json", "text.safetensors")
        for path in ([data / part] if (data / part).is_file() else (data / part).rglob("*"))
        if path.is_file() and path.name != "state.safetensors" and path.suffix != ".part"  # a run under way
    }
    assert any(name.endswith(".webp") for name in expected)
    assert any(name.endswith(".safetensors") for name in expected)
    assert expected.items() <= inside.items()

    package = ROOT / "lorweb_mini"
    kinds = ("*.py", "*.js", "*.css")
    modules = {path.relative_to(ROOT).as_posix() for kind in kinds for path in package.rglob(kind)}
    assert {"lorweb_mini/core/router.py", "lorweb_mini/widgets/atlas.js"} <= modules
    assert modules <= inside.keys()
    assert {f"lorweb_mini/flux/accelerate/{kind}.yaml" for kind in ("ddp", "fsdp")} <= inside.keys()
    licences = {path.name for path in (data / "emoji" / "LICENSES").iterdir()} | {"LICENSE", "ATTRIBUTION.md"}
    assert len(licences) > 5 and licences == {Path(name).name for name in inside if ".dist-info/licenses/" in name}
    top = {name.split("/")[0] for name in inside}
    assert top == {"lorweb_mini", wheel.name.split("-py3")[0] + ".dist-info"}
    assert not [name for name in inside if name.startswith("lorweb_mini/data/build/")]


def test_installed_wheel_edits(wheel: Path, tmp_path: Path, offline_environment: dict[str, str]) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)])

    # The folder comes before the checkout, which an editable installation puts on the path too.
    paths = os.pathsep.join([str(site), offline_environment["PYTHONPATH"]])
    done = _run([sys.executable, "-c", EDIT, str(site)], cwd=tmp_path, env=offline_environment | {"PYTHONPATH": paths})
    assert done.stdout.strip().endswith("edited")
