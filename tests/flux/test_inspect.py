"""A look into a checkpoint: every number against a dense recomputation, and the full size on disk."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_flux import EMBEDDING, KEYS_DIM, RANK, N, squares, tiny_released, tiny_tensors, tiny_transformer

from lorweb_mini.algebra import cosines, effective_rank, pca
from lorweb_mini.analysis.space import update_gram, update_spectrum
from lorweb_mini.commands.flux import main
from lorweb_mini.core.basis import Basis
from lorweb_mini.core.router import Router
from lorweb_mini.errors import InputError
from lorweb_mini.flux import inspect as measures
from lorweb_mini.flux.checkpoint import ReleasedConfig, ReleasedFile, modules_of, open_released, write_released
from lorweb_mini.flux.inspect import inspect_released, read_analogies, route_pictures, route_released, routing_table
from lorweb_mini.flux.picture_encoder import PictureEncoder
from lorweb_mini.flux.synthetic import SCALE, write_random
from lorweb_mini.images import to_pil

FREE = 3e9  # bytes of disk for a file of the released size


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> ReleasedFile:
    transformer = tiny_transformer()
    return open_released(tiny_released(tmp_path_factory.mktemp("weights"), transformer), modules_of(transformer))


def test_numbers_are_those_of_the_dense_updates(file: ReleasedFile) -> None:
    found, tensors = inspect_released(file), tiny_tensors(tiny_transformer())
    assert found.file.parameters == sum(x.numel() for x in tensors.values())
    for i, name in enumerate(file.layers):
        low, high, keys = (tensors[f"transformer.{name}.lora_{x}"].double() for x in ("A", "B", "keys"))
        updates = [(low[n] @ high[n]).T for n in range(N)]
        row = found.table()[i]
        assert (row["layer"], row["in"], row["out"]) == (name, updates[0].shape[1], updates[0].shape[0])
        np.testing.assert_allclose(found.norms[i], [x.norm() for x in updates], rtol=1e-10)
        np.testing.assert_allclose(found.key_norms[i], keys.norm(dim=1), rtol=1e-10)
        for m in range(N):
            for n in range(N):
                cosine = (updates[m] * updates[n]).sum() / updates[m].norm() / updates[n].norm()
                assert found.update_cosines[i, m, n] == pytest.approx(float(cosine), abs=1e-10)
                cosine = keys[m] @ keys[n] / keys[m].norm() / keys[n].norm()
                assert found.key_cosines[i, m, n] == pytest.approx(float(cosine), abs=1e-10)
            expected = effective_rank(torch.linalg.svdvals(updates[m])[:RANK])
            assert found.lora_ranks[i, m] == pytest.approx(expected, abs=1e-9)
        spectrum = torch.linalg.svdvals(sum(updates) / N)[: N * RANK]
        np.testing.assert_allclose(found.spectra[i], spectrum, atol=1e-12)
        assert found.effective_ranks[i] == pytest.approx(effective_rank(spectrum), abs=1e-6)


def test_numbers_agree_with_those_of_a_basis(file: ReleasedFile) -> None:
    """``space`` measures a basis on a model, ``inspection`` a file: the same."""
    basis = Basis(tiny_transformer(), N, RANK)
    file.load_into(basis, Router(len(basis.layers), N, EMBEDDING, KEYS_DIM))
    found = inspect_released(file)
    for i in range(0, len(basis.layers), 5):
        gram = update_gram(basis, i)
        np.testing.assert_allclose(found.norms[i], gram.diagonal().sqrt(), rtol=1e-9)
        np.testing.assert_allclose(found.update_cosines[i], cosines(gram), atol=1e-9)
        np.testing.assert_allclose(found.spectra[i], update_spectrum(basis, i, torch.full((N,), 1 / N)), atol=1e-6)


def test_zero_lora_and_a_narrow_layer(tmp_path: Path) -> None:
    """A fresh basis has B = 0; and N·r may exceed a layer's width."""
    state = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A": torch.randn(4, 5, 2),
        "transformer.transformer_blocks.0.attn.to_q.lora_B": torch.randn(4, 2, 3),
        "transformer.transformer_blocks.0.attn.to_q.lora_keys": torch.randn(4, 6),
        "transformer.transformer_blocks.0.attn.to_q.att_lora_to_q.weight": torch.randn(6, 9),
    }
    state["transformer.transformer_blocks.0.attn.to_q.lora_B"][1] = 0
    write_released(tmp_path / "x.safetensors", state)
    found = inspect_released(open_released(tmp_path / "x.safetensors"))
    assert found.norms[0, 1] == 0 and found.lora_ranks[0, 1] == 0 and found.update_cosines[0, 1, 0] == 0
    assert found.spectra.shape == (1, 8) and (found.spectra[0, :3] > 0).all() and (found.spectra[0, 3:] == 0).all()
    assert "1 adapted layers, 1 of the 494 in FLUX" in str(found)


