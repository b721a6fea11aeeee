# %% [markdown]
# # One LoRA
#
# How much can a single LoRA do? Below, two models answer the same questions. Their LoRAs have equally many parameters.
# The first puts all of them into **one** LoRA, which sees a, a′ and b. The second splits them into a basis of small
# LoRAs, which a router mixes.
#
# This notebook is about the first. You will build a LoRA from scratch, watch it learn one edit, and then train it on
# more and more edits to find out what it lacks.

# %%
# %matplotlib inline
import copy
import os
import tempfile
import time
from pathlib import Path

START = time.perf_counter()
os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this disk

import matplotlib
import numpy as np
import torch
from IPython.display import Markdown, display

import lorweb_mini as lw
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.emoji.relations import as_batch
from lorweb_mini.models.weights import weights_dir
from lorweb_mini.show.pictures import relation_label, triplets
from lorweb_mini.show.style import COLOURS, PALE, STYLE, figure_of

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
STEPS = 2 if SMOKE else 8
matplotlib.rcParams.update({**STYLE, "figure.dpi": 85})  # many pictures: keeps the file small

one, mixed = lw.load(weights_dir() / "one_lora"), lw.load("starter")
asked = [f"edit/{name}" for name in ("invert", "flip_horizontal", "background=220", "hue=120", "tint=240")]
asked.insert(2, "tone/yellow>dark")


def shows(x: lw.Analogy) -> float:
    """How well an edit shows: a grey b has no hue to turn, a wheel is its own mirror image."""
    change = (x.a - x.a_prime).pow(2).mean() * (x.b - x.b_prime).pow(2).mean()
    return float(change * (x.b.amax(0) - x.b.amin(0)).mean())


questions = [max(lw.analogies("test", name, 12), key=shows) for name in asked]  # of eight each; no answer was looked at
given = [list(pictures) for pictures in as_batch(questions)[:3]]
answers = {"one LoRA": one.edit(*given, steps=STEPS).pictures, "basis": mixed.edit(*given, steps=STEPS).pictures}
triplets(questions, answers, title="One LoRA, and a basis with a router")

# %%
count = [sum(p.numel() for p in part.parameters()) for part in (one.basis, mixed.basis, mixed.router)]
all_b, all_truth = (reconstruct(one.autoencoder, pictures) for pictures in as_batch(questions)[2:])
errors = {name: squared(drawn, all_truth) / squared(all_b, all_truth) for name, drawn in answers.items()}
cells = "".join(
    f"| {relation_label(x.relation)} | {left:.2f} | {right:.2f} |\n"
    for x, left, right in zip(questions, errors["one LoRA"], errors["basis"], strict=True)
)
display(
    Markdown(
        f"One LoRA of rank {one.config.rank}: {count[0]:,} numbers. A basis of {mixed.config.n_loras} LoRAs of "
        f"rank {mixed.config.rank}: {count[1]:,}, and {count[2]:,} of its router. The error of notebook 00, for one "
        "picture each: 0 is the true answer, 1 is b handed back.\n\n"
        "| question | one LoRA | basis |\n|:--|--:|--:|\n" + cells
    )
)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. say what a LoRA is, write its layer in ten lines, and count what it costs;
# 2. split a real weight change into directions by its singular values, and say how much of the *edit* a few of them
#    carry;
# 3. train one LoRA on one edit, and save it as a file that other software loads;
# 4. compute, before any training, which error one LoRA must have on several edits at once, and show that a higher rank
#    does not help.
#
# **You need** notebook 02, and what a matrix product, its rank and an orthonormal basis are. No GPU, no network.
# **It takes** about an hour of your time; the last cell measures the computing time.
#
# ## A small change of a big matrix
#
# The frozen editor of notebook 02 makes many edits when it is given their names. We want an edit *without* its name, so
# we have to change the editor. Almost everything that it has learned is in the matrices $W$ of its linear layers,
# $y = W x$. To **fine-tune** a layer is to add something to its matrix,
#
# $$W' = W + \Delta W,$$
#
# and $\Delta W$ has as many numbers as $W$. LoRA (low-rank adaptation) asks for a $\Delta W$ of a special form, the
# product of a tall and a wide matrix:
#
# $$\Delta W = B A, \qquad B \in \mathbb R^{\text{out} \times r}, \quad A \in \mathbb R^{r \times \text{in}}$$
#
# $A$ reads only $r$ directions of the input, and $B$ writes only $r$ directions of the output. Their product is a
# matrix of rank $r$, and it costs $r\,(\text{in} + \text{out})$ numbers instead of $\text{in} \cdot \text{out}$. Here
# are the numbers for all layers that this course adapts, the same kinds as in the paper:

# %%
from collections import Counter

from lorweb_mini.adapter import adapted_linears
from lorweb_mini.core.editor import load_frozen

autoencoder, encoder, base = load_frozen()
layers = {name: base.transformer.get_submodule(name) for name in adapted_linears(base.transformer)}
shapes = Counter((linear.in_features, linear.out_features) for linear in layers.values())
whole = sum(k * i * o for (i, o), k in shapes.items())
lines = [f"| {k} layers {i} → {o} | {k * i * o:,} |" for (i, o), k in sorted(shapes.items())]
lines += [f"| **all {len(layers)} layers** | **{whole:,}** |"]
for r in (1, 4, 16, 64):
    cost = sum(k * r * (i + o) for (i, o), k in shapes.items())
    lines.append(f"| a LoRA of rank {r} in each | {cost:,} ({cost / whole:.1%}) |")
display(Markdown("| | numbers |\n|:--|--:|\n" + "\n".join(lines)))

# %% [markdown]
# So a LoRA is cheap. But why should the change that an edit needs have a low rank? Nothing forces it to. Let us look at
# one.
#
# ## A real change, direction by direction
#
# We fine-tune **all** numbers of these matrices on one relation, with no restriction at all. The relation is drawn by
# artists: yellow people become dark-skinned ones. First the pictures, as tokens: b and b′ of training emoji, and unseen
# ones for evaluation.

# %%
from lorweb_mini.analysis.bootstrap import Estimate, resampling_weights
from lorweb_mini.core.layout import pack, position_ids, unpack
from lorweb_mini.emoji.relations import differ
from lorweb_mini.models.base import Base, noise_for

RELATION = "tone/yellow>dark"
rng = np.random.default_rng(0)


def encode(pictures: torch.Tensor) -> torch.Tensor:
    """Tokens [k, 16, 64] of pictures [k, 3, 64, 64]."""
    with torch.no_grad():
        return torch.cat([pack(autoencoder.to_latent(part)) for part in pictures.split(64)])


pairs = lw.relations()[RELATION].pairs("train")
first, second = lw.relations()[RELATION].pictures(pairs[rng.permutation(len(pairs))[: 32 if SMOKE else 1500]])
visible = differ(first, second)  # black line art shows no skin
tone_reference, tone_target = encode(first[visible]), encode(second[visible])[None]  # [P, 16, 64], [1, P, 16, 64]
test = lw.analogies("test", RELATION, seed=3, n=4 if SMOKE else 32)
test_b, test_truth = (reconstruct(autoencoder, pictures) for pictures in as_batch(test)[2:])
test_reference = encode(as_batch(test)[2])

# %% [markdown]
# Here is the loop of notebook 02 again. It trains **whatever parameters you pass to it**, so you can use it for full
# fine-tuning and for every LoRA of this notebook. The targets are a table with one row per task and one column per
# picture. With more than one row, each training sample has a random task, and *nothing tells the network which*. This
# will matter later.

# %%
IDS = torch.cat([position_ids(4, 4, picture=0), position_ids(4, 4, picture=1)])
BATCH = 4 if SMOKE else 16


