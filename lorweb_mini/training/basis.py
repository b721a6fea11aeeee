"""Training of the basis and its router: the paper's."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.editor import BasisConfig, Editor, new_editor
from ..emoji.distributions import Distribution
from ..emoji.latents import LatentBank, PictureSource
from ..emoji.relations import Relation
from ..errors import InputError, finite_number
from ..models.weights import load_weights
from .analogies import FreshAnalogies, Listed
from .flow import EXACT_SHIFT, SHIFT, by_change, clean_of, training_sample, validation_sample
from .log import routing_statistics
from .loop import Recipe, without_cudnn_attention

STANDARDISED = 2048  # analogies that set the router's mean and deviation
ROUTER_SCALE = 0.1  # at the LoRAs' own rate a question is soon given to one LoRA alone (measured in notebook 04)


class BasisRecipe(Recipe):
    """The paper's training: flow matching on b' given a, a', b and no text; only basis and router learn.

    Args:
        chosen: the relations to learn; with ``fresh`` only the artists' among them, the named edits are left out.
        fresh: a distribution of edits, of which every sample gets its own; None draws from the chosen relations alone.
        artists_share: of artists' pairs beside the fresh edits.
        pair_rate: learning rate of the encoder of the pair as a share of the LoRAs'; 0 leaves it frozen.
        balance: weight of the term ln N − entropy of the batch's mean coefficients, against LoRAs that are never used.
        exact_shift: mean of logit(t) for exact edits.
        change_floor: divides the loss of each sample by the mean squared change from b to b', plus this floor, so that
            a hue counts as much as a move of the whole picture; None weighs all samples alike, as the paper does.
        standardise: fix the mean and deviation of the router's inputs; False where batches are only drawn.
    """

    def __init__(
        self,
        config: BasisConfig,
        chosen: Sequence[Relation],
        edited_pairs: int = 1200,
        seed: int = 0,
        editor: Editor | None = None,
        notes: dict[str, Any] | None = None,
        fresh: Distribution | Listed | None = None,
        artists_share: float = 0.4,
        emphasis: Mapping[str, float] | None = None,
        pair_rate: float = 0.0,
        balance: float = 0.0,
        exact_shift: float = EXACT_SHIFT,
        change_floor: float | None = None,
        pictures: PictureSource | None = None,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        self.editor = editor if editor is not None else new_editor(config, seed)
        self.transformer = self.editor.base.transformer
        self.router = self.editor.router
        self.notes = {"relations": [r.name for r in chosen], **(notes or {})}
        self.balance, self.exact_shift, self.pair_rate = balance, exact_shift, pair_rate
        self.change_floor = None if change_floor is None else finite_number(change_floor, "change_floor", above=True)
        self.analogies: FreshAnalogies | None = None
        if fresh is not None:
            artists = [r for r in chosen if not r.edits]
            self.analogies = FreshAnalogies(
                pictures or PictureSource(self.editor.autoencoder), fresh, artists, artists_share, emphasis=emphasis
            )
            self.notes |= {"relations": [r.name for r in artists], "kinds": fresh.kinds, "artists_share": artists_share}
        else:
            self.bank = LatentBank(self.editor.autoencoder, chosen, edited_pairs)
            self.weights = self.bank.sampling_weights()
        self.ids = self.editor.layout.ids()
        self._fixed: dict[str, dict[str, Tensor]] | None = None
        # A module that the optimiser trains has to be one of the recipe's own.
        self.pair_encoder = self.editor.pair_encoder if pair_rate else None
        if self.pair_encoder is not None:
            self.notes["tuned_pair_encoder"] = pair_rate
        if change_floor is not None:
            self.notes["change_floor"] = change_floor
        if self.router is not None and standardise:
            triplets = self._draw(np.random.default_rng(0), STANDARDISED)[0][:3]
            with torch.no_grad():
                self.router.standardise(*self.editor.embeddings(*triplets))

    def place(self, device: torch.device) -> None:
        without_cudnn_attention(device)
        editor = self.editor
        judge = getattr(editor.encoder, "judge", None)  # an encoder of others, which is no module itself
        for part in (editor.autoencoder, editor.encoder, editor.pair_encoder, getattr(judge, "network", None)):
            if isinstance(part, nn.Module):
                part.to(device)
        if self.analogies is not None:
            self.analogies.pictures.to(device)
        self.ids = self.ids.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.editor.basis.parameters(), "scale": 1.0}]
        for parameter in self.editor.basis.parameters():
            parameter.requires_grad_(True)
        if self.router is not None:
            self.router.requires_grad_(True)
            groups.append({"params": list(self.router.parameters()), "scale": ROUTER_SCALE})
        if self.pair_encoder is not None:
            tuned = [*self.pair_encoder.stem.parameters(), *self.pair_encoder.vision.parameters()]
            for parameter in tuned:
                parameter.requires_grad_(True)
            groups.append({"params": tuned, "scale": self.pair_rate})
        return groups

    def configuration(self) -> dict[str, Any]:
        return {"basis": asdict(self.editor.config), **self.notes}

    def _draw(
        self, rng: np.random.Generator, size: int, split: str = "train"
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor | float]:
        """Latents of a, a', b, b'; then mean of logit(t), for all or for each."""
        if self.analogies is not None:
            a, a_prime, b, b_prime, exact = self.analogies.draw(rng, size, split)
            return (a, a_prime, b, b_prime), torch.where(exact, self.exact_shift, SHIFT)
        chosen = rng.choice(len(self.weights), size, p=self.weights)
        return self.bank.draw_analogies(rng, chosen), SHIFT

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        (a, a_prime, b, b_prime), shift = self._draw(rng, size)
        target = self.editor.layout.target(a, a_prime, b, b_prime)
        return {"a": a, "a_prime": a_prime, "b": b, **training_sample(rng, target, shift)}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        editor, a, a_prime, b = self.editor, batch["a"], batch["a_prime"], batch["b"]
        # The router tells strengths apart that bf16 does not.
        with torch.autocast(a.device.type, enabled=False):
            coefficients = editor.coefficients(a, a_prime, b)
        references = editor.layout.references(a, a_prime, b)
        with editor.basis.mixed(coefficients):
            v = editor.base.velocity(batch["noisy"], batch["t"], references, self.ids)
        errors = (v - batch["velocity"]).pow(2)
        out = {"loss": errors.mean()}
        if self.change_floor is not None or self.balance:
            out["flow_matching"] = errors.mean()
        if self.change_floor is not None:
            copied = editor.layout.target(a, a_prime, b, b)
            out["loss"] = by_change(errors, clean_of(batch) - copied, self.change_floor)
        if self.balance:
            used = torch.special.entr(coefficients.mean(0)).sum(-1).mean()
            out["loss"] = out["loss"] + self.balance * (math.log(coefficients.shape[-1]) - used)
        if self.router is not None:
            out |= {k: torch.tensor(x) for k, x in routing_statistics(coefficients.detach()).items()}
        return out

    def validation(self) -> dict[str, float]:
        """Flow-matching losses on pictures of validation concepts: fresh edits of 1, 2 and 3, and the artists'."""
        if self.analogies is None:
            return {}
        if self._fixed is None:
            self._fixed = self._validation_samples()
        with torch.no_grad():
            losses = {k: self(batch) for k, batch in self._fixed.items()}
        return {k: float(v.get("flow_matching", v["loss"])) for k, v in losses.items()}

    def _validation_samples(self) -> dict[str, dict[str, Tensor]]:
        assert self.analogies is not None
        source, own = self.analogies, self.analogies.distribution
        rng = np.random.default_rng(2026)
        found = {}
        for name, lengths in (("edit", (1, 0, 0)), ("two edits", (0, 1, 0)), ("three edits", (0, 0, 1))):
            fresh = Distribution(own.kinds, own.held_out, lengths)
            found[name] = FreshAnalogies(source.pictures, fresh).draw(rng, 96, "val")[:4]
        if "val" in source.weights:
            only = copy.copy(source)
            only.share, only.followed = 1.0, 0.0
            found["artists"] = only.draw(rng, 96, "val")[:4]
        batches = {}
        for name, (a, a_prime, b, b_prime) in found.items():
            target = self.editor.layout.target(a, a_prime, b, b_prime)
            batches[name] = {"a": a, "a_prime": a_prime, "b": b, **validation_sample(rng, target)}
        return batches

    def save(self, folder: Path) -> None:
        self.editor.save(folder, **self.notes)

    def start_from(self, folder: Path) -> None:
        """Basis, router and tuned encoder of the pair, also of a training on other frozen parts or in another layout.

        The router's inputs stay standardised as the present frozen parts need it.
        """
        stored, state = load_weights(folder)
        # What the transformer sees changes no shape, so a basis may learn to look at a and a' later.
        shape = {k: v for k, v in asdict(self.editor.config).items() if k != "layout"}
        if (start := {k: stored.get(k) for k in shape}) != shape:
            raise InputError(f"expected a basis of the shape {shape}, got {start} in {folder}")
        fixed = {} if self.router is None else {f"router.{k}": v for k, v in self.router.named_buffers()}
        for name in ("basis", "router", "pair_encoder"):
            own = {k.removeprefix(f"{name}."): v for k, v in {**state, **fixed}.items() if k.startswith(f"{name}.")}
            if own:
                getattr(self.editor, name).load_state_dict(own)
