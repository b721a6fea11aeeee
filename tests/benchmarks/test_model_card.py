"""The report on the weights: its measures against naive recomputations, and the card that it fills."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from known_analogies import Lossless, random_analogies
from tiny_models import tiny_base, tiny_editor, tiny_pair_encoder

from benchmarks import model_card
from benchmarks.losses import loss_panels
from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.evaluation import reconstruct
from lorweb_mini.core.layout import pack, position_ids, unpack
from lorweb_mini.emoji import latents
from lorweb_mini.emoji.distributions import CIRCULAR, Chains, Distribution
from lorweb_mini.emoji.edits import EDITS
from lorweb_mini.emoji.latents import PictureSource
from lorweb_mini.emoji.relations import analogies, as_batch, differ, get_relation, select, splits
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import noise_for
from lorweb_mini.models.weights import fingerprint, weights_dir
from lorweb_mini.show.style import MAX_BYTES, save
from lorweb_mini.training.pair_encoder import pair_targets, scaled_strength

CARD = "# Card\n\n<!-- begin one -->\nold 1\n<!-- end -->\nprose\n<!-- begin two -->\nold 2\n<!-- end -->\nlast line\n"


def few_relations() -> list[str]:
    """Some relation of every group of the base's table."""
    names = [r.name for r in select(known_to_base=True)]
    families = ("edit/invert", "edit/rotate", "tone", "gender", "style", "clock")
    return [next(n for n in names if get_relation(n).family == family) for family in families]


# --- drawings -------------------------------------------------------------------------------------


def test_drawings_are_all_those_of_a_side() -> None:
    concepts = set(splits()["concepts"]["test"])
    emoji = load_emoji()
    expected = [
        (i, s) for i, e in enumerate(emoji.emojis) if e.concept in concepts for s in range(6) if STYLES[s] in e.styles
    ]
    assert [tuple(row) for row in model_card.drawings("test")] == expected
    chosen = model_card.one_emoji_a_concept(3)
    assert sorted(emoji.emojis[i].concept for i in chosen) == sorted(concepts)
    assert (chosen == model_card.one_emoji_a_concept(3)).all() and (chosen != model_card.one_emoji_a_concept(4)).any()
    assert model_card.concept_of(chosen).tolist() == list(range(len(concepts)))


def test_resampled_means_repeat_whole_concepts() -> None:
    values, concept = np.array([1.0, 2, 4, 8, 16]), np.array([0, 0, 2, 1, 2])
    weights = np.array([[1.0, 1, 1], [2, 1, 0], [0, 0, 3]])
    value, resampled = model_card.mean_by_concept(values, concept, weights)
    naive = []
    for row in weights:
        sample = [v for c, count in enumerate(row) for v in values[concept == c] for _ in range(int(count))]
        naive.append(sum(sample) / len(sample))
    assert value == pytest.approx(31 / 5) and resampled == pytest.approx(naive)


# --- autoencoder ----------------------------------------------------------------------------------


