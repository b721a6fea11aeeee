# %% [markdown]
# # Flow matching, and how the editor draws
#
# How does the frozen editor turn noise into an edited picture? Not in one go. At every step the network predicts only a
# direction, and the sampler takes a small step that way. The upper row below shows the state after each step, the lower
# row the network's estimate of the final picture.
#
# In this notebook you will train such a network on your own machine and compute everything that this strip shows.

# %%
# %matplotlib inline
import os
import time

START = time.perf_counter()
os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this disk

import matplotlib
import numpy as np
import torch
from IPython.display import Markdown, display

import lorweb_mini as lw
from lorweb_mini.core.editor import load_frozen
from lorweb_mini.emoji.sheets import STYLES
from lorweb_mini.models.text import vectors_of
from lorweb_mini.show.style import COLOURS, INK, LINE, PALE, STYLE, figure_of
from lorweb_mini.widgets.sampler import strip, trajectory

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
STEPS = 3 if SMOKE else 8
matplotlib.rcParams.update({**STYLE, "figure.dpi": 85})  # many pictures: keeps the file small

autoencoder, _, base = load_frozen()
emoji, relation = lw.load_emoji(), lw.relations()["edit/hue=240"]
b = emoji.tensor(emoji.find("fire engine"), STYLES.index("twemoji"))
text = relation.instructions[0]
path = trajectory(base, autoencoder.to_latent(b)[0], vectors_of([text])[0], steps=5)
strip(autoencoder, path, b[0], relation.apply_edits(b)[0], title=f"“{text}”")

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. write flow matching from memory: one loss, one loop, on points and on pictures;
# 2. say why the network learns a *conditional mean*, and what follows from it for one step, for ten, and for every
#    table of errors in this course;
# 3. explain Flux's geometry: what a token holds, how the sequence is laid out, how a token finds its counterpart;
# 4. control the frozen editor by steps and guidance, and say what each costs and what it gains.
#
# **You need** notebook 00, what a gradient and an expectation are, and a little PyTorch. No GPU, no network.
# **It takes** about an hour of your time; the last cell measures the computing time.
#
# ## A flow in the plane
#
# The idea can be shown without pictures, on points in the plane, where everything can be plotted. The data are the
# black pixels of a drawing. A *generative model* of them makes new points that are distributed as these are.
#
# Flow matching begins by **destroying** the data. For each point $x$ it samples noise $e$ from a standard normal
# distribution and moves from $x$ to $e$ on a straight line, at constant speed, in one unit of time:
#
# $$z_t = (1 - t)\,x + t\,e, \qquad \frac{dz_t}{dt} = e - x$$
#
# At $t = 0$ there is data, at $t = 1$ pure noise. The model has to learn the way back.

# %%
black = emoji.tensor(emoji.find("sauropod"), STYLES.index("openmoji_black"))[0].mean(0) < 0
rows, columns = black.nonzero().T
pixels = torch.stack([columns, -rows], 1).float()
PIXEL = 1 / float((pixels - pixels.mean(0)).std())  # side of a pixel once the drawing has deviation 1
pixels = (pixels - pixels.mean(0)) * PIXEL


def data(k: int) -> torch.Tensor:
    """k of the drawing's black pixels, sampled at random: [k, 2]."""
    return pixels[torch.randint(len(pixels), (k,))]


# %%
torch.manual_seed(0)
x, e = data(600), torch.randn(600, 2)
figure, axes = figure_of(11, 2.7, ncols=5)
for axis, t in zip(axes, (0, 0.25, 0.5, 0.75, 1), strict=True):
    axis.scatter(*((1 - t) * x + t * e).T, s=4, c=x[:, 0] + x[:, 1], cmap="plasma", linewidths=0)
    axis.set(xlim=(-3.2, 3.2), ylim=(-3, 3), aspect="equal")
    axis.set_title(f"t = {t:g}")
    axis.axis("off")
figure.suptitle(
    f"{len(pixels)} black pixels of a dinosaur turn into noise; a point keeps its colour", size=10, color=PALE
)
figure

# %% [markdown]
# ### What the network learns
#
# The network gets a noisy point $z_t$ and the time and predicts the velocity of that point. It is trained by least
# squares:
#
# $$L = \mathbb E_{x, e, t}\ \bigl\lVert v_\theta(z_t, t) - (e - x) \bigr\rVert^2$$
#
# This is the whole training objective. What does a network learn from it? **Many** of the straight lines pass through
# the same point $z_t$, from different pixels to different noises, and the network cannot know which of them it is on.
# The mean of all possible answers has the least squared error. So the best possible network is
#
# $$v^\star(z, t) = \mathbb E\,[\,e - x \mid z_t = z\,] = \frac{z - \mathbb E\,[x \mid z_t = z]}{t},$$
#
# where the second form inserts $e = (z_t - (1 - t)\,x) / t$ into the first. In words: **knowing the velocity is the
# same as knowing the mean of all data that the noisy point may have come from.** The rest of this notebook follows from
# this equation.
#
# > **Predict before you run.** Will the loss go to zero if we train for long enough?


# %%
class Velocity(torch.nn.Module):
    """v(z, t) for points in the plane: sines and cosines of all three numbers, then four linear layers."""

    def __init__(self, width: int = 128, octaves: int = 5) -> None:
        super().__init__()
        self.frequencies = 2.0 ** torch.arange(octaves)
        sizes = [3 + 6 * octaves, width, width, width]
        layers = [m for i in range(3) for m in (torch.nn.Linear(*sizes[i : i + 2]), torch.nn.SiLU())]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([z, t.expand(len(z), 1)], 1)
        waves = (inputs[:, :, None] * self.frequencies).flatten(1)
        return self.layers(torch.cat([inputs, waves.sin(), waves.cos()], 1))


