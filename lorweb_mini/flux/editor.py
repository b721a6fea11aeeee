"""The same method at its real scale: FLUX.1-Kontext in diffusers' own pipeline, and the released basis.

>>> import lorweb_mini as lw
>>> editor = lw.load_flux(quantize="4bit")           # a CUDA GPU, the model's licence accepted on the hub
>>> editor.edit("a.png", "a_prime.png", "b.png", prompt="", steps=28).image

The image condition is the grid [[a, a'], [b, b]]; Kontext draws a whole grid and its bottom-right quarter is b'.
Without a GPU there remain ``python -m lorweb_mini.flux inspect`` and ``export``, which read a checkpoint and pictures
only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxKontextPipeline, PipelineQuantizationConfig
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from ..core.basis import Basis
from ..core.editor import EditResult
from ..core.layout import Layout, grid
from ..core.router import Router
from ..errors import InputError
from ..images import to_pil
from .checkpoint import ReleasedConfig, ReleasedFile, modules_of, open_released
from .estimate import estimate, models_of, require
from .lora_file import folded, folds, truncated, write_plain_lora
from .picture_encoder import CLIP_L, PictureEncoder, read_squares, read_triplet

BASE, WEIGHTS = "black-forest-labs/FLUX.1-Kontext-dev", "hilamanor/lorweb"
# Where the large Linears are; the small CLIP text encoder and the autoencoder stay as they are.
QUANTISED_PARTS = ("transformer", "text_encoder_2")
PACKAGES = {
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}


class FluxEditor:
    """A Kontext pipeline with a basis on its transformer, a router and its eye; the API of ``lw.load()``'s editor.

    Args:
        pipeline: diffusers' own, on its device (or with offloading). The basis is added to its transformer.
        encoder: what the router looks through.
        config: sizes of the basis. B starts at zero, so the editor starts as the base.
        side: of one picture, in pixels, a multiple of 16; 512 makes the grid the million pixels that Kontext knows.
        device: where the pipeline computes.
        small: where encoder and router stay; with offloading the processor, since they are small.
    """

    layout = Layout("grid")

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        encoder: PictureEncoder,
        config: ReleasedConfig,
        side: int = 512,
        device: str | torch.device = "cpu",
        small: str | torch.device | None = None,
    ) -> None:
        if isinstance(side, bool) or not isinstance(side, int) or side < 16 or side % 16:
            raise InputError(f"expected side as a multiple of 16 pixels, got {side!r}")
        if 3 * encoder.embedding_dim != config.query_dim:
            raise InputError(
                f"expected an encoder with embeddings of {config.query_dim / 3:g} numbers, a third of the router's "
                f"query, got one with {encoder.embedding_dim}"
            )
        self.pipeline, self.encoder, self.config, self.side = pipeline, encoder, config, side
        self.device, self.small = torch.device(device), torch.device(small or device)
        self.basis = Basis(pipeline.transformer, config.n_loras, config.rank)
        for parameter in self.basis.parameters():
            # A quantised base gives PEFT no dtype to follow.
            parameter.data = parameter.data.to(pipeline.dtype)
            parameter.requires_grad_(False)
        self.router = Router(len(self.basis.layers), config.n_loras, encoder.embedding_dim, config.keys_dim)
        self.router.eval().requires_grad_(False).to(self.small)
        self.encoder.to(self.small)
        pipeline.set_progress_bar_config(disable=True)

    def load(self, file: ReleasedFile) -> None:
        """Reads the released weights into basis and router; InputError for other layers or sizes."""
        file.load_into(self.basis, self.router)

    @torch.no_grad()
    def route(self, a: Any, a_prime: Any, b: Any) -> Tensor:
        """Mixing coefficients of analogies: [batch, layers, N], every row sums to 1.

        Pictures may be PIL images, numpy arrays, tensors, paths, or lists of these of one length.

        Raises:
            InputError: a picture cannot be read, or the lists differ in length.
        """
        return self._coefficients(read_triplet(a, a_prime, b, self.side))

    def _coefficients(self, pictures: Sequence[Tensor]) -> Tensor:
        embeddings = self.encoder(torch.cat(list(pictures))).float()
        return self.router(*embeddings.chunk(3)).cpu()

    def edit(
        self,
        a: Any,
        a_prime: Any,
        b: Any,
        prompt: str | Sequence[str] = "",
        steps: int = 28,
        seed: int = 0,
        guidance: float = 2.5,
    ) -> EditResult:
        """Draws b' with a : a' :: b : b'.

        Args:
            a, a_prime, b: pictures (see :meth:`route`); lists make a batch, each item with its own mixture.
            prompt: what to do, for all or for each; the released model was trained with instructions, and without one
                the pictures alone say it.
            steps: Euler steps from noise to picture.
            seed: of the starting noise, the same for each item of a batch, so that an item gives the picture it gives
                alone.
            guidance: what Kontext, distilled to need no second pass, is told its guidance was.

        Returns:
            pictures [batch, 3, side, side] in [-1, 1], as PIL images too, and the coefficients.

        Raises:
            InputError: as :meth:`route`, steps below 1, a seed outside [0, 2^63), or another number of prompts.
        """
        pictures = read_triplet(a, a_prime, b, self.side)
        with torch.no_grad():
            coefficients = self._coefficients(pictures)
        return self._draw(pictures, coefficients, prompt, steps, seed, guidance)

    def generate(
        self,
        b: Any,
        coefficients: Tensor,
        context: tuple[Any, Any] | None = None,
        prompt: str | Sequence[str] = "",
        steps: int = 28,
        seed: int = 0,
        guidance: float = 2.5,
    ) -> EditResult:
        """Draws any point of the LoRA space: b under given coefficients.

        Args:
            b: pictures.
            coefficients: [layers, N] or [batch, layers, N]; one mixture serves many b, and one b many mixtures. Any
                real numbers are allowed.
            context: (a, a_prime) for the upper row of the grid, which the transformer sees.
            prompt, steps, seed, guidance: as in :meth:`edit`.

        Raises:
            InputError: coefficients of another shape or not finite, no context, or as :meth:`edit`.
        """
        coefficients = self.basis.check(coefficients).cpu()
        if not isinstance(context, (tuple, list)) or len(context) != 2:
            raise InputError(f"expected context=(a, a_prime), which the transformer sees, got {context!r}")
        pictures = read_triplet(*context, read_squares(b, "b", self.side), self.side)
        size = max(len(pictures[0]), len(coefficients))
        if {len(pictures[0]), len(coefficients)} - {1, size}:
            raise InputError(
                f"expected as many coefficients as pictures b, or one of either, "
                f"got {len(coefficients)} and {len(pictures[0])}"
            )
        pictures = [x.expand(size, *x.shape[1:]) for x in pictures]
        return self._draw(pictures, coefficients.expand(size, -1, -1), prompt, steps, seed, guidance)

    @torch.no_grad()
    def _draw(
        self,
        pictures: Sequence[Tensor],
        coefficients: Tensor,
        prompt: str | Sequence[str],
        steps: int,
        seed: int,
        guidance: float,
    ) -> EditResult:
        a, a_prime, b = pictures
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InputError(f"expected steps as a whole number of at least 1, got {steps!r}")
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise InputError(f"expected a seed as a whole number in [0, 2^63), got {seed!r}")
        prompts = [prompt] * len(b) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(b) or not all(isinstance(x, str) for x in prompts):
            raise InputError(f"expected one prompt, or one for each of {len(b)} analogies, got {prompt!r}")
        edge = 2 * self.side
        with self.basis.mixed(coefficients.to(self.device, self.basis.parameters()[0].dtype)):
            drawn = self.pipeline(
                image=(grid(a, a_prime, b, b) + 1) / 2,
                prompt=prompts,
                height=edge,
                width=edge,
                # Without these two diffusers takes another size, near a million pixels.
                max_area=edge * edge,
                _auto_resize=False,
                num_inference_steps=steps,
                guidance_scale=guidance,
                # On the processor, so that a seed means the same noise whatever the device.
                generator=[torch.Generator().manual_seed(int(seed)) for _ in prompts],
                output_type="pt",
            ).images
        found = drawn[:, :, self.side :, self.side :].float().cpu() * 2 - 1
        return EditResult([to_pil(x) for x in found], found, coefficients)

    @contextmanager
    def freeze(self, coefficients: Tensor) -> Iterator[FluxEditor]:
        """Merges one analogy's mixture [layers, N] into the transformer for the length of a ``with`` block.

        Inside, ``generate`` and ``edit`` draw with the merged weights at the bare base's speed, whatever coefficients
        they are given; outside, the base is back bit for bit. In half precision the sum W + ΔW is rounded once more
        than in the dynamic form. The original weights wait in ordinary memory: 22 GiB for FLUX in bfloat16.

        Raises:
            InputError: coefficients as in :meth:`generate`, or a quantised transformer, whose weights take no sum.
        """
        transformer = self.pipeline.transformer
        if getattr(transformer, "is_quantized", False):
            raise InputError(
                "expected a transformer in floating point: quantised weights cannot take a mixture up. "
                "The dynamic form costs little more, and export_lora writes a plain LoRA"
            )
        linears = [module.get_base_layer() for module in self.basis.modules]
        originals: list[Tensor] = []
        try:
            for linear, (_, low, high) in zip(linears, folds(self.basis, coefficients), strict=True):
                weight = linear.weight.data
                originals.append(weight.cpu())
                linear.weight.data = (weight.float() + high @ low).to(weight.dtype)
            with self.basis.disabled():
                yield self
        finally:
            for linear, weight in zip(linears, originals, strict=False):
                linear.weight.data = weight.to(linear.weight.device)

    def export_lora(
        self,
        coefficients: Tensor,
        path: str | Path,
        key_format: str = "diffusers",
        rank: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        """Writes one analogy's mixture [layers, N] as a plain LoRA file, see :mod:`~lorweb_mini.flux.lora_file`.

        Its rank is N·r and it is exact, or ``rank``, and the error of each layer is the least possible; the file's
        header then holds the error of all layers together.
        """
        return export(folded(self.basis, coefficients), path, key_format, rank, dtype)


def export(
    layers: dict[str, tuple[Tensor, Tensor]], path: str | Path, key_format: str, rank: int | None, dtype: torch.dtype
) -> Path:
    """Cuts a plain LoRA where a rank is asked for, and writes it; arguments as in :meth:`FluxEditor.export_lora`."""
    notes = {}
    if rank is not None:
        cut = truncated(layers, rank)
        layers, notes = cut.layers, {"svd_rank": str(rank), "svd_relative_error": f"{cut.error:.6g}"}
    return write_plain_lora(path, layers, key_format, dtype, notes)


def load_flux(
    base: str | Path = BASE,
    weights: str | Path = WEIGHTS,
    device: str | torch.device = "cuda",
    dtype: torch.dtype = torch.bfloat16,
    quantize: str | PipelineQuantizationConfig | None = None,
    offload: bool = False,
    encoder: str | Path | None = None,
    side: int = 512,
    token: str | None = None,
    check_memory: bool = True,
) -> FluxEditor:
    """The released basis on FLUX.1-Kontext, ready to edit.

    Args:
        base: folder or hub name of a Kontext pipeline.
        weights: folder, file or hub name of a checkpoint in the released layout.
        device: ``"cuda"``; ``"cpu"`` works and takes hours a picture.
        dtype: of the pipeline and the LoRAs.
        quantize: ``"4bit"`` or ``"8bit"`` (bitsandbytes, transformer and T5), or diffusers' own
            ``PipelineQuantizationConfig`` with any of its backends, counted as 8 bits.
        offload: components wait in ordinary memory and take turns on the device.
        encoder: folder or hub name of the router's CLIP or SigLIP; by default the one that the checkpoint names, else
            CLIP ViT-L/14.
        side: see :class:`FluxEditor`.
        token: of the hub; by default the one of ``hf auth login``.
        check_memory: refuses to start where the estimate of :mod:`~lorweb_mini.flux.estimate` does not fit.

    Raises:
        InputError: no such device, too little memory, a model that is not there or whose licence was not accepted, a
            missing package, or a checkpoint of another layout.
    """
    device = _device(device)
    quantization, quantised = _quantisation(quantize, dtype)
    base = _readable(base, token)
    models = models_of(base, token)
    file = open_released(downloaded(weights, token), modules_of(models["transformer"]))
    if check_memory:
        require(estimate(models, file.config, dtype, quantised, offload, side), device)
    eye = PictureEncoder.load(encoder or file.config.encoder or CLIP_L, token)
    pipeline = FluxKontextPipeline.from_pretrained(base, dtype=dtype, quantization_config=quantization, token=token)
    if not offload:
        pipeline.to(device)
    editor = FluxEditor(pipeline, eye, file.config, side, device, "cpu" if offload else device)
    editor.load(file)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    return editor


def _device(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"expected a CUDA GPU for device={str(device)!r}, found none (torch {torch.__version__}). Without one "
            f'there are lw.load(), the miniature; "python -m lorweb_mini.flux inspect" and "export", which need no '
            f'FLUX; and device="cpu", which takes hours a picture'
        )
    return device


def _quantisation(
    quantize: str | PipelineQuantizationConfig | None, dtype: torch.dtype
) -> tuple[PipelineQuantizationConfig | None, dict[str, str]]:
    """diffusers' configuration, and what each component is held in, for the estimate."""
    if quantize is None:
        return None, {}
    if isinstance(quantize, PipelineQuantizationConfig):
        found, kind, backend = quantize, "8bit", quantize.quant_backend or ""
        parts = list(quantize.quant_mapping or quantize.components_to_quantize or QUANTISED_PARTS)
    elif quantize in ("4bit", "8bit"):
        backend, parts, kind = f"bitsandbytes_{quantize}", list(QUANTISED_PARTS), quantize
        kwargs: dict[str, Any] = {f"load_in_{quantize}": True}
        if quantize == "4bit":
            kwargs |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        found = PipelineQuantizationConfig(backend, kwargs, components_to_quantize=parts)
    else:
        raise InputError(
            f'expected quantize to be None, "4bit", "8bit" or a PipelineQuantizationConfig, got {quantize!r}'
        )
    if package := PACKAGES.get(backend):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"expected the package {package} for quantisation, found none: pip install {package}"
            ) from None
    return found, dict.fromkeys(parts, kind)


def _readable(base: str | Path, token: str | None) -> str:
    """The name of a pipeline, once it is clear that it may be read."""
    if not Path(base).exists():
        with _explained(base):
            hf_hub_download(str(base), "model_index.json", token=token)
    return str(base)


def downloaded(weights: str | Path, token: str | None) -> Path:
    """Where a checkpoint lies, fetched from the hub if it is not a path.

    Raises:
        InputError: it is neither a path nor on the hub, or out of reach.
    """
    if Path(weights).exists():
        return Path(weights)
    with _explained(weights):
        return Path(snapshot_download(str(weights), allow_patterns=["*.safetensors", "*.yaml"], token=token))


@contextmanager
def _explained(name: str | Path) -> Iterator[None]:
    """What the hub complains of, as one readable InputError."""
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"expected access to {name}, whose licence has to be accepted: do so at https://huggingface.co/{name}, "
            f"then run `hf auth login` or pass token="
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(
            f"expected a local folder or a model of the hub, could not get {str(name)!r} "
            f"(HF_HUB_OFFLINE=1 keeps it from being looked for): {detail}"
        ) from None