def test_reconstruction_is_the_naive_mean_of_single_psnr(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {}
    for split in ("test", "train"):
        every = model_card.drawings(split)
        rows[split] = np.concatenate([every[every[:, 1] == s][:: 40 + s][:3] for s in range(6)])
    monkeypatch.setattr(model_card, "drawings", rows.get)
    monkeypatch.setattr(model_card, "CHUNK", 4)
    torch.manual_seed(1)
    autoencoder = MiniAutoencoder(scaling_factor=2.0, shift_factor=0.1).eval()
    found = model_card.measure_autoencoder(autoencoder, resamples=40)
    means, latents = {}, []
    for split, shown in rows.items():
        single: dict[str, list[float]] = {style: [] for style in STYLES}
        for emoji, style in shown:
            x = load_emoji().tensor(emoji, style)
            with torch.no_grad():
                raw = autoencoder.encoder(x)
                y = autoencoder.decoder(raw).clamp(-1, 1)
            error = float(((x - y) / 2).double().pow(2).mean())
            single[STYLES[style]].append(10 * math.log10(1 / error))
            if split == "test":
                latents.append((raw - 0.1) * 2)
        for style, values in single.items():
            expected = found.psnr[split][style]
            assert expected.value == pytest.approx(sum(values) / len(values), abs=1e-4)
            assert min(values) - 1e-4 <= expected.low <= expected.value <= expected.high <= max(values) + 1e-4
        means[split] = np.mean([np.mean(v) for v in single.values()])
        assert found.psnr[split]["mean"].value == pytest.approx(means[split], abs=1e-4)
        assert found.pictures[split] == len(shown)
    assert found.gap.value == pytest.approx(means["train"] - means["test"], abs=1e-4)
    whole = torch.cat(latents)
    assert found.deviation == pytest.approx(float(whole.std()), rel=1e-4)
    by_channel = [float(whole[:, c].std()) for c in range(16)]
    assert found.channels == pytest.approx((min(by_channel), max(by_channel)), rel=1e-4)


# --- encoder --------------------------------------------------------------------------------------


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_retrieval_is_the_naive_search() -> None:
    features, names = unit(7, 6, 4), unit(7, 4)
    present = np.random.default_rng(0).random((7, 6)) < 0.7
    right, asked = model_card.found_across_styles(features, present)
    for task, (s, t) in enumerate(permutations(range(6), 2)):
        for c in range(7):
            both = present[c, s] and present[c, t]
            assert asked[task, c] == both
            if both:
                others = [o for o in range(7) if present[o, s] and present[o, t]]
                likeness = {o: float(features[c, s] @ features[o, t]) for o in others}
                assert right[task, c] == (max(likeness, key=lambda o: likeness[o]) == c)
    right, asked = model_card.found_by_name(features, names, present, within=2)
    assert (asked == present.T).all()
    for s in range(6):
        shown = [c for c in range(7) if present[c, s]]
        for c in shown:
            order = sorted(shown, key=lambda o: -float(features[c, s] @ names[o]))
            assert right[s, c] == (c in order[:2])


def test_choices_are_pooled_and_their_spread_is_kept() -> None:
    first = (np.array([[1.0, 0, 1], [0, 0, 0]]), np.array([[1.0, 1, 1], [1, 0, 1]]))
    second = (np.array([[1.0, 1, 1], [1, 0, 1]]), np.array([[1.0, 1, 1], [1, 0, 1]]))
    found = model_card.pooled([first, second], np.ones((5, 3)))
    # Task by task 5 of 6 and 2 of 4 are right.
    assert found.share.value == pytest.approx((5 / 6 + 2 / 4) / 2)
    assert (found.share.low, found.share.high) == pytest.approx((found.share.value,) * 2)
    assert (found.lowest, found.highest) == pytest.approx(((2 / 3 + 0) / 2, 1))


def test_encoder_report_compares_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    every = model_card.one_emoji_a_concept
    monkeypatch.setattr(model_card, "one_emoji_a_concept", lambda seed: every(seed)[::50])
    editor = tiny_editor()

    class Flat:
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    found = model_card.measure_encoder(editor.encoder, editor.autoencoder, Flat(), choices=2, resamples=20)  # type: ignore[arg-type]
    assert len(found.top1) == 5 and {"latents", "pixels", model_card.EFFICIENTNET} < set(found.top1)
    assert found.top1["pixels"] == found.top1[model_card.EFFICIENTNET]
    chosen = [every(seed)[::50] for seed in range(2)]
    assert (found.concepts, found.choices) == (len(chosen[0]), 2)
    # Naively: every drawing, every other style, every candidate.
    emoji, shares, gallery = load_emoji(), [], []
    for s, t in permutations(range(6), 2):
        right = asked = 0
        for emojis in chosen:
            both = [i for i in emojis if emoji.present[i, s] and emoji.present[i, t]]
            gallery.append(len(both))
            for i in both:
                x = emoji.tensor(i, s).flatten()
                likeness = [float(F.cosine_similarity(x, emoji.tensor(o, t).flatten(), dim=0)) for o in both]
                right += both[int(np.argmax(likeness))] == i
                asked += 1
        shares.append(right / asked)
    assert found.top1["pixels"].share.value == pytest.approx(np.mean(shares))
    assert found.chance["top1"] == pytest.approx(np.mean([1 / n for n in gallery]))
    without = model_card.measure_encoder(editor.encoder, editor.autoencoder, None, choices=1, resamples=20)
    assert model_card.EFFICIENTNET not in without.top1


# --- base -----------------------------------------------------------------------------------------


def test_known_errors_and_sharpness() -> None:
    data = random_analogies()
    methods = {
        "truth": lambda items: as_batch(items)[3],
        "copy": lambda items: as_batch(items)[2],
        "grey": lambda items: torch.zeros(len(items), 3, 64, 64),
        "half": lambda items: (as_batch(items)[2] + as_batch(items)[3]) / 2,
    }
    groups = {"all": list(data), "last": ["three"]}
    found, sharpness = model_card.evaluate_with_sharpness(methods, data, Lossless(), groups, resamples=30)
    scores = found.groups["all"]
    assert scores["truth"].error == Estimate(0, 0, 0)
    assert scores["copy"].error.value == pytest.approx(1) and scores["half"].error.value == pytest.approx(0.25)
    assert sharpness["all"]["truth"] == Estimate(1, 1, 1) and sharpness["all"]["grey"] == Estimate(0, 0, 0)
    ratios = {}
    for name, items in data.items():
        above = below = 0.0
        for x in items:
            for picture, which in (((x.b + x.b_prime) / 2, "above"), (x.b_prime, "below")):
                p = picture.double().numpy()
                energy = ((p[:, 1:] - p[:, :-1]) ** 2).sum() + ((p[:, :, 1:] - p[:, :, :-1]) ** 2).sum()
                above, below = (above + energy, below) if which == "above" else (above, below + energy)
        ratios[name] = above / below
    assert sharpness["all"]["half"].value == pytest.approx(np.median(list(ratios.values())))
    assert sharpness["last"]["half"].value == pytest.approx(ratios["three"])
    assert sharpness["last"]["half"].low <= ratios["three"] <= sharpness["last"]["half"].high


def test_sharpness_is_measured_against_what_the_autoencoder_can_draw() -> None:
    torch.manual_seed(2)
    autoencoder, data = MiniAutoencoder().eval(), random_analogies()
    methods = {"truth": lambda items: reconstruct(autoencoder, as_batch(items)[3])}
    found, sharpness = model_card.evaluate_with_sharpness(methods, data, autoencoder, {"all": list(data)}, resamples=5)
    assert found.groups["all"]["truth"].error.value == pytest.approx(0, abs=1e-9)
    assert sharpness["all"]["truth"].value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_base_edit_takes_guidance(guidance: float) -> None:
    """One Euler step from t = 1 to 0 is x = e − v, with v extrapolated from the velocity without words."""
    base, latent, words = tiny_base(), torch.randn(2, 16, 8, 8), torch.randn(2, 384)
    noise = noise_for([5, 6], 16)
    ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])
    with torch.no_grad():
        told, untold = (base.velocity(noise, torch.ones(2), pack(latent), ids, w) for w in (words, 0 * words))
        drawn = base.edit(latent, words, [5, 6], 1, guidance)
    torch.testing.assert_close(drawn, unpack(noise - untold - guidance * (told - untold)), atol=1e-5, rtol=1e-5)


