"""One PEFT adapter on a transformer that other code uses too: switching, merging, checking, copying and saving it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from typing import Any

from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .errors import InputError

PATIENCE = 30.0  # seconds that a thread waits for the end of another one's merge
# Which Linears of the double and single blocks have LoRAs, by a pattern in their names; all is the paper's choice.
LAYERS = {
    "all": "",
    "attention": r"\.attn\.",
    "all but modulation": r"\.(attn|ff|ff_context|proj_mlp|proj_out)\b",
    "double blocks": "^transformer_blocks",
    "single blocks": "^single_transformer_blocks",
}
# Of an attribute to set for a while: its owner, its name, its new value.
Change = tuple[Any, str, Any]


def adapted_linears(transformer: nn.Module, adapted: str = "all") -> list[str]:
    """Names of the Linears inside the double and single blocks that one of :data:`LAYERS` means, in their order."""
    if adapted not in LAYERS:
        raise InputError(f"expected layers out of {tuple(LAYERS)}, got {adapted!r}")
    return [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
        and re.match(r"(single_)?transformer_blocks\.", name)
        and re.search(LAYERS[adapted], name)
    ]


class Adapter:
    """A LoRA adapter of PEFT, added in place with alpha = rank, so that its own factor alpha / rank is 1.

    ``layers`` names the Linear modules that it adapts. From then on the transformer computes in one thread at a time,
    and what PEFT merges or switches off comes back exactly once it is unmerged or switched on.

    Attributes:
        modules: PEFT's layers, in the order of ``layers``.
        merged: what :meth:`merging` has merged into the weights, else None.
        off: whether :meth:`merging` or :meth:`disabled` has switched the LoRAs off.

    Raises:
        InputError: a transformer that carries an adapter already.
    """

    def __init__(self, transformer: FluxTransformer2DModel, name: str, layers: Sequence[str], rank: int) -> None:
        if others := [*getattr(transformer, "peft_config", ()), *_foreign_layers(transformer)]:
            raise InputError(f"expected a transformer without LoRAs, got one with {', '.join(others[:3])}")
        self.transformer, self.name, self.layers = transformer, name, list(layers)
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=self.layers), adapter_name=name)
        transformer.save_pretrained = partial(_save_without_adapters, transformer)
        transformer.forward = partial(_forward_in_turn, self)
        self.modules: list[LoraLayer] = [transformer.get_submodule(layer) for layer in self.layers]
        for module in self.modules:
            for switch in ("set_adapter", "enable_adapters"):
                setattr(module, switch, partial(_switch, module, name, switch))
            module.merge, module.unmerge = partial(_merge, self, module), partial(_unmerge, module)
        self.merged: Any = None
        self.off = False
        self._lock = threading.RLock()

    def turn(self) -> Any:
        """The lock under which the transformer is used or changed, as a context.

        InputError where another thread keeps weights merged for longer than :data:`PATIENCE`.
        """
        while not self._lock.acquire(timeout=PATIENCE):
            if self.merged is not None:
                raise InputError(f"expected the freeze of another thread to end within {PATIENCE:g} s, got none")
        self._lock.release()
        return self._lock

    def disabled(self) -> AbstractContextManager[Any]:
        """Within this context the transformer is the bare base, or the merged one inside :meth:`merging`."""
        return self._changed(self._switched_off())

    def merging(self, products: Iterable[tuple[Tensor, Tensor]], merged: Any, value: Any) -> AbstractContextManager:
        """Within this context each layer's weight is W + B A, and the adapter is switched off.

        The original weights are kept in ordinary memory and restored bit for bit, also after an error.

        Args:
            products: A [R, in] and B [out, R] of one layer after the other.
            merged: becomes the attribute of that name.
            value: what ``with ... as`` gives.

        InputError, as the context is entered, for weights that are merged already.
        """

        def changes() -> Iterator[Change]:
            if self.merged is not None:
                raise InputError("expected weights without a merged mixture, got those inside freeze: it does not nest")
            yield self, "merged", merged
            yield from self._switched_off()
            for module, (low, high) in zip(self.modules, products, strict=True):
                weight = module.get_base_layer().weight
                yield weight, "data", (weight.data.float() + high @ low).to(weight.dtype)

        return self._changed(changes(), value)

    def _switched_off(self) -> Iterator[Change]:
        yield self, "off", True
        for module in self.modules:
            # Not PEFT's enable_adapters, which also changes what is trainable.
            yield module, "_disable_adapters", True

    @contextmanager
    def _changed(self, changes: Iterable[Change], value: Any = None) -> Iterator[Any]:
        before: list[Change] = []
        with self.turn():
            try:
                try:
                    for owner, name, new in changes:
                        old = getattr(owner, name)
                        before.append((owner, name, old.cpu() if name == "data" else old))
                        setattr(owner, name, new)
                    yield value
                finally:
                    _put_back(before)
            finally:
                _put_back(before)  # should an interrupt have ended the first

    def check_adapter(self) -> None:
        """Raises InputError where another tool has removed, merged, scaled or switched it, or added one beside it."""
        if self._problem() is None:
            return
        with self.turn():  # another thread may have been about to switch
            problem = self._problem()
        if problem is not None:
            raise InputError(
                f"expected the transformer with the adapter {self.name!r} alone, active, not merged and at scale 1, "
                f"got {problem}. Undo what changed it (fuse_lora, set_adapters, disable_lora, fuse_qkv_projections, "
                f"...) or load the editor again; other LoRAs need a base of their own"
            )

    def _problem(self) -> str | None:
        """What another tool has changed, if anything."""
        if others := sorted(set(getattr(self.transformer, "peft_config", ())) ^ {self.name}):
            return f"{', '.join(others)} added or removed"
        own, foreign = map(self._problem_in, self.layers, self.modules), _foreign_layers(self.transformer, self.modules)
        return next(filter(None, chain(own, foreign)), None)

    def _problem_in(self, layer: str, module: LoraLayer) -> str | None:
        if self.transformer.get_submodule(layer) is not module or self.name not in module.lora_A:
            return f"none in {layer}"
        if module.merged:
            return f"it merged in {layer}"
        if module.active_adapters != [self.name]:
            return f"{', '.join(module.active_adapters) or 'none'} active in {layer}"
        if module.scaling[self.name] != 1:
            return f"it at scale {module.scaling[self.name]:g} in {layer}"
        return None if module.disable_adapters is self.off else f"it switched {'on' if self.off else 'off'} in {layer}"

    def __getstate__(self) -> dict[str, Any]:
        """For copy and pickle; InputError while weights are merged or the adapter is switched off."""
        if self.off:
            raise InputError("expected a copy outside of freeze and disabled, got one inside, of changed weights")
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())


def _put_back(before: list[Change]) -> None:
    """Takes changes back, the last one first; an interrupt meanwhile is raised when all are."""
    interrupt = None
    while before:
        try:
            owner, name, old = before[-1]
            setattr(owner, name, old.to(owner.device) if name == "data" else old)
            before.pop()
        except KeyboardInterrupt as pressed:
            interrupt = pressed
    if interrupt is not None:
        raise interrupt


def _foreign_layers(transformer: nn.Module, own: Sequence[nn.Module] = ()) -> Iterator[str]:
    """Where another tool has left layers of PEFT, or layers that compute in the place of those with a LoRA."""
    known = set(map(id, own))
    for name, module in transformer.named_modules():
        # PEFT leaves its layers behind when it deletes an adapter, merged as they may be.
        if isinstance(module, BaseTunerLayer) and id(module) not in known:
            yield f"a layer of another adapter in {name}"
        # Not getattr, which is slow where a module lacks the attribute; fusing sets it on the module itself.
        if vars(module).get("fused_projections"):
            yield f"fused projections in {name}"


def _forward_in_turn(adapter: Adapter, *arguments: Any, **options: Any) -> Any:
    """The transformer's forward pass, which waits where another thread has merged weights or is drawing."""
    with adapter.turn():
        return type(adapter.transformer).forward(adapter.transformer, *arguments, **options)


