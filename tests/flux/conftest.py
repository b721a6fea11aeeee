"""A vision tower with random weights, for all tests of FLUX."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_flux import tiny_clip

from lorweb_mini.flux.picture_encoder import PictureEncoder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def encoder(clip: Path) -> PictureEncoder:
    return PictureEncoder.load(clip)