def test_instructed_base_reads_the_phrasing_and_ignores_its_batch() -> None:
    base, autoencoder = tiny_base(), MiniAutoencoder().eval()
    items = analogies("test", few_relations()[:2], n=2)
    usual, held_out = (model_card.instructed(base, autoencoder, 2, phrasing) for phrasing in (0, -1))
    with torch.no_grad():
        drawn = usual(items)
        torch.testing.assert_close(usual(items[1:2])[0], drawn[1], atol=1e-5, rtol=0)
        assert not torch.allclose(held_out(items), drawn, atol=1e-5)


def test_relations_without_enough_visible_pairs_are_left_out() -> None:
    chosen = [r for r in select(known_to_base=True) if r.family in ("gender", "role", "mirror")]
    found = model_card.enough(chosen, count=3)
    for relation in chosen:
        pairs = relation.pairs("test")
        visible = int(differ(*relation.pictures(pairs)).sum()) if len(pairs) else 0
        assert (relation.name in found) == (visible >= model_card.LEAST), relation.name
    assert {len(items) for items in found.values()} == {3}


def test_every_relation_has_one_group() -> None:
    names = [r.name for r in select(known_to_base=True)]
    groups = model_card.kinds_of(names)
    assert list(groups)[-1] == "all" and groups.pop("all") == names
    assert sorted(n for members in groups.values() for n in members) == sorted(names)
    assert {get_relation(n).family for n in groups["rotations and flips"]} == set(model_card.TURNS)
    assert {n.split("/")[0] for n in groups["procedural edits"]} == {"edit"}
    assert "gender" not in model_card.kinds_of(["edit/invert"])


