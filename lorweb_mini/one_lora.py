"""One LoRA under the hand: its directions sorted by strength, and a slider that leaves the weak ones out.

    B A  =  sum_n s_n u_n v_nᵀ,        s_1 ≥ s_2 ≥ … ≥ s_r

so a LoRA of rank r is r LoRAs of rank one. Written as such a basis (:func:`by_direction`) the gate of
:mod:`~lorweb_mini.basis` turns single directions off, and with ones for the first k directions and zeros for the others
each layer's update is its best approximation of rank k (Eckart and Young). No product B A is ever built.
"""

from __future__ import annotations

import base64
import copy
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .base import Base
from .basis import Basis
from .browser import picture_rows
from .editor import Editor
from .evaluation import reconstruct, squared
from .images import InputError, read_image, to_pil
from .widgets import Latest, _figure

STRENGTH_MAX, STRENGTH_STEP = 2.0, 0.1
STRENGTHS_SHOWN = (0.0, 0.5, 1.0, 1.5, 2.0)  # what the static strip shows


def svd_of_product(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of B A from its factors, in O((out + in) r²).

    With B = Q_B R_B and Aᵀ = Q_A R_A the product is Q_B (R_B R_Aᵀ) Q_Aᵀ, and only the r × r matrix in the middle has to
    be decomposed.

    Args:
        high: B [out, r]; low: A [r, in].

    Returns:
        U [out, r], s [r] in falling order, V [in, r] with B A = U diag(s) Vᵀ. Where B A has a rank below r, the last s
        are zero up to rounding and their directions arbitrary.

    Raises:
        InputError: shapes that do not multiply, or r above one of the sides.
    """
    if high.ndim != 2 or low.ndim != 2 or high.shape[1] != low.shape[0] or len(low) > min(len(high), low.shape[1]):
        raise InputError(
            f"expected B [out, r] and A [r, in] with r at most out and in, got {list(high.shape)} and {list(low.shape)}"
        )
    left, left_triangle = torch.linalg.qr(high)
    right, right_triangle = torch.linalg.qr(low.T)
    u, strength, vh = torch.linalg.svd(left_triangle @ right_triangle.T)
    return left @ u, strength, right @ vh.T


def by_direction(editor: Editor, base: Base) -> Editor:
    """An editor's one LoRA of rank r as r LoRAs of rank one, in each layer the strongest first.

    Its router, if it has one, is fresh: coefficients are what :func:`kept` gives.

    Args:
        editor: with N = 1; it stays as it is.
        base: the frozen base without adapters that the editor stands on; it is copied.

    Raises:
        InputError: N other than 1, or a rank above the width of a layer.
    """
    if editor.config.n_loras != 1:
        raise InputError(f"expected an editor with one LoRA, got one with {editor.config.n_loras}")
    config = replace(editor.config, n_loras=editor.config.rank, rank=1)
    found = Editor(editor.autoencoder, editor.encoder, copy.deepcopy(base), config)
    state = {}
    for layer, name in enumerate(editor.basis.layers):
        low, high = (factor[0].detach() for factor in editor.basis.factors(layer))
        u, strength, v = svd_of_product(high, low)
        state[f"{name}.lora_A.weight"] = strength.sqrt()[:, None] * v.T
        state[f"{name}.lora_B.weight"] = u * strength.sqrt()
    found.basis.load_state_dict(state)
    for parameter in found.basis.parameters():
        parameter.requires_grad_(False)
    return found


def strengths(basis: Basis) -> Tensor:
    """Frobenius norm of each single update B_n A_n of rank-one LoRAs, [layers, N].

    After :func:`by_direction` these are the singular values of the layers' updates.

    Raises:
        InputError: LoRAs of a rank above one.
    """
    if basis.rank != 1:
        raise InputError(f"expected LoRAs of rank 1, got rank {basis.rank}")
    factors = [basis.factors(layer) for layer in range(len(basis.layers))]
    return torch.stack([low.flatten(1).norm(dim=1) * high.flatten(1).norm(dim=1) for low, high in factors]).detach()


def energy_kept(basis: Basis, rank: int) -> float:
    """Share of ‖ΔW‖², summed over the layers, in the first ``rank`` directions of a basis of :func:`by_direction`."""
    energy = strengths(basis).square()
    return float(energy[:, :rank].sum() / energy.sum().clamp_min(1e-30))


def kept(basis: Basis, rank: int, strength: float = 1.0) -> Tensor:
    """Coefficients [layers, N] that keep the first ``rank`` directions, scaled by ``strength``, and none of the others.

    Raises:
        InputError: a rank outside 0 … N, or a strength that is not finite.
    """
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 <= int(rank) <= basis.n_loras:
        raise InputError(f"expected a rank from 0 to {basis.n_loras}, got {rank!r}")
    if isinstance(strength, bool) or not isinstance(strength, Real) or not math.isfinite(strength):
        raise InputError(f"expected a finite strength, got {strength!r}")
    coefficients = torch.zeros(len(basis.layers), basis.n_loras)
    coefficients[:, : int(rank)] = float(strength)
    return coefficients


class RankSlider:
    """Rank and strength of one LoRA under the hand, the result beside b and the truth. Naming it in a cell shows it.

    Tab moves between the controls, arrow keys turn them. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        editor: what :func:`by_direction` returned, with a layout whose transformer sees b alone.
        pairs: name to (b, true b'), the pictures on offer; the first is chosen at the start.
        steps, seed: as in :meth:`Editor.generate`.

    Raises:
        InputError: no pictures, LoRAs of a rank above one, or a layout that needs a context.
    """

    def __init__(self, editor: Editor, pairs: Mapping[str, tuple[Any, Any]], steps: int = 4, seed: int = 0) -> None:
        if not pairs:
            raise InputError("expected at least one pair (b, true b'), got none")
        if editor.layout.needs_context:
            raise InputError(f"expected the layout b, got {editor.config.layout!r}")
        strengths(editor.basis)  # refuses what has no directions
        self.editor, self.steps, self.seed = editor, steps, seed
        self.pairs = {name: (read_image(b, "b"), read_image(truth, "b_prime")) for name, (b, truth) in pairs.items()}
        self.picture, self.error = Image.new("RGB", (1, 1)), math.nan
        self._latest = Latest(self._draw)
        self._build()
        self._draw(self.wish)

    @property
    def wish(self) -> tuple[str, int, float]:
        """Where the controls stand: picture, rank, strength."""
        return self.choice.value, self.rank.value, self.strength.value

    def reset(self) -> None:
        """All of the LoRA, at its own strength."""
        self.rank.value, self.strength.value = self.editor.basis.n_loras, 1.0

    def _build(self) -> None:
        layout, most = ipywidgets.Layout(width="330px"), self.editor.basis.n_loras
        self.choice = ipywidgets.Dropdown(
            options=list(self.pairs), description="b", tooltip="the picture that is edited", layout=layout
        )
        self.rank = ipywidgets.IntSlider(
            value=most, min=0, max=most, description="rank", tooltip="directions kept in every layer", layout=layout
        )
        self.strength = ipywidgets.FloatSlider(
            value=1.0,
            min=0.0,
            max=STRENGTH_MAX,
            step=STRENGTH_STEP,
            description="strength",
            tooltip="factor of the update; 1 is as trained",
            readout_format=".1f",
            layout=layout,
        )
        for control in (self.choice, self.rank, self.strength):
            control.observe(lambda change: self._latest.ask(self.wish), names="value")
        button = ipywidgets.Button(
            description="Back to the whole LoRA", layout=ipywidgets.Layout(width="auto", margin="8px 0")
        )
        button.on_click(lambda _: self.reset())
        self._before, self._result, self._truth = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._numbers = ipywidgets.HTML()
        hint = ipywidgets.HTML(
            "<span style='opacity:.7'>Tab and arrow keys work. The sliders need a running kernel.</span>"
        )
        controls = ipywidgets.VBox([self.choice, self.rank, self.strength, button, self._numbers])
        controls.layout = ipywidgets.Layout(padding="4px 0 0 16px")
        pictures = ipywidgets.HBox([self._before, self._result, self._truth])
        row = ipywidgets.HBox([pictures, controls], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.box = ipywidgets.VBox([row, hint])

    def _draw(self, wish: tuple[str, int, float]) -> None:
        name, rank, strength = wish
        (b, truth), basis = self.pairs[name], self.editor.basis
        drawn, errors = render(self.editor, b, truth, kept(basis, rank, strength)[None], self.steps, self.seed)
        self.picture, self.error = to_pil(drawn[0]), errors[0]
        for html, picture, caption in (
            (self._before, to_pil(b), "b"),
            (self._result, self.picture, f"result: error {self.error:.2f}"),
            (self._truth, to_pil(truth), "true b′"),
        ):
            html.value = _figure(picture, caption)
        size = rank * sum(low.shape[-1] + high.shape[-2] for low, high in map(basis.factors, range(len(basis.layers))))
        self._numbers.value = f"{size:,} parameters, {energy_kept(basis, rank):.0%} of ‖ΔW‖²"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The live widget, and the static strip for whoever has no kernel."""
        bundle = dict(self.box._repr_mimebundle_())
        b, truth = next(iter(self.pairs.values()))
        file = io.BytesIO()
        static(self.editor, b, truth, self.steps, self.seed).savefig(file, format="png", dpi=80)
        bundle["image/png"] = base64.b64encode(file.getvalue()).decode()
        bundle["text/plain"] = "Sliders for rank and strength of one LoRA: need a running kernel"
        return bundle


def render(
    editor: Editor, b: Tensor, b_prime: Tensor, coefficients: Tensor, steps: int = 4, seed: int = 0
) -> tuple[Tensor, list[float]]:
    """One b [3, 64, 64] under k mixtures [k, layers, N]: pictures [k, 3, 64, 64] and their normalised errors."""
    drawn = editor.generate(b, coefficients, steps=steps, seed=seed).pictures
    seen_b, seen_truth = (reconstruct(editor.autoencoder, x[None]) for x in (b, b_prime))
    errors = squared(drawn, seen_truth.expand_as(drawn)) / squared(seen_b, seen_truth)
    return drawn, errors.tolist()


def static(editor: Editor, b: Any, b_prime: Any, steps: int = 4, seed: int = 0) -> Figure:
    """The two sliders of a :class:`RankSlider` as two rows of pictures: rising rank above, rising strength below."""
    basis = editor.basis
    b, b_prime = read_image(b, "b"), read_image(b_prime, "b_prime")
    most = basis.n_loras
    ranks = [0, *(2**i for i in range(int(math.log2(most)) + 1))]
    ranks = [*ranks, most] if ranks[-1] < most else ranks
    rows, captions = {"b and true b′": torch.stack([b, b_prime])}, {"b and true b′": ["b", "true b′"]}
    for label, wishes, names in (
        ("rank", [(rank, 1.0) for rank in ranks], [f"rank {rank}" for rank in ranks]),
        ("strength", [(most, x) for x in STRENGTHS_SHOWN], [f"× {x:g}" for x in STRENGTHS_SHOWN]),
    ):
        mixtures = torch.stack([kept(basis, rank, strength) for rank, strength in wishes])
        rows[label], errors = render(editor, b, b_prime, mixtures, steps, seed)
        captions[label] = [f"{name}: {error:.2f}" for name, error in zip(names, errors, strict=True)]
    return picture_rows(
        rows, captions, note="Below each picture its error. The sliders need a running kernel.", label_width=1.1
    )
