"""The benchmarks run and check what they measure; how fast anything is, no test asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from tiny_models import tiny_data
from torch import Tensor, nn

from lorweb_mini.commands.train import DEFAULTS
from lorweb_mini.emoji import latents
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir
from lorweb_mini.training import basis, encoder
from lorweb_mini.training.analogies import LatentBank
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.loop import Recipe, train


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _tables(printed: str) -> list[dict[str, list[str]]]:
    """Every Markdown table: first cell of a row to its other cells, the heading under ``""``."""
    tables: list[dict[str, list[str]]] = []
    for block in printed.split("\n\n"):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            tables.append({"": rows[0][1:]} | {row[0]: row[1:] for row in rows[2:]})
    return tables


def test_mixing_has_every_method_and_checks_each(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import mixing

    mixing.main(["--quick"])
    tables = _tables(capsys.readouterr().out)
    assert len(tables) == 2, "one Linear and one step"
    for table in tables:
        heading = table.pop("")
        assert list(table) == list(mixing.ROWS)
        difference = heading.index("difference")
        assert all(float(table[name][difference]) <= mixing.TOLERANCE for name in mixing.CHECKED)
        assert {float(x) for x in table[mixing.BARE][:4]} == {1.0}, "the bare base is the measure"
        trained = [name for name in table if "–" not in table[name][:4]]
        assert trained == [mixing.BARE, mixing.PLAIN, mixing.GATE, mixing.RELEASED, mixing.LOOP, mixing.XLORA]


def test_mixing_saves_its_table_in_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import mixing, timing

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- mixing:begin -->\nold\n<!-- mixing:end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(mixing, "README", readme)
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    plan = [(mixing.linear(32, rounds=1), 2, (1, 2, 3), 2), (mixing.linear(48, rounds=1), 1, (2,), 2)]
    monkeypatch.setattr(mixing, "plan", lambda quick: plan)
    mixing.main(["--save"])
    printed, written = capsys.readouterr().out, readme.read_text(encoding="utf-8")
    assert (tmp_path / "results" / "mixing.md").read_text(encoding="utf-8") == printed
    assert written.startswith("before\n<!-- mixing:begin -->\n|") and written.endswith("<!-- mixing:end -->\nafter\n")
    (table,) = _tables(written.split("begin -->\n")[1])
    assert set(table.pop("")) == {"One Linear, 32 → 32, batch 2, N = 2", "One Linear, 48 → 48, batch 1, N = 2"}
    assert list(table) == list(mixing.ROWS) and table[mixing.BARE] == ["1.00 / 1.00"] * 2
    readme.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="expected the marks"):
        mixing.main(["--save"])


def test_full_mixing_covers_what_it_claims() -> None:
    from benchmarks import mixing

    plan = mixing.plan(quick=False)
    assert {256, 3072} <= {subject.channels for subject, *_ in plan}
    for subject, _, sizes, rank in plan:
        assert {min(sizes), max(sizes)} == {1, 64} and rank == 4
        batches = {batch for other, batch, *_ in plan if other.title == subject.title}
        assert min(batches) == 1 < max(batches)


def test_peak_memory_by_hand() -> None:
    """Tensors of 1 MiB: views, what was there before and what is freed in between do not add to the peak."""
    from benchmarks.mixing import peak_mib

    x = torch.zeros(2**18)

    def run() -> Tensor:
        y = x.view(2, -1) + 1
        z = y.T * 2
        del y
        return z.exp() + 1

    assert peak_mib(run) == 3, "z, its exp, and the sum"
    assert peak_mib(lambda: x.mul_(2)) == 0
    w = torch.ones(2**18, requires_grad=True)
    kept = peak_mib(lambda: torch.autograd.grad((w * x).exp(), [w], torch.ones_like(x)))
    assert kept == pytest.approx(4), "the exp is kept for its gradient; ones, two gradients"


@pytest.mark.parametrize("wrong", ["b...i,nir,bm,nro->b...o", "b...i,nir,bn,mro->b...o"])
def test_mixing_refuses_to_time_a_wrong_formula(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    from benchmarks import mixing

    monkeypatch.setattr(mixing, "EINSUM", wrong)
    with pytest.raises(RuntimeError, match=r"einsum .* differs from the naive loop"):
        mixing.measure(mixing.linear(32, rounds=1), batch=2, sizes=(3,), rank=2)


def test_editing_has_every_method_and_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import editing

    real = data_dir() / "emoji"
    data = tiny_data(tmp_path / "data", monkeypatch)
    (data / "emoji" / "emoji.json").unlink()
    for file in real.iterdir():
        (data / "emoji" / file.name).symlink_to(file)
    editing.main(["--quick"])
    start, edit, step, part = _tables(capsys.readouterr().out)
    assert {"`import lorweb_mini`", "then `lw.load('starter')`", "then first edit, 2 steps"} < set(start)
    assert "then `load_emoji()`" in start
    assert all(float(cell) > 0 for name, row in start.items() if name for cell in row)
    assert list(edit)[1:] == list(editing.METHODS)
    assert step[""] == ["1 steps", "2 steps", "each further step"] and list(step)[1:] == list(editing.STEPPED)
    assert all("(1.00×)" in cell for cell in step["bare base"]), "the bare base is the measure"
    assert list(part)[-1] == editing.WHOLE and len(part) == 6


def test_time_of_a_further_step_is_the_slope() -> None:
    """Two methods whose seconds are known: once 5 ms and 2 ms a step, and once 7 ms and 3 ms a step."""
    from benchmarks import editing

    known = {editing.BARE: (5e-3, 2e-3), editing.GENERATE: (7e-3, 3e-3), editing.FROZEN: (7e-3, 2e-3)}
    seconds = {(m, n): [once + n * each] * 3 for m, (once, each) in known.items() for n in (2, 4, 10)}
    (table,) = _tables(editing.step_table(seconds, (2, 4, 10)))
    assert table["dynamic: the gate"] == ["13 (1.44×)", "19 (1.46×)", "37 (1.48×)", "3 (1.50×)"]
    assert table["frozen: merged"][-1] == "2 (1.00×)"


class _Bank(LatentBank):
    """Random latents in place of pictures: three pairs of every relation."""

    def __init__(self, autoencoder, relations, edited_pairs: int = 1200) -> None:
        self.relations = list(relations)
        self.latents = torch.randn(72, 16, 8, 8).half()
        self.pairs = [np.array([[0, 1], [2, 3], [4, 5]]) for _ in relations]


@pytest.fixture
def tiny_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny frozen weights, real pictures and relations, a bank of noise."""
    real = data_dir()
    data = tiny_data(tmp_path / "data", monkeypatch)
    (data / "emoji" / "emoji.json").unlink()
    (data / "emoji").rmdir()
    for name in ("emoji", "relations.json", "splits.json", "unseen.json", "text.json", "text.safetensors"):
        (data / name).symlink_to(real / name)
    monkeypatch.setenv("LORWEB_CACHE", str(tmp_path / "cache"))
    for module in (encoder, basis):
        monkeypatch.setattr(module, "LatentBank", _Bank)
    monkeypatch.setattr(latents, "encoded", lambda _, name, shown, edit: torch.randn(len(shown), 16, 8, 8).half())
    monkeypatch.setattr(basis, "STANDARDISED", 8)
    monkeypatch.setattr(encoder, "encoded_views", lambda _, drawings, number: torch.randn(len(drawings), 16, 8, 8))
    monkeypatch.setattr(encoder.EncoderRecipe, "VIEWS", 1)


