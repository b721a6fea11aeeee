"""Training on FLUX's own classes: the loss by hand, checkpointing, resume, and what the finished file draws."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_flux import KEYS_DIM, RANK, SIDE, N, drawn_grids, folders, squares, tiny_pipeline, tiny_released

from lorweb_mini import flux
from lorweb_mini.commands import flux as commands
from lorweb_mini.commands.flux import main
from lorweb_mini.errors import InputError
from lorweb_mini.flux.checkpoint import modules_of, open_released
from lorweb_mini.flux.editor import FluxEditor
from lorweb_mini.flux.picture_encoder import PictureEncoder
from lorweb_mini.flux.shards import LatentShards, ShardSettings, write_shards
from lorweb_mini.flux.train import TRAINING, WEIGHTS, FluxConfig, FluxRecipe
from lorweb_mini.training.log import LOG, read_log
from lorweb_mini.training.loop import train
from lorweb_mini.training.state import STATE

TOKENS = 8
ACCELERATE = Path(flux.__file__).parent / "accelerate"
SIZES = FluxConfig(N, RANK, KEYS_DIM, sample_every=0, sampling_steps=2)
CONFIG = replace(TRAINING, steps=6, batch_size=4, log_every=1, checkpoint_minutes=1e-9)


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A pipeline, a CLIP and shards of a few pictures, on disk."""
    base = tmp_path_factory.mktemp("base")
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(base)
    root = folders(tmp_path_factory.mktemp("set"), {"hats": 3, "blur": 2, "snow": 4, "rain": 3})
    shards = tmp_path_factory.mktemp("shards")
    sizes = ("--side", str(SIDE), "--text-tokens", str(TOKENS), "--each", "4")
    where = ("--out", str(shards), "--base", str(base), "--encoder", str(clip))
    main(["precompute", str(root), *where, *sizes, "--device", "cpu", "--dtype", "float32"])
    return base, clip, shards


def recipe_of(shards: Path, config: FluxConfig = SIZES, filled: bool = False, **options: Any) -> FluxRecipe:
    """A fresh recipe, the same at each call; ``filled`` gives B random values in place of zeros."""
    pipeline = tiny_pipeline()
    torch.manual_seed(0)
    recipe = FluxRecipe(pipeline, LatentShards(shards), config, **options)
    if filled:
        for index in range(len(recipe.basis.layers)):
            recipe.basis.factors(index)[1].data.normal_(0, 0.3)
    return recipe