def test_routing_streams_to_the_same_coefficients(file: ReleasedFile) -> None:
    basis = Basis(tiny_transformer(), N, RANK)
    router = Router(len(basis.layers), N, EMBEDDING, KEYS_DIM)
    file.load_into(basis, router)
    embeddings = [torch.randn(4, EMBEDDING) for _ in range(3)]
    got = route_released(file, torch.cat(embeddings, dim=1))
    with torch.no_grad():
        torch.testing.assert_close(got, router(*embeddings), atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match=r"\[k, 48\]"):
        route_released(file, torch.zeros(2, 47))


def _analogies(folder: Path, k: int) -> Path:
    for i in range(k):
        (folder / f"pair{i}").mkdir(parents=True)
        for seed, name in enumerate(("a", "a_prime", "b")):
            to_pil(squares(1, 10 * i + seed, side=64)[0]).save(folder / f"pair{i}" / f"{name}.png")
    return folder


def test_ones_own_picture_pairs(file: ReleasedFile, encoder: PictureEncoder, clip: Path, tmp_path: Path) -> None:
    names, triplets = read_analogies(_analogies(tmp_path / "pairs", 3))
    assert names == ["pair0", "pair1", "pair2"]
    assert [x.shape for triplet in triplets for x in triplet] == [(1, 3, 64, 64)] * 9
    coefficients = route_pictures(file, encoder, *triplets)
    together = route_pictures(file, encoder, [torch.cat(x) for x in zip(*triplets, strict=True)])
    torch.testing.assert_close(coefficients, together, atol=1e-6, rtol=1e-5)
    assert coefficients.shape == (3, len(file.layers), N)
    rows, expected = routing_table(names, coefficients), pca(coefficients.flatten(1).numpy()).points
    for i, row in enumerate(rows):
        assert (row["pc1"], row["pc2"]) == pytest.approx(tuple(expected[i]))
        entropy = torch.stack([-(c * c.log()).sum() for c in coefficients[i]]).mean()
        assert row["effective"] == pytest.approx(float(entropy.exp()), rel=1e-5)
        assert row["top"] == int(coefficients[i].mean(0).argmax())
    assert set(routing_table(names[:1], coefficients[:1])[0]) == {"analogy", "effective", "top", "top_mean"}
    (tmp_path / "pairs" / "pair1" / "b.png").unlink()
    with pytest.raises(InputError, match=r"one picture b .*pair1, got 0"):
        read_analogies(tmp_path / "pairs")
    with pytest.raises(InputError, match="folder of folders"):
        read_analogies(clip)


def test_inspect_command(file: ReleasedFile, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs, out = _analogies(tmp_path / "pairs", 2), tmp_path / "out"
    main(["inspect", str(file.path), "--out", str(out), "--analogies", str(pairs), "--encoder", str(clip)])
    printed = capsys.readouterr().out
    assert "20 adapted layers, 20 of the 494 in FLUX.1-Kontext" in printed and "peak memory" in printed
    with (out / "layers.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    found = inspect_released(file)
    assert [row["layer"] for row in rows] == file.layers
    assert float(rows[3]["norm_mean"]) == pytest.approx(found.norms[3].mean())
    full = json.loads((out / "layers.json").read_text())
    assert full["parameters"] == file.parameters and full["layers"][3]["norms"] == pytest.approx(
        found.norms[3].tolist()
    )
    with (out / "routing.csv").open(encoding="utf-8") as table:
        assert [row["analogy"] for row in csv.DictReader(table)] == ["pair0", "pair1"]
    assert load_file(out / "routing.safetensors")["coefficients"].shape == (2, 20, N)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(tmp_path / "nothing.safetensors")])
    assert ended.value.code == 2 and "error: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--analogies", "{out}/none"], "expected a folder of folders"),
        (["--analogies", "{pairs}", "--encoder", "{pairs}"], "expected the folder or hub name of a CLIP or SigLIP"),
        (["--encoder", "{clip}"], "expected --analogies beside --encoder"),
        (["--out", "{clip}/config.json"], "where a file is in the way"),
    ],
)
def test_inspect_command_refuses_before_measuring(
    file: ReleasedFile,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    places = {"out": tmp_path / "out", "clip": clip, "pairs": _analogies(tmp_path / "pairs", 1)}
    monkeypatch.setattr(measures, "inspect_released", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(SystemExit):
        main(["inspect", str(file.path), "--out", str(places["out"]), *(x.format(**places) for x in options)])
    assert says in capsys.readouterr().err


def test_inspect_command_names_numbers_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tensors = tiny_tensors(tiny_transformer())
    name = list(tensors)[-4]
    tensors[name][0] = float("nan")
    path = write_released(tmp_path / "x.safetensors", tensors)
    with pytest.raises(SystemExit):
        main(["inspect", str(path), "--out", str(tmp_path / "out")])
    assert f"expected finite weights in {path}, got NaN or infinity in {name}" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "utf-8"])
