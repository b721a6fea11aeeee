"""How the base renders a picture: the way from noise to picture, and a widget for steps and guidance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..core.layout import unpack
from ..errors import InputError, check_seed
from ..images import read_image
from ..models.autoencoder import MiniAutoencoder
from ..models.base import Base
from ..models.text import vectors_of
from ..show.pictures import picture_rows
from .controls import Controls, Menu, Slider

STEPS_SHOWN, GUIDANCE_SHOWN = (1, 2, 4, 8, 16), (1.0, 2.0, 4.0)  # in the fallback figure
STEPS = Slider("steps", 1, 16, 1, 8, says="steps: Euler steps from noise")
GUIDANCE = Slider("guidance", 1.0, 4.0, 0.25, 1.0, 2, "guidance: 1 is none")
NO_INSTRUCTION = "(no instruction)"


@dataclass(frozen=True)
class Trajectory:
    """One rendering from noise to picture, in normalised latents.

    Attributes:
        times: t from 1 to 0, [steps + 1].
        states: z_t at these times, [steps + 1, 16, h, w]; the last one is the result.
        estimates: x̂ = z_t − t v, the estimated result at each time but the last, [steps, 16, h, w].
    """

    times: Tensor
    states: Tensor
    estimates: Tensor


def trajectory(
    base: Base, latent: Tensor, instruction: Tensor | None, seed: int = 0, steps: int = 8, guidance: float = 1.0
) -> Trajectory:
    """Records what :meth:`Base.edit` passes through while it edits one picture.

    Args:
        latent: normalised latent of the reference picture, [16, h, w].
        instruction: sentence vector [384]; None for no instruction.

    Raises:
        InputError: a latent that is not [16, h, w], or what :func:`draw` refuses.
    """
    _check(seed, steps, guidance)
    if latent.ndim != 3:
        raise InputError(f"expected the latent of one picture, [16, h, w], got shape {list(latent.shape)}")
    seen: list[Tensor] = []

    def recording(noisy: Tensor, *arguments: Any) -> Tensor:
        seen.append(noisy)
        return base.velocity(noisy, *arguments)

    own = copy.copy(base)  # other threads may draw with the base itself
    vars(own)["velocity"] = recording
    result = own.edit(latent[None], None if instruction is None else instruction[None], [seed], steps, guidance)
    # With guidance there are two velocities of every state.
    tokens = torch.cat(seen[:: len(seen) // steps])
    states = torch.cat([unpack(tokens, *latent.shape[1:]), result])
    times = 1 - torch.arange(steps + 1, dtype=torch.float32, device="cpu") / steps
    velocity = (states[:-1] - states[1:]) * steps
    return Trajectory(times, states, states[:-1] - times[:-1, None, None, None] * velocity)


def strip(autoencoder: MiniAutoencoder, path: Trajectory, b: Any, b_prime: Any = None, title: str = "") -> Figure:
    """A trajectory as two rows of pictures: z_t above, the estimate x̂ below; b (and the true b') to their left."""
    with torch.no_grad():
        upper, lower = autoencoder.to_picture(path.states), autoencoder.to_picture(path.estimates)
    times = [f"{float(t):.3g}" for t in path.times[:-1]]
    truth = None if b_prime is None else read_image(b_prime, "b_prime")
    states, heading = "what is there\n$z_t$", "where it heads\n$\\hat x = z_t - t\\,v$"
    return picture_rows(
        {states: [read_image(b, "b"), *upper], heading: [truth, *lower]},
        captions={
            states: ["b", *(f"t = {t}" for t in times), "the result"],
            heading: ["" if truth is None else "true b′", *(f"seen from {t}" for t in times)],
        },
        title=title,
        size=0.84,
        label_width=1.15,
    )


def draw(
    base: Base,
    autoencoder: MiniAutoencoder,
    b: Tensor,
    instruction: str,
    steps: int = 8,
    guidance: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """The base's edit of one picture [3, 64, 64] in [-1, 1] by an instruction: [3, 64, 64].

    Args:
        instruction: a sentence; the empty one gives b back.
        steps: Euler steps, 1 to 16. guidance: 1 (none) to 4, see :meth:`Base.sample`. seed: of the starting noise.

    Raises:
        InputError: steps, guidance or seed out of range; a sentence that :func:`vectors_of` does not know.
    """
    _check(seed, steps, guidance)
    with torch.no_grad():
        latent = autoencoder.to_latent(b[None])
        return autoencoder.to_picture(base.edit(latent, vectors_of([instruction]), [seed], steps, guidance))[0]


class Sampler(Controls):
    """A widget for instruction, steps and guidance, with the result beside b.

    Args:
        instructions: the sentences on offer; the first is chosen at the start. "" is no instruction.
        steps, guidance: where the sliders start. seed: of the noise.

    Raises:
        InputError: no instruction, or what :func:`draw` refuses.
    """

    title = "Sampler with sliders for steps and guidance"
    side = 256

    def __init__(
        self,
        base: Base,
        autoencoder: MiniAutoencoder,
        b: Any,
        instructions: Sequence[str],
        steps: int = 8,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> None:
        if isinstance(instructions, str) or not instructions:
            raise InputError(f"expected a list of at least one instruction, got {instructions!r}")
        _check(seed, steps, guidance)
        vectors_of(list(instructions))  # refuses sentences without a vector before anything is shown
        super().__init__()
        self.base, self.autoencoder, self.b, self.seed = base, autoencoder, read_image(b, "b"), seed
        self.build(
            "The noise is always the same.",
            instruction=Menu("instruction", {text or NO_INSTRUCTION: text for text in instructions}),
            steps=replace(STEPS, start=steps),
            guidance=replace(GUIDANCE, start=guidance),
        )

    def render(self, instruction: str, steps: int, guidance: float) -> None:
        # Twice a step where guidance has something to compare.
        runs = steps * (1 if guidance == 1 or not instruction else 2)
        self.write(
            pictures=self.show(self.b, self._drawn(instruction, steps, guidance)),
            numbers=f"The transformer runs <b>{runs}</b> time{'s' if runs > 1 else ''} for this picture.",
        )

    def fallback(self) -> Figure:
        """The first instruction as a table of pictures: more steps to the right, more guidance downwards."""
        instruction = self.starts["instruction"]
        rows: dict[str, list[Tensor | None]] = {}
        for guidance in GUIDANCE_SHOWN:
            pictures = [self._drawn(instruction, steps, guidance) for steps in STEPS_SHOWN]
            rows[f"guidance {guidance:g}"] = [None if rows else self.b, *pictures]
        asked = f"“{instruction}”" if instruction else NO_INSTRUCTION
        return picture_rows(
            rows,
            columns=["b", *(f"{n} step{'s' if n > 1 else ''}" for n in STEPS_SHOWN)],
            note=f"{asked}, always from the same noise. The sliders need a running kernel.",
            size=1.2,
            label_width=0.9,
        )

    def _drawn(self, instruction: str, steps: int, guidance: float) -> Tensor:
        return draw(self.base, self.autoencoder, self.b, instruction, steps, guidance, self.seed)


def _check(seed: Any, steps: Any, guidance: Any) -> None:
    STEPS.check(steps)
    GUIDANCE.check(guidance)
    check_seed(seed)