torch.manual_seed(0)
network, steps = Velocity(), 300 if SMOKE else 4000
optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
for _ in range(steps):
    x, e, t = data(512), torch.randn(512, 2), torch.rand(512, 1)
    loss = (network((1 - t) * x + t * e, t) - (e - x)).pow(2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    decay.step()

# %% [markdown]
# There are few enough data points to compute the conditional mean exactly, by Bayes' rule: a pixel $x_i$ leads to $z$
# only with the noise $e = (z - (1 - t)\,x_i)/t$, whose density is proportional to $\exp(-\lVert e \rVert^2 / 2)$.


# %%
def exact(z: torch.Tensor, t: float) -> torch.Tensor:
    """E[e − x | z_t = z] for the pixels of the drawing, [k, 2]."""
    noise = torch.cdist(z, (1 - t) * pixels) / t
    likely = (-noise.pow(2) / 2).softmax(1)
    return (z - likely @ pixels) / t


lines = []
with torch.no_grad():
    for t in (0.9, 0.7, 0.5, 0.3, 0.15):
        x, e = data(4000), torch.randn(4000, 2)
        z = (1 - t) * x + t * e
        learnt, best = network(z, torch.tensor(t)), exact(z, t)
        apart = (learnt - best).pow(2).sum() / best.pow(2).sum()
        left, least = ((v - (e - x)).pow(2).mean() for v in (learnt, best))
        lines.append(f"| {t:g} | {left:.2f} | {least:.2f} | {apart:.1%} |")
display(
    Markdown(
        "| t | loss of the network | loss of the exact mean | distance of the two, squared, relative |\n"
        "|--:|--:|--:|--:|\n" + "\n".join(lines)
    )
)

# %% [markdown]
# The loss does not go to zero, not even for the exact mean. What remains is the variance of the lines through a point,
# and no network can do better (except by chance, on a finite sample). A flow-matching loss is therefore hard to
# interpret: **a flat curve may belong to a network that has learned everything**, and a small change of the loss may be
# a large change of the pictures.
#
# ### The field, and the way back
#
# Here are both velocities as arrows. They point from noise to data, the way that the sampler moves, so in the direction
# of $-v$.

# %%
everywhere = torch.cartesian_prod(torch.linspace(-3, 3, 16), torch.linspace(-2.6, 2.6, 14))
figure, axes = figure_of(11, 3.9, ncols=3)
for axis, t in zip(axes, (0.9, 0.5, 0.2), strict=True):
    z = (1 - t) * data(3000) + t * torch.randn(3000, 2)
    near = everywhere[torch.cdist(everywhere, z).topk(4, largest=False).values[:, 3] < 0.25]  # where noisy points are
    axis.scatter(*z[:600].T, s=4, color="#DDDDDD", linewidths=0)
    with torch.no_grad():
        fields = {"exact mean": exact(near, t), "network": network(near, torch.tensor(t))}
    for (name, v), colour, width in zip(fields.items(), (COLOURS[1], COLOURS[0]), (0.007, 0.003), strict=True):
        arrows = {"angles": "xy", "scale_units": "xy", "scale": 5, "headwidth": 3, "headlength": 4}
        axis.quiver(*near.T, *-v.T, color=colour, width=width, label=name, **arrows)
    axis.set(xlim=(-3.1, 3.1), ylim=(-2.8, 2.8), aspect="equal")
    axis.set_title(f"t = {t:g}")
    axis.axis("off")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
figure

# %% [markdown]
# With much noise (left) all arrows point to the middle of the drawing, because the noise hides which pixel a point came
# from. With less noise, each place points to a pixel nearby.
#
# To sample, start at noise, evaluate the network, take a step, and repeat. With $n$ equal steps this is Euler's method,
#
# $$z_{t - 1/n} = z_t - \tfrac1n\, v_\theta(z_t, t).$$


# %%
@torch.no_grad()
def walk(z: torch.Tensor, steps: int) -> torch.Tensor:
    """Euler's method from noise [k, 2] at t = 1 to t = 0; all places on the way, [steps + 1, k, 2]."""
    places = [z]
    for i in range(steps):
        z = z - network(z, torch.tensor(1 - i / steps)) / steps
        places.append(z)
    return torch.stack(places)


torch.manual_seed(2)
x, noise = data(45), torch.randn(45, 2)
figure, axes = figure_of(10, 4.4, ncols=2)
titles = ("In training: straight lines, at random, crossing", "In sampling: one way through each place, curved")
for axis, ways, title in zip(axes, (torch.stack([noise, x]), walk(noise, 64)), titles, strict=True):
    axis.scatter(*pixels.T, s=5, marker="s", color="#D5D5D5", linewidths=0)
    axis.plot(ways[:, :, 0], ways[:, :, 1], color=COLOURS[0], lw=0.8, alpha=0.75)
    axis.scatter(*noise.T, s=14, color=COLOURS[1], zorder=3, label="noise")
    axis.scatter(*ways[-1].T, s=14, color=COLOURS[0], zorder=3, label="data")
    axis.set(xlim=(-3.2, 3.2), ylim=(-2.9, 2.9), aspect="equal")
    axis.set_title(title)
    axis.axis("off")
axes[1].legend(loc="upper right", fontsize=8)
figure

# %% [markdown]
# The lines of the pairs are straight, but the flow is curved, since the mean direction changes from place to place. Two
# properties hold nevertheless: at every time the points are distributed as the $z_t$ of the first figure, and no two
# paths cross.
#
# > **Predict before you run.** What happens if you go all the way in **one** step? At $t = 1$ the point is pure noise
# > and says nothing about $x$. Insert that into the formula for $v^\star$.

# %%
torch.manual_seed(3)
noise = torch.randn(1500, 2)
figure, axes = figure_of(11, 2.75, ncols=5)
for axis, n in zip(axes, (1, 2, 4, 8, 64), strict=True):
    drawn = walk(noise, n)[-1]
    between = torch.cdist(drawn, pixels) / PIXEL
    hit, covered = (float((between.amin(side) < 1).float().mean()) for side in (1, 0))
    axis.scatter(*pixels.T, s=5, marker="s", color="#DCDCDC", linewidths=0)
    axis.scatter(*drawn.T, s=2, color=COLOURS[0], linewidths=0)
    axis.set(xlim=(-2.7, 2.1), ylim=(-1.9, 2.3), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(f"{n} step{'s' if n > 1 else ''}")
    axis.set_xlabel(f"{hit:.0%} on a line\n{covered:.0%} of the lines drawn", color=PALE)
figure

# %%
centre = float(walk(noise, 1)[-1].mean(0).norm() / PIXEL)
spread = [float(walk(noise, n)[-1].std(0).norm() / PIXEL) for n in (1, 64)]
display(
    Markdown(
        f"After one step the points lie {centre:.1f} pixels from the drawing's centre of gravity on average, scattered "
        f"by {spread[0]:.1f} pixels; those of 64 steps by {spread[1]:.0f}. One step from noise gives "
        "$e - \\mathbb E[e - x \\mid e] = \\mathbb E[x]$: **the mean of the data, whatever the noise**, a place where "
        "the drawing has nothing. Keep this in mind; at the end of the notebook the same happens to faces."
    )
)

# %% [markdown]
# ## From pictures to latents
#
# A picture of 64 × 64 pixels in three colours has 12,288 numbers, and most neighbouring pixels are alike. So the flow
# runs in a smaller space. An **autoencoder**, trained beforehand and frozen, turns the picture into a *latent* of 16
# channels of 8 × 8 numbers, a twelfth as many, and back. The factor 8 by which each side shrinks and the 16 channels
# are those of Flux.
#
# What the autoencoder loses is lost for every model built on it. How much is that?

# %%
from lorweb_mini.analysis.evaluation import reconstruct
from lorweb_mini.emoji.relations import SPLITS, STYLE_NAMES, concept_sides
from lorweb_mini.models.autoencoder import psnr
from lorweb_mini.show.pictures import picture_rows

SHOWN = ("octopus", "fire engine", "pineapple", "peacock", "parachute", "pizza", "dragon face", "watermelon", "tram")
gallery = torch.cat([emoji.tensor(emoji.find(name), i % len(STYLES)) for i, name in enumerate(SHOWN)])
assert all(concept_sides()[emoji.find(name)] == SPLITS.index("test") for name in SHOWN)
through = reconstruct(autoencoder, gallery)
picture_rows(
    {"original": gallery, "through the\nautoencoder": through},
    captions={"through the\nautoencoder": [f"{x:.0f} dB" for x in psnr(through, gallery)]},
    title="Nine unseen drawings, encoded and decoded",
    label_width=1.1,
    size=0.72,
)

# %%
rng = np.random.default_rng(4)
unseen = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("test"))[:, None])
unseen = unseen[rng.permutation(len(unseen))[: 48 if SMOKE else 600]]
originals = emoji.tensor(*unseen.T)
decibels = psnr(reconstruct(autoencoder, originals), originals)
by_style = {name: decibels[unseen[:, 1] == i].mean() for i, name in enumerate(STYLE_NAMES.values())}
best, worst = max(by_style, key=by_style.get), min(by_style, key=by_style.get)
display(
    Markdown(
        f"Over {len(unseen)} unseen drawings the mean is **{decibels.mean():.1f} dB**, from {by_style[worst]:.1f} "
        f"({worst}) to {by_style[best]:.1f} ({best}). Ten decibels are a factor of ten in the squared error. "
        "Because of this loss, errors in this course are taken against the *reconstruction* of the true b′."
    )
)

