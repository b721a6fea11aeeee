"""Training of the basis and its router: the paper's."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.editor import LATER, BasisConfig, Editor, new_editor
from ..emoji.distributions import Distribution
from ..emoji.latents import PictureSource
from ..emoji.relations import Relation
from ..errors import InputError, finite_number, naming
from ..models.miniature import frozen_fingerprint
from ..models.weights import load_state, load_weights
from .analogies import FreshAnalogies, LatentBank, Listed
from .flow import EXACT_SHIFT, NUMBERS_OF_EDITS, SHIFT, FlowRecipe, training_sample, validation_sample
from .log import routing_statistics
from .loop import without_cudnn_attention

STANDARDISED = 2048  # analogies that set the router's mean and deviation
ROUTER_SCALE = 0.1  # at the LoRAs' own rate a question is soon given to one LoRA alone (measured in notebook 04)
LARGEST_SHIFT = 20.0  # there t is 1, or 0, in single precision


class BasisRecipe(FlowRecipe):
    """The paper's training: flow matching on b' given a, a', b and no text; only basis and router learn.

    Args:
        chosen: the relations to learn; with ``fresh`` only the artists' among them, the named edits are left out.
        edited_pairs: without ``fresh``, how many pictures each named edit is shown on.
        fresh: a distribution of edits, of which every sample gets its own; None draws from the chosen relations alone.
        artists_share: of artists' pairs beside the fresh edits.
        pair_rate: learning rate of the encoder of the pair as a share of the LoRAs'; 0 leaves it frozen.
        balance: weight of the term ln N − entropy of the batch's mean coefficients, against LoRAs that are never used.
        exact_shift: mean of logit(t) for exact edits.
        change_floor: see :class:`~lorweb_mini.training.flow.FlowRecipe`.
        standardise: fix the mean and deviation of the router's inputs; False where batches are only drawn.
    """

    def __init__(
        self,
        config: BasisConfig,
        chosen: Sequence[Relation],
        edited_pairs: int = 1200,
        seed: int = 0,
        editor: Editor | None = None,
        fresh: Distribution | Listed | None = None,
        artists_share: float = 0.4,
        emphasis: Mapping[str, float] = MappingProxyType({}),
        pair_rate: float = 0.0,
        balance: float = 0.0,
        exact_shift: float = EXACT_SHIFT,
        change_floor: float | None = None,
        pictures: PictureSource | None = None,
        standardise: bool = True,
    ) -> None:
        super().__init__(change_floor)
        finite_number(artists_share, "artists_share", most=1)
        self.balance, self.pair_rate = finite_number(balance, "balance"), finite_number(pair_rate, "pair_rate")
        self.exact_shift = finite_number(exact_shift, "exact_shift", -LARGEST_SHIFT, LARGEST_SHIFT)
        self.options = {"balance": balance, "exact_shift": exact_shift, "emphasis": dict(emphasis)}
        self.editor = editor if editor is not None else new_editor(config, seed)
        self.transformer, self.router = self.editor.base.transformer, self.editor.router
        self.notes: dict[str, Any] = {"relations": [r.name for r in chosen]}
        self.analogies: FreshAnalogies | LatentBank
        if fresh is None:
            self.analogies = LatentBank(self.editor.autoencoder, chosen, edited_pairs)
        else:
            artists = [r for r in chosen if not r.edits]
            pictures = pictures or PictureSource(self.editor.autoencoder)
            self.analogies = FreshAnalogies(pictures, fresh, artists, artists_share, emphasis=emphasis)
            self.notes = {"relations": [r.name for r in artists], "kinds": fresh.kinds, "artists_share": artists_share}
        self.ids = self.editor.layout.ids()
        # A module that the optimiser trains has to be one of the recipe's own.
        self.pair_encoder = self.editor.pair_encoder if pair_rate else None
        if self.pair_encoder is not None:
            self.notes["tuned_pair_encoder"] = pair_rate
        if change_floor is not None:
            self.notes["change_floor"] = change_floor
        if self.router is not None and standardise:
            triplets = self.analogies.draw(np.random.default_rng(0), STANDARDISED)[:3]
            with torch.no_grad():
                self.router.standardise(*self.editor.embeddings(*triplets))

    def place(self, device: torch.device) -> None:
        without_cudnn_attention(device)
        editor = self.editor
        judge = getattr(editor.encoder, "judge", None)  # an encoder of others, which is no module itself
        for part in (editor.autoencoder, editor.encoder, editor.pair_encoder, getattr(judge, "network", None)):
            if isinstance(part, nn.Module):
                part.to(device)
        if isinstance(self.analogies, FreshAnalogies):
            self.analogies.pictures.to(device)
        self.ids = self.ids.to(device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.editor.basis.parameters(), "scale": 1.0}]
        if self.router is not None:
            groups.append({"params": list(self.router.parameters()), "scale": ROUTER_SCALE})
        if self.pair_encoder is not None:
            tuned = [*self.pair_encoder.stem.parameters(), *self.pair_encoder.vision.parameters()]
            groups.append({"params": tuned, "scale": self.pair_rate})
        for parameter in (p for group in groups for p in group["params"]):
            parameter.requires_grad_(True)
        return groups

    def configuration(self) -> dict[str, Any]:
        config = self.editor.config
        return {"basis": asdict(config), "frozen": frozen_fingerprint(config), **self.notes, **self.options}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        a, a_prime, b, b_prime, exact = self.analogies.draw(rng, size)
        target = self.editor.layout.target(a, a_prime, b, b_prime)
        shift = torch.where(exact, self.exact_shift, SHIFT)
        return {"a": a, "a_prime": a_prime, "b": b, **training_sample(rng, target, shift)}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        editor, a, a_prime, b = self.editor, batch["a"], batch["a_prime"], batch["b"]
        # The router tells strengths apart that bf16 does not.
        with torch.autocast(a.device.type, enabled=False):
            coefficients = editor.coefficients(a, a_prime, b)
        references = editor.layout.references(a, a_prime, b)
        with editor.basis.mixed(coefficients):
            v = editor.base.velocity(batch["noisy"], batch["t"], references, self.ids)
        out = self.losses(v, batch, unchanged=editor.layout.target(a, a_prime, b, b))
        if self.balance:
            used = torch.special.entr(coefficients.mean(0)).sum(-1).mean()
            out.setdefault("flow_matching", out["loss"])
            out["loss"] = out["loss"] + self.balance * (math.log(coefficients.shape[-1]) - used)
        if self.router is not None:
            out |= {k: torch.tensor(x) for k, x in routing_statistics(coefficients.detach()).items()}
        return out

    def validation_samples(self) -> dict[str, dict[str, Tensor]]:
        """Pictures of validation concepts: fresh edits of 1, 2 and 3, and the artists'; none without fresh edits."""
        if isinstance(self.analogies, LatentBank):
            return {}
        own = self.analogies.distribution
        rng = np.random.default_rng(2026)
        found = {}
        for name, lengths in NUMBERS_OF_EDITS.items():
            fresh = Distribution(own.kinds, own.held_out, lengths)
            found[name] = FreshAnalogies(self.analogies.pictures, fresh).draw(rng, 96, "val")
        if "val" in self.analogies.weights:
            only = copy.copy(self.analogies)
            only.share, only.followed = 1.0, 0.0
            found["artists"] = only.draw(rng, 96, "val")
        batches = {}
        for name, (a, a_prime, b, b_prime, _) in found.items():
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
        known = {**{k: getattr(BasisConfig(), k) for k in LATER}, **stored}
        if (start := {k: known.get(k) for k in shape}) != shape:
            raise InputError(f"expected a basis of the shape {shape}, got {start} in {folder}")
        fixed = {} if self.router is None else {f"router.{k}": v for k, v in self.router.named_buffers()}
        for name in ("basis", "router", "pair_encoder"):
            own = {k.removeprefix(f"{name}."): v for k, v in {**state, **fixed}.items() if k.startswith(f"{name}.")}
            if own and name == "basis":
                with naming(folder):
                    self.editor.basis.load_state_dict(own)
            elif own:
                load_state(getattr(self.editor, name), own, folder)