def learn(base: Base, parameters, reference, targets, steps: int, rate: float, watch=None, every: int = 30):
    """Flow matching on b′ given b; changes the parameters in place and returns the losses.

    reference: tokens of b [P, 16, 64]; targets: tokens of b′ for each task [tasks, P, 16, 64].
    """
    torch.manual_seed(1)
    losses = []
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.12)
    for step in range(1, steps + 1):
        task, k = torch.randint(len(targets), (BATCH,)), torch.randint(len(reference), (BATCH,))
        x, e = targets[task, k], torch.randn(BATCH, 16, 64)
        t = torch.sigmoid(torch.randn(BATCH) + 0.8)  # more often where the drawing is decided, as the base had it
        t[: BATCH // 4] = 1  # and pure noise, from which one step is drawn
        z = torch.lerp(x, e, t[:, None, None])
        loss = (base.velocity(z, t, reference[k], IDS) - (e - x)).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if watch and (step % every == 0 or step == steps):
            watch(losses)
    return losses


# %% [markdown]
# For evaluation: what a base draws for unseen b without any instruction, and the error of these drawings with its
# interval.


# %%
def drawn_by(base: Base, reference: torch.Tensor, steps: int = STEPS, seed: int = 0) -> torch.Tensor:
    """What a base makes of tokens of b without any instruction, each from a noise of its own: [k, 3, 64, 64]."""
    noise = noise_for(range(seed * 1000, seed * 1000 + len(reference)), 16)
    with torch.no_grad():
        return autoencoder.to_picture(unpack(base.sample(noise, reference, IDS, steps=steps)))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Sum over sum, with a 95 % bootstrap interval over the pictures."""
    weights = resampling_weights(len(numerator), 1000, np.random.default_rng(0))
    low, high = np.quantile((weights @ numerator) / (weights @ denominator), [0.025, 0.975])
    return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high))


def tone_error(pictures: torch.Tensor) -> Estimate:
    """Normalised error on the unseen people: 0 is the true answer, 1 is b handed back."""
    return ratio(squared(pictures, test_truth), squared(test_b, test_truth))


# %% [markdown]
# > **Predict before you run.** The change will be a full matrix in every layer, hundreds of directions. How many of
# > them do you need for half of the edit?

# %%
full = copy.deepcopy(base)
free = [full.transformer.get_submodule(name).weight.requires_grad_(True) for name in layers]
ONE_TASK = 6 if SMOKE else 210
began = time.perf_counter()
learn(full, free, tone_reference, tone_target, ONE_TASK, rate=5e-4)
full_seconds = time.perf_counter() - began
for weight in free:
    weight.requires_grad_(False)
full_error = tone_error(drawn_by(full, test_reference))
change = {name: full.transformer.get_submodule(name).weight - layers[name].weight for name in layers}
largest = max(change, key=lambda name: float(change[name].norm() / layers[name].weight.norm()))
moved = float(change[largest].norm() / layers[largest].weight.norm())
display(
    Markdown(
        f"Fully fine-tuned in {full_seconds:.0f} seconds ({ONE_TASK} steps of {BATCH}): error **{full_error}** on "
        f"{len(test)} unseen drawings; 1 is b handed back. The layer that changed most for it is `{largest}`, "
        f"by ‖ΔW‖ / ‖W‖ = {moved:.1%}."
    )
)

# %% [markdown]
# How do you split a matrix into directions? The best way is the **singular value decomposition**,
#
# $$\Delta W = \sum_{n} s_n\, u_n v_n^\top, \qquad s_1 \ge s_2 \ge \dots \ge 0,$$
#
# with orthonormal $u_n$ and orthonormal $v_n$: each term reads the direction $v_n$ and writes the direction $u_n$ with
# strength $s_n$. Its first $k$ terms are the best approximation of rank $k$ that there is (**Eckart and Young**), and
# what they miss is known:
#
# $$\min_{\operatorname{rank} M \le k} \lVert \Delta W - M \rVert^2 = \sum_{n > k} s_n^2$$
#
# The $s_n^2$ add up to $\lVert \Delta W \rVert^2$, so they say which share of the change each direction carries.

# %%
parts = {name: torch.linalg.svd(delta, full_matrices=False) for name, delta in change.items()}
k, delta, (u, s, vh) = 4, change[largest], parts[largest]
missed = (delta - u[:, :k] * s[:k] @ vh[:k]).square().sum()
torch.manual_seed(0)
tries = []
for _ in range(20):  # other ways to rank 4: keep the part of the change that random directions see
    q = torch.linalg.qr(torch.randn(delta.shape[1], k)).Q
    tries.append(float((delta - delta @ q @ q.T).square().sum() / delta.square().sum()))
print(f"‖ΔW − first {k} terms‖² = {missed:.4g};  sum of the other s² = {s[k:].square().sum():.4g}")
print(f"missed by the SVD: {missed / delta.square().sum():.1%};  by the best of 20 random choices: {min(tries):.1%}")

# %% [markdown]
# A spectrum means little without something to compare it with. A *random* matrix of the same shape has directions, too:
# they carry nearly equal shares at first, and it takes many of them to carry half. Below, left: the layer that changed
# most, and its own $W$. Middle: all layers. Right: what this means for the edit. We keep the first $k$ directions **of
# every layer's change**, drop the others, and let the editor draw.

# %%
KEPT = (0, 1, 4, 400) if SMOKE else (0, 1, 2, 4, 8, 16, 32, 64, 400)


def with_change(first: int, last: int) -> Base:
    """The frozen base plus the directions first … last − 1 of every layer's change."""
    edited = copy.deepcopy(base)
    for name, (u, s, vh) in parts.items():
        part = u[:, first:last] * s[first:last] @ vh[first:last]
        edited.transformer.get_submodule(name).weight += part
    return edited


with torch.no_grad():
    only_first = {k: tone_error(drawn_by(with_change(0, k), test_reference)) for k in KEPT}
    without_first = {k: tone_error(drawn_by(with_change(k, 400), test_reference)) for k in KEPT}


def cumulated(values: torch.Tensor) -> np.ndarray:
    """Share of the sum of squares in the first 0, 1, 2, … of the first 200 singular values."""
    share = values.square().cumsum(0) / values.square().sum()
    return np.concatenate([[0], share[:200].numpy()])


shares = np.stack([cumulated(s) for _, s, _ in parts.values()])
chance = np.stack([cumulated(torch.linalg.svdvals(torch.randn(delta.shape))) for delta in change.values()])

# %%
figure, (left, middle, right) = figure_of(11, 3.7, ncols=3)
noise = torch.linalg.svdvals(torch.randn(change[largest].shape))
for name, values, colour in (
    ("ΔW", parts[largest][1], COLOURS[0]),
    ("W itself", torch.linalg.svdvals(layers[largest].weight), COLOURS[1]),
    ("random", noise, PALE),
):
    left.semilogy(range(1, len(values) + 1), values / values.norm(), color=colour, label=name)
left.set(xlabel="direction n", ylabel="sₙ, scaled to ‖·‖ = 1", ylim=(1e-5, 1.2))
left.set_title(largest.replace("transformer_blocks", "blocks"), loc="left", fontsize=8.5)
left.legend()
for name, curves, colour in (("ΔW", shares, COLOURS[0]), ("random", chance, PALE)):
    low, mid, high = np.quantile(curves, [0.1, 0.5, 0.9], axis=0)
    middle.plot(mid, color=colour, label=f"{name}, median layer")
    middle.fill_between(range(len(mid)), low, high, color=colour, alpha=0.2, linewidth=0)
middle.set(xlabel="directions kept, k", ylabel="share of ‖ΔW‖²", ylim=(0, 1), xlim=(0, 200))
middle.set_title("energy: all layers, 10 % to 90 %", loc="left", fontsize=8.5)
middle.legend(loc="lower right")
for name, found, colour, style in (
    ("the first k alone", only_first, COLOURS[0], "-o"),
    ("all but the first k", without_first, COLOURS[4], "--s"),
):
    low, high = ([abs(getattr(e, end) - e.value) for e in found.values()] for end in ("low", "high"))
    places = range(len(KEPT))
    right.errorbar(places, [e.value for e in found.values()], [low, high], fmt=style, color=colour, ms=4,
                   elinewidth=0.9, label=name)  # fmt: skip
right.set(xticks=range(len(KEPT)), xticklabels=[*map(str, KEPT[:-1]), "all"], xlabel="k", ylim=(0, None))
right.set_ylabel("error (b handed back = 1)")
right.set_title("the edit itself", loc="left", fontsize=8.5)
right.legend(fontsize=8, loc="center right")
figure

# %%
middle_layer, middle_chance = np.median(shares, axis=0), np.median(chance, axis=0)
done = {k: (1 - e.value) / (1 - full_error.value) for k, e in only_first.items()}
half = next((k for k in KEPT if done[k] >= 0.5), None)
lines = [
    f"| {k} | {middle_layer[k]:.0%} | {middle_chance[k]:.0%} | {done[k]:.0%} | {without_first[k]} |" for k in KEPT[1:-1]
]
verdict = (
    f"**{half} direction{'s' if half > 1 else ''} of each layer, the size of a LoRA of rank {half}, will do for half "
    "of the edit or more**"
    if half is not None and half <= 8
    else "**Few directions of each layer do not make half of the edit here**"
)
display(
    Markdown(
        "| k | share of ‖ΔW‖² | random matrix | share of the edit | error without them |\n|--:|--:|--:|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\n{verdict}. Share of the edit: (1 − error) with k directions, over the same with all of them. The "
        f"layers have up to {max(map(len, (s for _, s, _ in parts.values())))} directions."
    )
)

# %% [markdown]
# Keep two quantities apart. The *energy* says how the optimiser moved the weights: Adam scales the step of each number
# by that number's own gradients, so weights that matter little may move as far as weights that matter much. The *error*
# says what the edit needs. A LoRA can work if few directions suffice for the error, even if the energy is spread over
# many.
#
# Do not generalise from this one number. The frozen editor already draws this edit when it is given its name (a table
# below has the error), so the change does not have to teach it much. An edit that is new to a model may need more
# directions.
#
# ## A LoRA layer in ten lines
#
# Instead of training a full matrix and cutting it afterwards, you can train $B$ and $A$ directly.


# %%
class LoRA(torch.nn.Module):
    """y = W x + B A x: a frozen linear layer and a low-rank correction of it."""

    def __init__(self, linear: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = torch.nn.Parameter(torch.empty(rank, linear.in_features))
        self.B = torch.nn.Parameter(torch.zeros(linear.out_features, rank))
        torch.nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + x @ self.A.T @ self.B.T


# %% [markdown]
# Look at the order of the products: $(B A)\,x$ would build the big matrix, $B\,(A x)$ never does.
#
# > **Predict before you run.** $B$ starts at zero and $A$ at random, so at first the layer is the frozen one. Why not
# > start *both* at zero, or both at random?

# %%
linear, x = copy.deepcopy(layers["transformer_blocks.0.attn.to_q"]), torch.randn(8, 256)
lines = []
for name, zeros in (("A random, B zero", ("B",)), ("both zero", ("A", "B")), ("both random", ())):
    torch.manual_seed(0)
    layer = LoRA(linear, rank=4)
    with torch.no_grad():
        layer.B.normal_()
        for which in zeros:
            getattr(layer, which).zero_()
    y = layer(x)
    (y - torch.randn_like(y)).pow(2).mean().backward()
    off = float((y - linear(x)).detach().norm() / linear(x).norm())
    lines.append(f"| {name} | {off:.2f} | {layer.A.grad.norm():.4f} | {layer.B.grad.norm():.4f} |")
display(
    Markdown("| start | change of the output | gradient of A | gradient of B |\n|:--|--:|--:|--:|\n" + "\n".join(lines))
)

# %% [markdown]
# If both are zero, both gradients are zero and stay zero, since each is multiplied by the other factor. If both are
# random, the editor is wrong before training begins. If only $B$ is zero, $B$ moves first and $A$ follows.
#
# The factors are not unique. For any invertible $G$, $B A = (B G)(G^{-1} A)$: **the change is the product; the two
# factors have no meaning by themselves**. When notebook 05 compares LoRAs, it compares products.
#
# ### The same from a library
#
# [PEFT](https://github.com/huggingface/peft) does this to the layers of any model, by name. It multiplies by a factor
# $\alpha / r$, which $\alpha = r$ makes 1. Same factors, same answer?

# %%
from peft import LoraConfig, inject_adapter_in_model

ours = LoRA(copy.deepcopy(linear), rank=4)
torch.nn.init.normal_(ours.B)
config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"])
theirs = inject_adapter_in_model(config, torch.nn.Sequential(copy.deepcopy(linear)))[0]
with torch.no_grad():
    theirs.lora_A["default"].weight.copy_(ours.A)
    theirs.lora_B["default"].weight.copy_(ours.B)
    print(f"largest output:                 {ours(x).abs().max():.1f}")
    print(f"largest difference to PEFT:     {(ours(x) - theirs(x)).abs().max():.0e}")

    merged = copy.deepcopy(linear)
    merged.weight += ours.B @ ours.A
    theirs.merge()
    print(f"merged into W, ours and PEFT's: {(merged(x) - ours(x)).abs().max():.0e}, "
          f"{(theirs(x) - ours(x)).abs().max():.0e}")  # fmt: skip
    merged.weight -= ours.B @ ours.A
    theirs.unmerge()
    for name, weight in (("ours", merged.weight), ("PEFT's", theirs.base_layer.weight)):
        print(f"W after taking it out, {name}:".ljust(32) + f"{(weight - linear.weight).abs().max():.0e}")
    for _ in range(1000):
        merged.weight += ours.B @ ours.A
        merged.weight -= ours.B @ ours.A
    print(f"the same, 1000 times more:      {(merged.weight - linear.weight).abs().max():.0e}")

# %% [markdown]
# **Merging** adds $BA$ to $W$ once; after that the layer costs no more than the frozen one. Subtracting $BA$ again does
# not restore $W$ exactly, because of rounding. `Editor.freeze` of this package therefore keeps the old $W$ and restores
# it bit for bit.
#
# ## One LoRA on one relation
#
# The package's `Editor` holds a basis of $N$ LoRAs; with $N = 1$ it is PEFT's LoRA in each of the layers, and the
# router has nothing to choose, since a softmax over one number is 1. We train on the same people as before, with the
# same loop and as many steps, and watch.

# %%
from lorweb_mini.core.editor import BasisConfig, Editor, Miniature
from lorweb_mini.images import to_pil
from lorweb_mini.models.text import vectors_of

RANK = 16
RATE = 5e-3  # at this rank


def one_lora(rank: int = RANK) -> Editor:
    """The frozen base with one fresh LoRA in each layer."""
    torch.manual_seed(0)
    editor = Editor(Miniature(autoencoder, encoder, copy.deepcopy(base), BasisConfig(n_loras=1, rank=rank)))
    # Wherever this base runs, the LoRA of each layer has the coefficient 1; without one it would be the bare base.
    editor.basis.coefficients = torch.ones(1, len(editor.basis.layers), 1)
    return editor


def train_one(rank: int, reference, targets, steps: int, watch=None, editor: Editor | None = None) -> Editor:
    """One LoRA that learnt the tasks in the rows of targets."""
    editor = editor or one_lora(rank)
    learn(editor.base, editor.basis.parameters(), reference, targets, steps, RATE * (RANK / rank) ** 0.5, watch)
    return editor


# %% [markdown]
# While it trains, watch the loss, the error on unseen people, and four of the drawings.

# %%
lora = one_lora()
film, screen = [drawn_by(lora.base, test_reference)], display(display_id=True)


def watch(losses: list[float]) -> None:
    """Loss and error so far, and the first unseen people as they are drawn at this moment."""
    film.append(drawn_by(lora.base, test_reference))
    figure, (left, middle, right) = figure_of(11, 3, ncols=3, width_ratios=(1.2, 1.2, 1.6))
    left.plot(losses, color="#CFE3F0", lw=0.8)
    width = min(30, len(losses))
    left.plot(range(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, "valid"), color=COLOURS[0])
    left.set(xlabel="step", ylabel="flow-matching loss", ylim=(0, None), title=f"{len(losses)} steps")
    found = [tone_error(pictures).value for pictures in film]
    middle.plot(np.linspace(0, len(losses), len(film)), found, "-o", ms=4, color=COLOURS[4])
    middle.set(xlabel="step", ylabel="error (b handed back = 1)", ylim=(0, None), title=f"error {found[-1]:.2f}")
    rows = [torch.cat(list(pictures[:4]), 2) for pictures in (test_b, film[-1], test_truth)]
    right.imshow(to_pil(torch.cat(rows, 1)))
    right.set(xticks=[], yticks=[32, 96, 160], yticklabels=["b", "now", "true b′"], title="unseen people")
    right.grid(False)
    screen.update(figure)


# %%
began = time.perf_counter()
train_one(RANK, tone_reference, tone_target, ONE_TASK, watch, lora)
lora_seconds = time.perf_counter() - began

# %%
said = lw.relations()[RELATION].instructions[0]
with torch.no_grad():
    told = base.edit(unpack(test_reference), vectors_of([said] * len(test)), range(len(test)), STEPS)
lora_error, told_error = tone_error(film[-1]), tone_error(autoencoder.to_picture(told))
size = sum(p.numel() for p in lora.basis.parameters())
display(
    Markdown(
        "| | error, 95 % interval | trained numbers |\n|:--|--:|--:|\n"
        f"| frozen editor, told nothing | {tone_error(film[0])} | 0 |\n"
        f"| frozen editor, told “{said}” | {told_error} | 0 |\n"
        f"| all weights fine-tuned, {ONE_TASK} steps | {full_error} | {whole:,} |\n"
        f"| **one LoRA of rank {RANK}, {ONE_TASK} steps** | **{lora_error}** | {size:,} |\n\n"
        f"{len(test)} unseen drawings; the LoRA took {lora_seconds:.0f} seconds, pictures included."
    )
)

# %% [markdown]
# These people were in no training. What does the LoRA do with something that has no skin? No fire engine was in its
# training.
#
# > **Predict before you run.** Will the fire engine stay as it is?

# %%
from lorweb_mini.show.pictures import picture_rows

emoji = lw.load_emoji()
THINGS = ("fire engine", "pizza", "octopus", "watermelon", "lemon", "sun", "cheese wedge")
things = torch.cat([emoji.tensor(emoji.find(name), i % 3) for i, name in enumerate(THINGS)])
people = as_batch(test)[2][: len(THINGS)]
drawn = drawn_by(lora.base, encode(torch.cat([people, things])))
touched = squared(drawn[len(people) :], reconstruct(autoencoder, things)) / 64**2
untouched = squared(drawn_by(base, encode(things)), reconstruct(autoencoder, things)) / 64**2
picture_rows(
    {
        "unseen people": people,
        "one LoRA": drawn[: len(people)],
        "true b′": as_batch(test)[3][: len(THINGS)],
        "things": things,
        "the same LoRA": drawn[len(people) :],
    },
    title="One LoRA, one edit",
    label_width=1.1,
    size=0.78,
)

# %%
display(
    Markdown(
        f"The LoRA moves the things by {touched.mean():.3f} a pixel (squared, mean), the frozen editor alone by "
        f"{untouched.mean():.3f}, the true edit moves people by "
        f"{squared(test_b, test_truth).mean() / 64**2:.3f}. A LoRA is **always on**: it has no way to be told that it "
        "is not wanted, other than by what it sees in b."
    )
)

# %% [markdown]
# ### Saved as a file
#
# What you trained is a plain LoRA in diffusers' own format. Here it is saved, and loaded by diffusers' loader into a
# fresh copy of the frozen editor:

# %%
with tempfile.TemporaryDirectory() as folder:
    path = lora.export_lora(torch.ones(len(layers), 1), Path(folder) / "dark.safetensors")
    fresh = copy.deepcopy(base)
    fresh.transformer.load_lora_adapter(str(path))
    apart = (drawn_by(fresh, test_reference[:4]) - film[-1][:4]).abs().max()
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, largest difference in the pictures {apart:.0e}")

# %% [markdown]
# ### How much of it is needed?
#
# We chose rank 16. Does the edit need that much? The change $BA$ has singular values, too, and you can compute them
# without building $BA$: two QR decompositions leave a 16 × 16 matrix (exercise 2). With them,
#
# $$B A = \sum_{n=1}^{16} s_n\, u_n v_n^\top:$$
#
# **a LoRA of rank 16 is sixteen LoRAs of rank one**. `by_direction` splits it into these, the strongest first, so that
# each can be switched off. Lower the rank and see when the edit breaks. The second slider scales the whole change, as
# other tools for LoRAs do.

# %%
from lorweb_mini.analysis.one_lora import by_direction, energy_kept, kept
from lorweb_mini.widgets.rank_slider import RankSlider

directions = by_direction(lora, base)
pairs_shown = {f"person {i + 1}": (test[i].b, test[i].b_prime) for i in range(4)}
RankSlider(directions, pairs_shown, steps=2 if SMOKE else 4)

# %%
lines, needed = [], None
for k in (0, 1, 2, 4, 8, RANK):
    with directions.basis.mixed(kept(directions.basis, k)[None]):
        found = tone_error(drawn_by(directions.base, test_reference))
    if needed is None and 1 - found.value >= 0.9 * (1 - lora_error.value):
        needed = k
    lines.append(f"| {k} | {energy_kept(directions.basis, k):.0%} | {found} |")
display(
    Markdown(
        "| directions kept | share of ‖ΔW‖² | error |\n|--:|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\nNine tenths of the edit need **{needed}** of the {RANK} directions of each layer."
    )
)

# %% [markdown]
# ## Many relations, one LoRA
#
# So far, one LoRA learned one edit. What happens if one LoRA has to learn several?
#
# We take eight exact edits, which work on every picture. For each training sample one of them is chosen at random. The
# LoRA sees b and must draw that edit's b′, but it is not told which edit it is.
#
# > **Predict before you run.** You are the LoRA. You see a fire engine, you know that it will be inverted, or turned
# > green, or blurred …, and you are judged by the squared error. What do you draw?
#
# Notebook 02 has the answer. Least squares makes the network learn the **conditional mean**, and b is all that it can
# condition on:
#
# $$\text{one step from noise:}\qquad \mathbb E\,[\,b' \mid b\,] = \frac1n \sum_{i=1}^{n} b'_i$$
#
# This is *the mean of all edits*. With many steps a perfect sampler ends at one of the edits, chosen at random like the
# face of a **die**. Both errors can be computed from the pictures alone, before any training. We do that first.

# %%
from lorweb_mini.emoji.relations import SPLITS, concept_sides, training_pictures

EDITS = ("hue=120", "flip_horizontal", "invert", "background=220", "shrink=0.35", "tint=240", "grey", "darken=0.25")
NAMES = [name.replace("=", " ").replace("_", " ") for name in EDITS]
COUNTS = (1, 2) if SMOKE else (1, 2, 4, 8)


def all_edits(pictures: torch.Tensor) -> torch.Tensor:
    """Each of the edits on each of the pictures, [edits, k, 3, 64, 64]."""
    return torch.stack([lw.relations()[f"edit/{name}"].apply_edits(pictures) for name in EDITS])


chosen = training_pictures()
chosen = chosen[rng.permutation(len(chosen))[: 24 if SMOKE else 600]]
pictures = emoji.tensor(*chosen.T)
reference = encode(pictures)
targets = torch.stack([encode(edited) for edited in all_edits(pictures)])

# Drawings of unseen concepts, one each: half of them will be b, the others a.
drawings = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("test"))[:, None])
drawings = drawings[rng.permutation(len(drawings))]
_, where = np.unique([emoji.emojis[i].concept for i in drawings[:, 0]], return_index=True)
candidates = emoji.tensor(*drawings[rng.permutation(where)[: 40 if SMOKE else 120]].T)
clear = torch.stack([differ(candidates, edited) for edited in all_edits(candidates)]).all(0)  # every edit shows on it
pair_a, many_b = candidates[clear][: 18 if SMOKE else 64].chunk(2)
many_reference, many_seen = encode(many_b), reconstruct(autoencoder, many_b)
many_tokens = torch.stack([encode(edited) for edited in all_edits(many_b)])
truths = torch.stack([autoencoder.to_picture(unpack(tokens)) for tokens in many_tokens])  # [edits, k, 3, 64, 64]
sizes = np.stack([squared(many_seen, truth) for truth in truths])  # ‖b − b′‖², [edits, k]