# %% [markdown]
# A transformer needs a sequence. Flux takes 2 × 2 neighbouring places of the latent, with all 16 channels, as one
# **token** of 64 numbers. Our pictures are 16 tokens each, numbered in reading order.
#
# > **Predict before you run.** We disturb one token and decode. Which pixels change: one square of 16 × 16, more, or
# > all?

# %%
import torch.nn.functional as F

from lorweb_mini.core.layout import pack, unpack

TOKEN = 6
torch.manual_seed(1)
z = autoencoder.to_latent(gallery[:8])
disturbed = pack(z)[:, None].repeat(1, 16, 1, 1)  # [8 pictures, 16 copies, 16 tokens, 64]
disturbed[:, range(16), range(16)] += torch.randn(8, 16, 64)  # in copy i, token i; a latent's own deviation is 1
decoded = autoencoder.to_picture(unpack(disturbed.flatten(0, 1))).unflatten(0, (8, 16))
moved = (decoded - through[:8, None]).pow(2).sum(2)  # [8, 16, 64, 64]
share = F.avg_pool2d(moved.mean(0), 16).flatten(1)  # [token disturbed, square of 16 × 16 pixels]
share = share / share.sum(1, keepdim=True)

# %%
from lorweb_mini.images import to_pil

figure, axes = figure_of(11, 3.1, ncols=4)
row, column = divmod(TOKEN, 4)
for axis, picture in zip(axes, (through[1], decoded[1, TOKEN]), strict=False):
    axis.imshow(to_pil(picture), extent=(0, 64, 64, 0))
axes[2].imshow(moved[1, TOKEN].sqrt(), cmap="cividis", extent=(0, 64, 64, 0))
for axis in axes[:3]:
    axis.set(xticks=[], yticks=[])
    for line in (16, 32, 48):
        axis.axhline(line, color=LINE, lw=0.6)
        axis.axvline(line, color=LINE, lw=0.6)
    box = [16 * column, 16 * row, 16 * column + 16, 16 * row + 16]
    axis.plot(*zip(*[(box[i], box[j]) for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))], strict=True), c=COLOURS[4])
axes[3].imshow(share, cmap="cividis", vmin=0, vmax=1)
axes[3].set(xlabel="square of pixels", ylabel="token disturbed", xticks=range(0, 16, 4), yticks=range(0, 16, 4))
titles = ("16 tokens", f"token {TOKEN} disturbed", "what it changed", "share of the change")
for axis, title in zip(axes, titles, strict=True):
    axis.grid(False)
    axis.set_title(title)
figure

# %%
own = share.diagonal().mean()
display(
    Markdown(
        f"On average **{own:.0%}** of the change falls into the token's own square, the rest next to it: the decoder "
        "also looks at the tokens around. So a token is a *place*, and the transformer moves places."
    )
)

# %% [markdown]
# ## The same on pictures, in less than sixty lines
#
# The loss and the loop stay the same. A point of the plane becomes the 16 tokens of b′, and the network becomes a small
# transformer of the same class that holds FLUX.1-Kontext in diffusers. Only one thing is new: the flow has to know
# *which* picture it edits. So the tokens of b are appended to the noisy ones, and the transformer can attend to them.
#
# Here it learns **one** edit and gets no instruction. Pairs are made from the training emoji, and the drawings that you
# will see are of emoji that are in none of the pairs.

# %%
from matplotlib.figure import Figure

from lorweb_mini.analysis.evaluation import squared
from lorweb_mini.emoji.relations import as_batch

EDIT = "edit/hue=120"
relation = lw.relations()[EDIT]


def encode(pictures: torch.Tensor) -> torch.Tensor:
    """Tokens [k, 16, 64] of pictures."""
    with torch.no_grad():
        return torch.cat([pack(autoencoder.to_latent(part)) for part in pictures.split(64)])


chosen = rng.permutation(relation.pairs("train"))[: 64 if SMOKE else 1500]
reference, target = (encode(pictures) for pictures in relation.pictures(chosen))
test = lw.analogies("test", EDIT, seed=3, n=4 if SMOKE else 32)
test_b, test_truth = (reconstruct(autoencoder, pictures) for pictures in as_batch(test)[2:])
test_reference = encode(as_batch(test)[2])


def progress(losses: list[float], drawn: torch.Tensor) -> Figure:
    """The loss so far, and how the network draws the first unseen pictures at this moment."""
    figure, (left, right) = figure_of(10, 3, ncols=2, width_ratios=(2, 1.25))
    left.plot(losses, color="#CFE3F0", lw=0.8)
    width = min(50, len(losses))
    left.plot(range(width - 1, len(losses)), np.convolve(losses, np.ones(width) / width, "valid"), color=COLOURS[0])
    left.set(yscale="log", xlabel="step", ylabel="flow-matching loss", title=f"{len(losses)} steps: {losses[-1]:.2f}")
    rows = [torch.cat(list(pictures[:4]), 2) for pictures in (test_b, drawn, test_truth)]
    right.imshow(to_pil(torch.cat(rows, 1)))
    right.set(xticks=[], yticks=[32, 96, 160], yticklabels=["b", "now", "true b′"], title="unseen emoji")
    right.grid(False)
    return figure


# %% [markdown]
# Here is all of flow matching: the network's prediction, the loop that draws and the loop that trains. Both loops are
# those from above.

# %%
from lorweb_mini.core.layout import position_ids
from lorweb_mini.models.base import TEXT_WIDTH, transformer_of

torch.manual_seed(0)
transformer = transformer_of(width=64, double_blocks=1, single_blocks=2)
ids = torch.cat([position_ids(4, 4, picture=0), position_ids(4, 4, picture=1)])  # where each token stands


