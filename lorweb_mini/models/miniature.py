"""The miniature behind the editor: the shape of its basis and router, its frozen parts, how it reads and draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapter import LAYERS
from ..core.layout import Layout
from ..core.router import MIXINGS
from ..errors import InputError, finite_number, whole_number
from ..images import read_images, read_triplet
from .autoencoder import MiniAutoencoder
from .base import STEPS, Base, noise_for
from .encoders import ENCODERS, TINY_CLIP, Encoder, encoder_of
from .pair_encoder import PairEncoder
from .weights import fingerprint, latent_fingerprint, weights_dir

# Query to the pictures' part of it, from embeddings of a, a' and b. With "pair" the embedding of the pair follows.
QUERIES: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    "cat": lambda a, a_prime, b: [a, a_prime, b],
    "cat+pair": lambda a, a_prime, b: [a, a_prime, b],
    "pair": lambda a, a_prime, b: [],
    "difference": lambda a, a_prime, b: [a_prime - a],
    "difference+b": lambda a, a_prime, b: [a_prime - a, b],
    "a'": lambda a, a_prime, b: [a_prime],
}


@dataclass(frozen=True)
class BasisConfig:
    """Shape of a basis and its router.

    Attributes:
        n_loras, rank: N LoRAs of rank r.
        keys_dim: d of the router's keys.
        layout: what the transformer sees, see :class:`~lorweb_mini.core.layout.Layout`.
        routed: False leaves the router out, every coefficient is 1; the ablation in which the transformer's own
            attention to a and a' must carry the edit.
        encoder: the router's image encoder, see :mod:`~lorweb_mini.models.encoders`.
        query: ``cat``, the paper's separate embeddings of a, a' and b side by side; ``cat+pair``, to which the
            embedding of the pair (a, a') is added, see :mod:`~lorweb_mini.models.pair_encoder`; or another of
            :data:`QUERIES`.
        adapted: which layers have LoRAs, one of :data:`~lorweb_mini.adapter.LAYERS`.
        mixing, temperature, shared: see :class:`~lorweb_mini.core.router.Router`.
    """

    n_loras: int = 16
    rank: int = 4
    keys_dim: int = 64
    layout: str = "b"
    routed: bool = True
    encoder: str = TINY_CLIP
    query: str = "cat"
    adapted: str = "all"
    mixing: str = "softmax"
    temperature: float = 1.0
    shared: bool = False

    def __post_init__(self) -> None:
        Layout(self.layout)
        if self.encoder not in ENCODERS:
            raise InputError(f"expected an encoder out of {ENCODERS}, got {self.encoder!r}")
        for name, options in (("query", QUERIES), ("adapted", LAYERS), ("mixing", MIXINGS)):
            if (value := getattr(self, name)) not in tuple(options):
                raise InputError(f"expected {name} out of {tuple(options)}, got {value!r}")
        # Python's own numbers, which JSON can write.
        object.__setattr__(self, "temperature", finite_number(self.temperature, "a temperature", above=True))
        for name in ("routed", "shared"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputError(f"expected {name} as True or False, got {value!r}")
        for name in ("n_loras", "rank", "keys_dim"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))
        if not self.routed and not Layout(self.layout).needs_context:
            raise InputError(
                "without a router the transformer must see a and a': expected layout tokens or grid, got b"
            )

    def router_options(self) -> dict[str, Any]:
        """What :class:`~lorweb_mini.core.router.Router` takes by name."""
        pictures = len(QUERIES[self.query](*torch.zeros(3, 0)))
        return {"pictures": pictures, **{name: getattr(self, name) for name in ("mixing", "temperature", "shared")}}


class Miniature:
    """The backend of the miniature: 64×64 pictures, latents [B, 16, 8, 8], on the device of its base."""

    steps = STEPS
    options: tuple[str, ...] = ()
    read = staticmethod(read_images)
    read_triplet = staticmethod(read_triplet)

    def __init__(
        self,
        autoencoder: MiniAutoencoder,
        encoder: Encoder,
        base: Base,
        config: BasisConfig,
        pair_encoder: PairEncoder | None = None,
    ) -> None:
        if (pair_encoder is None) == ("pair" in config.query):
            raise InputError(f"expected an encoder of pairs just where the query uses it, got query {config.query!r}")
        self.autoencoder, self.encoder, self.base, self.config = autoencoder, encoder, base, config
        self.pair_encoder, self.layout = pair_encoder, Layout(config.layout)

    @property
    def device(self) -> torch.device:
        return next(self.base.parameters()).device

    def encode(self, pictures: Tensor) -> Tensor:
        return self.autoencoder.to_latent(pictures.to(self.device))

    def embed(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        with torch.no_grad():
            pictures = QUERIES[self.config.query](*self.encoder(torch.cat([a, a_prime, b])).chunk(3))
        return pictures if self.pair_encoder is None else [*pictures, self.pair_encoder(a, a_prime)]

    def draw(self, a: Tensor | None, a_prime: Tensor | None, b: Tensor, *, steps: int, seed: int) -> Tensor:
        size = (b.shape[2], b.shape[3])
        noise = noise_for([seed] * len(b), self.layout.drawn(*size)).to(self.device)
        references, ids = self.layout.references(a, a_prime, b), self.layout.ids(*size).to(self.device)
        return self.layout.result(self.base.sample(noise, references, ids, steps=steps), *size)

    def decode(self, drawn: Tensor) -> Tensor:
        return self.autoencoder.to_picture(drawn).cpu()


def frozen_fingerprint(config: BasisConfig) -> str:
    """Identifies the shipped frozen parts that a basis was trained on, and the encoder of its router."""
    looks = config.routed and config.encoder == TINY_CLIP
    parts = ["autoencoder", "encoder", "base"] if looks else ["autoencoder", "base"]
    if "pair" in config.query:
        parts.append("pair_encoder")
    marks = {"autoencoder": latent_fingerprint}
    return "-".join(marks.get(part, fingerprint)(weights_dir() / part)[:8] for part in parts)


def load_frozen(encoder: str = TINY_CLIP) -> tuple[MiniAutoencoder, Encoder, Base]:
    """The shipped autoencoder, one of the encoders (see :mod:`~lorweb_mini.models.encoders`), and the shipped base."""
    folder = weights_dir()
    # Whatever default device another library has set; and its random numbers stay its own.
    with torch.random.fork_rng(), torch.device("cpu"):
        autoencoder = MiniAutoencoder.load(folder / "autoencoder")
        return autoencoder, encoder_of(encoder, autoencoder), Base.load(folder / "base")