# %% [markdown]
# A method that cannot know the edit gives one picture for all of them. Its error on $n$ edits, added up over edits and
# pictures, is least for the mean of the $n$ true answers. So this forecast is a lower bound, the *floor*, for every
# method that cannot know the edit, at any rank.


# %%
def by_edit(pictures: torch.Tensor, n: int) -> np.ndarray:
    """‖picture − b′_i‖² of the same pictures against each of the first n edits, [n, k]."""
    return np.stack([squared(pictures, truth) for truth in truths[:n]])


def error_of(squares: np.ndarray) -> Estimate:
    """Squared errors [n, k] of the first n edits, added up and divided by the sizes of these edits."""
    return ratio(squares.sum(0), sizes[: len(squares)].sum(0))


def mean_of_edits(n: int) -> torch.Tensor:
    """The mean of the true answers of the first n edits, for each b."""
    return truths[:n].mean(0)


forecast_mean = {n: error_of(by_edit(mean_of_edits(n), n)) for n in COUNTS}
# A die shows each of the n edits equally often.
forecast_die = {n: error_of(np.mean([by_edit(truth, n) for truth in truths[:n]], 0)) for n in COUNTS}

# %%
SHOWN = 3, 8  # which b to show
picture_rows(
    {
        "true b′": truths[:, SHOWN[0]],
        "mean of the\nfirst n": torch.stack([mean_of_edits(n)[SHOWN[0]] for n in range(1, len(EDITS) + 1)]),
    },
    {"mean of the\nfirst n": [f"n = {n}" for n in range(1, len(EDITS) + 1)]},
    columns=NAMES,
    title="What least squares wants of a LoRA that must guess",
    label_width=0.9,
    size=0.85,
)