def velocity(z: torch.Tensor, t: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """v for noisy tokens z [k, 16, 64] at time t, beside the tokens of b."""
    silence = torch.zeros(len(z), TEXT_WIDTH)  # no instruction
    out = transformer(
        hidden_states=torch.cat([z, reference], 1),
        encoder_hidden_states=silence[:, None],
        pooled_projections=silence,
        timestep=t.expand(len(z)),
        img_ids=ids,
        txt_ids=torch.zeros(1, 3),
        return_dict=False,
    )[0]
    return out[:, :16]


@torch.no_grad()
def draw(z: torch.Tensor, reference: torch.Tensor, steps: int = 8) -> torch.Tensor:
    """From noise [k, 16, 64] to the tokens of b′."""
    for i in range(steps):
        z = z - velocity(z, torch.tensor(1 - i / steps), reference) / steps
    return z


def train(steps: int, every: int, batch: int = 64) -> tuple[list[float], list[torch.Tensor]]:
    """Learns for so many steps; the losses, and the unseen pictures as they were drawn every so many steps."""
    optimiser = torch.optim.AdamW(transformer.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.05)
    start, losses = torch.randn_like(test_reference), []
    film, screen = [autoencoder.to_picture(unpack(draw(start, test_reference)))], display(display_id=True)
    for step in range(1, steps + 1):
        k = torch.randint(len(target), (batch,))
        x, e, t = target[k], torch.randn(batch, 16, 64), torch.rand(batch)
        z = torch.lerp(x, e, t[:, None, None])  # (1 − t) x + t e
        loss = (velocity(z, t, reference[k]) - (e - x)).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % every == 0:
            film.append(autoencoder.to_picture(unpack(draw(start, test_reference))))
            screen.update(progress(losses, film[-1]))
    return losses, film


# %%
import inspect

written = [line for part in (velocity, draw, train) for line in inspect.getsource(part).splitlines() if line.strip()]
print(f"Flow matching on pictures, documentation included: {len(written)} lines.")

# %% [markdown]
# Train it, and **watch** both halves of the figure. The loss is soon nearly flat while the drawings still improve, for
# the reason that you saw in the plane. This is the longest cell of the notebook, a minute or two.
#
# > **Predict before you run.** After how many steps will you recognise the first emoji?

# %%
every = 10 if SMOKE else 40
losses, film = train(30 if SMOKE else 1600, every)

# %%
from lorweb_mini.analysis.bootstrap import Estimate, resampling_weights


def ratio(numerator: np.ndarray, denominator: np.ndarray, resamples: int = 1000) -> Estimate:
    """Sum over sum, with a 95 % bootstrap interval over the pictures."""
    weights = resampling_weights(len(numerator), resamples, np.random.default_rng(0))
    low, high = np.quantile((weights @ numerator) / (weights @ denominator), [0.025, 0.975])
    return Estimate(float(numerator.sum() / denominator.sum()), float(low), float(high))


before, after = (ratio(squared(drawn, test_truth), squared(test_b, test_truth)) for drawn in (film[0], film[-1]))
moments = sorted({round(x) for x in np.geomspace(1, len(film), 6)})
captions = ["b", *(f"{every * (m - 1)} steps" for m in moments), "true b′"]
shown = [torch.stack([test_b[i], *(film[m - 1][i] for m in moments), test_truth[i]]) for i in range(2)]
rows = {f"unseen {i + 1}": pictures for i, pictures in enumerate(shown)}
display(picture_rows(rows, {"unseen 2": captions}, title="One edit, learnt from nothing", label_width=0.8))
display(
    Markdown(
        f"Normalised error on {len(test)} unseen drawings, 95 % interval in brackets: **{before}** before training and "
        f"**{after}** after {len(losses)} steps. Zero is the true answer, one is b handed back. "
        f"The transformer has {sum(p.numel() for p in transformer.parameters()) / 1e6:.1f} million parameters."
    )
)

# %% [markdown]
# `lorweb_mini/models/base.py` has the same loop with diffusers' scheduler, an instruction and guidance. Is it the same?

# %%
from lorweb_mini.models.base import Base

start = torch.randn_like(test_reference)
package = Base(transformer.eval()).sample(start, test_reference, ids, steps=8)
print(f"largest difference to our own sampler: {(package - draw(start, test_reference)).abs().max():.0e}")

# %% [markdown]
# ## Flux's geometry, drawn
#
# Which number of which token sits where? Left, a picture and its 16 squares. In the middle its latent: 16 channels,
# each a small grey picture of 8 × 8. A token takes the same 2 × 2 places out of **every** channel, outlined below;
# right, these 64 numbers in the order in which the transformer gets them.

# %%
latent = autoencoder.to_latent(gallery[1:2])[0]
row, column = divmod(TOKEN, 4)
token = pack(latent[None])[0, TOKEN].reshape(16, 4)
mosaic = torch.cat([torch.cat(list(F.pad(four, (1, 1, 1, 1), value=torch.nan)), 1) for four in latent.split(4)], 0)

figure, axes = figure_of(10, 4, ncols=3, width_ratios=(1, 1, 0.42))
axes[0].imshow(to_pil(gallery[1]), extent=(0, 4, 4, 0))
for i in range(16):
    y, x = divmod(i, 4)
    badge = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": COLOURS[4] if i == TOKEN else LINE}
    axes[0].text(x + 0.5, y + 0.5, str(i), ha="center", va="center", size=8, bbox=badge)
    axes[0].plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color=LINE, lw=0.7)
