"""What others do to an editor's transformer: use it, copy it, change it, interrupt it, save it, share it among threads.

Each table holds members of one kind; what must come out is computed by a fresh editor or by a base without a basis.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from tiny_models import mixtures, pictures, tiny_base, tiny_data, tiny_editor, transformer_inputs
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini import adapter, algebra
from lorweb_mini.core import basis as basis_module
from lorweb_mini.core.basis import ADAPTER, Basis
from lorweb_mini.emoji.distributions import Chains
from lorweb_mini.emoji.edits import apply_edit
from lorweb_mini.emoji.words import chain_vectors
from lorweb_mini.flux.lora_file import single_file
from lorweb_mini.models.base import Base
from lorweb_mini.models.pipeline import kontext_inputs, kontext_pipeline
from lorweb_mini.models.text import vectors_of
from lorweb_mini.widgets.pads import weights_at
from lorweb_mini.widgets.rendering import Renderer
from lorweb_mini.widgets.sampler import trajectory

A, A_PRIME, B = pictures(3)
TRIPLET = (A, A_PRIME, B)


@pytest.fixture
def editor() -> lw.Editor:
    return tiny_editor()


@pytest.fixture(scope="module")
def expected() -> lw.EditResult:
    """What a fresh editor draws."""
    return tiny_editor().edit(*TRIPLET, steps=1)


def _is_fresh(editor: lw.Editor, expected: lw.EditResult) -> bool:
    result = editor.edit(*TRIPLET, steps=1)
    return torch.equal(result.pictures, expected.pictures) and torch.equal(result.coefficients, expected.coefficients)


def _weights(editor: lw.Editor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in editor.base.transformer.state_dict().items()}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())


# --- the base outside of an edit ------------------------------------------------------------------


def _pipeline(base: Base) -> Tensor:
    pipeline = kontext_pipeline(base, tiny_editor().autoencoder)
    inputs = kontext_inputs(["", ""], [1, 2])
    return pipeline(image=(pictures(2) + 1) / 2, num_inference_steps=2, output_type="pt", **inputs).images


def _sampled(base: Base) -> Tensor:
    x = transformer_inputs(2)
    return base.sample(x["noisy"], x["references"], x["ids"], x["instruction"], steps=2)


USES: dict[str, Callable[[Base], Tensor]] = {
    "velocity": lambda base: base.velocity(**transformer_inputs(3)),
    "velocity with gradients": lambda base: _with_gradients(base),
    "sample": _sampled,
    "edit": lambda base: base.edit(torch.ones(2, 16, 8, 8), torch.ones(2, 384), [1, 2], steps=2),
    "kontext pipeline": _pipeline,
    "another thread": lambda base: _in_thread(lambda: base.velocity(**transformer_inputs(1))),
}


def _with_gradients(base: Base) -> Tensor:
    with torch.enable_grad():
        return base.velocity(**transformer_inputs(1)).detach()


def _in_thread(job: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(job).result()


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@torch.no_grad()
def test_without_coefficients_every_use_is_the_bare_base(editor: lw.Editor, use: Callable[[Base], Tensor]) -> None:
    bare = use(tiny_base())
    assert torch.equal(use(editor.base), bare)
    editor.edit(*TRIPLET, steps=1)
    with editor.freeze(mixtures(1, editor)):
        pass
    assert torch.equal(use(editor.base), bare), "after edits"
    with editor.basis.mixed(mixtures(1, editor)):
        if use is not USES["another thread"]:
            assert not torch.equal(use(editor.base), bare), "the comparison would see a basis"


# --- copies ---------------------------------------------------------------------------------------


def _saved(editor: lw.Editor) -> lw.Editor:
    file = io.BytesIO()
    torch.save(editor, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[lw.Editor], lw.Editor]] = {
    "deepcopy": copy.deepcopy,
    "deepcopy of a copy": lambda editor: copy.deepcopy(copy.deepcopy(editor)),
    "deepcopy inside a list": lambda editor: copy.deepcopy([editor])[0],
    "pickle": lambda editor: pickle.loads(pickle.dumps(editor)),
    "pickle beside its buffers": lambda editor: _buffered(editor),
    "torch.save": _saved,
}


def _buffered(editor: lw.Editor) -> lw.Editor:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.loads(pickle.dumps(editor, protocol=5, buffer_callback=buffers.append), buffers=buffers)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("layout", ["b", "grid"])
def test_copies_are_equal_and_apart(copied: Callable[[lw.Editor], lw.Editor], layout: str) -> None:
    editor = tiny_editor(layout)
    before = editor.edit(*TRIPLET, steps=1)
    other = copied(editor)
    assert _is_fresh(other, before)
    assert other.backend.base is other.base and other.basis.transformer is other.base.transformer
    c = mixtures(1, editor)
    with other.freeze(c) as frozen:
        assert torch.equal(frozen.edit(*TRIPLET, steps=1).coefficients, c)
        assert _is_fresh(editor, before), "freezing the copy leaves the original"
    for parameter in other.basis.parameters():
        parameter.data.zero_()
    assert _is_fresh(editor, before) and not _is_fresh(other, before)


@torch.no_grad()
def test_a_copied_base_is_bare(editor: lw.Editor) -> None:
    base = copy.deepcopy(editor.base)
    with editor.basis.mixed(mixtures(1, editor)):
        assert torch.equal(base.velocity(**transformer_inputs(1)), tiny_base().velocity(**transformer_inputs(1)))


@pytest.mark.parametrize("inside", [lambda e: e.freeze(mixtures(1, e)), lambda e: e.basis.disabled()])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps, lambda e: copy.deepcopy(e.base)])
def test_copies_of_changed_weights_are_refused(editor: lw.Editor, inside: Callable, copied: Callable) -> None:
    with inside(editor), pytest.raises(lw.InputError, match="expected a copy outside of freeze"):
        copied(editor)


def test_a_second_basis_is_refused(editor: lw.Editor) -> None:
    with pytest.raises(lw.InputError, match="without LoRAs, got one with basis"):
        Basis(editor.base.transformer, 2, 2)


# --- other tools on the same transformer ----------------------------------------------------------


def _loads(editor: lw.Editor, tmp_path: Path) -> None:
    path = tiny_editor().export_lora(mixtures(1, editor), tmp_path / "other.safetensors")
    kontext_pipeline(editor.base, editor.autoencoder).load_lora_weights(str(path))


def _piped(change: Callable[[Any], Any]) -> Callable[[lw.Editor, Path], Any]:
    return lambda editor, _: change(kontext_pipeline(editor.base, editor.autoencoder))


def _other(transformer: FluxTransformer2DModel, layer: str) -> None:
    transformer.add_adapter(LoraConfig(r=2, target_modules=[layer], init_lora_weights=False), "other")


def _fused_and_deleted(editor: lw.Editor, layer: str) -> None:
    """As somebody does who wants a style in the weights and then forgets its LoRA."""
    transformer = editor.base.transformer
    _other(transformer, layer)
    transformer.fuse_lora(adapter_names=["other"])
    transformer.delete_adapters("other")
    transformer.set_adapters(ADAPTER)


def _direct(change: Callable[[FluxTransformer2DModel], Any]) -> Callable[[lw.Editor, Path], Any]:
    return lambda editor, _: change(editor.base.transformer)


FOREIGN: dict[str, Callable[[lw.Editor, Path], Any]] = {
    "unload_lora_weights": _piped(lambda p: p.unload_lora_weights()),
    "fuse_lora": _piped(lambda p: p.fuse_lora()),
    "set_adapters at half": _piped(lambda p: p.set_adapters(ADAPTER, 0.5)),
    "disable_lora": _piped(lambda p: p.disable_lora()),
    "delete_adapters": _piped(lambda p: p.delete_adapters(ADAPTER)),
    "load_lora_weights": _loads,
    "disable_adapters": _direct(lambda t: t.disable_adapters()),
    "unload_lora": _direct(lambda t: t.unload_lora()),
    "add_adapter": _direct(lambda t: _other(t, "x_embedder")),
    "another LoRA fused and deleted": lambda e, _: _fused_and_deleted(e, "to_q"),
    "the same outside of the basis": lambda e, _: _fused_and_deleted(e, "x_embedder"),
    "the same and unfused": lambda e, _: (_fused_and_deleted(e, "x_embedder"), e.base.transformer.unfuse_lora()),
    "fuse_qkv_projections": _direct(lambda t: t.fuse_qkv_projections()),
    "one layer at twice": lambda e, _: e.basis.modules[2].set_scale(ADAPTER, 2.0),
    "set_adapters at twice": _direct(lambda t: t.set_adapters([ADAPTER], [2.0])),
    "one layer merged": lambda e, _: e.basis.modules[-1].merge(),
    "one layer scaled": lambda e, _: e.basis.modules[3].scale_layer(0.5),
    "one layer off": lambda e, _: e.basis.modules[5].enable_adapters(False),
    "one layer replaced": _direct(lambda t: setattr(t.transformer_blocks[0].attn, "to_q", torch.nn.Identity())),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_changes_by_other_tools_are_found_at_the_next_call(
    editor: lw.Editor, change: Callable[[lw.Editor, Path], Any], tmp_path: Path
) -> None:
    c = mixtures(1, editor)
    editor.edit(*TRIPLET, steps=1)
    change(editor, tmp_path)
    for call in (
        lambda: editor.edit(*TRIPLET),
        lambda: editor.generate(B, c),
        lambda: editor.route(*TRIPLET),
        lambda: editor.freeze(c),
        lambda: editor.export_lora(c, tmp_path / "x.safetensors"),
    ):
        with pytest.raises(lw.InputError, match="alone, active, not merged and at scale 1, got"):
            call()


def _computed_while_off(editor: lw.Editor) -> None:
    """PEFT unmerges a layer that is switched off when it computes."""
    layer = editor.basis.modules[0]
    layer.merge()
    layer.enable_adapters(False)
    layer(torch.ones(1, layer.in_features))
    layer.enable_adapters(True)


UNDONE: dict[str, list[Callable[[lw.Editor], Any]]] = {
    "disable_lora": [lambda e: e.base.transformer.disable_lora(), lambda e: e.base.transformer.enable_lora()],
    "disable_adapters": [
        lambda e: e.base.transformer.disable_adapters(),
        lambda e: e.base.transformer.enable_adapters(),
    ],
    "set_adapters": [
        lambda e: e.base.transformer.set_adapters(ADAPTER, 0.5),
        lambda e: e.base.transformer.set_adapters(ADAPTER, 1.0),
    ],
    "add_adapter": [
        lambda e: _other(e.base.transformer, "to_q"),
        lambda e: e.base.transformer.delete_adapters("other"),
    ],
    "fuse_lora": [lambda e: e.base.transformer.fuse_lora(), lambda e: e.base.transformer.unfuse_lora()],
    "fuse_lora of the pipeline": [
        lambda e: kontext_pipeline(e.base, e.autoencoder).fuse_lora(safe_fusing=True),
        lambda e: kontext_pipeline(e.base, e.autoencoder).unfuse_lora(),
    ],
    "fuse_lora at half": [
        lambda e: e.base.transformer.fuse_lora(0.5),
        lambda e: (e.base.transformer.unfuse_lora(), e.base.transformer.set_adapters(ADAPTER, 1.0)),
    ],
    "fuse_lora of another, deleted": [
        lambda e: _fused_and_deleted(e, "to_q"),
        lambda e: e.base.transformer.unfuse_lora(),
    ],
    "fuse_lora in a copy": [
        lambda e: e.base.transformer.fuse_lora(),
        lambda e: (copy.deepcopy(e).base.transformer.unfuse_lora(), e.base.transformer.unfuse_lora()),
    ],
    "one layer merged": [_computed_while_off],
    "fuse_qkv_projections": [
        lambda e: e.base.transformer.fuse_qkv_projections(),
        lambda e: e.base.transformer.unfuse_qkv_projections(),
    ],
}


@pytest.mark.parametrize("calls", UNDONE.values(), ids=UNDONE)
@pytest.mark.parametrize("trainable", [True, False])
def test_what_is_undone_is_forgotten(editor: lw.Editor, calls: list[Callable], trainable: bool) -> None:
    for parameter in editor.basis.parameters():
        parameter.requires_grad_(trainable)
    expected, before = editor.edit(*TRIPLET, steps=1), _weights(editor)
    for call in calls:
        call(editor)
    # What is trainable decides by which kernel torch multiplies, so it shows in the last bits of a picture.
    assert {parameter.requires_grad for parameter in editor.basis.parameters()} == {trainable}
    assert _equal(_weights(editor), before), "rounded"
    assert _is_fresh(editor, expected)


def test_a_merge_that_fails_leaves_the_layer(editor: lw.Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, before = editor.basis.modules[1], _weights(editor)

    def failing(self: Any, name: str) -> Tensor:
        layer.get_base_layer().weight.data.add_(1)
        raise MemoryError

    monkeypatch.setattr(type(layer), "get_delta_weight", failing)
    with pytest.raises(MemoryError):
        layer.merge()
    assert _equal(_weights(editor), before) and not layer.merged


@pytest.mark.parametrize(
    "leave",
    [
        lambda t: t.delete_adapters(ADAPTER),
        lambda t: t.fuse_qkv_projections(),
        lambda t: (t.unload_lora(), _other(t, "to_q")),
        lambda t: (t.unload_lora(), _other(t, "x_embedder"), t.delete_adapters("other")),
    ],
)
def test_a_basis_on_what_others_left_is_refused(editor: lw.Editor, leave: Callable) -> None:
    leave(editor.base.transformer)
    with pytest.raises(lw.InputError, match="expected a transformer without LoRAs, got one with"):
        Basis(editor.base.transformer, 2, 2)


# --- interrupts -----------------------------------------------------------------------------------


class _Interrupt:
    """Raises at the n-th line that is executed in the given files; counts them all."""

    def __init__(self, files: set[str], at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.files, self.at, self.error, self.lines = files, at, error, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise self.error
        return self


def _frozen_once(editor: lw.Editor, c: Tensor, interrupt: _Interrupt) -> None:
    sys.settrace(interrupt)
    try:
        with editor.freeze(c):
            pass
    finally:
        sys.settrace(None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_an_interrupt_at_any_line_of_freeze_leaves_the_base(error: type[BaseException]) -> None:
    editor = tiny_editor(n_loras=1, rank=1)
    c, before = mixtures(1, editor), _weights(editor)
    flags = [module.disable_adapters for module in editor.basis.modules]
    files = {adapter.__file__, basis_module.__file__, algebra.__file__}
    _frozen_once(editor, c, count := _Interrupt(files, 0))
    assert count.lines > 300, "enters, merges and leaves"
    for at in range(1, count.lines + 1, 1 if error is KeyboardInterrupt else 7):
        with pytest.raises(error):
            _frozen_once(editor, c, _Interrupt(files, at, error))
        assert editor.basis.merged is None and not editor.basis.off, at
        assert [module.disable_adapters for module in editor.basis.modules] == flags, at
        now = editor.base.transformer.state_dict()
        assert all(torch.equal(tensor, now[name]) for name, tensor in before.items()), at


class _Impatient(_Interrupt):
    """From the n-th line on it interrupts again and again, every third line, ten times."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.lines += 1
            if 0 <= self.lines - self.at < 30 and (self.lines - self.at) % 3 == 0:
                raise self.error
        return self


