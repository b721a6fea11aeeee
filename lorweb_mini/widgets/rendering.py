"""One picture under many mixtures, fast enough to follow a slider.

In the editor, PEFT and the gate's hooks call a dozen operators for every adapted Linear layer, and for one picture most
of them cost more to call than to compute. Here a copy of the transformer has two matrix products in place of each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..core.basis import ADAPTER, Basis
from ..core.editor import Editor
from ..errors import InputError, check_seed, check_steps
from ..images import read_image
from ..models.base import STEPS, Base


@contextmanager
def _alone() -> Iterator[None]:
    """Inference in single precision, whatever a caller has set."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        yield


def one_mixture(editor: Editor, coefficients: Tensor) -> Tensor:
    """Coefficients [layers, N] or [1, layers, N] as [layers, N]; InputError for others, or not finite ones."""
    checked = editor.basis.check(coefficients)
    if len(checked) != 1:
        raise InputError(f"expected the coefficients of one analogy, got a batch of {len(checked)}")
    return checked[0]


class _GatedLinear(nn.Module):
    """A Linear layer with its LoRAs, W x + B (gate ∘ A x), where W and A are the rows of one matrix.

    ``gate``, each of the layer's coefficients r times, is set before every picture.
    """

    gate: Tensor

    def __init__(self, adapted: LoraLayer) -> None:
        super().__init__()
        base, low = adapted.get_base_layer(), adapted.lora_A[ADAPTER].weight
        self.sizes = [len(base.weight), len(low)]
        # [in, out], the other way round than in a module: with few rows that is a quarter faster.
        self.weight = torch.cat([base.weight, low]).detach().T.contiguous()
        self.bias = torch.cat([base.bias, low.new_zeros(len(low))]).detach()
        self.lift = adapted.lora_B[ADAPTER].weight.detach().T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        output, low = torch.addmm(self.bias, x.flatten(0, -2), self.weight).split(self.sizes, 1)
        return output.addmm_(low * self.gate, self.lift).unflatten(0, x.shape[:-1])


def _with_layers(basis: Basis, layers: Sequence[nn.Module]) -> FluxTransformer2DModel:
    """A copy of the transformer with other layers in place of the adapted ones; what is no layer is shared."""
    memo: dict[int, Any] = {id(x): x for x in (basis, *basis.transformer.parameters())}
    memo |= {id(module): layer for module, layer in zip(basis.modules, layers, strict=True)}
    transformer = copy.deepcopy(basis.transformer, memo)
    del transformer.forward  # the basis's own, which runs the original
    return transformer


class Renderer:
    """Renders one picture b under any mixture: ``renderer(coefficients)``.

    The picture is that of :meth:`Editor.generate`, to within rounding. The weights are copied at the start; a basis
    that was trained further needs a new renderer.

    Args:
        context: (a, a_prime) for layouts whose transformer sees them.
        steps, seed: as in :meth:`Editor.generate`.

    Raises:
        InputError: a picture that cannot be read, a missing context, steps below 1, a seed outside [0, 2^63), or an
            editor inside ``freeze``, whose weights are not those that it would copy.
    """

    def __init__(
        self, editor: Editor, b: Any, context: tuple[Any, Any] | None = None, steps: int = STEPS, seed: int = 0
    ) -> None:
        self.editor, self.steps, self.seed = editor, check_steps(steps), check_seed(seed)
        pictures = [read_image(b, "b")]
        if editor.layout.needs_context:
            if not isinstance(context, (tuple, list)) or len(context) != 2:
                raise InputError(
                    f"expected context=(a, a_prime) for the layout {editor.config.layout!r}, got {context!r}"
                )
            pictures = [read_image(context[0], "a"), read_image(context[1], "a_prime"), *pictures]
        with editor.basis.turn(), _alone():
            if editor.basis.merged is not None:
                raise InputError("expected an editor outside of freeze, got one inside, of merged weights")
            encoded = [editor.backend.encode(picture[None]) for picture in pictures]
            self.encoded = encoded if editor.layout.needs_context else [None, None, *encoded]
            self.layers = [_GatedLinear(module) for module in editor.basis.modules]
            self.backend = copy.copy(editor.backend)
            self.backend.base = Base(_with_layers(editor.basis, self.layers))

    def draw(self, mixture: Tensor) -> Tensor:
        """What the transformer draws under a mixture [layers, N], a latent [1, 16, 8, 8]."""
        for layer, gate in zip(self.layers, mixture.repeat_interleave(self.editor.basis.rank, 1), strict=True):
            layer.gate = gate
        return self.backend.draw(*self.encoded, steps=self.steps, seed=self.seed)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The picture [3, 64, 64] in [-1, 1] under a mixture, :func:`one_mixture` says in which form."""
        mixture = one_mixture(self.editor, coefficients)
        with _alone():
            picture = self.backend.decode(self.draw(mixture))[0]
        return picture.clone()  # outside of inference mode a tensor like any other