axes[1].imshow(mosaic, cmap="gray")
for i in range(16):
    y, x = 10 * (i // 4) + 2 * row + 0.5, 10 * (i % 4) + 2 * column + 0.5
    axes[1].plot([x, x + 2, x + 2, x, x], [y, y, y + 2, y + 2, y], color=COLOURS[4], lw=1.4)
axes[2].imshow(token, cmap="gray", vmin=float(latent.min()), vmax=float(latent.max()), aspect=0.6)
axes[2].set(ylabel="channel", xlabel="place in the 2 × 2", yticks=range(0, 16, 5), xticks=range(4))
for axis, title in zip(axes, ("the picture", "its latent, 16 × (8 × 8)", f"token {TOKEN}, 64 numbers"), strict=True):
    axis.grid(False)
    axis.set_title(title)
for axis in axes[:2]:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
figure

# %% [markdown]
# The transformer gets one sequence of 33 tokens: one of text, 16 noisy ones, 16 of the reference. Attention ignores the
# order of tokens, so by itself it knows nothing of rows and columns. Therefore each token has three **position ids**
# $(k, \text{row}, \text{column})$, where $k$ tells the picture: 0 for the one being drawn, 1 for the reference, as in
# Kontext. A token of b and its counterpart in b′ differ in $k$ alone.

# %%
from matplotlib.patches import Rectangle

sequence = [("text", 0, 0, 0), *(("noisy" if k == 0 else "reference", *map(int, [k, r, c])) for k, r, c in ids)]
figure, axis = figure_of(11, 2.4)
face = {"text": "#D9D9D9", "noisy": "#F6CF8B", "reference": "#9CCDEB"}
for i, (kind, *place) in enumerate(sequence):
    axis.text(i, 0, "T" if kind == "text" else str((i - 1) % 16), ha="center", va="center", size=8, weight="bold")
    axis.add_patch(Rectangle((i - 0.46, -0.42), 0.92, 0.84, fc=face[kind], ec="white"))
    for y, (value, colour) in enumerate(zip(place, ("Purples", "Greens", "Oranges"), strict=True)):
        shade = matplotlib.colormaps[colour](0.08 + 0.17 * value)
        axis.add_patch(Rectangle((i - 0.46, y + 0.68), 0.92, 0.84, fc=shade, ec="white"))
        axis.text(i, y + 1.1, str(value), ha="center", va="center", size=8)
for i, kind in ((0, "text"), (8.5, "the picture being drawn, z"), (24.5, "the reference picture, b")):
    axis.text(i, -0.62, kind, ha="center", va="bottom", size=9, color=PALE)
axis.set(xlim=(-0.6, 32.6), ylim=(3.6, -1.2), xticks=[], yticks=[0, 1.1, 2.1, 3.1])
axis.set_yticklabels(["token", "k", "row", "column"], size=9, color=INK)
axis.grid(False)
axis.spines[:].set_visible(False)
figure

# %% [markdown]
# The ids enter by **rotation**. Before a query and a key are compared, each is split into three parts, one per id, and
# the pairs of numbers in a part are rotated by angles proportional to that id, fast for the first pairs and slowly for
# the last. The product of the two then depends only on the *difference* of the ids:
#
# $$\langle R_p\, q,\ R_{p'}\, k\rangle = \langle q,\ R_{p' - p}\, k\rangle$$
#
# So a head can learn "look at the same place in the other picture", or "three columns further". With $q = k$, the
# product is largest for the nearest tokens:

# %%
from diffusers.models.embeddings import apply_rotary_emb

around = torch.tensor([[k, r, c] for k in (0, 1) for r in range(7) for c in range(7)]).float()
ones = torch.ones(1, len(around), 1, 64) / 8
turned = apply_rotary_emb(ones, base.transformer.pos_embed(around), sequence_dim=1)[0, :, 0]
alike = (turned @ turned[24]).reshape(2, 7, 7)  # to the token in the middle of the first picture

figure, axes = figure_of(6.4, 2.9, ncols=2)
for axis, values, title in zip(axes, alike, ("in the same picture", "in the other picture"), strict=True):
    shown = axis.imshow(values, cmap="cividis", vmin=float(alike.min()), vmax=1, extent=(-3.5, 3.5, 3.5, -3.5))
    axis.set(xticks=range(-3, 4), yticks=range(-3, 4), xlabel="columns away", title=title)
    axis.grid(False)
axes[0].set_ylabel("rows away")
figure.colorbar(shown, ax=axes, label="product of the turned pair", pad=0.02)
figure

# %% [markdown]
# ### Where does a token look?
#
# A picture in which left and right are exchanged needs, at row $r$ and column $c$, what b has at row $r$ and column
# $3 - c$. A blurred picture needs what b has at the same place. If the shipped editor solves both by attention, then
# the weights from the noisy tokens to the reference tokens have to differ in the same way. Do they?
#
# > **Predict before you run.** Number the tokens in reading order. What would the 16 × 16 table of attention look like
# > for a blur, and for a flip?


# %%
class Attention(torch.overrides.TorchFunctionMode):
    """Notes softmax(q kᵀ / √d) of every attention while it is entered: [pictures, heads, 33, 33] each."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = kwargs or {}
        if function is F.scaled_dot_product_attention:
            q, k = (given[name] for name in ("query", "key"))
            self.weights.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
        return function(*args, **given)


def attention(instruction: str, steps: int = 4) -> torch.Tensor:
    """From noisy to reference tokens, mean over pictures and steps: [blocks, heads, 16, 16]."""
    latents = autoencoder.to_latent(originals[: 4 if SMOKE else 24])
    with Attention() as seen, torch.no_grad():
        base.edit(latents, vectors_of([instruction] * len(latents)), range(len(latents)), steps)
    mean = torch.stack(seen.weights).mean(1)  # all blocks of the first step, then of the second …
    return mean.unflatten(0, (steps, -1)).mean(0)[:, :, 1:17, 17:33]


BLUR, FLIP = "blur it strongly", "flip it horizontally"
looks = {text: attention(text) for text in (BLUR, FLIP)}
here = torch.eye(16)
mirrored = torch.eye(16).reshape(4, 4, 16).flip(1).reshape(16, 16)  # token (r, c) to token (r, 3 − c)


def on(place: torch.Tensor, text: str) -> torch.Tensor:
    """Share of its attention that a noisy token gives to its place in b, mean over tokens: [blocks, heads]."""
    return (looks[text] * place).sum(-1).mean(-1)


# %%
gain = on(mirrored, FLIP) - on(mirrored, BLUR) + on(here, BLUR) - on(here, FLIP)
block, head = divmod(int(gain.argmax()), gain.shape[1])
figure, axes = figure_of(11, 3.9, ncols=3, width_ratios=(1, 1, 1.15))
highest = max(float(weights[block, head].max()) for weights in looks.values())
for axis, (text, weights) in zip(axes, looks.items(), strict=False):
    shown = axis.imshow(weights[block, head], cmap="cividis", vmin=0, vmax=highest)
    place = here if text == BLUR else mirrored
    axis.scatter(place.argmax(1), range(16), s=52, marker="s", facecolors="none", edgecolors=COLOURS[4], linewidths=0.9)
    axis.set(xlabel="token of b", xticks=range(0, 16, 4), yticks=range(0, 16, 4), title=f"“{text}”")
    axis.grid(False)
axes[0].set_ylabel("noisy token")
figure.colorbar(shown, ax=axes[:2], location="bottom", label=f"attention of block {block}, head {head}", shrink=0.5)
names = (("same place", here, "o"), ("mirrored place", mirrored, "s"))
for (name, place, marker), colour in zip(names, COLOURS, strict=False):
    for text, filled in ((BLUR, "white"), (FLIP, colour)):
        strongest = on(place, text).amax(1)
        label = f"{name}, {text.split()[0]}"
        axes[2].plot(strongest, marker=marker, mfc=filled, color=colour, ls="--" if text == BLUR else "-", label=label)
axes[2].axhline(1 / 33, color=PALE, lw=0.9)
axes[2].text(len(gain) - 1, 1 / 33, "uniform", size=8, color=PALE, va="bottom", ha="right")
axes[2].set(xlabel="block", ylabel="attention of the strongest head", xticks=range(len(gain)), ylim=(0, None))
axes[2].set_title("Who looks where")
axes[2].legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
figure

# %%
shares = {
    (name, text): float(on(place, text)[block, head])
    for name, place in (("same", here), ("mirrored", mirrored))
    for text in looks
}
turns = shares["mirrored", FLIP] > 2 * max(shares["mirrored", BLUR], 1 / 33)
verdict = "It turns to where the edit has to look" if turns else "It hardly turns: the flip is made elsewhere"
display(
    Markdown(
        f"The head in the tables, {head} of block {block}, is the one that turns most from the same place to the "
        "mirrored one when the instruction changes from blur to flip. "
        f"The mirrored place gets {shares['mirrored', BLUR]:.0%} of its attention at first and "
        f"{shares['mirrored', FLIP]:.0%} then, the same place {shares['same', BLUR]:.0%} "
        f"and {shares['same', FLIP]:.0%} (uniform would be {1 / 33:.0%}). {verdict}. It is one head of {gain.numel()}, "
        "chosen because it shows this; the curves on the right are the strongest head of every block."
    )
)

# %% [markdown]
# Orange squares mark the tokens that the edit needs. The instruction is only one token of the sequence, but it also
# modulates every layer, and so it changes which tokens attend to which. Attention weights are an observation. They do
# not prove how the model works.
#
# ## The shipped editor
#
# The frozen base of this course was trained with the loss above, on all edits at once, for hours instead of minutes,
# and with an **instruction**: a sentence, turned into 384 numbers by a small language model (MiniLM). The vectors of
# the course's sentences are stored, so you do not need the language model. In a tenth of its training samples the
# instruction was left out and the target was *b itself*. Guidance, below, uses this.

# %%
EDITS = ("edit/hue=240", "edit/background=220", "edit/flip_horizontal", "edit/grey", "edit/outline")
b = gallery[:3] if SMOKE else gallery[:6]
seen_b, rows = reconstruct(autoencoder, b), {"b": b}
for name in ("", *EDITS):
    text = lw.relations()[name].instructions[0] if name else ""
    with torch.no_grad():
        tokens = base.edit(autoencoder.to_latent(b), vectors_of([text] * len(b)), range(len(b)), STEPS)
        drawn = autoencoder.to_picture(tokens)
    if name:
        truth = reconstruct(autoencoder, lw.relations()[name].apply_edits(b))
        rows[f"“{text}”\nerror {squared(drawn, truth).sum() / squared(seen_b, truth).sum():.2f}"] = drawn
    else:
        rows["no instruction"] = drawn
picture_rows(rows, title="Emoji that no training saw, edited by words", size=0.64, label_width=2.35)

# %%
kept = psnr(rows["no instruction"], seen_b).mean()
display(
    Markdown(
        f"Without an instruction the editor hands b back, to {kept:.0f} dB. **This is the ground on which the LoRAs of "
        "the next notebooks stand**: they have to add the edit, and nothing else."
    )
)

# %% [markdown]
# Here is the strip of the first cell again, for an instruction with more than one right answer: make the person a man.
# Clothes and hair are the artist's choice, and artists differ. The upper row is $z_t$, the lower one the estimate
#
# $$\hat x = z_t - t\, v_\theta(z_t, t) \approx \mathbb E\,[x \mid z_t],$$
#
# which is the formula of the conditional mean, solved for the mean.
#
# > **Predict before you run.** What does the very first estimate look like, the one "seen from 1"?

# %%
person, man = (emoji.tensor(emoji.find(f"{who} shrugging"), STYLES.index("noto")) for who in ("person", "man"))
open_instruction = lw.relations()["gender/person>man"].instructions[0]
path = trajectory(base, autoencoder.to_latent(person)[0], vectors_of([open_instruction])[0], steps=5)
strip(autoencoder, path, person[0], man[0], title=f"“{open_instruction}”")

# %% [markdown]
# ## Steps and guidance, by hand
#
# When you draw with the trained editor, you choose two numbers. **Steps**: how often the network is evaluated.
# **Guidance**: evaluate it twice, with the instruction and without, and go further in the direction in which the two
# predictions differ,
#
# $$v = v_\varnothing + g\,(v_\text{text} - v_\varnothing).$$
#
# At $g = 1$ this is the plain prediction, at no extra cost. Above 1 the effect of the instruction is exaggerated, at
# twice the cost. Without an instruction this editor returns b, so guidance moves the result *away from b*.
#
# > **Predict before you run.** Which of the two makes the picture sharper? Can one of them replace the other?

# %%
from lorweb_mini.widgets.sampler import Sampler

offered = [open_instruction, *(lw.relations()[name].instructions[0] for name in EDITS), ""]
sampler = Sampler(base, autoencoder, person[0], offered, steps=8)
sampler

# %% [markdown]
# ### What do more steps change?
#
# Now in numbers, for three edits with one right answer and three instructions that leave the answer open. Two
# quantities are measured:
#
# - the **error** of notebook 00, $\sum \lVert \text{result} - b' \rVert^2 / \sum \lVert b - b' \rVert^2$;
# - the **sharpness**: the energy of the differences between neighbouring pixels, of the result over that of the true
#   b′. 1 is as sharp as the truth, less is blurred.
#
# > **Predict before you run.** From one step to ten: will the error of *each* instruction fall?

# %%
from lorweb_mini.analysis.evaluation import gradient_energy
from lorweb_mini.show.pictures import relation_label

ONE_ANSWER = ("edit/grey", "edit/hue=240", "edit/flip_horizontal")
OPEN = ("gender/person>man", "style/openmoji>fluent_3d", "style/openmoji_black>twemoji")
asked = {name: lw.analogies("test", name, seed=1, n=2 if SMOKE else 16) for name in (*ONE_ANSWER, *OPEN)}
items = [item for several in asked.values() for item in several]
asked_b = as_batch(items)[2]
asked_vectors = vectors_of([lw.relations()[item.relation].instructions[0] for item in items])
asked_latents = torch.cat([autoencoder.to_latent(part) for part in asked_b.split(64)])
seen_b, seen_truth = (reconstruct(autoencoder, pictures) for pictures in as_batch(items)[2:])


def edits(steps: int, guidance: float = 1.0, seed: int = 0) -> torch.Tensor:
    """The shipped editor's answers to all questions, each from a noise of its own: [k, 3, 64, 64]."""
    seeds = range(seed * len(items), (seed + 1) * len(items))
    with torch.no_grad():
        return autoencoder.to_picture(base.edit(asked_latents, asked_vectors, seeds, steps, guidance))


def by_text(numerator: np.ndarray, denominator: np.ndarray) -> dict[str, Estimate]:
    """Sum over sum for each relation."""
    spans = np.split(np.arange(len(items)), np.cumsum([len(several) for several in asked.values()])[:-1])
    return {name: ratio(numerator[span], denominator[span]) for name, span in zip(asked, spans, strict=True)}


def measured(drawn: torch.Tensor) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Error and sharpness of answers, by relation."""
    error = by_text(squared(drawn, seen_truth), squared(seen_b, seen_truth))
    return error, by_text(gradient_energy(drawn), gradient_energy(seen_truth))


# %%
STEP_COUNTS = (1, 2) if SMOKE else (1, 2, 4, 10)
by_steps = {n: edits(n) for n in STEP_COUNTS}
found = {n: measured(drawn) for n, drawn in by_steps.items()}


def two_panels(found: dict[float, tuple], label: str) -> Figure:
    """Error and sharpness against a setting; one line for each instruction, bars are 95 % intervals."""
    figure, axes = figure_of(11, 3.6, ncols=2)
    for axis, which, title in zip(
        axes, (0, 1), ("error (b handed back = 1)", "sharpness (the true b′ = 1)"), strict=True
    ):
        for i, name in enumerate(asked):
            values = [found[setting][which][name] for setting in found]
            low, high = ([abs(getattr(v, end) - v.value) for v in values] for end in ("low", "high"))
            style = {"color": COLOURS[i], "ls": "-" if name in ONE_ANSWER else "--", "marker": "o^sDvP"[i], "ms": 5}
            places = np.arange(len(found)) + 0.05 * (i - 2.5)
            axis.errorbar(places, [v.value for v in values], [low, high], lw=1.6, elinewidth=0.9, **style,
                          label=relation_label(name))  # fmt: skip
        axis.axhline(1, color=PALE, lw=0.9)
        axis.set(xticks=range(len(found)), xticklabels=[f"{setting:g}" for setting in found], xlabel=label)
        axis.set_title(title, loc="left")
        axis.set_ylim(0, None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


two_panels(found, "steps")

# %%
first, last = STEP_COUNTS[0], STEP_COUNTS[-1]
times = by_text(squared(by_steps[last], seen_truth), squared(by_steps[first], seen_truth))
lines = []
for name in asked:
    cells = [found[n][which][name] for which in (0, 1) for n in (first, last)]
    lines.append(f"| {relation_label(name)} | " + " | ".join(map(str, [*cells[:2], times[name], *cells[2:]])) + " |")
worse = [relation_label(name) for name in asked if times[name].low > 1]
display(
    Markdown(
        f"| instruction | error, {first} step | {last} steps | ratio | sharpness, {first} step | {last} steps |\n"
        "|:--|--:|--:|--:|--:|--:|\n" + "\n".join(lines) + f"\n\nThe error rose with more steps, beyond doubt (the "
        f"ratio's interval lies above 1), for: **{', '.join(worse) or 'none of them'}**. Intervals are 95 %, bootstrap "
        f"over {len(items) // len(asked)} drawings for each instruction; the ratio compares the same drawings."
    )
)

# %% [markdown]
# Compare the pictures before you read on. Which of the two would you choose?

# %%
picks = [next(i for i, item in enumerate(items) if item.relation == name) for name in OPEN]
picks += [i + 1 for i in picks]
picture_rows(
    {
        "b": seen_b[picks],
        f"{first} step": by_steps[first][picks],
        f"{last} steps": by_steps[last][picks],
        "true b′": seen_truth[picks],
    },
    captions={"true b′": [relation_label(items[i].relation).partition(" → ")[2] for i in picks]},
    title="Where more than one answer is right",
    label_width=0.8,
    size=0.8,
)

# %% [markdown]
# ### Why can fewer steps have the smaller error?
#
# One step from pure noise cannot draw a sample: by the formula for $v^\star$ its result is the mean
# $m = \mathbb E\,[x \mid b, \text{text}]$ of all right answers. Many steps end at *one* of the answers, a sample $s$.
# Let $\sigma^2$ be the variance of the right answers around $m$, and $x$ the one that the artist drew. For a perfect
# sampler, $s$ and $x$ are independent samples of the same distribution, so
#
# $$\begin{aligned}
# \mathbb E\,\lVert m - x \rVert^2 &= \sigma^2, \\
# \mathbb E\,\lVert s - x \rVert^2 &= \mathbb E\,\lVert s - m \rVert^2 + \mathbb E\,\lVert x - m \rVert^2
#  - 2\,\mathbb E\,\langle s - m,\ x - m \rangle \\
# &= \sigma^2 + \sigma^2 - 0 = 2\sigma^2.
# \end{aligned}$$
#
# **A perfect sampler has twice the squared error of the blurred mean.** Where only one answer is right, $\sigma^2 = 0$,
# and a perfect sampler loses nothing.
#
# Does this explain the table above? Only in part. It predicts a ratio of 2 for the three open instructions, and no rise
# at all for the three edits with one right answer. Compare these two groups in the column *ratio*: a ratio above 1 for
# an edit with one right answer cannot come from $\sigma^2$. It comes from the network, which is not a perfect sampler.
#
# The next figure shows the parts. The right bar of each three is the error of a sample, split into the error of the
# samples' mean (light) and their spread around it (dark); this sum is always exact. The derivation says more: the
# **left** bar, one step, should be nearly as high as the **middle** one, the mean of k samples ($\sigma^2$ against
# $(1 + 1/k)\,\sigma^2$). For an open instruction dark to light should be as k − 1 to k + 1. For an edit with one right
# answer there should be no dark part; what you see there is scatter that the network adds.

# %%
SEEDS = 2 if SMOKE else 6
samples = torch.stack([by_steps[last], *(edits(last, seed=seed) for seed in range(1, SEEDS))])  # [seeds, k, 3, 64, 64]
mean = samples.mean(0)
size = squared(seen_b, seen_truth)
of_mean = by_text(squared(mean, seen_truth), size)
of_spread = by_text(np.mean([squared(sample, mean) for sample in samples], 0), size)
of_sample = by_text(np.mean([squared(sample, seen_truth) for sample in samples], 0), size)
of_one_step = found[1][0]

figure, axis = figure_of(9.6, 3.7)
for i, name in enumerate(asked):
    axis.bar(i - 0.27, of_one_step[name].value, 0.24, color=COLOURS[1], label="one step")
    axis.bar(i, of_mean[name].value, 0.24, color=COLOURS[2], label=f"mean of {SEEDS} samples")
    axis.bar(i + 0.27, of_mean[name].value, 0.24, color=COLOURS[2], alpha=0.45)
    axis.bar(
        i + 0.27, of_spread[name].value, 0.24, of_mean[name].value, color=COLOURS[0], label="spread of the samples"
    )
    whole = of_sample[name]
    axis.errorbar(i + 0.27, whole.value, [[whole.value - whole.low], [whole.high - whole.value]], fmt="k_", lw=0.9,
                  ms=12, label="one sample, measured")  # fmt: skip
axis.set_xticks(range(len(asked)), [relation_label(n).replace(": ", "\n").replace(" → ", "\n→ ") for n in asked])
axis.set_ylabel("error (b handed back = 1)")
axis.set_title("One sample's error is the mean's and the spread", loc="left")
axis.grid(axis="x", visible=False)
handles, labels = axis.get_legend_handles_labels()
unique = dict(zip(labels, handles, strict=True))
axis.legend(unique.values(), unique.keys(), fontsize=8)
figure

# %%
times = by_text(np.mean([squared(sample, seen_truth) for sample in samples], 0), squared(by_steps[first], seen_truth))
lines = []
for name in asked:
    cells = [part[name] for part in (of_one_step, of_mean, of_spread, of_sample, times)]
    lines.append(f"| {relation_label(name)} | " + " | ".join(map(str, cells)) + " |")
display(
    Markdown(
        f"| instruction | one step | mean of {SEEDS} samples | spread | one sample | one sample ÷ one step |\n"
        "|:--|--:|--:|--:|--:|--:|\n" + "\n".join(lines) + "\n\nThe last column would be **2** for a perfect sampler "
        "of an open instruction. Below 2, the editor's samples scatter less around their mean than the artists' "
        "answers do; below 1, many steps correct more than their scatter adds."
    )
)

# %% [markdown]
# Two consequences hold for every table in this course. Squared error **rewards blur** wherever the answer is open, so a
# method that draws an average can beat one that commits to an answer. And an error should be read together with
# something that blur does not improve: sharpness, the retrieval of the right relation, or the pictures themselves.
#
# ### What does guidance change?
#
# > **Predict before you run.** Guidance pushes the answer away from b. What will it do to an edit that is already
# > right?

# %%
GUIDANCE = (1.0, 2.0) if SMOKE else (1.0, 1.5, 2.0, 3.0)
guided = {g: measured(edits(2 if SMOKE else 4, g)) for g in GUIDANCE}
two_panels(guided, "guidance")

# %%
errors = {name: [guided[g][0][name].value for g in GUIDANCE] for name in asked}
lines = [f"| {relation_label(name)} | " + " | ".join(f"{x:.2f}" for x in row) + " |" for name, row in errors.items()]
helped = [relation_label(name) for name, row in errors.items() if min(row) < row[0]]
display(
    Markdown(
        f"| instruction | {' | '.join(f'error at {g:g}' for g in GUIDANCE)} |\n|:--|{'--:|' * len(GUIDANCE)}\n"
        + "\n".join(lines)
        + f"\n\nGuidance above 1 lowers the error of **{', '.join(helped) or 'none of these instructions'}**."
    )
)

# %% [markdown]
# For $g > 1$, $v_\varnothing + g\,(v_\text{text} - v_\varnothing)$ is not the velocity of any distribution that the
# network learned. Guidance helps a network that follows its instruction too weakly. Where the instruction is already
# followed, it overshoots, first in colours. FLUX.1-dev and Kontext-dev take $g$ as one more input instead of the second
# evaluation: they were *distilled* to predict the guided velocity directly.
#
# ## Exercise 1: where is token 9?
#
# *Difficulty ●○○ · about 2 minutes*
#
# Which pixels belong to token 9? Give the rows and the columns of its square as two slices.


# %%
def check_place(rows: slice | None, columns: slice | None) -> str:
    """Whether a square of pixels is token 9's: most of what disturbing it changes lies there."""
    if rows is None or columns is None:
        return "Not yet: `token_rows` or `token_columns` is still None."
    square = moved[:, 9, rows, columns]
    if square.shape[1:] != (16, 16):
        return f"Not yet: a token's square has 16 × 16 pixels, this one has {square.shape[1]} × {square.shape[2]}."
    inside = float(square.sum() / moved[:, 9].sum())
    return f"{'✓ Right' if inside > 0.5 else 'Not yet'}: {inside:.0%} of the change lies in this square."


# %% tags=["exercise"]
token_rows, token_columns = None, None  # two slices of pixels, such as slice(0, 16)

# %%
print(check_place(token_rows, token_columns))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Reading order, four tokens a row. `divmod(9, 4)` is half of the answer.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# token_rows, token_columns = slice(32, 48), slice(16, 32)
# ```
#
# Token 9 stands in row 2, column 1, counted from 0. It is the `pack` of `lorweb_mini/core/layout.py`, and the order in
# which diffusers' Flux pipelines pack.
#
# </details>

# %% [markdown]
# ## Exercise 2: the midpoint method
#
# *Difficulty ●●○ · about 10 minutes*
#
# Euler's method evaluates the velocity at the start of a step and uses it for the whole step. The **midpoint method**
# first takes half a step, evaluates the velocity *there*, and then takes the whole step from the start with that
# velocity. Write one such step for the points in the plane. The check gives both methods the same number of
# evaluations.


# %%
def check_midpoint(step) -> str:
    """Mean distance to the exact end of the flow, in pixels: midpoint against Euler with as many network runs."""
    z, runs, exact_end = noise[:400], 16, walk(noise[:400], 400)[-1]
    if step(z, 1.0, 0.1) is None:
        return "Not yet: `midpoint` returns None."
    n = runs // 2
    with torch.no_grad():
        for i in range(n):
            z = step(z, 1 - i / n, 1 / n)
    mine, euler = ((end - exact_end).norm(dim=1).mean() / PIXEL for end in (z, walk(noise[:400], runs)[-1]))
    verdict = "✓ Right" if mine < 0.5 * euler else "Not yet"
    return f"{verdict}: {runs} questions leave {mine:.2f} pixels, Euler's method {euler:.2f}."


# %% tags=["exercise"]
def midpoint(z: torch.Tensor, t: float, h: float) -> torch.Tensor | None:
    """One step of length h, from points z [k, 2] at time t to time t − h. Ask with network(z, torch.tensor(t))."""
    return None


# %%
print(check_midpoint(midpoint))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two evaluations: one at $(z, t)$, one at $(z - \tfrac h2 v,\ t - \tfrac h2)$. Only the second determines the step.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def midpoint(z, t, h):
#     halfway = z - h / 2 * network(z, torch.tensor(t))
#     return z - h * network(halfway, torch.tensor(t - h / 2))
# ```
#
# Euler's error falls in proportion to the length of a step, this one's with its square, as long as the field is smooth.
# On pictures the field of a small network is less so, and Flux samples with Euler.
#
# </details>

# %% [markdown]
# ## Exercise 3: the guidance that ignores the instruction
#
# *Difficulty ●○○ · about 3 minutes*
#
# Find the guidance with which the editor ignores every instruction and returns b. You can read it off the formula
# without running anything.


# %%
def check_ignored(guidance: float | None) -> str:
    """How much of the edit is left at a guidance, as a share of ‖b − b'‖², on the edits with one right answer."""
    if guidance is None:
        return "Not yet: `ignored` is still None."
    k = sum(len(asked[name]) for name in ONE_ANSWER)
    pairs = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])
    with torch.no_grad():
        tokens = base.sample(start_of(k), pack(asked_latents[:k]), pairs, asked_vectors[:k], STEPS, guidance)
        drawn = autoencoder.to_picture(unpack(tokens))
    left = squared(drawn, seen_b[:k]).sum() / squared(seen_b[:k], seen_truth[:k]).sum()
    return f"{'✓ Right' if left < 0.25 else 'Not yet'}: {left:.2f} of the edit is left (below 0.25 counts as nothing)."