def test_consoles_that_cannot_print_everything(file: ReleasedFile, tmp_path: Path, encoding: str) -> None:
    """The summary has ‖ and –: a console without them shows something else, and the tables are there."""
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with contextlib.redirect_stdout(console):
        main(["inspect", str(file.path), "--out", str(tmp_path / "out")])
    console.flush()
    printed = console.buffer.getvalue().decode(encoding)
    assert "adapted layers" in printed and ("B_n A_n" in printed) and (tmp_path / "out" / "layers.csv").is_file()


def test_full_size_fits_in_two_gibibytes(tmp_path: Path) -> None:
    """N=32, r=4, d=128, queries of 2304 on all 494 layers: the command in a process of its own, its peak measured."""
    if shutil.disk_usage(tmp_path).free < FREE:
        pytest.skip("expected 3 GB of free disk")
    file = write_random(tmp_path / "full.safetensors")
    assert file.parameters == 835_051_520 and len(file.layers) == 494
    assert 2 * file.parameters < file.path.stat().st_size < 2 * file.parameters + 1e6
    command = [sys.executable, "-m", "lorweb_mini.flux", "inspect", str(file.path), "--out", str(tmp_path / "out")]
    with (tmp_path / "printed.txt").open("w+") as printed:
        process = psutil.Popen(command, stdout=printed, stderr=subprocess.PIPE)
        seen = 0
        while process.poll() is None:
            # Watched from outside; the last look may find it gone.
            with contextlib.suppress(psutil.Error):
                seen = max(seen, process.memory_info().rss)
            time.sleep(0.02)
        assert process.returncode == 0, process.stderr.read()
        printed.seek(0)
        said = printed.read()
    assert "835,051,520 parameters" in said and "494 adapted layers, 494 of the 494" in said
    peak = float(said.split("peak memory of this process: ")[1].split()[0])
    print(f"peak {peak} GiB, seen from outside {seen / 2**30:.2f} GiB")
    assert peak < 2 and 0.2 * 2**30 < seen < 2 * 2**30
    assert peak == pytest.approx(seen / 2**30, rel=0.1)
    rows = json.loads((tmp_path / "out" / "layers.json").read_text())["layers"]
    # Random directions: 32 independent updates of rank 4 hardly overlap, and their spectrum is nearly flat.
    row = rows[0]
    assert row["layer"] == "transformer_blocks.0.norm1.linear" and (row["in"], row["out"]) == (3072, 18432)
    assert row["norm_mean"] == pytest.approx(SCALE**2 * (4 * 3072 * 18432) ** 0.5, rel=0.02)
    assert row["key_norm"] == pytest.approx(128**0.5, rel=0.02) and row["key_cosine_max"] < 0.5
    assert row["update_cosine_max"] < 0.02 and row["mixture_effective_rank"] > 120


def test_random_file_is_one_like_any_other(tmp_path: Path) -> None:
    """Written byte by byte here, read by safetensors itself."""
    config, modules = ReleasedConfig(3, 2, 5, 9), {"transformer_blocks.0.attn.to_q": (700_000, 4)}
    file = write_random(tmp_path / "x.safetensors", config, modules)
    assert (file.config, file.modules) == (config, modules)
    state = load_file(file.path)
    low = state["transformer.transformer_blocks.0.attn.to_q.lora_A"]
    assert low.shape == (3, 700_000, 2) and low.dtype == torch.float16
    assert sum(x.numel() for x in state.values()) == file.parameters
    assert float(low.float().std()) == pytest.approx(SCALE, rel=0.01) and abs(float(low.float().mean())) < 1e-4
    assert not torch.equal(low[0], low[1])
    again = write_random(tmp_path / "y.safetensors", config, modules)
    assert again.path.read_bytes() == file.path.read_bytes()
    other = write_random(tmp_path / "y.safetensors", config, modules, seed=1)
    assert other.path.read_bytes() != file.path.read_bytes()