def test_training_has_every_part_and_variant(tiny_training: None, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import training

    training.main(["--quick"])
    printed = capsys.readouterr().out
    peak, step, phase, variant, layout = _tables(printed)
    assert list(peak)[1] == "1024×1024 · 1024×1024" and peak["1024×1024 · 1024×1024"][-1] == "100%"
    # Eight samples of 32 picture tokens: four projections in each of two blocks, and to_out.
    assert int(peak["256×256 · 256×256"][0]) == 8
    shares = [int(row[1].rstrip("%")) for name, row in peak.items() if name and row[1] != "–"]
    assert abs(sum(shares) - 100) <= len(shares)
    assert list(step)[1:] == list(DEFAULTS)
    for row in (row for name, row in step.items() if name):
        size, ms, samples, work, speed, _ = (float(cell.rstrip("%")) for cell in row)
        assert size == 8
        assert samples == pytest.approx(1e3 * size / ms, rel=0.02) and speed == pytest.approx(1e3 * work / ms, rel=0.02)
    assert len(phase) == 1 + 2 * 4 + 4
    assert all(float(phase[f"{p}: {k}"][0]) > 0 for p in ("forward", "backward") for k in training.KINDS)
    assert abs(sum(int(row[1].rstrip("%")) for name, row in phase.items() if name) - 100) <= len(phase)
    assert list(variant)[1:4] == [training.PLAIN, training.COMPILED, *list(training.BACKENDS)[:1]]
    assert variant[training.PLAIN][-1] == "1.00" and variant[training.COMPILED] == ["–", "–"]
    assert "left out in a quick run" in printed
    assert {"batch 2", "batch 4", training.FOREACH} < set(variant)
    assert list(layout)[1:] == [training.CHANNELS_LAST, training.CONTIGUOUS]


class _Line(Recipe):
    """One Linear layer of 5 to 3 on noise; ``depth`` more of 3 to 3 behind it."""

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 3), *[nn.Linear(3, 3) for _ in range(depth)])

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(rng.standard_normal((size, 5))).float()}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.layers(batch["x"]) - 1).pow(2).mean()}

    def save(self, folder: Path) -> None:
        pass