def start_of(k: int) -> torch.Tensor:
    """Noise for k pictures."""
    return torch.randn(k, 16, 64, generator=torch.Generator().manual_seed(0))


# %% tags=["exercise"]
ignored = None  # a number

# %%
print(check_ignored(ignored))

# %% [markdown]
# <details><summary>Hint</summary>
#
# At which $g$ does $v_\text{text}$ drop out of $v_\varnothing + g\,(v_\text{text} - v_\varnothing)$?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# ignored = 0.0
# ```
#
# Then only $v_\varnothing$ is left, and without an instruction the base returns b. Between 0 and 1 the instruction is
# weakened; below 0 the result moves away from it.
#
# </details>

# %% [markdown]
# ## Exercise 4: the error of an average
#
# *Difficulty ●●● · about 10 minutes*
#
# You have the error of one sample and the spread of independent samples around their true mean, $\sigma_s^2$. What
# squared error has the **average of k** of them? Write the formula; the check compares it with measured averages.


# %%
def check_average(formula) -> str:
    """Predicted error of an average of k samples against the measured one, summed over all instructions."""
    total = size.sum()
    spread = np.sum([squared(sample, mean).sum() for sample in samples]) / (SEEDS - 1) / total  # unbiased
    single = np.mean([squared(sample, seen_truth).sum() for sample in samples]) / total
    if formula(single, spread, 1) is None:
        return "Not yet: `error_of_average` returns None."
    found = float(squared(mean, seen_truth).sum() / total)
    said = formula(single, spread, SEEDS)
    right = abs(said - found) < 0.05 * (single - found) and abs(formula(single, spread, 1) - single) < 1e-6
    return f"{'✓ Right' if right else 'Not yet'}: for k = {SEEDS} you say {said:.3f}, measured is {found:.3f}."


