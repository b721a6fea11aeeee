"""The same method at its real scale: FLUX.1-Kontext in diffusers' own pipeline, and the released basis.

>>> import lorweb_mini as lw
>>> editor = lw.load_flux(quantize="4bit")           # a CUDA GPU, the model's licence accepted on the hub
>>> editor.edit("a.png", "a_prime.png", "b.png", prompt="", steps=28).image

Kontext draws a whole grid, and its bottom-right quarter is b'. Without a GPU there remain
``python -m lorweb_mini.flux inspect`` and ``export``, which read a checkpoint and pictures only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxKontextPipeline, PipelineQuantizationConfig
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from ..core.editor import Editor
from ..core.layout import Layout
from ..core.router import Router
from ..errors import InputError, whole_number
from .checkpoint import ReleasedConfig, ReleasedFile, modules_of, open_released, released_tensors, write_released
from .estimate import estimate, models_of, require
from .lora_file import write_plain_lora
from .picture_encoder import CLIP_L, PictureEncoder, read_picture, read_triplets, scaled_grid

BASE, WEIGHTS = "black-forest-labs/FLUX.1-Kontext-dev", "hilamanor/lorweb"
GUIDANCE = 2.5  # what Kontext, distilled to need no second pass, is told its guidance was
# Where the large Linears are; the small CLIP text encoder and the autoencoder stay as they are.
QUANTISED_PARTS = ("transformer", "text_encoder_2")
PACKAGES = {"bitsandbytes": "bitsandbytes", "quanto": "optimum-quanto", "torchao": "torchao"}


class Kontext:
    """The backend of the real scale: a Kontext pipeline, and a vision tower for the router.

    The image condition is the grid [[a, a'], [b, b]]. As in the release, a' and b are stretched to a's size, a's aspect
    is kept, and the grid has the nearest size that Kontext knows, see :func:`~.picture_encoder.grid_size`.

    Args:
        pipeline: diffusers' own, on its device (or with offloading).
        encoder: what the router sees pictures through.
        config: sizes of the basis.
        side: of one square picture, in pixels, a multiple of 16; Kontext knows grids of 512.
        device: where the pipeline computes.
        small: where encoder and router stay; with offloading the processor, since they are small.
    """

    layout = Layout("grid")
    pair_encoder = None
    steps = 28
    read = staticmethod(read_picture)

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        encoder: PictureEncoder,
        config: ReleasedConfig,
        side: int = 512,
        device: str | torch.device = "cpu",
        small: str | torch.device | None = None,
    ) -> None:
        if whole_number(side, "side", 16) % 16:
            raise InputError(f"expected side as a multiple of 16 pixels, got {side!r}")
        encoder.check_width(config.query_dim)
        self.base, self.config, self.side, self.device = pipeline, config, side, torch.device(device)
        self.small = torch.device(small or device)
        self.autoencoder, self.encoder = pipeline.vae, encoder.to(self.small)
        pipeline.set_progress_bar_config(disable=True)

    def read_triplet(self, a: Any, a_prime: Any, b: Any) -> list[Tensor]:
        triplets = read_triplets(a, a_prime, b)
        sizes = {tuple(triplet[0].shape[-2:]) for triplet in triplets}
        if len(sizes) > 1:
            listed = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
            raise InputError(f"expected pictures a of one size in a batch, got {listed}: edit them one by one")
        return [torch.cat(pictures) for pictures in zip(*triplets, strict=True)]

    def encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def embed(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        return list(self.encoder.query(a, a_prime, b).chunk(3, dim=1))

    def draw(
        self,
        a: Tensor | None,
        a_prime: Tensor | None,
        b: Tensor,
        *,
        steps: int,
        seed: int,
        prompt: str | Sequence[str] = "",
        guidance: float = GUIDANCE,
    ) -> Tensor:
        """Runs the pipeline on the grid, to whole grids [B, 3, H, W] in [-1, 1].

        ``prompt`` says what to do, for all or for each: the released model was trained with instructions, and without
        one the pictures alone say it. InputError for another number of prompts than of pictures.
        """
        prompts = [prompt] * len(b) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(b) or not all(isinstance(x, str) for x in prompts):
            raise InputError(f"expected one prompt, or one for each of {len(b)} analogies, got {prompt!r}")
        assert a is not None and a_prime is not None
        pixels = scaled_grid(a, a_prime, b, b, self.side)
        size = (pixels.shape[-1], pixels.shape[-2])
        with torch.device("cpu"):  # whatever default another library has set; the pipeline names its own
            return run_pipeline(self.base, (pixels + 1) / 2, size, steps, [seed] * len(b), guidance, prompt=prompts)

    def decode(self, drawn: Tensor) -> Tensor:
        """The bottom-right quarter of a grid, [B, 3, H / 2, W / 2]."""
        height, width = drawn.shape[-2:]
        return drawn[:, :, height // 2 :, width // 2 :]


def run_pipeline(
    pipeline: FluxKontextPipeline,
    image: Tensor,
    size: tuple[int, int],
    steps: int,
    seeds: Sequence[int],
    guidance: float = GUIDANCE,
    **prompts: Any,
) -> Tensor:
    """What Kontext draws from an image or its latents at exactly this (width, height): [B, 3, H, W] in [-1, 1]."""
    width, height = size
    drawn = pipeline(
        image=image,
        width=width,
        height=height,
        # Without these two diffusers takes another size, near a million pixels.
        max_area=width * height,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=guidance,
        # On the processor, so that a seed means the same noise whatever the device.
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="pt",
        **prompts,
    ).images
    return drawn.float().cpu() * 2 - 1


class FluxEditor(Editor):
    """:class:`~lorweb_mini.core.editor.Editor` on :class:`Kontext`, whose arguments it takes.

    The basis is added to the transformer of ``pipeline``. ``edit`` and ``generate`` take two options more, ``prompt``
    and ``guidance``, see :meth:`Kontext.draw`.
    """

    backend: Kontext
    router: Router

    def __init__(self, pipeline: FluxKontextPipeline, *arguments: Any, **options: Any) -> None:
        super().__init__(backend := Kontext(pipeline, *arguments, **options))
        self.pipeline, self.side, self.small = pipeline, backend.side, backend.small
        for parameter in self.basis.parameters():
            # A quantised base gives PEFT no dtype to follow.
            parameter.data = parameter.data.to(pipeline.dtype)
            parameter.requires_grad_(False)
        self.router.eval().requires_grad_(False).to(self.small, torch.float32)

    def load(self, file: ReleasedFile) -> None:
        """Reads the released weights into basis and router; InputError for other layers or sizes."""
        file.load_into(self.basis, self.router)

    def save(self, folder: str | Path, **notes: Any) -> None:
        """Writes ``lorweb.safetensors`` in the released layout, and its config.yaml with ``notes``."""
        write_released(Path(folder) / "lorweb.safetensors", released_tensors(self.basis, self.router), notes)

    def freeze(self, coefficients: Tensor) -> AbstractContextManager[Editor]:
        """As :meth:`Editor.freeze`; InputError for a quantised transformer as well, whose weights take no sum."""
        if getattr(self.pipeline.transformer, "is_quantized", False):
            raise InputError(
                "expected a transformer in floating point: quantised weights cannot take a mixture up. "
                "The dynamic form costs little more, and export_lora writes a plain LoRA"
            )
        return super().freeze(coefficients)

    def export_lora(self, coefficients: Tensor, path: str | Path, **options: Any) -> Path:
        """As :meth:`Editor.export_lora`, with the options ``key_format``, ``rank`` and ``dtype`` of
        :func:`~lorweb_mini.flux.lora_file.write_plain_lora`."""
        self.basis.check_adapter()
        return write_plain_lora(path, self.basis.folded(coefficients), **options)


def load_flux(
    base: str | Path = BASE,
    weights: str | Path = WEIGHTS,
    *,
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
        side: see :class:`Kontext`.
        token: of the hub; by default the one of ``hf auth login``.
        check_memory: refuses to start where the estimate of :mod:`~lorweb_mini.flux.estimate` does not fit.

    Raises:
        InputError: no such device, too little memory, a model that is not there or whose licence was not accepted, a
            missing package, or a checkpoint of another layout.
    """
    device = device_of(device)
    quantization, quantised = quantisation(quantize, dtype)
    base = readable(base, token)
    models = models_of(base, token)
    file = open_released(downloaded(weights, token), modules_of(models["transformer"]))
    if check_memory:
        require(estimate(models, file.config, dtype, quantised, offload, side), device)
    with torch.device("cpu"):  # whatever default another library has set
        tower = PictureEncoder.load(encoder or file.config.encoder or CLIP_L, token)
        pipeline = FluxKontextPipeline.from_pretrained(base, dtype=dtype, quantization_config=quantization, token=token)
        if not offload:
            pipeline.to(device)
        editor = FluxEditor(pipeline, tower, file.config, side, device, "cpu" if offload else device)
    editor.load(file)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    return editor


def device_of(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"expected a CUDA GPU for device={str(device)!r}, found none (torch {torch.__version__}). Without one "
            f'there are lw.load(), the miniature; "python -m lorweb_mini.flux inspect" and "export", which need no '
            f'FLUX; and device="cpu", which takes hours a picture'
        )
    return device


def quantisation(
    quantize: str | PipelineQuantizationConfig | None, dtype: torch.dtype
) -> tuple[PipelineQuantizationConfig | None, dict[str, str]]:
    """diffusers' configuration, and what each component is held in, for the estimate."""
    if quantize is None:
        return None, {}
    if isinstance(quantize, PipelineQuantizationConfig):
        config, kind = quantize, "8bit"
    elif quantize in ("4bit", "8bit"):
        kind, four = quantize, {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        kwargs = {f"load_in_{kind}": True, **(four if kind == "4bit" else {})}
        config = PipelineQuantizationConfig(f"bitsandbytes_{kind}", kwargs, components_to_quantize=[*QUANTISED_PARTS])
    else:
        raise InputError(
            f'expected quantize to be None, "4bit", "8bit" or a PipelineQuantizationConfig, got {quantize!r}'
        )
    if package := PACKAGES.get((config.quant_backend or "").split("_")[0]):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"expected the package {package} for quantisation, found none: pip install {package}"
            ) from None
    return config, dict.fromkeys(config.quant_mapping or config.components_to_quantize or QUANTISED_PARTS, kind)


def readable(base: str | Path, token: str | None = None) -> str:
    """The name of a pipeline, once it is clear that it may be read."""
    if not Path(base).exists():
        with _explained(base):
            hf_hub_download(str(base), "model_index.json", token=token)
    return str(base)


def downloaded(weights: str | Path, token: str | None = None) -> Path:
    """Where a checkpoint lies, fetched from the hub if it is not a path; InputError where it is not there either."""
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
        raise InputError(
            f"expected a local folder or a model of the hub, could not get {str(name)!r} "
            f"(HF_HUB_OFFLINE=1 keeps it from being looked for): {' '.join(str(error).split())[:300]}"
        ) from None
