# %% [markdown]
# # To the real FLUX
#
# Everything so far ran on a miniature. The paper's own basis is for FLUX.1-Kontext, a model with a thousand times as
# many parameters, which needs a GPU that you may not have. How much of it can you do on a laptop?
#
# All but the drawing, and on substitutes for its weights. Each row below is one analogy. The first drawing is by this
# course's editor with its router. The second is by software that knows neither: **diffusers' own pipeline, unmodified,
# with one LoRA file**. In the columns after it the file is smaller and smaller.

# %%
# %matplotlib inline
import os
import time

START = time.perf_counter()
PROFILE = os.environ.get("LORWEB_PROFILE", "cpu")
SMOKE = PROFILE == "smoke"
if PROFILE != "gpu":
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this disk

# Both would warn of parts that are left out on purpose: text encoders, torchvision.
os.environ["DIFFUSERS_VERBOSITY"] = os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown, display

import lorweb_mini as lw
from lorweb_mini.core.editor import load_frozen
from lorweb_mini.emoji.relations import as_batch, splits
from lorweb_mini.flux.lora_file import write_plain_lora
from lorweb_mini.images import to_pil
from lorweb_mini.models.pipeline import kontext_inputs, kontext_pipeline
from lorweb_mini.show.pictures import relation_label
from lorweb_mini.show.style import COLOURS, INK, PALE, figure_of

warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters, on purpose
folder = tempfile.TemporaryDirectory()  # emptied when the kernel ends
FILES, STEPS = Path(folder.name), 2 if SMOKE else 8

editor = lw.load("starter")
names = splits()["starter"]["seen"]
some = [lw.analogies("test", name, seed=5, n=3 if SMOKE else 8) for name in names]


def plain(x: lw.Analogy) -> float:
    """Size of the smaller of both edits: turning the hue of something black, or a mirrored circle, shows nothing."""
    return min(float((x.a - x.a_prime).square().sum()), float((x.b - x.b_prime).square().sum()))


questions = [max(items, key=plain) for items in some]  # of a few questions a relation the plainest
a, a_prime, b, b_prime = as_batch(questions)
answers = editor.edit(list(a), list(a_prime), list(b), steps=STEPS)
layers, N = answers.coefficients.shape[1:]
rank = editor.config.rank

# %%
autoencoder, _, base = load_frozen()  # a second base: this one never hears of a basis or a router
pipeline = kontext_pipeline(base, autoencoder)


def drawn_by_diffusers(b: torch.Tensor, *files: Path) -> torch.Tensor:
    """b [k, 3, 64, 64] as diffusers' pipeline edits it, with one LoRA file or with none."""
    for file in files:
        pipeline.load_lora_weights(str(file))
    inputs = {"num_inference_steps": STEPS, **kontext_inputs([""] * len(b))}
    pictures = 2 * pipeline(image=(b + 1) / 2, output_type="pt", **inputs).images - 1
    if files:
        pipeline.unload_lora_weights()
    return pictures