def _switch(module: LoraLayer, adapter: str, switch: str, *arguments: Any, **options: Any) -> None:
    """PEFT's switch of a layer, without what it does to ``requires_grad`` of the adapter's weights."""
    weights = [factors[adapter].weight for factors in (module.lora_A, module.lora_B) if adapter in factors]
    trainable = [weight.requires_grad for weight in weights]
    getattr(type(module), switch)(module, *arguments, **options)
    for weight, before in zip(weights, trainable, strict=True):
        weight.requires_grad_(before)


def _merge(
    adapter: Adapter, module: LoraLayer, safe_merge: bool = False, adapter_names: list[str] | None = None
) -> None:
    """PEFT's merge; the weights as they were wait in ordinary memory, since (W + B A) - B A is not W in floats."""
    if adapter.merged is not None:
        raise InputError("expected merges by other tools outside of freeze, got one inside")
    if not module.merged:
        weight = module.get_base_layer().weight
        module.before_merge = (weight, weight.detach().to("cpu", copy=True))
    try:
        type(module).merge(module, safe_merge, adapter_names)
    finally:
        _restore_unmerged(module)


def _unmerge(module: LoraLayer) -> None:
    """PEFT's undoing of a merge, bit for bit."""
    type(module).unmerge(module)
    _restore_unmerged(module)


def _restore_unmerged(module: LoraLayer) -> None:
    if not module.merged and (before := module.__dict__.pop("before_merge", None)):
        weight, values = before
        # PEFT replaces the parameter itself where it is quantised.
        weight.data = values.to(weight.device)
        module.get_base_layer().weight = weight


def _save_without_adapters(transformer: FluxTransformer2DModel, *arguments: Any, **options: Any) -> None:
    """diffusers' ``save_pretrained`` of the base alone, under the names that ``from_pretrained`` reads."""

    def strip(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any]) -> None:
        for name in list(state):
            tensor = state.pop(name)
            if ".lora_" not in name:
                state[name.replace(".base_layer.", ".")] = tensor

    hook = transformer.register_state_dict_post_hook(strip)
    try:
        type(transformer).save_pretrained(transformer, *arguments, **options)
    finally:
        hook.remove()
