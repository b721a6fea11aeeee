"""Small random models, so that the tests of the core need neither the shipped weights nor the shipped pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorweb_mini.core.editor import BasisConfig, Editor, Miniature
from lorweb_mini.core.layout import position_ids
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base, transformer_of
from lorweb_mini.models.pair_encoder import PairEncoder
from lorweb_mini.models.tiny_clip import TinyCLIP

# Models this small gain nothing from a second thread, and on a busy machine they lose a lot by waiting for it.
torch.set_num_threads(1)


def tiny_base(seed: int = 0) -> Base:
    """One double and one single block, 64 wide: 20 Linear layers that a basis adapts."""
    torch.manual_seed(seed)
    base = Base(transformer_of(width=64, double_blocks=1, single_blocks=1))
    base.requires_grad_(False).eval()
    return base


def randomise(editor_or_basis, seed: int = 1) -> None:
    """B away from zero, far enough that a wrong mixture shows."""
    generator = torch.Generator().manual_seed(seed)
    basis = getattr(editor_or_basis, "basis", editor_or_basis)
    with torch.no_grad():
        for name, tensor in basis.state_dict().items():
            if name.endswith("lora_B.weight"):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))


def tiny_editor(
    layout: str = "b",
    n_loras: int = 3,
    rank: int = 2,
    routed: bool = True,
    seed: int = 0,
    zero: bool = False,
) -> Editor:
    """An editor with random weights everywhere; ``zero`` leaves B at zero, as a fresh basis has it."""
    base = tiny_base(seed)
    autoencoder = MiniAutoencoder(scaling_factor=2.0, shift_factor=0.1).eval().requires_grad_(False)
    encoder = TinyCLIP(width=48, layers=1, embedding_dim=16).eval().requires_grad_(False)
    config = BasisConfig(n_loras, rank, keys_dim=8, layout=layout, routed=routed)
    editor = Editor(Miniature(autoencoder, encoder, base, config))
    if not zero:
        randomise(editor)
    return editor


def tiny_pair_encoder(seed: int = 0) -> PairEncoder:
    """An encoder of pairs with random weights, 16 wide, that was taught two kinds of edit."""
    torch.manual_seed(seed)
    encoder = PairEncoder(("grey", "hue"), ("tone/yellow>dark",), 3, width=32, layers=1, embedding_dim=16, stem_width=8)
    return encoder.eval().requires_grad_(False)


def pictures(k: int, seed: int = 0) -> Tensor:
    """Random pictures [k, 3, 64, 64] in [-1, 1], each with its own mean colour."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(k, 3, 1, 1, generator=generator)
    noise = torch.rand(k, 3, 64, 64, generator=generator)
    return (colour + noise) - 1


def mixtures(k: int, editor_or_basis, seed: int = 0) -> Tensor:
    """Random coefficients [k, layers, N] whose rows sum to 1."""
    basis = getattr(editor_or_basis, "basis", editor_or_basis)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(k, len(basis.layers), basis.n_loras, generator=generator).add(0.1).log().mul(3).softmax(-1)


def transformer_inputs(k: int, seed: int = 0) -> dict[str, Tensor]:
    """Arguments of ``Base.velocity`` for k samples with one reference picture each."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "noisy": torch.randn(k, 16, 64, generator=generator),
        "t": torch.rand(k, generator=generator),
        "references": torch.randn(k, 16, 64, generator=generator),
        "ids": torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)]),
        "instruction": torch.randn(k, 384, generator=generator),
    }


def tiny_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder with tiny frozen weights and a tiny basis named ``starter`` the package's data folder."""
    monkeypatch.setenv("LORWEB_DATA", str(folder))
    (folder / "emoji").mkdir(parents=True)
    (folder / "emoji" / "emoji.json").write_text("{}")
    editor = tiny_editor()
    editor.autoencoder.save(folder / "weights" / "autoencoder")
    editor.encoder.save(folder / "weights" / "encoder")
    tiny_pair_encoder().save(folder / "weights" / "pair_encoder")
    # A copy of the same base, since this one carries the adapter.
    tiny_base().save(folder / "weights" / "base")
    editor.save(folder / "weights" / "starter", relations=["edit/mirror"])
    return folder