def lora_file(i: int, cut: int | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """The LoRA of the i-th question's mixture, cut to a rank or whole."""
    path = FILES / f"{i}-{cut}-{dtype}.safetensors"
    return write_plain_lora(path, editor.basis.folded(answers.coefficients[i]), rank=cut, dtype=dtype)


SHOWN, CUTS = ([0, 8], [None, 2]) if SMOKE else ([0, 3, 8, 11], [None, 16, 4, 1])
cut_pictures = {cut: torch.cat([drawn_by_diffusers(b[[i]], lora_file(i, cut)) for i in SHOWN]) for cut in CUTS}

# %%
columns = {"a": a[SHOWN], "a′": a_prime[SHOWN], "b": b[SHOWN], "router and basis": answers.pictures[SHOWN]}
columns |= {f"a file of rank {cut or N * rank}": x for cut, x in cut_pictures.items()}
columns["the true b′"] = b_prime[SHOWN]
figure, axes = figure_of(1.25 * len(columns), 1.3 * len(SHOWN) + 0.2, nrows=len(SHOWN), ncols=len(columns))
for j, (title, pictures) in enumerate(columns.items()):
    axes[0, j].set_title(title, fontsize=8, color=COLOURS[0] if "file" in title else INK)
    for i, picture in enumerate(pictures):
        axes[i, j].imshow(to_pil(picture))
        axes[i, j].axis("off")
figure

# %%
apart = (cut_pictures[None] - answers.pictures[SHOWN]).abs().max()
display(
    Markdown(
        f"The drawing by the file of full rank, {N * rank}, and the one by router and basis differ by at most "
        f"**{apart:.0e}** on a scale from −1 to 1: the rounding of floats."
    )
)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. count the parameters of the released basis, exactly, without loading anything;
# 2. read and write its file layout, and inspect such a file on a laptop, in less memory than the size of the file;
# 3. route your own pictures through it with CLIP alone;
# 4. turn an analogy into a LoRA file for diffusers or ComfyUI, make it smaller, and say what that costs;
# 5. tell which card a FLUX edit needs, before you rent it.
#
# **You need** notebooks 00 and 05; singular values. No GPU, no network, no account.
# **It takes** about an hour of your time; the last cell measures the computing time.
#
# ### What is real here, and what is a substitute
#
# The released weights cannot be part of this repository, and neither can FLUX. Two substitutes take their place, and
# every figure says which one it uses:
#
# - **learned, but small**: the starter basis of this course, *written in the released layout* and read back;
# - **full size, but random**: a file of the released shape. It shows memory, time, and what a basis looks like that has
#   learned nothing.
#
# If you have the real file, or CLIP-L, set these variables before you start Jupyter, and the cells below use them
# instead: `LORWEB_CHECKPOINT=/path/to/lorweb.safetensors` and `LORWEB_CLIP=/path/to/clip-vit-large-patch14`.
#
# Cells marked **GPU** skip themselves. They run with `LORWEB_PROFILE=gpu` on a machine with a card.

# %%
REAL_CHECKPOINT, REAL_CLIP = os.environ.get("LORWEB_CHECKPOINT"), os.environ.get("LORWEB_CLIP")
GPU = PROFILE == "gpu" and torch.cuda.is_available()
card = torch.cuda.get_device_name() if GPU else "none"
display(
    Markdown(
        f"Profile **{PROFILE}** · card: **{card}** · released checkpoint: "
        f"**{'yours' if REAL_CHECKPOINT else 'none'}** · CLIP-L: **{'yours' if REAL_CLIP else 'none'}**"
    )
)

# %% [markdown]
# ## The same formula, at full size
#
# Does the formula change with the size? No:
#
# $$y = W x + \sum_{n=1}^{N} c_n\, B_n A_n x, \qquad
# c = \operatorname{softmax}\!\left(\frac{P q \cdot k_n}{\sqrt d}\right)$$
#
# The paper uses N = 32, r = 4, d = 128, and as query three embeddings of CLIP ViT-L/14, 3 · 768 = 2304 numbers. It
# adapts **every** Linear inside the 19 double and 38 single blocks. On PyTorch's `meta` device tensors have shapes and
# no storage, so we can build the whole of Kontext here, put our own `Basis` and `Router` on it, and count.
#
# > **Predict before you run.** 494 Linears. Which has more parameters, the LoRAs or the 494 little routers?

# %%
from diffusers import FluxTransformer2DModel

from lorweb_mini.core.basis import Basis
from lorweb_mini.core.router import Router
from lorweb_mini.flux.checkpoint import KONTEXT

with torch.device("meta"):
    kontext = FluxTransformer2DModel(**KONTEXT)
    frozen = sum(p.numel() for p in kontext.parameters())
    flux_basis = Basis(kontext, n_loras=32, rank=4)
    flux_router = Router(len(flux_basis.layers), 32, embedding_dim=768, keys_dim=128)

parts = {
    "LoRAs A and B": sum(p.numel() for p in flux_basis.parameters()),
    "query projections P": flux_router.query_projection.numel(),
    "keys k": flux_router.keys.numel(),
}
total = sum(parts.values())
rows = "\n".join(f"| {name} | {count:,} | {count / total:.1%} |" for name, count in parts.items())
display(
    Markdown(
        f"| {len(flux_basis.layers)} adapted Linears | parameters | share |\n|:--|--:|--:|\n{rows}\n"
        f"| **together** | **{total:,}** | |\n\nThe model card of the released weights says 835,051,520. Frozen beside "
        f"them are {frozen / 1e9:.2f} billion: the basis adds {total / frozen:.1%}."
    )
)

# %% [markdown]
# ### Where the parameters sit

# %%
from lorweb_mini.flux.checkpoint import kontext_modules


def kind_of(name: str) -> str:
    """The name of a Linear without the number of its block: double or single, then what it is."""
    where, _, inside = name.split(".", 2)
    return f"{'single' if where.startswith('single') else 'double'} · {inside}"


kinds: dict[str, int] = {}
for name, (wide, high) in kontext_modules().items():
    kinds[kind_of(name)] = kinds.get(kind_of(name), 0) + 32 * 4 * (wide + high)
figure, axis = figure_of(8, 4.2)
colour = [COLOURS[0] if kind.startswith("double") else COLOURS[1] for kind in kinds]
axis.barh(list(kinds), np.array(list(kinds.values())) / 1e6, color=colour)
axis.invert_yaxis()
axis.set(xlabel="parameters of the LoRAs, millions")
axis.set_title("Blue: 19 double blocks. Orange: 38 single blocks.", loc="left")
axis.grid(axis="y", visible=False)
figure

# %% [markdown]
# The long bars are wide layers: a LoRA costs r · (in + out). The modulation layers (`norm…linear`) get no tokens: they
# turn the time step into scales and shifts (notebook 04). The paper adapts them, too.
#
# ## Exercise 1: another basis
#
# *Difficulty ●○○ · about 5 minutes*
#
# How many parameters would N = 16 LoRAs of rank 8 have, keys and projections as above? Write the count for any N and r.
# `kontext_modules()` maps each of the 494 names to (in, out).


# %%
def check_count(count) -> str:
    """Compares a formula with parameters counted on modules on the meta device."""
    if count(32, 4) is None:
        return "Not yet: `count` returns None."
    for n, r in ((32, 4), (16, 8)):
        with torch.device("meta"):
            fresh = Basis(FluxTransformer2DModel(**KONTEXT), n, r)
            router = Router(len(fresh.layers), n, embedding_dim=768, keys_dim=128)
        true = sum(p.numel() for p in [*fresh.parameters(), *router.parameters()])
        if count(n, r) != true:
            return f"Not yet: for N = {n}, r = {r} there are {true:,}, you say {count(n, r):,}."
    return f"✓ Right: N = 16, r = 8 has {count(16, 8):,}. The LoRAs depend on N · r alone, the router on N."


# %% tags=["exercise"]
def count(n_loras: int, rank: int) -> int | None:
    """Parameters of a basis and router on Kontext, keys of 128, queries of 2304."""
    return None


# %%
print(check_count(count))

# %% [markdown]
# <details><summary>Hint</summary>
#
# For each Linear: A has N · in · r, B has N · r · out, the keys N · 128, the projection 128 · 2304.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def count(n_loras, rank):
#     router = 128 * (n_loras + 2304)
#     return sum(n_loras * rank * (wide + high) + router for wide, high in kontext_modules().values())
# ```
#
# </details>

# %% [markdown]
# ## The file
#
# The released checkpoint is one safetensors file in half precision with four tensors a Linear. Let us write our own
# starter basis in exactly this layout. One thing does not fit: our router standardises its query, which the released
# one does not, so the file has no place for those means and deviations. We apply them to the query beforehand.

# %%
from copy import deepcopy

from lorweb_mini.flux.checkpoint import open_released, released_tensors, write_released

plain_router = deepcopy(editor.router)
plain_router.mean.zero_()
plain_router.deviation.fill_(1)
tensors = released_tensors(editor.basis, plain_router)  # half precision, as the released file
mini = open_released(write_released(FILES / "starter" / "lorweb.safetensors", tensors))
first = mini.layers[0]
lines = [f"| `{key}` | {list(x.shape)} |" for key, x in tensors.items() if f".{first}." in key]
c = mini.config
display(
    Markdown(
        "| the first Linear's keys | shape |\n|:--|:--|\n" + "\n".join(lines) + f"\n\n{len(mini.layers)} Linears, "
        f"N = {c.n_loras}, r = {c.rank}, d = {c.keys_dim}, queries of {c.query_dim}; {mini.parameters:,} values. "
        f"Beside it lies a `config.yaml` that says how they are mixed."
    )
)

# %% [markdown]
# Read back, is it the same model? The tensors must agree bit for bit. The starter is shipped in half precision, so its
# routing and its pictures should lose nothing either.

# %%
from lorweb_mini.core.editor import new_editor
from lorweb_mini.flux.inspect import route_released

same_bits = all(torch.equal(x, tensors[key]) for key, x in mini.tensors().items())
again = new_editor(editor.config)
mini.load_into(again.basis, again.router)
with torch.no_grad():
    latents = [editor.autoencoder.to_latent(x) for x in (a, a_prime, b)]
    query = editor.router.query(*editor.embeddings(*latents))
routed = route_released(mini, query)  # layer by layer from the disk, no transformer anywhere
rounding = (routed - answers.coefficients).abs().max()
moved = (again.generate(list(b), routed, steps=STEPS).pictures - answers.pictures).abs()
display(
    Markdown(
        f"- tensors equal bit for bit: **{'yes' if same_bits else 'no'}**\n"
        f"- coefficients of {len(b)} analogies differ by at most **{rounding:.1e}**\n"
        f"- the pictures by at most {moved.max():.3f} on a scale from −1 to 1, on average by {moved.mean():.1e}"
    )
)

# %% [markdown]
# What does the loader say when a file is wrong? We transpose one tensor, remove another, and read the message:

# %%
from safetensors.torch import save_file

spoilt = dict(tensors)
spoilt[f"transformer.{first}.lora_A"] = spoilt[f"transformer.{first}.lora_A"].transpose(1, 2).contiguous()
del spoilt[f"transformer.{mini.layers[5]}.lora_keys"]
save_file(spoilt, FILES / "spoilt.safetensors")
try:
    open_released(FILES / "spoilt.safetensors")
except lw.InputError as error:
    print(str(error).replace(str(FILES), "…"))

# %% [markdown]
# ## A file of the full size, on this machine
#
# Now the other substitute: 494 Linears, N = 32, r = 4, 835 million values. A safetensors file is a header and then
# bytes, so it can be written piece by piece and read layer by layer. The command that inspects it is the one that you
# would run on the real file:
#
# ```bash
# python -m lorweb_mini.flux inspect hilamanor/lorweb
# ```

# %%
import shutil
import subprocess
import sys

from lorweb_mini.flux.checkpoint import ReleasedConfig
from lorweb_mini.flux.synthetic import PAPER, write_random

room = shutil.disk_usage(FILES).free
if SMOKE:
    blocks = ("transformer_blocks.0.", "single_transformer_blocks.0.")
    modules = {name: size for name, size in kontext_modules().items() if name.startswith(blocks)}
    large = write_random(FILES / "full.safetensors", ReleasedConfig(4, 2, 8, PAPER.query_dim), modules)
elif REAL_CHECKPOINT:
    large = open_released(REAL_CHECKPOINT)
elif room > 4e9:
    large = write_random(FILES / "full.safetensors")
else:
    modules = dict(list(kontext_modules().items())[:28])
    large = write_random(FILES / "full.safetensors", PAPER, modules)
WHAT = "the released file" if REAL_CHECKPOINT else "random, full size" if large.parameters == total else "random, cut"
command = [sys.executable, "-m", "lorweb_mini.flux", "inspect", str(large.path), "--out", "large"]
start = time.perf_counter()
done = subprocess.run(command, cwd=FILES, capture_output=True, text=True, check=True)
seconds = time.perf_counter() - start
print(done.stdout.replace(str(FILES), "…"))

# %%
peak = float(done.stdout.split("peak memory of this process: ")[1].split()[0])
gib = large.path.stat().st_size / 2**30
display(
    Markdown(
        f"**{WHAT}**: {len(large.layers)} Linears, {large.parameters:,} values, {gib:.2f} GiB on disk. Measured in "
        f"{seconds:.0f} seconds with a peak of **{peak:.2f} GiB** of memory, PyTorch itself included."
        + ("" if large.parameters == total else " Fewer Linears than the released file: this profile or this disk.")
    )
)

# %% [markdown]
# Why does it need so little memory? Nothing of size in × out is ever built. With $A_n$ stacked and $B_n$ side by side,
# QR decompositions $B = Q_B R_B$ and $A^\top = Q_A R_A$ leave only N·r × N·r triangles, and
#
# $$\langle \Delta W_m, \Delta W_n \rangle = \operatorname{sum}\big((R_A^\top R_A)_{mn} \circ (R_B^\top R_B)_{mn}\big),
# \qquad \sigma(\Delta W) = \sigma(R_B\, R_A^\top).$$
#
# ### Learned against random
#
# > **Predict before you run.** Take all N updates of one layer and average them. If training had taught the LoRAs to
# > share directions, would the singular values of the average fall faster or slower than for random LoRAs?

# %%
from lorweb_mini.flux.inspect import inspect_released

found = inspect_released(mini)
control = inspect_released(write_random(FILES / "control.safetensors", mini.config, mini.modules))
figure, (left, middle, right) = figure_of(11.5, 3.3, ncols=3)
for label, x, look in (("starter, learned", found, COLOURS[0]), ("same shape, random", control, PALE)):
    lines = x.spectra / x.spectra[:, :1].clip(1e-30)
    left.semilogy(range(1, lines.shape[1] + 1), np.median(lines, 0).clip(1e-6), color=look, label=label)
    middle.hist(x.effective_ranks, np.linspace(0, N * rank, 33), color=look, alpha=0.8)
    off = ~np.eye(N, dtype=bool)
    right.hist(np.concatenate([y[off] for y in x.update_cosines]), np.linspace(-1, 1, 61), color=look, alpha=0.8)
left.set(xlabel="direction", ylabel="singular value, first = 1")
left.set_title("Spectrum of the even mixture", loc="left")
left.legend()
middle.set(xlabel=f"effective rank, of at most {N * rank}", ylabel="layers")
middle.set_title("How many directions it uses", loc="left")
right.set(xlabel="cosine of two updates of a layer", yscale="log")
right.set_title("Do the LoRAs point apart?", loc="left")
figure

# %%
learned, chance = (np.abs(x.update_cosines[:, off]).mean() for x in (found, control))
display(
    Markdown(
        f"The even mixture of a layer uses **{found.effective_ranks.mean():.1f}** of {N * rank} directions where "
        f"learned, {control.effective_ranks.mean():.1f} where random. Two learned updates of a layer have a mean "
        f"|cosine| of {learned:.3f}, random ones {chance:.3f}. One LoRA of rank {rank} uses "
        f"{found.lora_ranks.mean():.2f} directions, a random one {control.lora_ranks.mean():.2f}."
    )
)

# %%
figure, axes = figure_of(11, 3.4, ncols=3)
keys = found.key_cosines.mean(0) - np.eye(N)
updates = found.update_cosines.mean(0) - np.eye(N)
far = max(np.abs(keys).max(), np.abs(updates).max())
for axis, values, title in ((axes[0], keys, "keys"), (axes[1], updates, "updates")):
    shown = axis.imshow(values, cmap="PuOr_r", vmin=-far, vmax=far)
    axis.set_title(f"Cosines between {title}, mean of layers", loc="left", fontsize=9)
    axis.set(xlabel="LoRA", ylabel="LoRA")
    axis.grid(False)
figure.colorbar(shown, ax=axes[:2], shrink=0.8)
shown = axes[2].imshow(found.norms, aspect="auto", cmap="cividis", vmin=0)
axes[2].set_title("‖B A‖ of each LoRA", loc="left", fontsize=9)
axes[2].set(xlabel="LoRA", ylabel="layer")
axes[2].grid(False)
figure.colorbar(shown, ax=axes[2])
figure

# %% [markdown]
# These are the starter's numbers, computed from the file alone. The same functions measure the paper's basis when you
# give them the released file. It was not measured here, so this notebook says nothing about it.
#
# ## Routing without FLUX
#
# The router reads three picture embeddings and nothing else. So the **routing vectors of your own pictures** through
# the released basis need only CLIP-L and the keys and projections of the file: no FLUX, no GPU, a second or two per
# picture.
#
# ```bash
# python -m lorweb_mini.flux inspect hilamanor/lorweb --analogies my_pairs
# ```
#
# Here the encoder is a random CLIP of the right width unless you set your own, and the keys are random, too. This makes
# it a **control**: any order in its map exists without training.
#
# > **Predict before you run.** The encoder, the projections and the keys are all random. Will the colours be mixed up
# > completely?

# %%
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from lorweb_mini.algebra import pca
from lorweb_mini.analysis.probes import variance_share
from lorweb_mini.flux.inspect import route_pictures
from lorweb_mini.flux.picture_encoder import PictureEncoder

if REAL_CLIP:
    encoder = PictureEncoder.load(REAL_CLIP)
else:
    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    size = {"image_size": 64, "patch_size": 8, "projection_dim": large.config.query_dim // 3}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    encoder = PictureEncoder(CLIPVisionModelWithProjection(CLIPVisionConfig(**tower, **size)), processor)

EACH = 3 if SMOKE else 12
many = [x for name in names for x in lw.analogies("test", name, seed=7, n=EACH)]
triplet = as_batch(many)[:3]
labels = np.array([x.relation for x in many])
clouds = {"starter: learned": editor.route(*[list(x) for x in triplet])}
clouds[f"{'your' if REAL_CLIP else 'random'} encoder, {WHAT}"] = route_pictures(large, encoder, triplet)

# %%
figure, axes = figure_of(11, 3.9, ncols=2)
scores = {}
for axis, (title, cloud) in zip(axes, clouds.items(), strict=True):
    vectors = cloud.flatten(1).numpy()
    plane, scores[title] = pca(vectors), float(variance_share(vectors, labels))
    for i, name in enumerate(names):
        look = {"color": COLOURS[i % 8], "marker": "os"[i // 8], "s": 16, "label": relation_label(name)}
        axis.scatter(*plane.points[labels == name].T, linewidths=0, **look)
    axis.set_title(f"{title}\n{scores[title]:.0%} of the variance is the relation's", loc="left")
    axis.set(xlabel=f"first component ({plane.explained[0]:.0%})", ylabel=f"second ({plane.explained[1]:.0%})")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=7)
figure

# %%
figure, axes = figure_of(11, 4, nrows=2)
for axis, (title, cloud) in zip(axes, clouds.items(), strict=True):
    means = np.stack([cloud[labels == name].mean((0, 1)).numpy() for name in names])
    shown = axis.imshow(means, aspect="auto", cmap="cividis", vmin=0)
    axis.set(yticks=range(len(names)), yticklabels=[relation_label(name) for name in names], xlabel="LoRA")
    axis.set_xticks(range(means.shape[1]))
    axis.set_title(f"{title}: mean coefficient of each LoRA", loc="left")
    axis.tick_params(axis="y", labelsize=6)
    axis.grid(False)
    figure.colorbar(shown, ax=axis, pad=0.01)
figure

# %%
effective = {title: float(torch.special.entr(x).sum(-1).mean().exp()) for title, x in clouds.items()}
lines = [f"| {t} | {scores[t]:.0%} | {effective[t]:.1f} of {x.shape[2]} |" for t, x in clouds.items()]
display(
    Markdown(
        "| map | variance that belongs to the relation, ε² | LoRAs a layer uses |\n|:--|--:|--:|\n" + "\n".join(lines)
    )
)

# %% [markdown]
# A random map is not a shuffled one. Pictures that look alike stay together under any smooth function, trained or not:
# inverted and darkened pictures look unlike the others, and that is enough. So **an ordered map of the released basis
# proves nothing by itself**: compare it with this one, and its share of variance with this share.
#
# In the heat map the random router shows no relation at all. Each of its layers prefers some LoRAs, but these differ
# from layer to layer, so the mean over layers is nearly 1/N.
#
# ## An analogy as a file
#
# For one analogy the coefficients are constant: they depend on neither token nor time step. Then N gated LoRAs are one
# LoRA:
#
# $$\sum_n c_n B_n A_n = \big[\,c_1 B_1 \cdots c_N B_N\,\big]
# \begin{bmatrix} A_1 \\ \vdots \\ A_N \end{bmatrix}$$
#
# of rank N·r, exactly. That is the file of the first figure. What does half precision cost?

# %%
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
i = SHOWN[0]
bare = drawn_by_diffusers(b[[i]])
lines = []
for dtype in PRECISIONS:
    path = lora_file(i, dtype=dtype)
    difference = (drawn_by_diffusers(b[[i]], path) - answers.pictures[[i]]).abs().max()
    lines.append(f"| {str(dtype).removeprefix('torch.')} | {path.stat().st_size / 2**20:.1f} MiB | {difference:.1e} |")
unlike = (bare - answers.pictures[[i]]).abs().max()
display(
    Markdown(
        "| file | size | largest difference of the picture |\n|:--|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\nWithout the file the picture differs by {unlike:.1f}: the pipeline then hands b back."
    )
)

# %% [markdown]
# ### Two names for everything
#
# diffusers splits FLUX's attention into `to_q`, `to_k` and `to_v`. The original weights, and ComfyUI with them, have
# one `qkv`. So in the *single-file* format three LoRAs become one of three times the rank, block by block on the
# diagonal. diffusers' converter back knows FLUX's own widths only, so we check it at **full width**: a LoRA of rank 1
# on all 494 Linears, written in ComfyUI's names, and read by diffusers' own function.

# %%
from diffusers import FluxKontextPipeline

from lorweb_mini.flux.lora_file import single_file

thin = {name: (torch.randn(1, wide), torch.randn(high, 1)) for name, (wide, high) in kontext_modules().items()}
theirs = single_file(thin)
back = FluxKontextPipeline.lora_state_dict(dict(theirs))
pairs = {name: [back[f"transformer.{name}.lora_{letter}.weight"] for letter in "AB"] for name in thin}
kept = sum(torch.equal(x[0], thin[name][0]) and torch.equal(x[1], thin[name][1]) for name, x in pairs.items())
examples = [key for key in theirs if "double_blocks_0_img_attn" in key or "single_blocks_0_linear1" in key]
display(
    Markdown(
        "| key in a single file | shape |\n|:--|:--|\n"
        + "\n".join(f"| `{key}` | {list(theirs[key].shape)} |" for key in examples if theirs[key].ndim)
        + f"\n\nAfter diffusers' conversion **{kept} of {len(thin)}** Linears have their A and B back bit for bit."
    )
)

# %% [markdown]
# ### How small can it be?
#
# The best LoRA of a smaller rank R keeps the R largest singular values (Eckart and Young). Its error comes from the
# values that were cut:
#
# $$\frac{\lVert \Delta W - \Delta W_R \rVert}{\lVert \Delta W \rVert}
# = \sqrt{\frac{\sum_{i > R} \sigma_i^2}{\sum_i \sigma_i^2}}$$
#
# > **Predict before you run.** The router mixes 16 LoRAs of rank 4. Which rank do you need for a picture that you
# > cannot tell from the original?

# %%
from lorweb_mini.algebra import svd_of_product, truncated

RANKS = [1, 4, N * rank] if SMOKE else [1, 2, 3, 4, 6, 8, 12, 16, 32, N * rank]
strips = {R: torch.cat([drawn_by_diffusers(b[[i]], lora_file(i, R)) for i in SHOWN]) for R in RANKS}
exact = answers.pictures[SHOWN]
edit_size = (exact - b[SHOWN]).square().sum((1, 2, 3))
picture_error = {R: ((x - exact).square().sum((1, 2, 3)) / edit_size).sqrt().numpy() for R, x in strips.items()}
loras = [editor.basis.folded(answers.coefficients[i]) for i in SHOWN]
lora_error = {R: np.array([truncated(x, R).error for x in loras]) for R in RANKS}

# %%
figure, (left, right) = figure_of(10.5, 3.3, ncols=2, sharex=True)
for k, i in enumerate(SHOWN):
    look = {"color": COLOURS[k], "marker": "os^D"[k], "markersize": 4, "label": relation_label(questions[i].relation)}
    left.plot(RANKS, [lora_error[R][k] for R in RANKS], **look)
    right.plot(RANKS, [picture_error[R][k] for R in RANKS], **look)
for axis, title in (
    (left, "What is cut from the LoRA"),
    (right, "What is cut from the picture, as a share of its edit"),
):
    axis.set(xscale="log", xticks=RANKS, xlabel="rank of the file", ylim=(0, None))
    axis.set_xticklabels(map(str, RANKS))
    axis.minorticks_off()
    axis.set_title(title, loc="left")
left.set_ylabel("relative error")
right.legend(fontsize=8)
figure

# %%
good = next(R for R in RANKS if picture_error[R].max() < 0.1)
display(
    Markdown(
        f"Rank **{good}** suffices for all {len(SHOWN)} pictures to miss less than a tenth of their edit; the LoRA "
        f"itself has lost {lora_error[good].max():.0%} at most there. The file says so: its header holds "
        f"`svd_rank` and `svd_relative_error`."
    )
)

# %% [markdown]
# Drag the slider: it sets the rank of the file, from 1 to full. A page without scripts shows all of them, one below the
# other.

# %%
import base64
import io
import json

import plotly.graph_objects as go

from lorweb_mini.show.space import live_or_still


def strip(pictures: torch.Tensor) -> str:
    """k pictures side by side as a data URI."""
    file = io.BytesIO()
    to_pil(torch.cat(list(pictures), 2)).resize((160 * len(pictures), 160)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


live, steps = go.Figure(), []
for j, (R, pictures) in enumerate(strips.items()):
    live.add_trace(go.Image(source=strip(pictures), visible=R == N * rank, hoverinfo="skip"))
    title = (
        f"rank {R}: the LoRA has lost {lora_error[R].max():.0%}, the edit {picture_error[R].max():.0%} (worst of these)"
    )
    shown = [k == j for k in range(len(RANKS))]
    steps.append({"label": str(R), "method": "update", "args": [{"visible": shown}, {"title.text": title}]})
slider = {"active": len(RANKS) - 1, "currentvalue": {"prefix": "rank of the file: "}, "steps": steps}
live.update_layout(template="none", width=160 * len(SHOWN) + 40, height=340, margin=dict(t=45, l=20, r=20, b=80),
                   sliders=[slider], title={"text": "move the slider", "font": {"size": 13}})  # fmt: skip
live.update_xaxes(visible=False).update_yaxes(visible=False)

few = RANKS[:: max(1, len(RANKS) // 5)]
figure, axes = figure_of(1.15 * len(SHOWN) + 1.2, 1.15 * len(few), nrows=len(few))
for axis, R in zip(axes, few, strict=True):
    axis.imshow(to_pil(torch.cat(list(strips[R]), 2)))
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(f"rank {R}", rotation=0, ha="right", va="center")
display(live_or_still(json.loads(live.to_json()), figure), raw=True)

# %% [markdown]
# ## Exercise 2: the smallest file that is good enough
#
# *Difficulty ●●○ · about 10 minutes*
#
# From the singular values alone: the smallest rank R, the same for every layer, at which the error over **all layers
# together** is at most a tolerance. `values` is a list with one falling tensor of singular values for each layer.

# %%
first_lora = loras[0]
singular = [svd_of_product(high.double(), low.double())[1] for low, high in first_lora.values()]


def check_rank(function) -> str:
    """Compares with cutting the LoRA for real."""
    if function(singular, 0.1) is None:
        return "Not yet: `smallest_rank` returns None."
    for tolerance in (0.5, 0.2, 0.05):
        R = function(singular, tolerance)
        if truncated(first_lora, R).error > tolerance:
            return f"Not yet: at rank {R} the error is above {tolerance}."
        if R > 1 and truncated(first_lora, R - 1).error <= tolerance:
            return f"Not yet: for {tolerance} rank {R - 1} would do."
    return f"✓ Right: {', '.join(f'{t:.0%}: rank {function(singular, t)}' for t in (0.5, 0.2, 0.05))}."


# %% tags=["exercise"]
def smallest_rank(values: list[torch.Tensor], tolerance: float) -> int | None:
    """Smallest common rank whose relative error over all layers is at most `tolerance`."""
    return None


# %%
print(check_rank(smallest_rank))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Squares add up over layers: sum σ² beyond R over all layers, divide by the sum of all σ², take the root.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def smallest_rank(values, tolerance):
#     whole = sum(s.square().sum() for s in values)
#     R = 1
#     while sum(s[R:].square().sum() for s in values) > tolerance**2 * whole:
#         R += 1
#     return R
# ```
#
# </details>

# %% [markdown]
# ## Several analogies in one pipeline
#
# Each file is an adapter with a name, and diffusers' `set_adapters` weighs adapters. A mixture is linear in its
# coefficients, so weights of adapters **are** weights of analogies, below 0 and above 1 too:
#
# $$w_1 \sum_n c^{(1)}_n B_n A_n + w_2 \sum_n c^{(2)}_n B_n A_n
# = \sum_n \big(w_1 c^{(1)}_n + w_2 c^{(2)}_n\big) B_n A_n$$

# %%
one, two = SHOWN[0], SHOWN[1]
WEIGHTS = (
    [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)] if SMOKE else [(w, 1 - w) for w in (1.3, 1.0, 0.75, 0.5, 0.25, 0.0, -0.3)]
)
for name, k in (("one", one), ("two", two)):
    pipeline.load_lora_weights(str(lora_file(k)), adapter_name=name)
b_here, blends = b[[one]], []
for weights in WEIGHTS:
    pipeline.set_adapters(["one", "two"], list(weights))
    blends.append(drawn_by_diffusers(b_here))
pipeline.unload_lora_weights()
c_one, c_two = answers.coefficients[[one, two]]
ours = editor.generate(b_here, torch.stack([v * c_one + w * c_two for v, w in WEIGHTS]), steps=STEPS).pictures
gap = (torch.cat(blends) - ours).abs().max()

figure, axes = figure_of(1.25 * len(WEIGHTS), 1.7, ncols=len(WEIGHTS))
for axis, picture, (v, w) in zip(axes, blends, WEIGHTS, strict=True):
    axis.imshow(to_pil(picture[0]))
    axis.set_title(f"{v:g} : {w:g}", fontsize=9)
    axis.axis("off")
title = " : ".join(relation_label(questions[k].relation) for k in (one, two))
figure.suptitle(f"{title}, blended by `set_adapters`", fontsize=9, x=0.01, ha="left")
figure

# %%
display(
    Markdown(f"diffusers' blends and `editor.generate` on the blended coefficients differ by at most **{gap:.0e}**.")
)

# %% [markdown]
# So where a picture in the middle looks wrong, the files and diffusers are not the reason: the course's own editor
# draws the same. The mixture is halfway; the picture need not be. Notebook 06 measures how often it is.
#
# ## Different analogies in one batch
#
# Adapters are global: one blend for the whole batch. In the dynamic form **each sample has its own mixture**, because
# the gate is a row of numbers for each sample. So a server can answer many users in one batch.

# %%
start = time.perf_counter()
together = editor.edit(list(a), list(a_prime), list(b), steps=STEPS).pictures
batch_seconds = time.perf_counter() - start
start = time.perf_counter()
alone = torch.cat([editor.edit(*x, steps=STEPS).pictures for x in zip(a, a_prime, b, strict=True)])
alone_seconds = time.perf_counter() - start
display(
    Markdown(
        f"{len(b)} different analogies in one batch: {batch_seconds:.2f} s. One after the other: "
        f"{alone_seconds:.2f} s. Largest difference of a picture: **{(together - alone).abs().max():.0e}**."
    )
)

# %% [markdown]
# ## Which card?
#
# Will the model fit on your card? You can find out before you download 30 GB. The estimate builds every model on the
# `meta` device, counts bytes of weights in the chosen precision, adds the LoRAs, the largest activations of a block and
# of the autoencoder, and 1 GiB for the driver's libraries. The work of a step is counted by PyTorch itself, operation
# by operation, on the same shapes: with the grid of four 512-pixel pictures the sequence has 512 + 2 · 64² tokens.

# %%
from lorweb_mini.flux.estimate import estimate, forward_flops, kontext_models
from lorweb_mini.flux.load import QUANTISED_PARTS

models = kontext_models()
config = ReleasedConfig(32, 4, 128, 2304)
four, eight = (dict.fromkeys(QUANTISED_PARTS, bits) for bits in ("4bit", "8bit"))
WAYS = {
    "bf16": {},
    "bf16, offloaded": {"offload": True},
    "8 bits": {"quantised": eight},
    "8 bits, offloaded": {"quantised": eight, "offload": True},
    "4 bits": {"quantised": four},
    "4 bits, offloaded": {"quantised": four, "offload": True},
}
needs = {way: estimate(models, config, **options) for way, options in WAYS.items()}
step_flops = forward_flops(models["transformer"])
print(needs["4 bits"])
print(f"\none step {step_flops / 1e12:.0f} TFLOP, a picture of 28 steps {28 * step_flops / 1e15:.1f} PFLOP")

# %%
# Free memory of an idle card in GiB, and its maker's peak for dense half precision with fp32 sums in TFLOP/s.
CARDS = {"T4 (fp16)": (14.6, 65), "RTX 3090": (23.4, 71), "L4": (22.0, 121), "RTX 4090": (23.4, 165),
         "A100 40 GB": (39.2, 312), "L40S": (44.0, 362), "A100 80 GB": (78.8, 312),
         "H100 80 GB": (78.8, 989)}  # fmt: skip
SHARE = 0.4  # of the peak that a well-fed transformer reaches; a guess
minutes = {card: 28 * step_flops / (SHARE * peak * 1e12) / 60 for card, (_, peak) in CARDS.items()}
head = (
    "| card | free, GiB | "
    + " | ".join(f"{way}: {x.device:.0f}" for way, x in needs.items())
    + " | minutes a picture |"
)
lines = [
    f"| {card} | {free:.0f} | " + " | ".join("yes" if x.device < free else "–" for x in needs.values())
    + f" | {minutes[card]:.1f} |"
    for card, (free, _) in CARDS.items()
]  # fmt: skip
display(Markdown("\n".join([head, "|:--|--:|" + ":-:|" * len(needs) + "--:|", *lines])))

# %% [markdown]
# The head of each column is the estimate in GiB. The minutes are for 28 steps with merged weights, at two fifths of the
# maker's peak rate. This is a guess; it was not measured, since no card was available. It does not include the extra
# time of offloading and 8 bits. For **training** at this scale, `python -m lorweb_mini.flux estimate` prints memory and
# hours.
#
# ## Exercise 3: twelve gigabytes
#
# *Difficulty ●●○ · about 5 minutes*
#
# You have a card with 11.5 GiB free. Find arguments for `estimate` that fit: any of `quantised=four` or `eight`,
# `offload=True`, and a smaller `side` (a multiple of 16; 512 is the default, the larger the better).


# %%
def check_fit(options: dict | None, free: float = 11.5) -> str:
    """Whether it fits, and whether a larger side would have fitted too."""
    if options is None:
        return "Not yet: `options` is still None."
    need = estimate(models, config, **options)
    if need.device > free:
        return f"Not yet: {need.device:.1f} GiB."
    side = options.get("side", 512)
    if side < 512 and estimate(models, config, **{**options, "side": side + 16}).device <= free:
        return f"Not yet: {need.device:.1f} GiB fit, but so would a side of {side + 16}."
    return f"✓ Right: {need.device:.1f} GiB on the card, {need.host:.0f} GiB of ordinary memory, side {side}."


# %% tags=["exercise"]
options = None  # a dict such as {"quantised": eight, "offload": True, "side": 256}

# %%
print(check_fit(options))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at the last column of the table's head.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# options = {"quantised": four, "offload": True}
# ```
#
# </details>

# %% [markdown]
# ## **GPU**: the real thing
#
# The next cells draw with FLUX. Before the first time, accept the model's licence on its page, run `hf auth login`, and
# `pip install bitsandbytes`. Then start Jupyter with `LORWEB_PROFILE=gpu`. Weights of about 34 GB are downloaded the
# first time. The pictures are emoji at 512 pixels, which is not what FLUX is made for; use your own instead.

# %%
free = torch.cuda.mem_get_info()[0] / 2**30 if GPU else 0.0
way = next((way for way in ("bf16", "8 bits", "4 bits", "4 bits, offloaded") if needs[way].device < free), "4 bits")


def skipped(shows: str, pictures: int) -> None:
    """Says what a GPU cell would show, and what it would need."""
    print(f"Skipped, no GPU. Shows {shows}. Needs {needs['4 bits'].device:.0f} GiB in 4 bits "
          f"({needs['bf16'].device:.0f} in bf16), about {pictures * minutes['RTX 4090']:.1f} minutes on an RTX 4090, "
          f"{pictures * minutes['H100 80 GB']:.1f} on an H100.")  # fmt: skip


if GPU:
    bits = {"8 bits": "8bit"}.get(way, "4bit" if way.startswith("4") else None)
    flux_editor = lw.load_flux(quantize=bits, offload=way.endswith("offloaded"))
    big = [[to_pil(x[i]).resize((512, 512)) for i in SHOWN[:2]] for x in (a, a_prime, b)]
    result = flux_editor.edit(*big)
    display(*result.images)
else:
    skipped("two analogies answered by FLUX.1-Kontext with the released basis", 2)

# %%
if GPU:
    c_flux = result.coefficients
    path = flux_editor.export_lora(
        c_flux[0], "analogy.safetensors", key_format="single-file", rank=32, dtype=torch.bfloat16
    )
    print(path, f"{path.stat().st_size / 2**20:.0f} MiB, for ComfyUI")
    ends = torch.stack([(1 - w) * c_flux[0] + w * c_flux[1] for w in (0.25, 0.5, 0.75)])
    display(*flux_editor.generate([big[2][0]] * 3, ends, context=(big[0][0], big[1][0])).images)
else:
    skipped("the LoRA file of one analogy, and three pictures on the way from one analogy to the other", 3)

# %% [markdown]
# ## What you have seen
#
# - The code of this course counts the released parameters exactly, from shapes alone.
# - A basis can be written in the released layout and read back; a file of 1.6 GB is inspected in less memory than its
#   size.
# - The routing of your own pictures needs CLIP and the file. A random router also gives a map: use it as a control.
# - One analogy is exactly one plain LoRA. The SVD makes it smaller, and the loss is known beforehand.
# - Adapters blend for the whole batch, the dynamic form for each sample.
#
# What you have **not** seen is a picture by FLUX, unless you have a card.
#
# ## Where it is
#
# - [arXiv 2602.15727](https://arxiv.org/abs/2602.15727): the method section for the layer and the router; the released
#   weights are `hilamanor/lorweb` on the hub, the base `black-forest-labs/FLUX.1-Kontext-dev`.
# - Here, in `lorweb_mini/flux/`: `checkpoint.py` (layout), `inspect.py` (measures), `lora_file.py` (files),
#   `estimate.py` (estimates), `editor.py` (the editor), `load.py` (loading it).
#   `python -m lorweb_mini.flux --help` lists the commands.

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
