"""The editor: given a, a' and b, produce b' with a : a' :: b : b'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..images import read_images, to_pil
from ..models.autoencoder import MiniAutoencoder
from ..models.base import Base, noise_for
from ..models.encoders import ENCODERS, TINY_CLIP, Encoder, encoder_of
from ..models.pair_encoder import PairEncoder
from ..models.weights import fingerprint, latent_fingerprint, load_state, load_weights, save_weights, weights_dir
from .basis import Basis
from .layout import Layout
from .router import Router

QUERIES = ("cat", "cat+pair")


@dataclass(frozen=True)
class BasisConfig:
    """Shape of a basis and its router.

    Attributes:
        n_loras, rank: N LoRAs of rank r.
        keys_dim: d of the router's keys.
        layout: what the transformer sees, see :class:`~lorweb_mini.core.layout.Layout`.
        routed: False leaves the router out, every coefficient is 1; the ablation in which the transformer's own
            attention to a and a' must carry the edit.
        encoder: what the router looks through, see :mod:`~lorweb_mini.models.encoders`.
        query: ``cat``, the paper's separate embeddings of a, a' and b side by side, or ``cat+pair``, to which the
            embedding of the pair (a, a') is added, see :mod:`~lorweb_mini.models.pair_encoder`.
    """

    n_loras: int = 16
    rank: int = 4
    keys_dim: int = 64
    layout: str = "b"
    routed: bool = True
    encoder: str = TINY_CLIP
    query: str = "cat"

    def __post_init__(self) -> None:
        Layout(self.layout)
        if self.encoder not in ENCODERS:
            raise InputError(f"expected an encoder out of {ENCODERS}, got {self.encoder!r}")
        if self.query not in QUERIES:
            raise InputError(f"expected a query out of {QUERIES}, got {self.query!r}")
        for name in ("n_loras", "rank", "keys_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"expected {name} to be a whole number of at least 1, got {value!r}")
        if not self.routed and not Layout(self.layout).needs_context:
            raise InputError(
                "without a router the transformer must see a and a': expected layout tokens or grid, got b"
            )


@dataclass(frozen=True)
class EditResult:
    """What an edit returns.

    Attributes:
        images: one PIL picture (64×64, RGB) for each analogy.
        pictures: the same as a tensor [batch, 3, 64, 64] in [-1, 1].
        coefficients: the mixture that drew them, [batch, layers, N].
    """

    images: list[Image.Image]
    pictures: Tensor
    coefficients: Tensor

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]


class Editor:
    """The frozen parts with one trained basis and router. All public parts are plain modules.

    Attributes:
        autoencoder, encoder, base: frozen.
        basis, router: what training learns; ``router`` is None in the ablation without one.
        pair_encoder: frozen, or tuned with the router; None where the query has no pair.
        config: shape of the basis.
    """

    def __init__(
        self,
        autoencoder: MiniAutoencoder,
        encoder: Encoder,
        base: Base,
        config: BasisConfig,
        pair_encoder: PairEncoder | None = None,
    ) -> None:
        if (pair_encoder is None) == (config.query == "cat+pair"):
            raise InputError(f"expected an encoder of pairs just where the query uses it, got query {config.query!r}")
        self.autoencoder, self.encoder, self.base, self.config = autoencoder, encoder, base, config
        self.pair_encoder = pair_encoder
        self.layout = Layout(config.layout)
        self.basis = Basis(base.transformer, config.n_loras, config.rank)
        self.router = (
            Router(
                len(self.basis.layers),
                config.n_loras,
                encoder.embedding_dim,
                config.keys_dim,
                0 if pair_encoder is None else pair_encoder.embedding_dim,
            )
            if config.routed
            else None
        )

    def route(self, a: Any, a_prime: Any, b: Any) -> Tensor:
        """Mixing coefficients of analogies: [batch, layers, N], every row sums to 1 (all 1 without a router).

        Pictures may be PIL images, numpy arrays, tensors, paths, or lists of these of one length.

        Raises:
            InputError: a picture cannot be read, or the lists differ in length.
        """
        with torch.no_grad():
            return self.coefficients(*[self.autoencoder.to_latent(x) for x in read_triplet(a, a_prime, b)])

    def coefficients(self, a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
        """As :meth:`route`, from normalised latents [batch, 16, 8, 8]; differentiable in the router."""
        if self.router is None:
            return b.new_ones(len(b), len(self.basis.layers), self.config.n_loras)
        return self.router(*self.embeddings(a, a_prime, b))

    def embeddings(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        """What the router's query is made of, from normalised latents: [batch, ...] each, see :meth:`Router.query`."""
        with torch.no_grad():
            separate = list(self.encoder(torch.cat([a, a_prime, b])).chunk(3))
        return separate if self.pair_encoder is None else [*separate, self.pair_encoder(a, a_prime)]

    def edit(self, a: Any, a_prime: Any, b: Any, steps: int = 8, seed: int = 0) -> EditResult:
        """Draws b' with a : a' :: b : b'.

        Args:
            a, a_prime, b: pictures (see :meth:`route`); lists make a batch.
            steps: Euler steps from noise to picture.
            seed: of the starting noise, the same for each item of a batch, so that an item gives the picture it gives
                alone.

        Raises:
            InputError: as :meth:`route`, steps below 1, or a seed outside [0, 2^63).
        """
        pictures = read_triplet(a, a_prime, b)
        with torch.no_grad():
            latents = [self.autoencoder.to_latent(x) for x in pictures]
            return self._draw(latents[2], self.coefficients(*latents), latents[:2], steps, seed)

    def generate(
        self,
        b: Any,
        coefficients: Tensor,
        context: tuple[Any, Any] | None = None,
        steps: int = 8,
        seed: int = 0,
    ) -> EditResult:
        """Draws any point of the LoRA space: b under given coefficients.

        Args:
            b: pictures.
            coefficients: [layers, N] or [batch, layers, N]; one mixture serves many b, and one b many mixtures. Any
                real numbers are allowed, negative ones too.
            context: (a, a_prime) for layouts whose transformer sees them.

        Raises:
            InputError: coefficients of another shape or not finite, or a missing context.
        """
        coefficients = self.basis.check(coefficients)
        if self.layout.needs_context:
            if not isinstance(context, (tuple, list)) or len(context) != 2:
                raise InputError(
                    f"expected context=(a, a_prime) for the layout {self.config.layout!r}, "
                    f"got {'none' if context is None else type(context).__name__}"
                )
            pictures = read_triplet(*context, b)
        else:
            pictures = [read_images(b, "b")]
        with torch.no_grad():
            latents = [self.autoencoder.to_latent(x) for x in pictures]
        size = max(len(latents[-1]), len(coefficients))
        if {len(latents[-1]), len(coefficients)} - {1, size}:
            raise InputError(
                f"expected as many coefficients as pictures b, or one of either, "
                f"got {len(coefficients)} and {len(latents[-1])}"
            )
        latents = [z.expand(size, *z.shape[1:]) for z in latents]
        coefficients = coefficients.expand(size, *coefficients.shape[1:])
        return self._draw(latents[-1], coefficients, latents[:-1], steps, seed)

    @torch.no_grad()
    def _draw(self, b: Tensor, coefficients: Tensor, context: Sequence[Tensor], steps: int, seed: int) -> EditResult:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"expected steps as a whole number of at least 1, got {steps!r}")
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise InputError(f"expected a seed as a whole number in [0, 2^63), got {seed!r}")
        a, a_prime = context if self.layout.needs_context else (None, None)
        height, width = b.shape[2:]
        noise = noise_for([seed] * len(b), self.layout.drawn(height, width))
        references = self.layout.references(a, a_prime, b)
        with self.basis.mixed(coefficients):
            tokens = self.base.sample(noise, references, self.layout.ids(height, width), steps=steps)
        pictures = self.autoencoder.to_picture(self.layout.result(tokens, height, width))
        return EditResult([to_pil(x) for x in pictures], pictures, coefficients)

    @contextmanager
    def freeze(self, coefficients: Tensor) -> Iterator[Editor]:
        """Merges one analogy's mixture [layers, N] into the base for the length of a ``with`` block.

        Inside, ``generate`` and ``edit`` draw with the merged weights at the bare base's speed, whatever coefficients
        they are given; outside, the base is back bit for bit.
        """
        with self.basis.frozen(coefficients):
            yield self

    def export_lora(self, coefficients: Tensor, path: str | Path) -> Path:
        """Writes one analogy's mixture [layers, N] as a plain LoRA of rank N·r, in diffusers' format (safetensors).

        ``transformer.load_lora_adapter(path)`` of diffusers, or a Flux pipeline's ``load_lora_weights``, reads it.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"expected a path that ends in .safetensors, got {path.name!r}")
        state = {}
        for name, (low, high) in self.basis.folded(coefficients).items():
            state[f"transformer.{name}.lora_A.weight"] = low.contiguous()
            state[f"transformer.{name}.lora_B.weight"] = high.contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path, metadata={"format": "pt"})
        return path

    def save(self, folder: str | Path, **notes: Any) -> None:
        """Writes the basis, the router and their configuration; ``notes`` are kept in config.json."""
        state = {f"basis.{k}": v for k, v in self.basis.state_dict().items()}
        if self.router is not None:
            state |= {f"router.{k}": v for k, v in self.router.state_dict().items()}
        if self.pair_encoder is not None and notes.get("tuned_pair_encoder"):
            state |= {f"pair_encoder.{k}": v for k, v in self.pair_encoder.state_dict().items()}
        save_weights(folder, {**asdict(self.config), **notes, "frozen": frozen_fingerprint(self.config)}, state)


def read_triplet(a: Any, a_prime: Any, b: Any) -> list[Tensor]:
    """Three pictures or lists of pictures to tensors [batch, 3, 64, 64]; InputError when their lengths differ."""
    for name, value in (("a", a), ("a_prime", a_prime), ("b", b)):
        if value is None:
            raise InputError(f"expected a picture for {name}, got None: an analogy needs a, a_prime and b")
    pictures = [read_images(x, name) for x, name in ((a, "a"), (a_prime, "a_prime"), (b, "b"))]
    lengths = {len(x) for x in pictures}
    size = max(lengths)
    if lengths - {1, size}:
        found = ", ".join(str(len(x)) for x in pictures)
        raise InputError(f"expected as many pictures a as a_prime as b (or one for all), got {found}")
    return [x.expand(size, *x.shape[1:]) for x in pictures]


def frozen_fingerprint(config: BasisConfig) -> str:
    """Identifies the shipped frozen parts that a basis was trained on, and the eye of its router."""
    looks = config.routed and config.encoder == TINY_CLIP
    parts = ["autoencoder", "encoder", "base"] if looks else ["autoencoder", "base"]
    if config.query == "cat+pair":
        parts.append("pair_encoder")
    marks = {"autoencoder": latent_fingerprint}
    return "-".join(marks.get(part, fingerprint)(weights_dir() / part)[:8] for part in parts)


def load_frozen(encoder: str = TINY_CLIP) -> tuple[MiniAutoencoder, Encoder, Base]:
    """The shipped autoencoder, one of the encoders (see :mod:`~lorweb_mini.models.encoders`), and the shipped base."""
    folder = weights_dir()
    autoencoder = MiniAutoencoder.load(folder / "autoencoder")
    return autoencoder, encoder_of(encoder, autoencoder), Base.load(folder / "base")


def new_editor(config: BasisConfig, seed: int = 0) -> Editor:
    """An untrained basis and router on the shipped frozen parts; it starts as the base, since B = 0."""
    frozen = load_frozen(config.encoder)
    pair = PairEncoder.load(weights_dir() / "pair_encoder") if config.query == "cat+pair" else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Editor(*frozen, config, pair)


def load(weights: str | Path = "full") -> Editor:
    """An editor, on the CPU and offline.

    Args:
        weights: ``"full"`` or ``"starter"`` for a shipped basis, or a folder that training wrote.

    Raises:
        InputError: no such folder, a file in it is missing, truncated or foreign, it was trained on other frozen
            weights than the ones shipped here, or its encoder needs a package that is not installed.
    """
    if not isinstance(weights, (str, Path)):
        raise InputError(f"expected the name or the folder of a trained basis, got {type(weights).__name__}")
    shipped = weights_dir() / str(weights)
    folder = shipped if str(weights) in ("full", "starter") else Path(weights)
    if not folder.is_dir():
        raise InputError(f"expected 'full', 'starter' or a folder with a trained basis, got {str(weights)!r}")
    stored, state = load_weights(folder)
    names = {f.name for f in fields(BasisConfig)}
    # Weights from before there was a choice of encoders and queries do not name theirs, the first of them.
    if names - {"encoder", "query"} - set(stored):
        raise InputError(f"expected a basis configuration with {sorted(names)} in {folder}, got {sorted(stored)}")
    config = BasisConfig(**{k: v for k, v in stored.items() if k in names})
    if stored.get("frozen") != (ours := frozen_fingerprint(config)):
        raise InputError(
            f"expected a basis trained on the frozen weights {ours}, "
            f"got one trained on {stored.get('frozen')} in {folder}"
        )
    editor = new_editor(config)
    editor.basis.load_state_dict({k.removeprefix("basis."): v for k, v in state.items() if k.startswith("basis.")})
    if editor.router is not None:
        router = {k.removeprefix("router."): v for k, v in state.items() if k.startswith("router.")}
        load_state(editor.router, router, folder)
        editor.router.eval().requires_grad_(False)
    if tuned := {k.removeprefix("pair_encoder."): v for k, v in state.items() if k.startswith("pair_encoder.")}:
        load_state(editor.pair_encoder, tuned, folder)  # type: ignore[arg-type]
    for parameter in editor.basis.parameters():
        parameter.requires_grad_(False)
    return editor