def gradients(recipe: FluxRecipe, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    recipe.zero_grad()
    recipe(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in recipe.named_parameters() if p.requires_grad}


def test_loss_by_hand(made) -> None:
    """The formulas of the paper on the bare transformer, one sample and one LoRA at a time, in double precision."""
    recipe = recipe_of(made[2], filled=True)
    batch = recipe.batch(np.random.default_rng(1), 3)
    with torch.no_grad():
        found = recipe(batch)["loss"].item()
    pipeline = tiny_pipeline()
    bare, losses = pipeline.transformer.double(), []
    linears = dict(bare.named_modules())
    for i in range(3):
        query = batch["query"][i].flatten().double()
        hooks = []
        for layer, name in enumerate(recipe.basis.layers):
            projected = recipe.router.query_projection[layer].double() @ query
            logits = recipe.router.keys[layer].double() @ projected / KEYS_DIM**0.5
            c = torch.softmax(logits, 0)
            pairs = [
                (c[n], A.double(), B.double())
                for n, (A, B) in enumerate(zip(*recipe.basis.factors(layer), strict=True))
            ]

            def add(module, inputs, out, pairs=pairs):
                return out + sum(w * inputs[0] @ A.T @ B.T for w, A, B in pairs)

            hooks.append(linears[name].register_forward_hook(add))
        clean, velocity, t = (batch[k][i : i + 1].double() for k in ("target", "velocity", "t"))
        noise = velocity + clean
        z = (1 - t) * clean + t * noise
        rows = clean.shape[2] // 2
        tokens = [pipeline._pack_latents(x, 1, 16, 2 * rows, 2 * rows) for x in (z, batch["condition"][i : i + 1])]
        ids = [pipeline._prepare_latent_image_ids(1, rows, rows, "cpu", torch.float64) for _ in range(2)]
        ids[1][:, 0] = 1
        with torch.no_grad():
            v = bare(
                torch.cat(tokens, 1).double(),
                batch["embeds"][i : i + 1].double(),
                batch["pooled"][i : i + 1].double(),
                t,
                torch.cat(ids),
                torch.zeros(TOKENS, 3).double(),
                torch.ones(1).double(),
            ).sample[:, : rows**2]
        wanted = pipeline._pack_latents(noise - clean, 1, 16, 2 * rows, 2 * rows)
        losses.append(((v - wanted) ** 2).mean())
        for hook in hooks:
            hook.remove()
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_batches_are_samples_of_train(made) -> None:
    recipe = recipe_of(made[2])
    shards = recipe.shards
    batch = recipe.batch(np.random.default_rng(3), 400)
    known = {i: shards.sample("train", i) for i in range(shards.count("train"))}
    empty, dropped, seen = shards.prompt(0)[0], 0, set()
    for k in range(400):
        (i,) = [i for i, (tensors, _) in known.items() if torch.equal(tensors["target"], batch["target"][k])]
        seen.add(i)
        tensors, about = known[i]
        assert torch.equal(tensors["condition"], batch["condition"][k])
        assert torch.equal(tensors["query"], batch["query"][k])
        none = torch.equal(batch["embeds"][k], empty)
        dropped += none
        prompt = shards.prompt(0 if none else about["prompt"])
        assert torch.equal(batch["embeds"][k], prompt[0]) and torch.equal(batch["pooled"][k], prompt[1])
    assert seen == set(known) and 5 <= dropped <= 40, "a twentieth of 400, within five deviations"
    logits = torch.logit(batch["t"].double())
    # 4 tokens: diffusers' line through 0.5 at 256 tokens and 1.15 at 4096.
    assert logits.mean().item() == pytest.approx(0.5 + (4 - 256) * 0.65 / 3840, abs=0.2)
    assert logits.std().item() == pytest.approx(1, abs=0.15)


def test_only_basis_and_router_learn(made) -> None:
    recipe = recipe_of(made[2])
    trained = {id(p) for group in recipe.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in recipe.parameters() if p.requires_grad}
    assert len(trained) == 2 * len(recipe.basis.layers) + 2
    names = [n for n, p in recipe.named_parameters() if p.requires_grad]
    assert all(".lora_" in n or n.startswith("router.") for n in names)


def test_start_is_the_released_one(made) -> None:
    """A_n uniform in ±1/√(in·r), B_n zero, keys standard normal."""
    recipe = recipe_of(made[2])
    for index in range(len(recipe.basis.layers)):
        low, high = recipe.basis.factors(index)
        bound = (low.shape[2] * RANK) ** -0.5
        assert 0.9 * bound < low.abs().max() <= bound and not high.any()
        assert low.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert recipe.router.keys.std().item() == pytest.approx(1, rel=0.1)


@pytest.fixture(scope="module")
def mixed(encoder: PictureEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of square pictures and of two other aspects."""
    root = folders(tmp_path_factory.mktemp("mixed"), {"a": 3, "b": 3, "c": 3, "d": 3, "e": 3, "f": 3})
    for place, category in enumerate("abcdef"):
        for path in (root / category).rglob("*.png"):
            with Image.open(path) as picture:
                picture.resize(((24, 24), (24, 36), (40, 24))[place % 3]).save(path)
    settings = ShardSettings(64, TOKENS, each=4)
    folder = tmp_path_factory.mktemp("mixed shards")
    write_shards(tiny_pipeline(), encoder, root, folder, settings)
    return folder


def test_batches_are_of_one_size(mixed: Path) -> None:
    recipe, seen = recipe_of(mixed, replace(SIZES, sample_count=4)), {}
    for step in range(40):
        batch = recipe.batch(np.random.default_rng([5, step]), 3)
        shape = tuple(batch["target"].shape)
        seen[shape] = seen.get(shape, 0) + 1
        assert batch["noisy"].shape == batch["condition"].shape == shape
        if seen[shape] == 1:
            recipe(batch)["loss"].backward()
    counts = [len(x) for x in recipe.shards.buckets("train")]
    assert len(seen) == len(counts) > 1
    assert sorted(counts) == [4 * (x // 4) for x in sorted(counts)], "four of each category"
    drawn = recipe.draw()
    shapes = [recipe.shards.sample(*place)[0]["target"].shape for place in recipe.sampled()]
    assert drawn.shape == (3, 8 * max(x[1] for x in shapes), 8 * sum(x[2] for x in shapes))


def test_checkpointing_and_accumulation_change_no_gradient(made) -> None:
    """Blocks that compute anew in the backward pass must find the same coefficients there."""
    plain, spared = (recipe_of(made[2], filled=True, checkpointing=x) for x in (False, True))
    assert spared.transformer.gradient_checkpointing and not plain.transformer.gradient_checkpointing
    batch = plain.batch(np.random.default_rng(2), 4)
    expected = gradients(plain, batch)
    assert all(g.abs().max() > 0 for g in expected.values()) and "router.query_projection" in expected
    for name, found in gradients(spared, batch).items():
        torch.testing.assert_close(found, expected[name], atol=1e-7, rtol=1e-4, msg=name)


def test_half_precision_base(made) -> None:
    """A bfloat16 base keeps basis and router in single precision, and its loss is near."""
    whole, half = recipe_of(made[2], filled=True), recipe_of(made[2], filled=True)
    batch = whole.batch(np.random.default_rng(2), 4)
    for name, parameter in half.transformer.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    for module in half.basis.modules:
        module.cast_input_dtype_enabled = False
    assert half.transformer.dtype == torch.bfloat16
    found = gradients(half, batch)
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in found.values())
    with torch.no_grad():
        assert half(batch)["loss"].item() == pytest.approx(whole(batch)["loss"].item(), rel=0.02)


def test_accumulated_steps_are_whole_steps(made, tmp_path: Path) -> None:
    for parts in (1, 2, 4):
        recipe = recipe_of(made[2], accumulate=parts)
        train(recipe, CONFIG, tmp_path / str(parts))
    states = [load_file(tmp_path / str(parts) / WEIGHTS) for parts in (1, 2, 4)]
    for name, tensor in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(other[name].float(), tensor.float(), atol=2e-3, rtol=1e-2, msg=name)
    losses = [[r["loss"] for r in read_log(tmp_path / str(parts) / LOG)] for parts in (1, 2, 4)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)
    with pytest.raises(InputError, match="expected 3 equal parts of the 4 samples"):
        train(recipe_of(made[2], accumulate=3), CONFIG, tmp_path / "three")
    for wrong in (0, -1, 1.0):
        with pytest.raises(InputError, match="expected accumulate as a whole number"):
            recipe_of(made[2], accumulate=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_loras": 0},
        {"rank": -1},
        {"keys_dim": 2.0},
        {"caption_dropout": 1.5},
        {"caption_dropout": float("nan")},
        {"caption_dropout": "0.1"},
        {"guidance": -1},
        {"guidance": float("inf")},
        {"sample_every": -1},
        {"sample_count": 1},
        {"sampling_steps": 0},
    ],
    ids=str,
)
def test_configurations_that_cannot_be(wrong: dict) -> None:
    """Before the hours of a training, not after."""
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))} as a .*number"):
        FluxConfig(**wrong)


def test_the_papers_setting() -> None:
    assert (TRAINING.steps, TRAINING.batch_size, TRAINING.learning_rate) == (10_000, 6, 1e-3)
    assert (TRAINING.betas, TRAINING.weight_decay, TRAINING.ema_decay) == ((0.9, 0.99), 0.05, None)
    assert (FluxConfig().n_loras, FluxConfig().rank, FluxConfig().caption_dropout) == (32, 4, 0.05)


def test_loss_falls_and_the_file_draws_what_was_trained(made, encoder: PictureEncoder, tmp_path: Path) -> None:
    _, clip, shards = made
    config = replace(CONFIG, steps=150, learning_rate=1e-2, log_every=10, checkpoint_minutes=10)
    recipe = recipe_of(shards, replace(SIZES, sample_every=75))
    fixed = recipe.batch(np.random.default_rng(9), 16)
    with torch.no_grad():
        before = recipe(fixed)["loss"].item()
    train(recipe, config, tmp_path)
    with torch.no_grad():
        after = recipe(fixed)["loss"].item()
    assert after < 0.8 * before, (before, after)
    log = read_log(tmp_path / LOG)
    assert {row["learning_rate"] for row in log} == {1e-2}, "constant"
    assert {"entropy", "usage", "variation"} <= log[0].keys()
    for step in (75, 150):
        with Image.open(tmp_path / "samples" / f"{step:06d}.png") as picture:
            assert picture.size == (len(recipe.sampled()) * 2 * SIDE, 2 * SIDE)

    pipeline = tiny_pipeline()
    file = open_released(tmp_path, modules_of(pipeline.transformer))
    assert file.config.encoder == str(clip)
    editor = FluxEditor(pipeline, PictureEncoder.load(file.config.encoder), file.config, side=SIDE)
    file.load_into(editor.basis, editor.router)
    a, a_prime, b = (squares(1, seed=i) for i in range(3))
    with torch.no_grad():
        query = torch.stack([encoder(x) for x in (a, a_prime, b)], 1)
        trained = recipe.coefficients(query)
    torch.testing.assert_close(editor.route(a, a_prime, b), trained, atol=2e-3, rtol=1e-2)
    drawn = editor.edit(a, a_prime, b, steps=3).pictures
    grids = torch.cat([torch.cat([a, a_prime], 3), torch.cat([b, b], 3)], 2)
    with torch.no_grad(), recipe.basis.mixed(trained):
        expected = drawn_grids(recipe.pipeline, (grids + 1) / 2, "", steps=3)
    moved = editor.generate(b, torch.zeros_like(trained), (a, a_prime), steps=3).pictures
    error = (drawn - expected[:, :, SIDE:, SIDE:]).abs().max()
    assert error < 0.02 and (drawn - moved).abs().max() > 5 * error, "the file is in half precision"
    trained_on = json.loads((tmp_path / "trained.json").read_text())["categories"]
    assert trained_on == LatentShards(shards).categories
    again = recipe_of(shards)
    again.start_from(tmp_path)
    with torch.no_grad():
        assert again(fixed)["loss"].item() == pytest.approx(after, rel=1e-2)


@pytest.mark.parametrize("change", ["picture", "caption", "split"])
def test_a_run_does_not_go_on_with_other_data(encoder: PictureEncoder, tmp_path: Path, change: str) -> None:
    """Settings alone do not tell: the shards lie in the same folder and have the same sizes."""
    root, names = folders(tmp_path / "set", {"a": 3, "b": 3, "c": 3}), {"test": ["a"], "val": ["b"], "train": ["c"]}
    (tmp_path / "splits.json").write_text(json.dumps(names))

    class Killed(FluxRecipe):
        def observe(self, step: int, folder: Path, is_main: bool) -> None:
            if step == 2:
                raise KeyboardInterrupt

    def recipe() -> FluxRecipe:
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        settings, splits = ShardSettings(SIDE, TOKENS, each=2), tmp_path / "splits.json"
        pipeline = tiny_pipeline()
        shards = write_shards(pipeline, encoder, root, tmp_path / "shards", settings, splits)
        return Killed(pipeline, shards, SIZES)

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), CONFIG, tmp_path / "run")
    if change == "picture":
        Image.new("RGB", (SIDE, SIDE), "red").save(root / "c" / "target" / "01.png")
    elif change == "caption":
        (root / "c" / "captions.json").write_text(json.dumps({f"{i:02d}": "other" for i in range(3)}))
    else:
        (tmp_path / "splits.json").write_text(json.dumps(dict(zip(names, [["c"], ["a"], ["b"]], strict=True))))
    with pytest.raises(InputError, match="expected an unfinished run with"):
        train(recipe(), CONFIG, tmp_path / "run")


def test_shards_of_another_model(encoder: PictureEncoder, tmp_path: Path) -> None:
    settings = ShardSettings(SIDE, TOKENS, each=1)
    root = folders(tmp_path / "set", {"a": 2, "b": 2, "c": 2})
    pipeline = tiny_pipeline()
    shards = write_shards(pipeline, encoder, root, tmp_path / "out", settings)
    pipeline.transformer.register_to_config(joint_attention_dim=48)
    with pytest.raises(InputError, match=r"expected latents and prompts for a transformer of .* got \(64, 32, 32\)"):
        FluxRecipe(pipeline, shards, SIZES)


def _command(made, out: Path, *options: str) -> list[str]:
    base, _, shards = made
    sizes = ("--n-loras", str(N), "--rank", str(RANK), "--keys-dim", str(KEYS_DIM), "--dtype", "float32")
    few = ("--steps", "6", "--batch-size", "4", "--sampling-steps", "2", "--checkpoint-minutes", "0.000000001")
    return ["train", str(shards), "--out", str(out), "--base", str(base), *sizes, *few, *options]


def _launch(kind: str, command: list[str]) -> subprocess.Popen:
    """As a user does, with the shipped configuration; without a GPU the processes meet through gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / f"{kind}.yaml")]
    launch += ["--num_processes", "2", "--main_process_port", str(port), "-m", "lorweb_mini.flux", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _finish(process: subprocess.Popen, seconds: float = 400) -> None:
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, said[-3000:]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def alone(made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the command's run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    main(_command(made, folder, "--sample-every", "3"))
    return folder


def _same(one: Path, two: Path) -> None:
    """Loss curves, written weights and sample pictures of runs with the same global batch."""
    curves = [[row["loss"] for row in read_log(x / LOG)] for x in (one, two)]
    assert len(curves[0]) == 6
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
    ours, theirs = (load_file(x / WEIGHTS) for x in (one, two))
    assert ours.keys() == theirs.keys()
    # A weight whose gradient is float noise moves by the learning rate in either direction.
    apart = torch.cat([(ours[k].float() - theirs[k].float()).abs().flatten() for k in ours])
    assert (apart > 1e-4).float().mean() < 0.01 and apart.max() <= 2 * 6 * 1e-3
    for name in ("000003.png", "000006.png"):
        first, second = (np.asarray(Image.open(x / "samples" / name), dtype=float) for x in (one, two))
        assert first.shape == second.shape and np.abs(first - second).max() <= 3


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_give_the_run_of_one(made, alone: Path, tmp_path: Path, kind: str) -> None:
    _finish(_launch(kind, _command(made, tmp_path, "--sample-every", "3")))
    _same(alone, tmp_path)
    assert not list(tmp_path.glob("state*")), "a finished run leaves no state behind"


def test_sharded_half_precision_base(made, tmp_path: Path) -> None:
    """Frozen bfloat16 and trained single precision in the same sharded block."""
    half = ("--dtype", "bfloat16", "--sample-every", "0")
    main(_command(made, tmp_path / "one", *half))
    _finish(_launch("fsdp", _command(made, tmp_path / "two", *half)))
    one, two = ([r["loss"] for r in read_log(tmp_path / x / LOG)] for x in ("one", "two"))
    assert len(one) == 6
    np.testing.assert_allclose(two, one, rtol=1e-3)
    assert load_file(tmp_path / "two" / WEIGHTS).keys() == load_file(tmp_path / "one" / WEIGHTS).keys()


def test_killed_run_resumes_exactly(made, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def observe(self, step, folder, is_main, whole=FluxRecipe.observe):
        whole(self, step, folder, is_main)
        if step == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FluxRecipe, "observe", observe)
        with pytest.raises(Killed):
            main(_command(made, tmp_path, "--sample-every", "3"))
    assert (tmp_path / STATE).exists() and not (tmp_path / WEIGHTS).exists()
    main(_command(made, tmp_path, "--sample-every", "3"))
    assert (tmp_path / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    assert _rows(tmp_path) == _rows(alone)
    for name in ("000003.png", "000006.png"):
        assert (tmp_path / "samples" / name).read_bytes() == (alone / "samples" / name).read_bytes()


def test_precomputed_without_the_transformer(made) -> None:
    shards = LatentShards(made[2])
    assert shards.settings["base"] == str(made[0]) and shards.settings["encoder"] == str(made[1])
    assert shards.settings["dtype"] == "float32" and shards.settings["each"] == 4


def test_quantised_base_with_fsdp(
    made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SystemExit):
        main(_command(made, tmp_path, "--quantize", "4bit"))
    assert "expected a base in floating point with FSDP" in capsys.readouterr().err


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """What a command says that ends with status 2 before it loads a pipeline."""

    def said(command: list[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        return capsys.readouterr().err

    monkeypatch.setattr(commands.FluxKontextPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    return said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--base", "{clip}"], "expected a FluxKontextPipeline in"),
        (["--accumulate", "0"], "expected accumulate as a whole number of at least 1, got 0"),
        (["--accumulate", "3"], "expected a batch size divisible by accumulate, got 4 and 3"),
        (["--from-weights", "{out}/none"], "expected a checkpoint"),
        (["--from-weights", "{clip}"], "expected a LoRWeB checkpoint"),
        (["--from-weights", "{weights}", "--rank", "3"], f"expected weights with (N, r, d, query width) = ({N}, 3, "),
    ],
)
def test_train_refuses_before_loading(made, tmp_path: Path, refused, options: list[str], says: str) -> None:
    weights = tiny_released(tmp_path / "weights", tiny_pipeline().transformer)
    places = {"clip": made[1], "out": tmp_path, "weights": weights}
    assert says in refused(_command(made, tmp_path / "run", *(x.format(**places) for x in options)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{set}", "--base", "{clip}"], "expected a FluxKontextPipeline in"),
        (["{set}/none"], "expected a folder of categories"),
        (["{clip}"], "expected folders with control/ and target/"),
        (["{set}", "--splits", "{set}/none.json"], "expected a text in"),
        (["{set}", "--encoder", "{base}"], "expected the folder or hub name of a CLIP or SigLIP model"),
        (["{set}", "--out", "{clip}/config.json"], "where a file is in the way"),
    ],
)
def test_precompute_refuses_before_loading(made, tmp_path: Path, refused, options: list[str], says: str) -> None:
    places = {"base": made[0], "clip": made[1], "set": folders(tmp_path / "set", {"hats": 2, "blur": 2, "snow": 2})}
    usual = ["--out", str(tmp_path / "out"), "--base", str(made[0]), "--encoder", str(made[1]), "--device", "cpu"]
    given = [x.format(**places) for x in options]
    assert says in refused(["precompute", given[0], *usual, *given[1:]])


def test_a_run_resumes_with_the_weights_it_began_with_only(
    made, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def observe(self, step: int, folder: Path, is_main: bool) -> None:
        if step == 5:
            raise KeyboardInterrupt

    command = _command(made, tmp_path, "--sample-every", "0")
    began = [*command, "--from-weights", str(alone)]
    with monkeypatch.context() as patch:
        patch.setattr(FluxRecipe, "observe", observe)
        with pytest.raises(KeyboardInterrupt):
            main(began)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(SystemExit):
        main(command)
    assert "from_weights" in capsys.readouterr().err and (tmp_path / STATE).read_bytes() == before
    main(began)
    assert (tmp_path / WEIGHTS).exists()


def test_training_from_weights_starts_there(made, alone: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing the weights stay as they were."""
    main(_command(made, tmp_path, "--from-weights", str(alone), "--learning-rate", "1e-12", "--sample-every", "0"))
    start, end = (load_file(folder / WEIGHTS) for folder in (alone, tmp_path))
    for name, tensor in end.items():
        torch.testing.assert_close(tensor, start[name], atol=1e-3, rtol=1e-3)