# %%
display(
    Markdown(
        "| edits | forecast, mean of them | forecast, die |\n|--:|--:|--:|\n"
        + "\n".join(f"| {n} | {forecast_mean[n]} | {forecast_die[n]} |" for n in COUNTS)
        + "\n\nThese are the errors of *perfect* learners that cannot know which edit is meant. One edit costs "
        "nothing. The second column is twice the first: a mean against a sample, as in notebook 02; exercise 4 asks "
        "where the factor comes from."
    )
)

# %% [markdown]
# Now train one LoRA for each number of edits, all of the same rank and with the same number of steps **per edit**: the
# LoRA for eight edits is trained eight times as long as the LoRA for one. If the errors still rise, the reason is not a
# lack of training.

# %%
PER_EDIT = 3 if SMOKE else 60
began, blind = time.perf_counter(), {}
for n in COUNTS:
    blind[n] = train_one(RANK, reference, targets[:n], PER_EDIT * n)
    print(f"n = {n}: {PER_EDIT * n} steps of {BATCH}, {time.perf_counter() - began:.0f} seconds so far")

measured = {n: by_edit(drawn_by(editor.base, many_reference), n) for n, editor in blind.items()}
one_step = {n: by_edit(drawn_by(editor.base, many_reference, steps=1), n) for n, editor in blind.items()}

