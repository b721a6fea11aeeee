"""The editor: given a, a' and b, produce b' with a : a' :: b : b'."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError, check_options, check_seed, check_steps, naming
from ..files import safetensors_path, write_atomically
from ..images import to_pil
from ..models.miniature import BasisConfig, Miniature, frozen_fingerprint, load_frozen
from ..models.pair_encoder import PairEncoder
from ..models.weights import CONFIG, check_config, load_state, load_weights, save_weights, weights_dir
from .basis import Basis
from .layout import Layout
from .router import Router

P = ParamSpec("P")
R = TypeVar("R")
# Settings that weights trained before there was a choice do not name; the defaults are what they were trained with.
LATER = ("encoder", "query", "adapted", "mixing", "temperature", "shared")


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


class Backend(Protocol):
    """The frozen models behind an editor.

    :class:`~lorweb_mini.models.miniature.Miniature`, or :class:`~lorweb_mini.flux.editor.Kontext`.
    """

    autoencoder: Any
    encoder: Any
    base: Any  # its transformer takes the basis
    pair_encoder: Any  # of the pair (a, a'), or None
    config: Any  # has n_loras, rank and keys_dim; without a router routed is False
    layout: Layout
    steps: int  # Euler steps where the caller names none
    options: tuple[str, ...]  # what draw takes besides steps and seed

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""

    def read(self, x: Any, name: str) -> Tensor:
        """Whatever a caller passes as pictures, to [B, 3, H, W] in [-1, 1]; InputError names it."""

    def read_triplet(self, a: Any, a_prime: Any, b: Any) -> list[Tensor]:
        """a, a' and b, [B, 3, H, W] each; a single picture stands for all where others are lists."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures to what the other methods take."""

    def embed(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        """The parts of the router's query, [B, ...] each, see :meth:`Router.query`."""

    def draw(self, *encoded: Any, **options: Any) -> Tensor:
        """Runs the transformer on a, a' (None where the layout does not show them) and b; steps, seed and others."""

    def decode(self, drawn: Tensor) -> Tensor:
        """What :meth:`draw` gave, to pictures [B, 3, H, W] in [-1, 1]."""


def _alone(method: Callable[Concatenate[Editor, P], R]) -> Callable[Concatenate[Editor, P], R]:
    """Without gradients, and in the precision of the weights, whatever ``torch.autocast`` it is called within."""

    @wraps(method)
    def called(self: Editor, *arguments: P.args, **options: P.kwargs) -> R:
        with torch.no_grad(), torch.autocast(torch.device(self.backend.device).type, enabled=False):
            return method(self, *arguments, **options)

    return called


class Editor:
    """A trained basis and router on the frozen models of a backend. All public parts are plain modules.

    Options of a drawing are ``steps`` (Euler steps from noise to picture; the miniature's default is 1, FLUX's 28),
    ``seed`` (of the starting noise, the same for each item of a batch, so that an item gives the picture it gives
    alone), and what the backend's ``draw`` takes besides: FLUX's ``prompt`` and ``guidance``.

    An editor may be used from several threads; they draw one after the other. Every method raises InputError where
    another tool has changed the adapter of the shared transformer, see :meth:`Basis.check_adapter`.

    Attributes:
        autoencoder, encoder, base: frozen; pair_encoder: frozen, or tuned with the router, or None.
        basis, router: what training learns; ``router`` is None in the ablation without one.
        config: shape of the basis.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.layout = backend, backend.layout
        self.autoencoder, self.encoder, self.base = backend.autoencoder, backend.encoder, backend.base
        self.pair_encoder, self.config = backend.pair_encoder, (config := backend.config)
        adapted = getattr(config, "adapted", "all")
        self.basis = Basis(self.base.transformer, config.n_loras, config.rank, adapted)
        self.router: Any = None  # a Router, or another module that gives coefficients of the same embeddings
        if getattr(config, "routed", True):
            pair_dim = 0 if self.pair_encoder is None else self.pair_encoder.embedding_dim
            layers, width = len(self.basis.layers), self.encoder.embedding_dim
            options = config.router_options() if isinstance(config, BasisConfig) else {}
            self.router = Router(layers, config.n_loras, width, config.keys_dim, pair_dim, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Editor:
        """An equal editor with weights of its own; InputError inside ``freeze`` and ``disabled``."""
        memo[id(self)] = other = object.__new__(type(self))
        with self.basis.turn():  # or another thread's freeze might begin halfway
            other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    @_alone
    def route(self, a: Any, a_prime: Any, b: Any) -> Tensor:
        """Mixing coefficients of analogies: [batch, layers, N], every row sums to 1 (all 1 without a router).

        Pictures may be PIL images, numpy arrays, tensors, paths, or lists of these of one length; InputError for
        others.
        """
        self.basis.check_adapter()
        return self.coefficients(*self._encoded(a, a_prime, b)).cpu()

    def _encoded(self, a: Any, a_prime: Any, b: Any) -> list[Tensor]:
        return [self.backend.encode(x) for x in self.backend.read_triplet(a, a_prime, b)]

    def coefficients(self, a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
        """As :meth:`route`, from normalised latents [batch, 16, 8, 8]; differentiable in the router."""
        if self.router is None:
            return b.new_ones(len(b), len(self.basis.layers), self.config.n_loras)
        return self.router(*self.embeddings(a, a_prime, b))

    def embeddings(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        """What the router's query is made of, from normalised latents: [batch, ...] each, see :meth:`Router.query`."""
        return self.backend.embed(a, a_prime, b)

    @_alone
    def edit(
        self, a: Any, a_prime: Any, b: Any, *, steps: int | None = None, seed: int = 0, **options: Any
    ) -> EditResult:
        """Draws b' with a : a' :: b : b'.

        Args:
            a, a_prime, b: pictures (see :meth:`route`); lists make a batch.
            steps, seed, options: see the class.

        Raises:
            InputError: as :meth:`route`, steps below 1, a seed outside [0, 2^63), or an option of another name.
        """
        drawing = self._drawing_options(steps, seed, options)
        encoded = self._encoded(a, a_prime, b)
        return self._draw(encoded, self.coefficients(*encoded).cpu(), **drawing)

    @_alone
    def generate(
        self,
        b: Any,
        coefficients: Tensor,
        context: tuple[Any, Any] | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> EditResult:
        """Draws any point of the LoRA space: b under given coefficients.

        Args:
            b: pictures.
            coefficients: [layers, N] or [batch, layers, N]; one mixture serves many b, and one b many mixtures. Any
                real numbers are allowed, negative ones too.
            context: (a, a_prime) for layouts whose transformer sees them, as FLUX's does.
            steps, seed, options: see the class.

        Raises:
            InputError: coefficients of another shape, not finite or so large that the picture is not, a missing
                context, or as :meth:`edit`.
        """
        drawing = self._drawing_options(steps, seed, options)
        mixtures = self.basis.check(coefficients).cpu()
        if not self.layout.needs_context:
            encoded = [self.backend.encode(self.backend.read(b, "b"))]
        elif isinstance(context, (tuple, list)) and len(context) == 2:
            encoded = self._encoded(*context, b)
        else:
            given = "none" if context is None else type(context).__name__
            raise InputError(f"expected context=(a, a_prime) for the layout {self.layout.name!r}, got {given}")
        counts = len(mixtures), len(encoded[0])
        size = max(counts)
        if min(counts) not in (1, size):
            said = "expected as many coefficients as pictures b, or one of either, got {} and {}"
            raise InputError(said.format(*counts))
        encoded = [z.expand(size, *z.shape[1:]) for z in encoded]
        return self._draw(encoded, mixtures.expand(size, -1, -1), **drawing)

    def _drawing_options(self, steps: int | None, seed: int, options: dict[str, Any]) -> dict[str, Any]:
        """All that the backend's ``draw`` takes by name."""
        check_options(options, self.backend.options, ("steps", "seed"))
        self.basis.check_adapter()
        steps = self.backend.steps if steps is None else check_steps(steps)
        return {"steps": steps, "seed": check_seed(seed), **options}

    def _draw(self, encoded: Sequence[Tensor], coefficients: Tensor, **options: Any) -> EditResult:
        *context, b = encoded
        a, a_prime = context if self.layout.needs_context else (None, None)
        dtype = self.basis.parameters()[0].dtype
        with self.basis.turn():
            if self.basis.merged is not None:
                coefficients = self.basis.merged.expand_as(coefficients)
            elif self.basis.off:
                coefficients = torch.zeros_like(coefficients)
            with self.basis.mixed(coefficients.to(self.backend.device, dtype)):
                drawn = self.backend.draw(a, a_prime, b, **options)
        pictures = self.backend.decode(drawn)
        if not torch.isfinite(pictures).all():
            raise InputError("expected coefficients that the transformer can compute with, got a picture of NaN")
        return EditResult([to_pil(x) for x in pictures], pictures, coefficients)

    def freeze(self, coefficients: Tensor) -> AbstractContextManager[Editor]:
        """Merges one analogy's mixture [layers, N] into the base for the length of a ``with`` block.

        Inside, ``generate`` and ``edit`` draw with the merged weights at the bare base's speed, whatever coefficients
        they are given, and their results name this mixture; another thread's wait. Outside, the base is back bit for
        bit. The original weights wait in ordinary memory: 22 GiB for FLUX in bfloat16.

        Raises:
            InputError: coefficients as in :meth:`generate` or of several analogies, or a ``freeze`` inside another.
        """
        self.basis.check_adapter()
        return self.basis.frozen(coefficients, self)

    def export_lora(self, coefficients: Tensor, path: str | Path) -> Path:
        """Writes one analogy's mixture [layers, N] as a plain LoRA of rank N·r, in diffusers' format (safetensors).

        ``transformer.load_lora_adapter(path)`` of diffusers, or a Flux pipeline's ``load_lora_weights``, reads it.
        """
        self.basis.check_adapter()
        path = safetensors_path(path)
        state = {}
        for name, (low, high) in self.basis.folded(coefficients).items():
            state[f"transformer.{name}.lora_A.weight"] = low.contiguous()
            state[f"transformer.{name}.lora_B.weight"] = high.contiguous()
        write_atomically(path, save(state, metadata={"format": "pt"}))
        return path

    def save(self, folder: str | Path, **notes: Any) -> None:
        """Writes the basis, the router and their configuration, and an encoder of the pair that is not the shipped one.

        ``notes`` are kept in config.json; InputError for one that is named as a part of the configuration.
        """
        if taken := sorted(notes.keys() & {*asdict(self.config), "frozen"}):
            raise InputError(f"expected notes of other names than the configuration's, got {', '.join(taken)}")
        state = {f"basis.{k}": v for k, v in self.basis.state_dict().items()}
        if self.router is not None:
            state |= {f"router.{k}": v for k, v in self.router.state_dict().items()}
        if self.pair_encoder is not None and not _is_shipped(self.pair_encoder):
            state |= {f"pair_encoder.{k}": v for k, v in self.pair_encoder.state_dict().items()}
        save_weights(folder, {**asdict(self.config), **notes, "frozen": frozen_fingerprint(self.config)}, state)


def _is_shipped(encoder: PairEncoder) -> bool:
    own, shipped = encoder.state_dict(), PairEncoder.load(weights_dir() / "pair_encoder").state_dict()
    same = own.keys() == shipped.keys() and all(own[k].shape == shipped[k].shape for k in own)
    return same and all(torch.equal(own[k].cpu(), shipped[k]) for k in own)


def new_editor(config: BasisConfig, seed: int = 0) -> Editor:
    """An untrained basis and router on the shipped frozen parts; it starts as the base, since B = 0."""
    frozen = load_frozen(config.encoder)
    with torch.random.fork_rng(), torch.device("cpu"):
        pair = PairEncoder.load(weights_dir() / "pair_encoder") if "pair" in config.query else None
        torch.manual_seed(seed)
        editor = Editor(Miniature(*frozen, config, pair))
    if editor.router is not None:
        editor.router.float()  # whatever default dtype another library has set
    return editor


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
    if not os.path.isdir(folder):  # which takes any name, too long a one as well
        raise InputError(f"expected 'full', 'starter' or a folder with a trained basis, got {str(weights)!r:.200}")
    stored, state = load_weights(folder)
    config = _config_of(stored, folder)
    sizes = {tuple(v.shape[:1]) for k, v in state.items() if k.endswith(".lora_A.weight")}
    keys = state.get("router.keys")
    if sizes != {(config.n_loras * config.rank,)} or (keys is not None and keys.shape[-1:] != (config.keys_dim,)):
        raise InputError(f"expected weights in {folder} of the sizes in its {CONFIG}, got others")
    editor = new_editor(config)
    _fill(editor, state, folder)
    return editor


def _config_of(stored: dict[str, Any], folder: Path) -> BasisConfig:
    fields = BasisConfig.__dataclass_fields__
    own = {name: stored.get(name, fields[name].default) for name in fields if name in stored or name in LATER}
    check_config(BasisConfig.__init__, own, folder)
    with naming(folder):
        config = BasisConfig(**own)
    if (theirs := stored.get("frozen")) != (ours := frozen_fingerprint(config)):
        said = f"expected a basis trained on the frozen weights {ours}, got one trained on {theirs} in {folder}"
        raise InputError(said)
    return config


def _fill(editor: Editor, state: dict[str, Tensor], folder: Path) -> None:
    """Weights into an editor; no module of it is trainable afterwards."""
    modules = {"router": editor.router, "pair_encoder": editor.pair_encoder}
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("basis", *modules)}
    for name, tensor in state.items():
        part, _, inner = name.partition(".")
        if part != "basis" and modules.get(part) is None:
            raise InputError(f"expected weights of what {CONFIG} names in {folder}, got {name}, too")
        parts[part][inner] = tensor
    with naming(folder):
        editor.basis.load_state_dict(parts["basis"])
    for part, module in modules.items():
        if module is not None and (part == "router" or parts[part]):  # the pair's encoder is there where it was tuned
            load_state(module, parts[part], folder)
            module.eval().requires_grad_(False)
    for parameter in editor.basis.parameters():
        parameter.requires_grad_(False)
