"""Loading FLUX.1-Kontext and the released basis from folders or the hub; problems are reported before loading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from diffusers import FluxKontextPipeline, PipelineQuantizationConfig
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError

from ..errors import InputError
from .checkpoint import modules_of, open_released
from .editor import FluxEditor
from .estimate import estimate, models_of, require
from .picture_encoder import CLIP_L, PictureEncoder

BASE, WEIGHTS = "black-forest-labs/FLUX.1-Kontext-dev", "hilamanor/lorweb"
# Where the large Linears are; the small CLIP text encoder and the autoencoder stay as they are.
QUANTISED_PARTS = ("transformer", "text_encoder_2")
PACKAGES = {"bitsandbytes": "bitsandbytes", "quanto": "optimum-quanto", "torchao": "torchao"}


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
    check_memory: bool = True,
) -> FluxEditor:
    """The released basis on FLUX.1-Kontext, ready to edit.

    Args:
        base: folder or hub name of a Kontext pipeline.
        weights: folder, file or hub name of a checkpoint in the released layout.
        device: ``"cpu"`` works and takes hours a picture.
        quantize: ``"4bit"`` or ``"8bit"`` (bitsandbytes, transformer and T5), or diffusers' own
            ``PipelineQuantizationConfig`` with any of its backends, counted as 8 bits.
        offload: components wait in ordinary memory and take turns on the device.
        encoder: folder or hub name of the router's CLIP or SigLIP; by default the one that the checkpoint names, else
            CLIP ViT-L/14.
        side: see :class:`~lorweb_mini.flux.editor.Kontext`.
        check_memory: refuses to start where the estimate of :mod:`~lorweb_mini.flux.estimate` does not fit.

    Raises:
        InputError: no such device, too little memory, a model that is not there or whose licence was not accepted, a
            missing package, or a checkpoint of another layout.
    """
    device = device_of(device)
    quantization, quantised = quantisation(quantize, dtype)
    base = readable(base)
    models = models_of(base)
    file = open_released(downloaded(weights), modules_of(models["transformer"]))
    if check_memory:
        require(estimate(models, file.config, dtype, quantised, offload, side), device)
    with torch.device("cpu"):  # whatever default another library has set
        tower = PictureEncoder.load(encoder or file.config.encoder or CLIP_L)
        tower.check_width(file.config.query_dim)
        pipeline = FluxKontextPipeline.from_pretrained(base, dtype=dtype, quantization_config=quantization)
        if not offload:
            pipeline.to(device)
        editor = FluxEditor(pipeline, tower, file.config, side, device, "cpu" if offload else device)
    file.load_into(editor.basis, editor.router)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    return editor


def device_of(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"expected a device that torch knows, such as cuda or cpu, got {device!r}") from error
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


def readable(base: str | Path) -> str:
    """The name of a pipeline, once it is clear that it may be read."""
    if not Path(base).exists():
        with _explained(base):
            hf_hub_download(str(base), "model_index.json")
    return str(base)


def downloaded(weights: str | Path) -> Path:
    """Where a checkpoint lies, fetched from the hub if it is not a path; InputError where it is not there either."""
    if Path(weights).exists():
        return Path(weights)
    with _explained(weights):
        return Path(snapshot_download(str(weights), allow_patterns=["*.safetensors", "*.yaml"]))


@contextmanager
def _explained(name: str | Path) -> Iterator[None]:
    """What the hub complains of, as one readable InputError."""
    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"expected access to {name}, whose licence has to be accepted: do so at https://huggingface.co/{name}, "
            f"then run `hf auth login` or set HF_TOKEN"
        ) from None
    except (HFValidationError, OSError) as error:  # the hub's own are of these kinds
        raise InputError(
            f"expected a local folder or a model of the hub, could not get {str(name)!r} "
            f"(HF_HUB_OFFLINE=1 keeps it from being looked for): {' '.join(str(error).split())[:300]}"
        ) from None