# %%
from matplotlib.colors import LogNorm
from scipy.stats import spearmanr

table = np.full((len(EDITS), len(COUNTS)), np.nan)
for column, n in enumerate(COUNTS):
    table[:n, column] = measured[n].sum(1) / sizes[:n].sum(1)
figure, (left, right) = figure_of(11, 4.1, ncols=2, width_ratios=(1, 1.35))
shade = left.imshow(table, cmap="cividis", norm=LogNorm(0.05, 5), aspect="auto")
for (row, column), value in np.ndenumerate(table):
    if not np.isnan(value):
        left.text(column, row, f"{value:.2f}", ha="center", va="center", size=8, color="k" if value > 0.4 else "w")
left.set_xticks(range(len(COUNTS)), [str(n) for n in COUNTS])
left.set_yticks(range(len(EDITS)), NAMES)
left.set(xlabel="edits learnt together, n")
left.set_title(f"Error of each edit, {STEPS} steps of drawing", loc="left")
left.grid(False)
figure.colorbar(shade, ax=left, extend="both", ticks=[0.1, 0.3, 1, 3], format="%g")
for name, found, colour, style in (
    ("forecast: a die", forecast_die, COLOURS[4], "--"),
    (f"measured, {STEPS} steps", {n: error_of(x) for n, x in measured.items()}, COLOURS[4], "-o"),
    ("forecast: the mean", forecast_mean, COLOURS[0], "--"),
    ("measured, 1 step", {n: error_of(x) for n, x in one_step.items()}, COLOURS[0], "-s"),
):
    low, high = ([abs(getattr(found[n], end) - found[n].value) for n in COUNTS] for end in ("low", "high"))
    bars = [low, high] if "-" != style[-1] else None
    right.errorbar(range(len(COUNTS)), [found[n].value for n in COUNTS], bars, fmt=style, color=colour, ms=5,
                   elinewidth=0.9, label=name)  # fmt: skip
right.set_xticks(range(len(COUNTS)), [str(n) for n in COUNTS])
right.set(xlabel="edits learnt together, n", ylabel="error (b handed back = 1)", ylim=(0, None))
right.set_title("Interference, forecast and measured", loc="left")
right.legend(fontsize=8)
figure

# %%
first_row = [table[0, column] for column in range(len(COUNTS))]
most = COUNTS[-1]
in_many, in_one = error_of(measured[most]), error_of(one_step[most])
with_size = spearmanr(table[:most, -1], sizes[:most].sum(1)).statistic
display(
    Markdown(
        f"The first edit, {NAMES[0]}, has the error "
        + ", ".join(f"**{value:.2f}**" for value in first_row)
        + f" when it is learnt together with {', '.join(str(n - 1) for n in COUNTS)} others. On all {most}, drawing in "
        f"one step costs {in_one}, and the floor is {forecast_mean[most].value:.2f}; drawing in {STEPS} steps costs "
        f"{in_many}, and a perfect sampler throwing its die would pay {forecast_die[most].value:.2f}. "
        f"{int((table[:, -1] > 1).sum())} of the {most} edits end above 1, worse than b handed back. The rank "
        f"correlation of an edit's error with its size ‖b − b′‖² is {with_size:+.2f}."
    )
)

