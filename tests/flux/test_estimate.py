"""The estimate of a training against counts by hand and against tensors that a real run keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from tiny_flux import tiny_transformer
from torch import nn

from lorweb_mini.commands.flux import main
from lorweb_mini.flux.checkpoint import KONTEXT, PAPER, ReleasedConfig
from lorweb_mini.flux.estimate import (
    GPUS,
    Cost,
    cost,
    counted,
    trained_values,
    training_hours,
    training_memory,
)

SMALL = ReleasedConfig(n_loras=3, rank=2, keys_dim=8, query_dim=48)
SIDE, TEXT_TOKENS = 32, 8
TINY: dict[str, Any] = dict(tiny_transformer().config) | {"num_layers": 3, "num_single_layers": 4}
TINY = {k: v for k, v in TINY.items() if not k.startswith("_")}


def test_trained_values_of_the_paper() -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**KONTEXT)
    assert sum(trained_values(transformer, PAPER)) == 835_051_520


def _empty(doubles: int, singles: int) -> FluxTransformer2DModel:
    with torch.device("meta"):
        return FluxTransformer2DModel(**{**TINY, "num_layers": doubles, "num_single_layers": singles})


def test_operations_by_hand() -> None:
    """Every Linear and the attention: the frozen weights forward and for their inputs, the LoRAs for themselves too."""
    transformer = _empty(1, 1)
    linears = {k: m for k, m in transformer.named_modules() if isinstance(m, nn.Linear)}
    image, text = 2 * (SIDE // 8) ** 2, TEXT_TOKENS
    expected, width, total = 0, transformer.inner_dim, image + text
    for name, m in linears.items():
        modulation = ".norm" in name or name.startswith("norm_out")
        if "time_text_embed" in name or modulation:
            tokens = 1
        elif name.startswith("single_transformer_blocks."):
            tokens = total
        else:
            tokens = text if "add_" in name or "context" in name else image
        adapted = name.startswith(("transformer_blocks.", "single_transformer_blocks."))
        # Backward for the input, too, where something trained lies before it: not in front of the first block, and
        # not in the modulation, whose input is the time alone.
        behind = (adapted or name == "proj_out") and not modulation
        expected += 2 * tokens * m.in_features * m.out_features * (2 if behind else 1)
        if adapted:
            width_of_loras = SMALL.n_loras * SMALL.rank
            expected += 3 * 2 * tokens * width_of_loras * m.out_features
            expected += (2 if modulation else 3) * 2 * tokens * width_of_loras * m.in_features
    expected += _attention(total, width, blocks=2)
    assert counted(transformer, SMALL, SIDE, TEXT_TOKENS).flops == expected


def _attention(total: int, width: int, blocks: int) -> int:
    """Queries by keys and weights by values, and twice that backward."""
    return blocks * 2 * 3 * 2 * total**2 * width


def test_extrapolation_is_exact() -> None:
    """Three and four blocks deep, counted whole, against the sum of differences of one and two."""
    whole = _empty(3, 4)
    for parameter in whole.parameters():
        parameter.data = parameter.data.bfloat16()
    assert cost(TINY, SMALL, SIDE, TEXT_TOKENS, checkpointing=False) == counted(whole, SMALL, SIDE, TEXT_TOKENS)


def test_kept_bytes_are_those_of_a_real_run() -> None:
    """What the meta device counts is what tensors with storage keep, in single precision too."""
    ours, theirs = (counted(x, SMALL, SIDE, TEXT_TOKENS) for x in (_empty(2, 1), tiny_transformer(2, 1)))
    # The processor's joint attention is no operation that torch counts.
    total = 2 * (SIDE // 8) ** 2 + TEXT_TOKENS
    assert ours.flops == theirs.flops + _attention(total, tiny_transformer().inner_dim, blocks=3)
    assert ours.kept == pytest.approx(theirs.kept, rel=0.05)


def test_checkpointing_keeps_less_and_computes_more() -> None:
    plain, spared = (cost(TINY, SMALL, SIDE, TEXT_TOKENS, checkpointing=x) for x in (False, True))
    assert spared.kept < plain.kept / 2 and 1.2 < spared.flops / plain.flops < 1.5


def test_parts_of_the_estimate_by_hand() -> None:
    one, h100 = Cost(flops=10**15, kept=2**30), GPUS[1]
    parts = training_memory(one)
    assert parts["base"] == pytest.approx(11.90e9 * 2 / 2**30, rel=0.01), "FLUX has 11.9 billion parameters"
    assert parts["activations"] == 1
    loras = 835_051_520 - 494 * 128 * (32 + 2304)
    assert parts["trained"] == pytest.approx((16 * 835_051_520 + 2 * loras) / 2**30)
    assert training_hours(h100, one, 60_000) == pytest.approx(1e15 * 60_000 / (989e12 * 0.4) / 3600)
    assert GPUS[3].gib < sum(parts.values()) < h100.gib
    assert training_memory(one, shared_by=8)["base"] < parts["base"] / 4
    quantised = training_memory(one, quantised="4bit")
    assert quantised["base"] == pytest.approx(parts["base"] * (0.5 + 4 / 64) / 2, rel=0.02)


def test_command_prints_every_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from lorweb_mini.flux import estimate

    monkeypatch.setattr(estimate, "cost", lambda *_, checkpointing, **__: Cost(10**15, 2**30))
    main(["estimate", "--steps", "100"])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 1 + len(GPUS) * 4 * 2 and all(any(r.startswith(f"| {g.name}") for r in rows) for g in GPUS)
    assert "100 steps of 6 analogies" in printed and "40%" in printed


@pytest.mark.parametrize(
    "wrong",
    [
        ("--steps", "0"),
        ("--batch-size", "-1"),
        ("--n-loras", "0"),
        ("--rank", "-1"),
        ("--side", "100000000"),
        ("--side", "17"),
    ],
)
def test_command_refuses_what_cannot_be(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *wrong])
    said = "a multiple of 16 pixels" if wrong[1] == "17" else "a whole number"
    assert f"expected {wrong[0].strip('-').replace('-', '_')} as {said}" in capsys.readouterr().err