# %% tags=["exercise"]
def error_of_average(one_sample: float, spread: float, k: int) -> float | None:
    """Expected error of the mean of k samples, from the error of one and the variance of samples."""
    return None


# %%
print(check_average(error_of_average))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Error of a sample = error of the true mean + variance. Averaging leaves the first part alone. What does it do to the
# variance of independent samples?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def error_of_average(one_sample, spread, k):
#     return one_sample - spread * (1 - 1 / k)
# ```
#
# For k → ∞ all of the spread is gone and the error is that of the mean. A single step gives nearly that for a fraction
# of the work, with the same blur.
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Flow matching needs one line for the loss, $\lVert v_\theta(z_t, t) - (e - x) \rVert^2$, and one line for sampling,
#   $z \leftarrow z - v / n$.
# - The network learns a conditional mean. This explains curved paths from straight pairs, a loss that never reaches
#   zero, and a blurred first estimate. It also explains why, where many answers are right, a perfect sample has twice
#   the squared error of the mean; the scatter of a trained network adds to this.
# - A picture is 16 tokens; the reference picture lies in the same sequence and differs by one position id; the
#   instruction is one token and a modulation.
# - Without an instruction the frozen editor returns b. The LoRAs of the next notebooks start from there.
#
# **Next: 03, One LoRA.** The edit will no longer be given in words.
#
# ## Where it is in the paper, and in Flux
#
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) trains its basis with exactly this loss, on the frozen
#   FLUX.1-Kontext: *x* is a 2 × 2 grid of pictures with the answer in it, and the reference is the same grid with b in
#   place of b′.
# - Flux's latents have 16 channels at an eighth of the side; 2 × 2 of them are a token of 64 numbers. Kontext's
#   reference tokens have 1 on the first axis of the position ids. Both as here.
# - Its transformer has 19 double and 38 single blocks. Ours has 2 and 4, from the same class,
#   diffusers' `FluxTransformer2DModel`.
# - In this repository: `lorweb_mini/models/base.py` (loss target, sampler, guidance),
#   `lorweb_mini/models/autoencoder.py`, `lorweb_mini/training/flow.py` (`training_sample` samples t more often near the
#   noise, where most of the picture is decided).

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