# %% [markdown]
# This is **interference**: one input has several targets, and what is learned for one edit is wrong for the others. The
# next figure shows it for one b, the LoRA that learned all the edits, and six different noises.

# %%
from lorweb_mini.analysis.evaluation import nearest

SEEDS = 2 if SMOKE else 6
dice = torch.stack([drawn_by(blind[most].base, many_reference, seed=seed) for seed in range(SEEDS)])  # [seeds, k, …]
once = drawn_by(blind[most].base, many_reference, steps=1)
rows, captions = {}, {}
for name, i in zip(("one b", "another b"), SHOWN, strict=True):
    rows[name] = torch.stack([many_seen[i], mean_of_edits(most)[i], once[i]])
    captions[name] = ["b", f"mean of {most}", "LoRA, 1 step"]
    rows[f"{name},\n{STEPS} steps"] = dice[:, i]
picture_rows(rows, captions, title="A LoRA that must guess", label_width=1.1, size=0.85)

# %%
faces = [*(name.replace(" ", "\n") for name in NAMES[:most]), "mean of\nthe edits", "b itself"]
landed = Counter(
    nearest(dice[s, i], torch.stack([*truths[:most, i], mean_of_edits(most)[i], many_seen[i]]))
    for s in range(SEEDS)
    for i in range(len(many_b))
)
figure, axis = figure_of(8.6, 2.9)
throws = SEEDS * len(many_b)
heights = [landed[face] / throws for face in range(len(faces))]
axis.bar(range(len(faces)), heights, color=[COLOURS[0]] * most + [COLOURS[1], PALE])
axis.axhline(1 / most, color=COLOURS[4], lw=1, ls="--")
axis.text(len(faces) - 0.4, 1 / most, f"1/{most}", color=COLOURS[4], va="bottom", size=8)
axis.set_xlim(-0.6, len(faces))
axis.set_xticks(range(len(faces)), faces, fontsize=8)
axis.set(ylabel="share of the drawings", title=f"{throws} drawings: which picture is each nearest to?")
axis.grid(axis="x", visible=False)
figure

# %%
rolled = sum(height > 0.5 / most for height in heights[:most])
hedging = "It throws no clean die: it hedges, and squared error rewards that." if sum(heights[most:]) > 0.1 else ""
display(
    Markdown(
        f"A perfect sampler would show each edit in 1/{most} of the drawings. Of this LoRA's, "
        f"**{sum(heights[:most]):.0%}** are nearest to one of the edits ({rolled} of {most} edits come up at least "
        f"half as often as they should), **{heights[most]:.0%}** to the mean of them all and "
        f"**{heights[most + 1]:.0%}** to b itself. {hedging}"
    )
)

# %% [markdown]
# ## Does a higher rank help?
#
# Is the LoRA just too small? We vary its rank from 1 to 64, that is up to 64 times as many numbers, once on one edit
# and once on four, with as many steps per edit as above. (A larger rank gets a smaller learning rate,
# $\propto 1/\sqrt r$, since with more directions every step moves $BA$ further.)
#
# > **Predict before you run.** Two curves of error against rank. Which of them falls, how far, and where must the other
# > one stop?

# %%
RANKS = (1, 16) if SMOKE else (1, 4, 16, 64)
SEVERAL = 2 if SMOKE else 4
swept: dict[tuple[int, int], np.ndarray] = {}
swept_once: dict[tuple[int, int], np.ndarray] = {}
began = time.perf_counter()
for n in (1, SEVERAL):
    for rank in RANKS:
        editor = blind[n] if rank == RANK else train_one(rank, reference, targets[:n], PER_EDIT * n)
        swept[n, rank] = by_edit(drawn_by(editor.base, many_reference), n)
        swept_once[n, rank] = by_edit(drawn_by(editor.base, many_reference, steps=1), n)
print(f"{time.perf_counter() - began:.0f} seconds")

# %%
figure, axis = figure_of(8.6, 3.9)
lines = (
    (f"{SEVERAL} edits, {STEPS} steps", swept, SEVERAL, COLOURS[4], "-o"),
    (f"{SEVERAL} edits, 1 step", swept_once, SEVERAL, COLOURS[0], "-s"),
    (f"one edit, {STEPS} steps", swept, 1, COLOURS[5], "-^"),
)
for name, found, n, colour, style in lines:
    values = [error_of(found[n, rank]) for rank in RANKS]
    low, high = ([abs(getattr(v, end) - v.value) for v in values] for end in ("low", "high"))
    axis.errorbar(range(len(RANKS)), [v.value for v in values], [low, high], fmt=style, color=colour, ms=5,
                  elinewidth=0.9, label=name)  # fmt: skip
for name, value, colour in (("die", forecast_die, COLOURS[4]), ("mean", forecast_mean, COLOURS[0])):
    axis.axhline(value[SEVERAL].value, color=colour, lw=1, ls="--")
    axis.text(
        len(RANKS) - 0.05, value[SEVERAL].value, f"forecast: {name}", color=colour, size=8, va="bottom", ha="right"
    )
each = sum(linear.in_features + linear.out_features for linear in layers.values())
axis.set_xticks(range(len(RANKS)), [f"{r}\n{r * each / 1e6:.2f} M" for r in RANKS])
axis.set(xlabel="rank, and millions of trained numbers", ylim=(0, None), xlim=(-0.3, len(RANKS)))
axis.set_ylabel("error (b handed back = 1)")
axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
figure

# %%
small, large = RANKS[0], RANKS[-1]
ends = {n: [error_of(swept[n, rank]) for rank in (small, large)] for n in (1, SEVERAL)}
best_once = min((error_of(swept_once[SEVERAL, rank]) for rank in RANKS), key=lambda e: e.value)
floor = forecast_mean[SEVERAL].value
assert best_once.value >= floor  # arithmetic: no single picture is nearer to all the answers than their mean
display(
    Markdown(
        f"From rank {small} to rank {large}, in {STEPS} steps, the error on one edit goes from {ends[1][0]} to "
        f"{ends[1][1]}, on {SEVERAL} edits from {ends[SEVERAL][0]} to {ends[SEVERAL][1]}. In one step the best of all "
        f"ranks is {best_once.value:.2f}; the floor is {floor:.2f}, so {1 - floor / best_once.value:.0%} "
        "of that error is the LoRA's, and the rest is the floor, **which no rank can go below**, since the input does "
        "not say which edit is meant."
    )
)

# %% [markdown]
# ## Let it see the example
#
# How can the LoRA know *which edit is meant*? The pair a, a′ shows it. There are two places where the pair can enter.
#
# **The context.** Append the tokens of a and a′ to those of b, as references 2 and 3 (the layout `tokens`). One LoRA
# can then learn to look at the pair and do to b what was done to a. This asks a lot of it: one fixed change of the
# weights has to *infer the edit from the pair*, for all edits.
#
# **The weights.** Read the pair first, and then choose a change of the weights that makes *this* edit.
#
# The first is the one LoRA of the first cell. The second is the subject of notebook 04. The weights of both are
# shipped. Here they are on our eight edits, on the same unseen pictures, with pairs of other unseen concepts.

# %%
from lorweb_mini.training.log import read_log