# --- the card -------------------------------------------------------------------------------------


def test_filling_a_card_keeps_the_prose() -> None:
    text = model_card.filled(CARD, {"two": "new 2"})
    assert text == CARD.replace("old 2", "new 2")
    assert model_card.filled(text, {"two": "new 2"}) == text
    assert model_card.filled(CARD, {"one": "a\n\nb", "two": "c"}) == CARD.replace("old 1", "a\n\nb").replace(
        "old 2", "c"
    )


@pytest.mark.parametrize(
    "card",
    ["no marks", CARD.replace("begin two", "began two"), CARD[: CARD.rindex("<!-- end")],
     "<!-- end -->\n<!-- begin two -->", "<!-- begin two --><!-- begin one --><!-- end -->"],
)  # fmt: skip
def test_a_card_without_marks_is_refused(card: str) -> None:
    with pytest.raises(InputError, match="begin two"):
        model_card.filled(card, {"two": "x"})


def test_the_shipped_card_has_every_mark_and_agrees_with_the_reports() -> None:
    card = (ROOT / "data" / "weights" / "CARD.md").read_text(encoding="utf-8")
    assert model_card.filled(card, dict.fromkeys(model_card.LOADERS, "")) != card
    for part in model_card.LOADERS:
        path = weights_dir() / part / "report.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            assert stored["weights"]["fingerprint"] == fingerprint(path.parent), f"make report: {part} has changed"
            assert model_card.section(stored) in card, part


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real pictures and relations beside tiny weights of every part."""
    home, real = tmp_path_factory.mktemp("home"), data_dir()
    data = home / "data"
    data.mkdir()
    for name in ("emoji", "relations.json", "splits.json", "unseen.json", "text.json", "text.safetensors"):
        (data / name).symlink_to(real / name)
    weights = data / "weights"
    editor = tiny_editor()
    editor.autoencoder.save(weights / "autoencoder")
    editor.encoder.save(weights / "encoder")
    tiny_base().save(weights / "base")
    tiny_pair_encoder().save(weights / "pair_encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORWEB_DATA", str(data))
        for part in ("starter", "full"):
            editor.save(weights / part)
    for part in model_card.LOADERS:
        (weights / part / "log.csv").write_text("step,seconds,samples,loss\n20,1.5,640,2.0\n40,90.0,1280,0.5\n")
    marks = "".join(f"<!-- begin {part} -->\nold {part}\n<!-- end -->\n" for part in model_card.LOADERS)
    (weights / "CARD.md").write_text(f"# Prose\n\n{marks}The end.\n")
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package at home there, with few drawings and relations to measure."""
    monkeypatch.setenv("LORWEB_DATA", str(home / "data"))
    monkeypatch.setattr(model_card, "root", lambda: home)
    monkeypatch.setattr(model_card, "try_judge", lambda: None)
    every, one = model_card.drawings, model_card.one_emoji_a_concept
    monkeypatch.setattr(model_card, "drawings", lambda split: every(split)[::150])
    monkeypatch.setattr(model_card, "one_emoji_a_concept", lambda seed: one(seed)[::40])
    names = few_relations()

    def some(degree: str | None = None, known_to_base: bool | None = None, starter: bool = False) -> list:
        chosen = select(degree, known_to_base, starter)
        return [r for r in chosen if r.name in names] if degree in (None, "seen") else chosen[-2:]

    monkeypatch.setattr(model_card, "select", some)
    monkeypatch.setattr(latents, "encoded", lambda _, name, shown, edit: torch.randn(len(shown), 16, 8, 8).half())
    return home