def test_measured_step_is_the_step_of_training(tmp_path: Path) -> None:
    from benchmarks.training import Step

    config = TrainingConfig(steps=4, batch_size=8, learning_rate=1e-2, warmup_steps=0, final_fraction=1.0)
    trained, measured = _Line(2), _Line(2)
    train(trained, config, tmp_path)
    step = Step(measured, config, rate=config.learning_rate)
    for _ in range(4):
        step()
    step.ema.copy_to(step.parameters)
    for ours, theirs in zip(measured.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    still = _Line(2)
    Step(still, config)()
    assert all(torch.equal(x, y) for x, y in zip(still.parameters(), _Line(2).parameters(), strict=True))


def test_operations_of_linear_layers_by_hand() -> None:
    """Forward 2·B·i·o; backward as much for the weights, and as much again for inputs that need a gradient."""
    from benchmarks.training import Step, flops, linear_shapes

    step = Step(_Line(2), TrainingConfig(steps=1, batch_size=7))
    assert flops(step) == 2 * (2 * 7 * 5 * 3) + 3 * (2 * 7 * 3 * 3) * 2
    assert linear_shapes(step, step.recipe.layers) == {(7, 5, 3): 1, (7, 3, 3): 2}
    assert all(p.grad is None for p in step.parameters)


def test_operations_of_attention_by_hand() -> None:
    """Queries with keys, and weights with values: 4·T²·d forward, twice that backward."""
    from benchmarks.training import Step, flops

    class Attention(_Line):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            x = self.layers(batch["x"])[None, None]
            return {"loss": nn.functional.scaled_dot_product_attention(x, x, x).pow(2).mean()}

    step = Step(Attention(), TrainingConfig(steps=1, batch_size=7))
    assert flops(step) == 2 * (2 * 7 * 5 * 3) + 3 * (4 * 7 * 7 * 3)


def test_training_refuses_to_time_a_variant_that_computes_something_else() -> None:
    from benchmarks.training import agree

    agree("a variant", (2.00001, 1.0), (2.0, 1.0))
    for wrong in ((2.01, 1.0), (2.0, 1.01), (float("nan"), 1.0)):
        with pytest.raises(RuntimeError, match="a variant: expected loss and gradient norm"):
            agree("a variant", wrong, (2.0, 1.0))


def test_autoencoders_trains_every_alternative(tiny_training: None, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import autoencoders

    autoencoders.main(["--quick"])
    (table,) = _tables(capsys.readouterr().out.split("\n\n", 1)[1])
    assert list(table)[1:] == list(autoencoders.ALTERNATIVES)
    assert table[""][-2:] == ["mean of the six", "minus shipped"]
    assert table[autoencoders.SHIPPED][-1] == "0.00 (0.00–0.00)"
    sizes = {name: float(row[0].split()[0]) for name, row in table.items() if name}
    assert sizes["half as wide"] < sizes[autoencoders.SHIPPED] < sizes["1.5 times as wide"]


def test_psnr_of_a_network_that_dims_every_picture() -> None:
    """x to 0.9 x: a squared error of x²/100, so black and white drawings alone would score 10 log₁₀ 400 = 26.02 dB."""
    from benchmarks.autoencoders import measured

    class Dims(nn.Module):
        encoder, decoder = nn.Identity(), staticmethod(lambda x: 0.9 * x)

    shown = np.array([[i, style] for i in np.flatnonzero(load_emoji().present.all(1))[:3] for style in range(6)])
    found = measured(Dims(), shown)
    by_hand = []
    for style in range(6):
        one = [load_emoji().tensor(i, s)[0].numpy() for i, s in shown if s == style]
        by_hand.append(np.mean([10 * np.log10(4 / np.mean((0.1 * x) ** 2)) for x in one]))
    assert list(found.values()) == pytest.approx([*by_hand, np.mean(by_hand)], abs=1e-4)
    assert all(value >= 10 * np.log10(400) - 1e-4 for value in found.values())


@pytest.mark.parametrize("name", ["mixing", "editing", "training", "autoencoders"])
def test_a_quick_run_is_never_saved(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module

    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{name}").main(["--quick", "--save"])
    assert "not saved" in capsys.readouterr().err


def test_only_a_whole_run_in_the_cpu_profile_is_published(tmp_path: Path) -> None:
    from benchmarks import readme

    source, published = tmp_path / "runs" / "cpu" / "results", tmp_path / "figures" / "run"
    (source / ".ipynb_checkpoints").mkdir(parents=True)
    published.mkdir(parents=True)
    (published / "report.json").write_text("old")
    whole = (ROOT / "figures" / "run" / "report.json").read_text(encoding="utf-8")
    for content in ('{"x', "{}", whole.replace('"profile": "cpu"', '"profile": "smoke"')):
        (source / "report.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="results"):
            readme.publish(tmp_path)
    assert (published / "report.json").read_text() == "old"
    (source / "report.json").write_text(whole, encoding="utf-8")
    (tmp_path / "README.md").write_text("<!-- results:begin -->\nold\n<!-- results:end -->\n", encoding="utf-8")
    readme.publish(tmp_path)
    assert (published / "report.json").read_text(encoding="utf-8") == whole
    assert "memoriser" in (tmp_path / "README.md").read_text(encoding="utf-8")