pair_a_prime = all_edits(pair_a)  # [edits, k, 3, 64, 64]
seen = {"one LoRA, sees a, a′": one, "basis and router": mixed}
results = {
    name: torch.stack([editor.edit(pair_a, a_prime, many_b, steps=STEPS).pictures for a_prime in pair_a_prime])
    for name, editor in seen.items()
}  # [edits, k, 3, 64, 64] each
asking = {
    name: np.stack([squared(x, y) for x, y in zip(drawn, truths, strict=True)]) for name, drawn in results.items()
}
columns = {f"one LoRA, blind, {n}": measured[n] for n in COUNTS} | asking
table = np.full((len(EDITS), len(columns)), np.nan)
for column, squares in enumerate(columns.values()):
    table[: len(squares), column] = squares.sum(1) / sizes[: len(squares)].sum(1)
logs = [read_log(weights_dir() / part / "log.csv")[-1] for part in ("one_lora", "starter")]

# %%
figure, axis = figure_of(8.8, 4)
shade = axis.imshow(table, cmap="cividis", norm=LogNorm(0.05, 5), aspect="auto")
for (row, column), value in np.ndenumerate(table):
    if not np.isnan(value):
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", size=8.5, color="k" if value > 0.4 else "w")
axis.axvline(len(COUNTS) - 0.5, color="w", lw=4)
axis.set_xticks(range(len(columns)), [f"blind,\nn = {n}" for n in COUNTS] + ["sees a, a′", "basis and\nrouter"])
axis.set_yticks(range(len(EDITS)), NAMES)
axis.grid(False)
axis.set_title("Error of each edit; the last two learnt fresh edits of 14 kinds", loc="left")
figure.colorbar(shade, label="error (b handed back = 1)", extend="both", ticks=[0.1, 0.3, 1, 3], format="%g", pad=0.02)
figure


# %%
def median_of(squares: np.ndarray) -> Estimate:
    """Median over edits of the normalised error, the measure of the rest of the course, from squared errors [n, k]."""
    weights = resampling_weights(squares.shape[1], 1000, np.random.default_rng(0))
    each = (weights @ squares.T) / (weights @ sizes[: len(squares)].T)
    low, high = np.quantile(np.median(each, 1), [0.025, 0.975])
    return Estimate(float(np.median(squares.sum(1) / sizes[: len(squares)].sum(1))), float(low), float(high))


guessed = by_edit(mean_of_edits(most), most)
methods = {f"one LoRA, blind, n = {most}": measured[most], "*the mean of all edits*": guessed} | asking
extra = ["| |", "| |", *(f"| {log['samples']:,.0f} | {log['seconds'] / 60:.0f} |" for log in logs)]
lines = [
    f"| {name} | {error_of(squares)} | {median_of(squares)} {last}"
    for (name, squares), last in zip(methods.items(), extra, strict=True)
]
seeing, mixing = (median_of(squares) for squares in asking.values())
below = error_of(asking["one LoRA, sees a, a′"]).high < error_of(guessed).value
apart = "beyond both intervals" if mixing.high < seeing.low or seeing.high < mixing.low else "but within the intervals"
won = sum(row[-2] < row[-1] for row in table)
display(
    Markdown(
        "| | error, added up | median edit | samples in training | minutes |\n|:--|--:|--:|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\nThe LoRA that sees the pair is {'' if below else 'not '}below the floor of all who must guess: what it "
        f"sees {'helps it' if below else 'has not helped it enough'}. It is the better of the two on {won} of "
        f"{len(EDITS)} edits; in the median the {'basis' if mixing.value < seeing.value else 'one LoRA'} has the "
        f"smaller error, {apart}. Read the samples, too: more tokens in the sequence make every step slower."
    )
)

# %% [markdown]
# Do they *use* the pair? Below, b stays the same and the pair changes. Compare the columns: where does an answer not
# follow the pair?

# %%
i, picks = SHOWN[0], [0, 1, 2, 3, 4, 7]
picture_rows(
    {
        "a": pair_a[i].expand(len(picks), 3, 64, 64),
        "a′": pair_a_prime[picks, i],
        "b": many_b[i].expand(len(picks), 3, 64, 64),
        "one LoRA,\nsees a, a′": results["one LoRA, sees a, a′"][picks, i],
        "basis and\nrouter": results["basis and router"][picks, i],
        "true b′": truths[picks, i],
    },
    columns=[NAMES[k] for k in picks],
    title="The same b, six pairs",
    label_width=1.1,
    size=0.85,
)

# %%
moved = {}
for name, drawn in results.items():
    other = drawn.roll(1, 0)  # the answer to the same b with the pair of another edit
    change_of = np.stack([squared(x, y) for x, y in zip(drawn, other, strict=True)])
    should = np.stack([squared(x, y) for x, y in zip(truths, truths.roll(1, 0), strict=True)])
    moved[name] = float(np.median(change_of.sum(1) / should.sum(1)))
display(
    Markdown(
        "When the pair is replaced by one of another edit, the answer moves by "
        + " and ".join(f"**{value:.0%}** ({name})" for name, value in moved.items())
        + " of what the true answers move, in squared distance (median over the edits). A blind LoRA moves by 0 %."
    )
)

# %% [markdown]
# ## Exercise 1: when is a LoRA no longer small?
#
# *Difficulty ●○○ · about 3 minutes*
#
# A LoRA of rank $r$ on a layer in → out has $r\,(\text{in} + \text{out})$ numbers. What is the largest rank at which it
# has no more than the matrix itself?


# %%
def check_break_even(function) -> str:
    """The largest affordable rank, against trying all ranks, for the shapes of this editor and of FLUX."""
    answers = []
    for i, o in [*shapes, (3072, 3072), (3072, 12288), (15360, 3072)]:
        if function(i, o) is None:
            return "Not yet: `break_even` returns None."
        right = max(r for r in range(min(i, o) + 1) if r * (i + o) <= i * o)
        if function(i, o) != right:
            return f"Not yet: for {i} → {o} you say {function(i, o)}; is that within the budget, and is one more not?"
        answers.append(f"{i} → {o}: {right}")
    return "✓ Right: " + ", ".join(answers)


# %% tags=["exercise"]
def break_even(n_in: int, n_out: int) -> int | None:
    """The largest rank whose LoRA has no more numbers than the matrix [n_out, n_in]."""
    return None


# %%
print(check_break_even(break_even))

# %% [markdown]
# <details><summary>Hint</summary>
#
# $r\,(\text{in} + \text{out}) \le \text{in} \cdot \text{out}$. Ranks are whole numbers.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def break_even(n_in, n_out):
#     return n_in * n_out // (n_in + n_out)
# ```
#
# Half the side for a square matrix, almost the whole shorter side for a very long one. In a layer of FLUX, 3,072 ×
# 3,072, rank 4 is about a quarter of a per cent.
#
# </details>

# %% [markdown]
# ## Exercise 2: singular values without the matrix
#
# *Difficulty ●●○ · about 10 minutes*
#
# Compute the singular values of $BA$ from $B$ and $A$, without the product. The check watches the size of every tensor
# that you make.


# %%
class Largest(torch.overrides.TorchFunctionMode):
    """Notes the largest number of elements of any tensor that is made while it is entered."""

    size = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple) else (result,):
            self.size = max(self.size, x.numel()) if isinstance(x, torch.Tensor) else self.size
        return result