def test_interrupts_while_weights_are_put_back_wait() -> None:
    """Whoever presses Ctrl-C while gigabytes go back presses it again."""
    editor = tiny_editor(n_loras=1, rank=1)
    c, before = mixtures(1, editor), _weights(editor)
    lines = _Interrupt({adapter.__file__}, 0)
    _frozen_once(editor, c, lines)
    back = range(lines.lines // 2, lines.lines - 4, 5)
    for at in back:
        with pytest.raises(KeyboardInterrupt):
            _frozen_once(editor, c, _Impatient({adapter.__file__}, at))
        assert editor.basis.merged is None and not editor.basis.off, at
        assert _equal(_weights(editor), before), at
    assert len(back) > 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError, GeneratorExit])
def test_an_error_inside_freeze_or_disabled_leaves_the_base(
    editor: lw.Editor, error: type[BaseException], expected: lw.EditResult
) -> None:
    before = _weights(editor)
    for context in (editor.freeze(mixtures(1, editor)), editor.basis.disabled(), editor.basis.mixed(None)):
        with pytest.raises(error), context:
            raise error
        assert _equal(_weights(editor), before) and _is_fresh(editor, expected)


@pytest.mark.parametrize("trainable", [True, False])
def test_contexts_leave_what_is_trainable(editor: lw.Editor, trainable: bool) -> None:
    for parameter in editor.basis.parameters():
        parameter.requires_grad_(trainable)
    with editor.freeze(mixtures(1, editor)), editor.basis.disabled():
        assert all(parameter.requires_grad is trainable for parameter in editor.basis.parameters())
    assert all(parameter.requires_grad is trainable for parameter in editor.basis.parameters())