def test_the_command_measures_every_part(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_card.main(["--analogies", "1", "--threads", "1"])
    weights = at_home / "data" / "weights"
    card = (weights / "CARD.md").read_text()
    assert card.startswith("# Prose\n") and card.endswith("The end.\n")
    assert not any(f"\nold {part}\n" in card for part in model_card.LOADERS)
    printed = capsys.readouterr().out
    for part in model_card.LOADERS:
        stored = json.loads((weights / part / "report.json").read_text())
        assert model_card.section(stored) in card and model_card.section(stored) in printed
        facts = stored["weights"]
        assert facts["fingerprint"] == fingerprint(weights / part)
        assert (facts["steps"], facts["samples"], facts["batch_size"], facts["loss"]) == (40, 1280, 32, 0.5)
        assert "40 steps of 32, 1,280 samples, 2 minutes" in model_card.section(stored)
    base = json.loads((weights / "base" / "report.json").read_text())["measured"]
    assert list(base["steps"]["groups"]) == [
        "procedural edits", "rotations and flips", "skin tones", "gender", "style", "other semantic", "all"
    ]  # fmt: skip
    assert list(base["steps"]["seconds"]) == ["1 step", "2 steps", "4 steps", "10 steps", "10 steps, held-out words"]
    assert list(base["guidance"]["seconds"]) == [f"guidance {x:g}" for x in model_card.GUIDANCES]
    assert all(base["preserved"][k] is not None for k in ("value", "low", "high"))
    full = json.loads((weights / "full" / "report.json").read_text())["measured"]
    rows = {"oracle instruction", "LoRWeB", "oracle instruction, 10 steps", "LoRWeB, 10 steps"}
    for values in (full["errors"]["groups"], full["sharpness"]):
        assert set(values) == set(model_card.DEGREE_NAMES.values())
        assert all(set(methods) == rows for methods in values.values())
    assert (at_home / "figures" / "training.png").stat().st_size > 10_000


def test_a_pair_encoder_that_knows_everything_and_one_that_knows_nothing(at_home: Path) -> None:
    """Kinds, strengths and places are compared with what was drawn: a fake reads them off the chain itself."""
    seen: list[Chains] = []

    class Source(PictureSource):
        def latents(self, pairs, chains, edited):  # type: ignore[override]
            seen.append(chains)
            return torch.zeros(len(pairs), 16, 8, 8), torch.zeros(len(pairs), 16, 8, 8)

    encoder = tiny_pair_encoder()

    class Head(torch.nn.Module):
        def __init__(self, answer) -> None:
            super().__init__()
            self.forward = answer

    def knows(name: str, sign: int = 1) -> Head:
        return Head(lambda e: sign * pair_targets(encoder.kinds, seen[-1])[name])

    order = Head(lambda e: F.one_hot(knows("order")(e).clamp_min(0), 3).flatten(1).float())

    encoder.forward = lambda a, b: torch.zeros(len(a), 16)
    encoder.present = knows("present")
    encoder.strength = knows("strength")
    encoder.order = order
    encoder.relation = Head(lambda e: torch.zeros(len(e), 1))
    found = model_card.measure_pair_encoder(encoder, Source(tiny_editor().autoencoder), count=8, resamples=20)
    assert all(x.value == 1 for x in [*found.kinds.values(), found.exact["1"], found.exact["2"], found.order])
    assert max(found.strengths.values()) < 1e-3 and found.relation["first"].value == 1
    encoder.present = knows("present", -1)
    encoder.strength = knows("strength", -1)
    found = model_card.measure_pair_encoder(encoder, Source(tiny_editor().autoencoder), count=8, resamples=20)
    assert all(x.value == 0 for x in [*found.kinds.values(), found.exact["1"]])
    assert found.strengths["hue"] == pytest.approx(180, abs=0.1)


def test_parameters_are_those_that_training_learns(at_home: Path) -> None:
    editor, weights = tiny_editor(), at_home / "data" / "weights"
    learnt = [*editor.basis.parameters(), *editor.router.parameters()]  # type: ignore[union-attr]
    model, facts = model_card.weigh("starter", weights / "starter")
    assert facts.parameters == sum(p.numel() for p in learnt) and facts.shape == "N = 3 LoRAs of rank 2; layout `b`"
    assert facts.size == (weights / "starter" / "model.safetensors").stat().st_size and facts.load_seconds > 0
    assert model.config == editor.config


def test_bad_arguments_are_refused_before_measuring(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("measured all the same")

    monkeypatch.setattr(model_card, "report_on", refuse)
    with pytest.raises(InputError, match="decoder"):
        model_card.main(["decoder"])
    with pytest.raises(InputError, match="at least one"):
        model_card.main(["base", "--analogies", "0"])
    (tmp_path / "CARD.md").write_text("no marks")
    with pytest.raises(InputError, match="begin base"):
        model_card.main(["base", "--weights", str(tmp_path)])


def test_weights_without_a_log_are_refused(at_home: Path, tmp_path: Path) -> None:
    tiny_editor().encoder.save(tmp_path / "encoder")
    with pytest.raises(InputError, match=r"log\.csv"):
        model_card.weigh("encoder", tmp_path / "encoder")


@pytest.mark.parametrize("kind", [k for k in Distribution().kinds if EDITS[k].range != (1, 1)])
def test_strengths_scale_there_and_back(kind: str) -> None:
    value = torch.from_numpy(
        Distribution().samplers[Distribution().kinds.index(kind)](np.random.default_rng(0), 50)
    ).float()
    scaled = scaled_strength(kind, value)
    assert scaled.abs().max() <= 1 + 1e-6 and scaled.shape[1] == value.shape[1] * (2 if kind in CIRCULAR else 1)
    torch.testing.assert_close(model_card.unscaled_strength(kind, scaled), value, atol=2e-3, rtol=1e-4)


# --- losses ---------------------------------------------------------------------------------------


def test_loss_panels_show_every_log(tmp_path: Path) -> None:
    log = [{"step": s, "seconds": 3.0 * s, "samples": 32 * s, "loss": 1 / s} for s in range(1, 9)]
    figure = loss_panels({"autoencoder": log, "one_lora": log[:3]}, columns=3)
    first, second, empty = figure.axes
    assert [first.get_title("left"), second.get_title("left")] == ["autoencoder", "one lora"]
    assert first.get_title("right") == "256 in 0 min" and not empty.axison
    for axes, rows in ((first, log), (second, log[:3])):
        assert axes.get_xlabel() == "samples" and axes.get_ylabel()
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert axes.lines[0].get_xydata().tolist() == [[row["samples"], row["loss"]] for row in rows]
    assert save(figure, tmp_path / "training.png").stat().st_size < MAX_BYTES
    for logs in ({}, {"base": []}):
        with pytest.raises(InputError, match="at least one row"):
            loss_panels(logs)