def check_thin(function) -> str:
    """Singular values of a product of rank 6 against those of the product, and the largest tensor on the way."""
    torch.manual_seed(0)
    high, low = torch.randn(900, 6), torch.randn(6, 700) * torch.arange(1, 7)[:, None]
    with Largest() as watched:
        found = function(high, low)
    if found is None:
        return "Not yet: `thin_singular_values` returns None."
    true = torch.linalg.svdvals(high @ low)[:6]
    if found.shape != (6,) or not torch.allclose(found, true, rtol=1e-3):
        return f"Not yet: they should be {[round(float(x)) for x in true]}, yours are {found.flatten()[:6].tolist()}."
    if watched.size > high.numel():
        return f"Not yet: right values, but a tensor of {watched.size:,} numbers was made on the way."
    return f"✓ Right: and no tensor had more than {watched.size:,} numbers; the product has {900 * 700:,}."


# %% tags=["exercise"]
def thin_singular_values(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor | None:
    """The r largest singular values of B A, in falling order, from B [out, r] and A [r, in]."""
    return None


# %%
print(check_thin(thin_singular_values))

# %% [markdown]
# <details><summary>Hint</summary>
#
# $B = Q_B R_B$ and $A^\top = Q_A R_A$, by `torch.linalg.qr`. Multiplying by a matrix with orthonormal columns changes
# no singular value. What is left in the middle?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def thin_singular_values(high, low):
#     left = torch.linalg.qr(high).R
#     right = torch.linalg.qr(low.T).R
#     return torch.linalg.svdvals(left @ right.T)
# ```
#
# The slider above does it this way, with the directions kept as well: `svd_of_product` in
# `lorweb_mini/algebra.py`.
#
# </details>

# %% [markdown]
# ## Exercise 3: two LoRAs in one
#
# *Difficulty ●●○ · about 5 minutes*
#
# You have two LoRAs of the same layer and want $c_1 B_1 A_1 + c_2 B_2 A_2$ as **one** LoRA. Give its factors.


# %%
def check_merge(function) -> str:
    """Whether one pair of factors has the weighted sum of two products, for ranks that differ."""
    torch.manual_seed(0)
    b1, a1, b2, a2 = torch.randn(30, 4), torch.randn(4, 20), torch.randn(30, 2), torch.randn(2, 20)
    found = function(b1, a1, b2, a2, 0.7, -0.4)
    if found is None:
        return "Not yet: `merge` returns None."
    high, low = found
    if high.shape[1] != low.shape[0] or high.shape[0] != 30 or low.shape[1] != 20:
        return f"Not yet: factors of shapes {list(high.shape)} and {list(low.shape)} do not fit the layer 20 → 30."
    off = (high @ low - (0.7 * b1 @ a1 - 0.4 * b2 @ a2)).abs().max()
    if off > 1e-4:
        return f"Not yet: the product is off by {off:.2f}. Are there cross terms, such as B₁A₂, in it?"
    return f"✓ Right: one LoRA of rank {low.shape[0]}, and its product is the sum of the two."


# %% tags=["exercise"]
def merge(b1, a1, b2, a2, c1: float, c2: float):
    """Factors B [out, r], A [r, in] with B A = c1 B1 A1 + c2 B2 A2."""
    return None


# %%
print(check_merge(merge))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Ranks add up. Write the sum as a row of two blocks times a column of two blocks.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def merge(b1, a1, b2, a2, c1, c2):
#     return torch.cat([c1 * b1, c2 * b2], 1), torch.cat([a1, a2], 0)
# ```
#
# $[c_1 B_1\ \ c_2 B_2]\,\begin{bmatrix} A_1 \\ A_2 \end{bmatrix}$. Adding the $B$s and the $A$s separately would give
# wrong products such as $B_1 A_2$. Now move the $c$ out of $B$, *between* the two factors: this is the gate of notebook
# 04, which makes one LoRA of N.
#
# </details>

# %% [markdown]
# ## Exercise 4: why twice?
#
# *Difficulty ●●● · about 10 minutes*
#
# Let $n$ edits move b in $n$ directions at right angles to each other, all equally far: $b'_i = b + d_i$ with
# $d_i \perp d_j$ and $\lVert d_i \rVert = 1$. What is the normalised error of a method that always draws the mean of
# the $n$, and of a method that throws a die? Then think of two *opposite* edits, $d_2 = -d_1$.


# %%
def check_guess(function) -> str:
    """Errors of the mean and of the die by simulation: orthogonal edits, and two opposite ones."""
    if function(2) is None:
        return "Not yet: `guessing` returns None."
    for n in (1, 2, 5, 8):
        edits = torch.eye(n)
        mean = (edits.mean(0) - edits).square().sum(1).mean()
        die = (edits[:, None] - edits).square().sum(2).mean()
        said = function(n)
        if abs(said[0] - mean) > 1e-5 or abs(said[1] - die) > 1e-5:
            return f"Not yet: for n = {n} you say {said[0]:.3f} and {said[1]:.3f}, simulated {mean:.3f} and {die:.3f}."
    opposite = torch.tensor([[1.0], [-1.0]])
    mean = (opposite.mean(0) - opposite).square().sum(1).mean()
    die = (opposite[:, None] - opposite).square().sum(2).mean()
    return f"✓ Right. Two opposite edits: the mean is b itself, error {mean:.0f}; the die costs {die:.0f}."


# %% tags=["exercise"]
def guessing(n: int) -> tuple[float, float] | None:
    """Normalised errors of the mean and of the die for n edits at right angles."""
    return None


# %%
print(check_guess(guessing))

# %% [markdown]
# <details><summary>Hint</summary>
#
# The mean is $b + \frac1n \sum_j d_j$. Its distance to $b'_1$ has a part along $d_1$ and $n - 1$ parts along the
# others. The die is right once in $n$; otherwise it is off by $\lVert d_i - d_j \rVert^2$.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def guessing(n):
#     return (n - 1) / n, 2 * (n - 1) / n
# ```
#
# Along $d_1$ the mean is off by $1 - \frac1n$, along each other one by $\frac1n$: squared,
# $\frac{(n-1)^2}{n^2} + \frac{n-1}{n^2} = \frac{n-1}{n}$. The die: $\frac{n-1}{n}$ of the time off by $1 + 1$. In
# general, the mean's error is the variance of the answers, and the die is a second, independent sample, whose squared
# distance is twice that variance. For large $n$ the mean's error approaches 1, which is no better than returning b.
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - A LoRA is $\Delta W = BA$ of rank $r$, for a few per cent of the numbers; merged, it costs nothing. Its factors have
#   no meaning by themselves; its singular directions do.
# - One edit fits into one LoRA, which is saved as a plain LoRA file.
# - Several edits do not, as long as nothing says which is meant: all that can be learned is their mean, or a random
#   choice among them. Both errors can be computed before training, and rank does not change them.
# - So the pair a, a′ has to enter, by the context or by the weights.
#
# **Next: 04, A basis and a router.** N LoRAs, mixed by coefficients that a router computes from a, a′ and b:
# $\sum_n c_n B_n A_n$. You have built its gate in exercise 3.
#
# ## Where it is in the papers
#
# - LoRA: [arXiv 2106.09685](https://arxiv.org/abs/2106.09685) (Hu and others): $BA$, $B$ zero at the start, the factor
#   $\alpha / r$, merging. That fine-tuning moves a model in few directions was measured before, in
#   [arXiv 2012.13255](https://arxiv.org/abs/2012.13255) (Aghajanyan and others).
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) asks whether a basis, mixed by the input, generalises
#   to analogies of unseen kinds and keeps detail better than one LoRA, and how basis size and rank matter. Its LoRAs
#   are in every linear layer of the blocks, modulation included, $A$ from a uniform distribution and $B$ zero, as here.
# - In this repository: `lorweb_mini/core/basis.py` (one PEFT adapter), `lorweb_mini/analysis/one_lora.py` (directions),
#   `lorweb_mini/widgets/rank_slider.py` (the slider), `data/weights/one_lora` (the baseline that sees a, a′).

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