# --- inside freeze --------------------------------------------------------------------------------

DRAWINGS: dict[str, Callable[[lw.Editor, Tensor], lw.EditResult]] = {
    "edit": lambda editor, c: editor.edit(*TRIPLET, steps=1),
    "edit of a batch": lambda editor, c: editor.edit(pictures(3), pictures(3), pictures(3, 5), steps=1),
    "generate elsewhere": lambda editor, c: editor.generate(B, -c, steps=1),
    "generate many": lambda editor, c: editor.generate(B, torch.randn(2, *c.shape[1:]), steps=1),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_results_inside_freeze_name_what_drew_them(editor: lw.Editor, draw: Callable) -> None:
    c = mixtures(1, editor, seed=4)
    with editor.freeze(c):
        inside = draw(editor, c)
    assert torch.equal(inside.coefficients, c.expand_as(inside.coefficients))
    outside = draw(editor, c)
    assert len(inside.images) == len(outside.images) and not torch.equal(outside.coefficients, inside.coefficients)
    with editor.basis.disabled():
        assert not draw(editor, c).coefficients.any(), "the bare base drew"


REFUSED: dict[str, Callable[[lw.Editor, Tensor], Any]] = {
    "PEFT's merge": lambda editor, c: editor.base.transformer.fuse_lora(),
    "a copy": lambda editor, c: copy.deepcopy(editor),
    "saving the base": lambda editor, c: editor.base.save("never"),
    "the same mixture": lambda editor, c: editor.freeze(c).__enter__(),
    "another mixture": lambda editor, c: editor.freeze(-c).__enter__(),
    "through the basis": lambda editor, c: editor.basis.frozen(c).__enter__(),
    "a renderer": lambda editor, c: Renderer(editor, B),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_nesting_is_refused(editor: lw.Editor, call: Callable, expected: lw.EditResult) -> None:
    c = mixtures(1, editor)
    with editor.freeze(c):
        inside = editor.edit(*TRIPLET, steps=1).pictures
        with pytest.raises(lw.InputError, match=r"expected .* got .* inside"):
            call(editor, c)
        assert torch.equal(editor.edit(*TRIPLET, steps=1).pictures, inside)
    assert _is_fresh(editor, expected)


# --- threads --------------------------------------------------------------------------------------


def _frozen_edit(editor: lw.Editor, x: Tensor, c: Tensor) -> Tensor:
    with editor.freeze(c):
        return editor.edit(*x, steps=2).pictures


def _bare_edit(editor: lw.Editor, x: Tensor, c: Tensor) -> Tensor:
    with editor.basis.disabled():
        return editor.edit(*x, steps=2).pictures


JOBS: dict[str, list[Callable[[lw.Editor, Tensor, Tensor], Tensor]]] = {
    "edits": [lambda e, x, c: e.edit(*x, steps=2).pictures],
    "edits and mixtures": [
        lambda e, x, c: e.edit(*x, steps=2).pictures,
        lambda e, x, c: e.generate(x[2], c, steps=3, seed=1).pictures,
    ],
    "edits and the base": [
        lambda e, x, c: e.edit(*x, steps=2).pictures,
        lambda e, x, c: e.base.edit(e.autoencoder.to_latent(x[:1]), None, [3], steps=2).detach(),
    ],
    "edits and trajectories": [
        lambda e, x, c: e.edit(*x, steps=2).pictures,
        lambda e, x, c: trajectory(e.base, e.autoencoder.to_latent(x[:1])[0], None, steps=3).states.detach(),
    ],
    "edits and freezes": [lambda e, x, c: e.edit(*x, steps=2).pictures, _frozen_edit],
    "edits and disabled": [_bare_edit, lambda e, x, c: e.edit(*x, steps=2).pictures],
}


@pytest.mark.parametrize("jobs", JOBS.values(), ids=JOBS)
def test_threads_draw_what_one_after_the_other_draws(editor: lw.Editor, jobs: list[Callable]) -> None:
    triplets = [pictures(3, seed) for seed in range(12)]
    todo = [(jobs[i % len(jobs)], editor, x, mixtures(1, editor, i)) for i, x in enumerate(triplets)]
    in_a_row = [job(*arguments) for job, *arguments in todo]
    with ThreadPoolExecutor(4) as pool:
        together = [x.result() for x in [pool.submit(job, *arguments) for job, *arguments in todo]]
    for one, other in zip(together, in_a_row, strict=True):
        assert torch.equal(one, other)


BESIDE_A_FREEZE: dict[str, Callable[[lw.Editor], Tensor]] = {
    "edit": lambda e: e.edit(*TRIPLET, steps=1).pictures,
    "generate": lambda e: e.generate(B, mixtures(1, e, 5), steps=1).pictures,
    "base.edit": lambda e: e.base.edit(torch.ones(1, 16, 8, 8), None, [1], steps=3),
    "base.sample": lambda e: _sampled(e.base),
    "base.velocity": lambda e: e.base.velocity(**transformer_inputs(1)).detach(),
    "kontext pipeline": lambda e: _pipeline(e.base),
    "a renderer": lambda e: Renderer(e, B)(mixtures(1, e, 5)),
    "a copy": lambda e: copy.deepcopy(e).edit(*TRIPLET, steps=1).pictures,
}


@pytest.mark.parametrize("use", BESIDE_A_FREEZE.values(), ids=BESIDE_A_FREEZE)
def test_what_other_threads_freeze_is_seen_by_none(editor: lw.Editor, use: Callable[[lw.Editor], Tensor]) -> None:
    alone, done = use(editor), threading.Event()

    def freezes() -> int:
        count = 0
        while not done.is_set():
            with editor.freeze(mixtures(1, editor, count)):
                count += 1
            done.wait(0.001)  # lets the other thread have its turn
        return count

    with ThreadPoolExecutor(1) as pool:
        freezing = pool.submit(freezes)
        try:
            for _ in range(8):
                assert torch.equal(use(editor), alone)
        finally:
            done.set()
    assert freezing.result() > 1


@pytest.mark.parametrize("use", BESIDE_A_FREEZE.values(), ids=BESIDE_A_FREEZE)
def test_a_freeze_that_waits_for_its_own_threads_ends(
    editor: lw.Editor, use: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PATIENCE", 0.1)
    with editor.freeze(mixtures(1, editor)), pytest.raises(lw.InputError, match="freeze of another thread"):
        _in_thread(lambda: use(editor))


# --- saving ---------------------------------------------------------------------------------------

SAVES: dict[str, Callable[[lw.Editor, Path], Path]] = {
    "base.save": lambda e, t: (e.base.save(t), t)[1],
    "save_pretrained": lambda e, t: (e.base.transformer.half().save_pretrained(t), t)[1],
    "pipeline": lambda e, t: (kontext_pipeline(e.base, e.autoencoder).save_pretrained(t), t / "transformer")[1],
    "a copy": lambda e, t: (copy.deepcopy(e).base.save(t), t)[1],
    "in shards": lambda e, t: (e.base.transformer.save_pretrained(t, max_shard_size="300KB"), t)[1],
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_saved_base_is_the_bare_one_and_loads(editor: lw.Editor, save: Callable, tmp_path: Path) -> None:
    names = set(editor.base.transformer.state_dict())
    loaded = Base.load(save(editor, tmp_path)).transformer.state_dict()
    bare = tiny_base().transformer.state_dict()
    assert loaded.keys() == bare.keys()
    for name, tensor in bare.items():
        torch.testing.assert_close(loaded[name], tensor, atol=1e-3, rtol=1e-3)
    assert set(editor.base.transformer.state_dict()) == names, "the editor keeps its LoRAs"


# --- what other libraries set ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", [None, "meta"])
def test_default_dtype_and_device_change_nothing(
    dtype: torch.dtype, device: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_data(tmp_path / "data", monkeypatch)
    expected, given = lw.load("starter").edit(*TRIPLET, steps=2), [x.clone() for x in TRIPLET]
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        loaded = lw.load("starter")
        result = loaded.edit(*given, steps=2)
        c = loaded.route(*given)
        with loaded.freeze(c):
            frozen = loaded.edit(*given, steps=2)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in [*loaded.base.parameters(), *loaded.router.parameters()]} == {torch.float32}
    assert result.pictures.dtype == torch.float32
    torch.testing.assert_close(result.pictures, expected.pictures, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.coefficients, expected.coefficients, atol=1e-6, rtol=0)
    torch.testing.assert_close(frozen.pictures, expected.pictures, atol=1e-5, rtol=0)


ENTRIES: dict[str, Callable[[lw.Editor, Tensor], Tensor]] = {
    "renderer": lambda e, c: Renderer(e, B, steps=2)(c),
    "generate": lambda e, c: e.generate(B, c, steps=2).pictures,
    "base": lambda e, c: e.base.edit(torch.ones(1, 16, 8, 8, dtype=torch.float32, device="cpu"), None, [1], steps=2),
    "trajectory": lambda e, c: trajectory(e.base, e.autoencoder.to_latent(B[None])[0], None, steps=2).estimates,
    "pad": lambda e, c: weights_at(0.25, 0.5, 4),
    "sentences": lambda e, c: vectors_of(["", ""]),
    "edits in words": lambda e, c: chain_vectors(Chains.of([[("hue", 120.0)], [("darken", 0.5)]])),
    "an edit of pixels": lambda e, c: apply_edit(B[None], "hue", 60.0),
    "an exported LoRA": lambda e, c: single_file({"transformer_blocks.0.attn.to_out.0": (A[0], A[0])})[ALPHA],
}
ALPHA = "lora_unet_double_blocks_0_img_attn_proj.alpha"


@pytest.mark.parametrize("use", ENTRIES.values(), ids=ENTRIES)
def test_no_entry_depends_on_defaults(editor: lw.Editor, use: Callable[[lw.Editor, Tensor], Tensor]) -> None:
    c = mixtures(1, editor)
    expected = use(editor, c)
    for dtype, device in ((torch.float64, None), (torch.bfloat16, None), (torch.float32, "meta")):
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        try:
            found = use(editor, c)
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found, expected) and found.dtype == expected.dtype, (dtype, device)


WITHIN: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "numpy's errors raised": lambda: np.errstate(all="raise"),
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
def test_no_entry_depends_on_what_it_is_called_within(editor: lw.Editor, within: Callable) -> None:
    c, expected = mixtures(1, editor), editor.edit(*TRIPLET, steps=1)
    drawn = [Renderer(editor, B, steps=2)(c), editor.generate(B, c, steps=2).pictures, editor.route(*TRIPLET)]
    with within():
        assert _is_fresh(editor, expected)
        again = [Renderer(editor, B, steps=2)(c), editor.generate(B, c, steps=2).pictures, editor.route(*TRIPLET)]
        with editor.freeze(c):
            editor.edit(*TRIPLET, steps=1)
    assert all(map(torch.equal, drawn, again))
    assert _is_fresh(editor, expected), "and it leaves nothing behind"


@pytest.mark.parametrize("call", ["load", "edit", "route", "freeze", "copy", "save"])
def test_random_numbers_of_others_stay_theirs(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_data(tmp_path / "data", monkeypatch)
    loaded = lw.load("starter")
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    if call == "load":
        lw.load("starter")
    elif call == "freeze":
        with loaded.freeze(mixtures(1, loaded)):
            pass
    elif call == "copy":
        copy.deepcopy(loaded)
    elif call == "save":
        loaded.save(tmp_path / "saved")
    else:
        getattr(loaded, call)(*TRIPLET)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(after[0], before[0]) and after[1:] == before[1:]


# --- any sequence of calls ------------------------------------------------------------------------


Step = tuple[Callable[..., None], list]


@dataclass(frozen=True)
class _Scene:
    """Where a call is made: the contexts that its own thread has entered, and whether other threads run beside it."""

    editor: lw.Editor
    folder: Path
    frozen: bool = False
    off: bool = False
    threads: bool = False

    def call(self, body: list[Step]) -> None:
        for step, inner in body:
            step(self, inner)


def _freeze(scene: _Scene, body: list) -> None:
    if scene.frozen:
        with pytest.raises(lw.InputError, match="does not nest"):
            scene.editor.freeze(mixtures(1, scene.editor)).__enter__()
        return
    with scene.editor.freeze(mixtures(1, scene.editor, len(body))):
        replace(scene, frozen=True, off=True).call(body)


def _disable(scene: _Scene, body: list) -> None:
    with scene.editor.basis.disabled():
        replace(scene, off=True).call(body)


def _mix(scene: _Scene, body: list) -> None:
    with scene.editor.basis.mixed(mixtures(1, scene.editor, 3)):
        scene.call(body)


def _raise(scene: _Scene, body: list) -> None:
    editor = scene.editor
    inside = editor.basis.disabled() if scene.frozen else editor.freeze(mixtures(1, editor, 7))
    with pytest.raises(ZeroDivisionError), inside:
        replace(scene, frozen=True, off=True).call(body)
        raise ZeroDivisionError


def _copy(scene: _Scene, body: list) -> None:
    if scene.off:
        with pytest.raises(lw.InputError):
            copy.deepcopy(scene.editor)
    else:
        copied = pickle.loads(pickle.dumps(scene.editor)) if len(body) % 2 else copy.deepcopy(scene.editor)
        replace(scene, editor=copied).call(body)


def _threads(scene: _Scene, body: list) -> None:
    if not scene.off:  # inside, they would wait for the end
        with ThreadPoolExecutor(2) as pool:
            for job in [pool.submit(replace(scene, threads=True).call, body) for _ in range(2)]:
                job.result()


def _edit(scene: _Scene, body: list) -> None:
    scene.editor.edit(*TRIPLET, steps=1)


def _generate(scene: _Scene, body: list) -> None:
    scene.editor.generate(B, torch.randn(2, 20, 3), steps=1)


def _route(scene: _Scene, body: list) -> None:
    scene.editor.route(*TRIPLET)


def _export(scene: _Scene, body: list) -> None:
    file = scene.folder / f"{threading.get_ident()}.safetensors"
    scene.editor.export_lora(mixtures(1, scene.editor), file)


def _bad(scene: _Scene, body: list) -> None:
    editor = scene.editor
    for call in (
        lambda: editor.edit(A, B, None),
        lambda: editor.edit(*TRIPLET, prompt="a"),
        lambda: editor.generate(B, torch.ones(20, 4)),
    ):
        with pytest.raises(lw.InputError):
            call()


def _base(scene: _Scene, body: list) -> None:
    scene.editor.base.edit(torch.zeros(1, 16, 8, 8), None, [0], steps=1)


def _render(scene: _Scene, body: list) -> None:
    if not scene.frozen:
        Renderer(scene.editor, B)(mixtures(1, scene.editor))


def _interrupted(scene: _Scene, body: list) -> None:
    if not scene.frozen:
        lines = random.randrange(1, 2000)
        with contextlib.suppress(KeyboardInterrupt):
            _frozen_once(scene.editor, mixtures(1, scene.editor), _Interrupt({adapter.__file__}, lines))


def _foreign(scene: _Scene, body: list) -> None:
    if not (scene.off or scene.threads):
        transformer = scene.editor.base.transformer
        transformer.fuse_lora()
        with pytest.raises(lw.InputError, match="it merged"):
            scene.editor.edit(*TRIPLET, steps=1)
        transformer.unfuse_lora()
        transformer.disable_lora()
        transformer.enable_lora()


ALONE = [_edit, _generate, _route, _export, _bad, _base, _render, _interrupted, _foreign]
SIMPLE = st.tuples(st.sampled_from(ALONE), st.just([]))
STEPS = st.recursive(
    st.lists(SIMPLE, max_size=2),
    lambda inner: st.lists(
        SIMPLE | st.tuples(st.sampled_from([_freeze, _disable, _mix, _raise, _copy, _threads]), inner), max_size=3
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def used() -> lw.Editor:
    """One editor that all sequences use, one after the other."""
    return tiny_editor()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(body=STEPS)
def test_any_sequence_of_calls_leaves_the_editor_as_it_was(
    used: lw.Editor, expected: lw.EditResult, tmp_path_factory: pytest.TempPathFactory, body: list
) -> None:
    _Scene(used, tmp_path_factory.getbasetemp()).call(body)
    assert _is_fresh(used, expected)
    assert used.basis.coefficients is None
