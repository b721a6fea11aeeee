# %% [markdown]
# # A basis and a router
#
# One LoRA that is not told which edit is meant can learn only one. What if you train **several**, and a small network
# decides for each question how much of each is used? Below are five questions with their answers. Under each is its
# mixture: a table with one row for every layer of the editor and one column for every LoRA.
#
# In this notebook you will train both, the LoRAs and the network that mixes them, and learn to read such a table.

# %%
# %matplotlib inline
import os
import time

START = time.perf_counter()
os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this disk
os.environ["TQDM_DISABLE"] = "1"  # the training shows a film in place of a bar

import matplotlib
import numpy as np
import torch
from IPython.display import Markdown, display

import lorweb_mini as lw
from lorweb_mini.emoji.relations import as_batch, splits
from lorweb_mini.images import to_pil
from lorweb_mini.show.pictures import relation_label, triplets
from lorweb_mini.show.style import COLOURS, INK, LINE, PALE, STYLE, figure_of

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
matplotlib.rcParams.update({**STYLE, "figure.dpi": 85})  # many pictures: keeps the file small

editor = shipped = lw.load("starter")
router, basis = editor.router, editor.basis
LAYERS, N, RANK = len(basis.layers), basis.n_loras, basis.rank


# %%
def tables(items: list[lw.Analogy], answers: lw.EditResult, columns: int = 5):
    """Each analogy as [a a′] over [b answer], and below it its coefficients, layers × N."""
    figure, axes = figure_of(11, 11 / columns + 2.9, nrows=2, ncols=columns, height_ratios=(1, 1.35))
    highest = float(answers.coefficients.max())
    for (above, below), item, drawn, table in zip(axes.T, items, answers.pictures, answers.coefficients, strict=True):
        pair = [torch.cat(two, 2) for two in ((item.a, item.a_prime), (item.b, drawn))]
        above.imshow(to_pil(torch.cat(pair, 1)), extent=(0, 2, 2, 0))
        above.plot([1, 1, 2, 2, 1], [1, 2, 2, 1, 1], color=COLOURS[0], lw=2.4, clip_on=False)
        above.set(xticks=[0.5, 1.5], xticklabels=["b", "answer"], yticks=[])
        above.set_title(relation_label(item.relation).replace(": ", "\n"), size=9)
        shown = below.imshow(table, aspect="auto", cmap="cividis", vmin=0, vmax=highest, interpolation="nearest")
        below.set(xlabel="LoRA", xticks=range(0, N, 5), yticks=[])
        for axis in (above, below):
            axis.grid(False)
            axis.spines[:].set_visible(False)
    axes[0, 0].set(yticks=[0.5, 1.5], yticklabels=["a, a′", ""])
    axes[1, 0].set(ylabel="layer, first block on top", yticks=range(0, LAYERS, 10))
    figure.colorbar(shown, ax=axes[1], label="coefficient", pad=0.01)
    return figure


def shows(x: lw.Analogy) -> float:
    """How well an edit shows: a grey b has no hue to turn, a wheel is its own mirror image."""
    change = (x.a - x.a_prime).pow(2).mean() * (x.b - x.b_prime).pow(2).mean()
    return float(change * (x.b.amax(0) - x.b.amin(0)).mean())


ASKED = ("edit/hue=120", "edit/invert", "edit/flip_horizontal", "edit/background=220", "tone/yellow>dark")
questions = [max(lw.analogies("test", name, 5), key=shows) for name in ASKED]  # of eight each; no answer was looked at
tables(questions, editor.edit(*as_batch(questions)[:3]))

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. write N LoRAs as **one** with a gate in its middle, on paper and in PEFT, and say what that saves;
# 2. write the router in ten lines, and tell from three numbers whether it is healthy or has collapsed;
# 3. train a basis and its router on your own machine, stop and resume the training, and compare the result with
#    baselines;
# 4. read a table of coefficients.
#
# **You need** notebooks 00, 02 and 03: what a LoRA is, and how the frozen editor learns and draws. No GPU, no network.
# **It takes** about an hour of your time; the last cell measures the computing time.
#
# ### One choice
#
# Training takes time, and you decide how much. By default this notebook trains for **ten minutes** while you watch, and
# then uses *your* weights. If you are in a hurry, **take the short cut** and write `None`: you watch a minute and a
# half, and the rest of the notebook uses the starter weights that are shipped with the course.

# %%
TRAIN_MINUTES = None if SMOKE else 10  # minutes of training; None: watch 1.5 of them, then use what is shipped

# %% [markdown]
# ## Many LoRAs are one, with a gate in its middle
#
# A LoRA adds a product of two thin matrices to a frozen one: $y = Wx + BAx$. A **basis** has N of them in every
# layer, and a mixture is a weighted sum:
#
# $$y = W x + \sum_{n=1}^{N} c_n\, B_n A_n x, \qquad
# A_n \in \mathbb R^{r \times d},\quad B_n \in \mathbb R^{d' \times r}$$
#
# Written as a program this is a loop over N small products, in every layer and at every step, and many small products
# are slow. Is the loop necessary? No, three steps remove it.
#
# **1. Stack the $A_n$.** All the products $A_n x$ at once are one product with the matrix
# $A = [A_1; \dots; A_N]$ of $N r$ rows, and $A x$ has the blocks $A_1 x,\ \dots,\ A_N x$.
#
# **2. Scale the blocks.** The n-th block has r numbers, all to be multiplied by $c_n$. Repeat each coefficient r times,
# $\operatorname{repeat}(c, r) = (c_1, \dots, c_1,\ c_2, \dots, c_2,\ \dots)$, and multiply element by element. In terms
# of matrices: $D A x$ with the diagonal $D = \operatorname{diag}(\operatorname{repeat}(c, r))$.
#
# **3. Put the $B_n$ side by side.** With $B = [B_1 \dots B_N]$, a row of blocks times a column of blocks is a sum:
# $B (D A x) = \sum_n B_n\, (c_n A_n x)$. Together:
#
# $$\boxed{\ \sum_n c_n B_n A_n x \;=\; B \,\bigl(\operatorname{repeat}(c, r) \circ A x\bigr)\ }$$
#
# So N LoRAs of rank r are **one LoRA of rank N·r with a gate** between its halves.

# %%
from matplotlib.patches import Rectangle

figure, axis = figure_of(11, 3.1)


def block(x: float, y: float, width: float, height: float, colour: str, text: str = "") -> None:
    """A coloured rectangle with its lower left corner at (x, y) and a text in its middle."""
    axis.add_patch(Rectangle((x, y), width, height, fc=colour, ec="white", lw=1.5))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=9, color="white", weight="bold")


for n, colour in enumerate((COLOURS[0], COLOURS[4], COLOURS[5])):
    low = 1.85 - 0.75 * n
    block(1.2, low, 1.9, 0.65, colour, f"$A_{n + 1}$")
    block(3.75, low, 0.3, 0.65, colour)
    block(4.75, low, 0.55, 0.65, colour, f"$c_{n + 1}$")
    block(6.0, low, 0.3, 0.65, colour)
    block(7.1 + 0.75 * n, 0.2, 0.65, 2.45, colour, f"$B_{n + 1}$")
block(0.3, 0.5, 0.3, 1.9, PALE)
block(10.1, 0.2, 0.3, 2.45, PALE)
marks = {0.9: "→", 3.43: "=", 4.4: "∘", 5.65: "=", 6.7: "→", 9.72: "="}
for x, mark in marks.items():
    axis.text(x, 1.4, mark, ha="center", va="center", size=15, color=INK)
names = {0.45: "x", 2.15: "A", 3.9: "A x", 5.02: "repeat(c, r)", 6.15: "D A x", 8.17: "B", 10.25: "y − W x"}
for x, name in names.items():
    axis.text(x, 2.85, name, ha="center", size=10)
sizes = {0.45: "d", 2.15: "N·r × d", 3.9: "N·r", 5.02: "N·r", 6.15: "N·r", 8.17: "d′ × N·r", 10.25: "d′"}
for x, size in sizes.items():
    axis.text(x, -0.12, size, ha="center", size=9, color=PALE)
axis.set(xlim=(0, 10.7), ylim=(-0.3, 3.15))
axis.axis("off")
figure

# %% [markdown]
# The gate is linear, so it can also be moved. Folded into B, $(B D)\, A x$ is a plain LoRA without a gate. Merged into
# the frozen weight, $(W + B D A)\, x$ is a plain layer without a LoRA.
#
# > **Predict before you run.** A batch holds 32 questions, each with a mixture of its own. Which of the three forms,
# > gate, folded, merged, can treat the whole batch in one product? And which is cheapest when one question is drawn
# > in many steps?

# %%
torch.manual_seed(0)
n_loras, r, d, out, k, t = 3, 2, 24, 20, 4, 5  # k questions of t tokens
A, B = torch.randn(n_loras, r, d), torch.randn(n_loras, out, r)
W, x, c = torch.randn(out, d), torch.randn(k, t, d), torch.randn(k, n_loras).softmax(-1)

naive = (x @ W.T).clone()  # the formula, word by word
for i in range(k):
    for token in range(t):
        for n in range(n_loras):
            naive[i, token] += c[i, n] * (B[n] @ (A[n] @ x[i, token]))

stacked_A = A.reshape(n_loras * r, d)  # [A_1; …; A_N]
stacked_B = B.permute(1, 0, 2).reshape(out, n_loras * r)  # [B_1 … B_N]
gate = c.repeat_interleave(r, dim=-1)  # repeat(c, r) for each question: [k, N·r]

ways = {
    "gate": x @ W.T + (x @ stacked_A.T * gate[:, None]) @ stacked_B.T,
    "folded into B": torch.stack([x[i] @ W.T + x[i] @ stacked_A.T @ (stacked_B * gate[i]).T for i in range(k)]),
    "merged into W": torch.stack([x[i] @ (W + stacked_B * gate[i] @ stacked_A).T for i in range(k)]),
}
lines = [f"| {name} | {(y - naive).abs().max() / naive.abs().max():.0e} |" for name, y in ways.items()]
epsilon = torch.finfo(torch.float32).eps
display(
    Markdown(
        "| form | largest difference to the loop, relative |\n|:--|--:|\n" + "\n".join(lines) + f"\n\nOne rounding in "
        f"32 bits is {epsilon:.0e}. The gate needed no loop over questions; the other two did, since they put one "
        "question's mixture into a matrix."
    )
)

# %% [markdown]
# ### In PEFT
#
# PEFT, the library that holds LoRAs for diffusers and transformers, keeps the two halves of a LoRA as two `Linear`
# modules, `lora_A` and `lora_B`. The gate is therefore just a **forward hook on `lora_A`**, and everything that can be
# done with a PEFT LoRA (saving, loading, merging) can be done with the whole basis.

# %%
from peft import LoraConfig, inject_adapter_in_model

plain = torch.nn.Sequential(torch.nn.Linear(d, out, bias=False))
plain[0].weight.data = W
width = n_loras * r
config = LoraConfig(r=width, lora_alpha=width, target_modules=["0"])  # alpha = r: PEFT's own factor is 1
layer = inject_adapter_in_model(config, plain, adapter_name="basis")[0]
layer.lora_A["basis"].weight.data = stacked_A
layer.lora_B["basis"].weight.data = stacked_B
layer.lora_A["basis"].register_forward_hook(lambda module, inputs, low_rank: low_rank * gate[:, None])
with torch.no_grad():
    print(f"PEFT with our hook against the loop: {(layer(x) - naive).abs().max() / naive.abs().max():.0e}")

# %% [markdown]
# `lorweb_mini.core.basis.Basis` does this to every `Linear` inside the blocks of the transformer. Which layers are
# these? Flux has two kinds of blocks. A **double block** has one set of weights for the text token and another for the
# picture tokens, and joins the two only in its attention. A **single block** treats all tokens as one sequence, with
# one set of weights. Both kinds have attention and feed-forward layers, and also **modulation** layers. A modulation
# layer gets no tokens: it turns the time step and the instruction into scales and shifts that are applied to the tokens
# of its block.
#
# Here is the hook, and a check of **all** layers of the trained starter basis against the loop, each sample with a
# mixture of its own:

# %%
import inspect

from lorweb_mini.core.basis import Basis

print(inspect.getsource(Basis._gate))
torch.manual_seed(1)
mixture, worst = torch.randn(2, LAYERS, N).softmax(-1), 0.0
with torch.no_grad(), basis.mixed(mixture):
    for index, module in enumerate(basis.modules):
        inputs = torch.randn(2, 7, module.in_features)
        low, high = basis.factors(index)  # A [N, r, in] and B [N, out, r]
        parts = (mixture[:, index, n, None, None] * (inputs @ low[n].T @ high[n].T) for n in range(N))
        loop = module.get_base_layer()(inputs) + sum(parts)
        worst = max(worst, float((module(inputs) - loop).abs().max() / loop.abs().max()))
verdict = "the basis is this hook" if worst < 1e-4 else "**they differ: something is wrong with this installation**"
display(Markdown(f"Worst of {LAYERS} layers: {worst:.0e}. So {verdict}."))

# %% [markdown]
# ### What it saves
#
# Two `Linear` layers of the size that is trained here, the same input, the same process: what does each form cost, as
# a multiple of the bare frozen layer? *Training* is forward and backward, with gradients for input, A, B and c.
#
# > **Predict before you run.** The loop's matrix products need exactly as many multiplications as the gate's. Will it
# > take as long?

# %%
from torch.utils.benchmark import Timer

d, k, t = 256, 32, 33
W, x = torch.randn(d, d) / 16, torch.randn(k, t, d)
A, B = torch.randn(N, RANK, d) / 16, torch.randn(N, d, RANK) / 16
c = torch.randn(k, N).softmax(-1)


def looped() -> torch.Tensor:
    return x @ W.T + sum(c[:, n, None, None] * (x @ A[n].T @ B[n].T) for n in range(N))


def gated() -> torch.Tensor:
    rows, columns = A.reshape(N * RANK, d), B.permute(1, 0, 2).reshape(d, N * RANK)
    return x @ W.T + (x @ rows.T * c.repeat_interleave(RANK, -1)[:, None]) @ columns.T


def bare() -> torch.Tensor:
    return x @ W.T


def seconds_of(form, training: bool) -> float:
    """Median time of one call."""
    for tensor in (x, A, B, c):
        tensor.requires_grad_(training)
    statement = "form().sum().backward()" if training else "form()"
    timer = Timer(statement, globals={"form": form}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.02 if SMOKE else 0.4).median


# %%
forms = {"bare layer (and merged)": bare, "gate": gated, "loop over the LoRAs": looped}
costs = {name: [seconds_of(form, training) for training in (False, True)] for name, form in forms.items()}
floor = costs["bare layer (and merged)"]
lines = [f"| {name} | {a / floor[0]:.1f} | {b / floor[1]:.1f} |" for name, (a, b) in costs.items()]
times = [loop / gate for loop, gate in zip(costs["loop over the LoRAs"], costs["gate"], strict=True)]
display(
    Markdown(
        f"| N = {N}, r = {RANK}, {k} × {t} tokens of {d} | inference | training |\n|:--|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\nThe loop costs {times[0]:.1f} times the gate in inference and {times[1]:.1f} times in training, on "
        "this machine. Merged costs nothing extra, whatever N is, and holds one mixture at a time: it is the form in "
        "which an edit is *used*, and the gate the form in which it is *learnt*."
    )
)

# %% [markdown]
# ## The router
#
# Where do the coefficients c come from? A frozen encoder e embeds a, a′ and b separately: in the paper these three
# embeddings, joined, are the **query**. The starter has a fourth part, our addition: a frozen encoder p sees a and a′
# *together* and was trained to say what changed between them. Every layer *l* projects the query with its own matrix
# and compares the result with a **key** for each LoRA.
#
# $$q = \frac{[\,e(a),\ e(a'),\ e(b),\ p(a, a')\,] - \mu}{\sigma}, \qquad
# c_{l,n} = \operatorname{softmax}_n\!\left(\frac{(P_l\, q) \cdot k_{l,n}}{\sqrt{d_k}}\right)$$
#
# It is attention, with one query and N keys, in which the values are LoRAs. Everything in the next figure is taken from
# the trained starter: these are the numbers for the first question at the top of the page, in one of the layers.

# %%
SHOWN_LAYER = LAYERS // 2
question = questions[0]


@torch.no_grad()
def embedded(*triplet: torch.Tensor) -> list[torch.Tensor]:
    """The four parts of the query, from batches of a, a′ and b [k, 3, 64, 64]: [k, embedding] each."""
    batches = zip(*(x.split(64) for x in triplet), strict=True)
    parts = [editor.embeddings(*map(editor.autoencoder.to_latent, batch)) for batch in batches]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


parts = embedded(question.a[None], question.a_prime[None], question.b[None])
P, K = router.query_projection[SHOWN_LAYER], router.keys[SHOWN_LAYER]  # [d_k, 4 e] and [N, d_k]
raw = torch.cat(parts, -1)[0]
query = router.query(*parts)[0]
projected = P @ query
chosen = (K @ projected / len(projected) ** 0.5).softmax(0)
EMBEDDING, KEY = len(parts[0][0]), len(projected)

# %%
figure, axis = figure_of(11, 3.6)


def put(values: torch.Tensor, x: float, y: float, width: float, height: float, text: str, colours="PuOr") -> None:
    """Numbers as a block of colours, with their name above and their shape below."""
    limit = float(values.abs().max())
    shades = {"cmap": colours, "vmin": 0 if colours == "cividis" else -limit, "vmax": limit}
    axis.imshow(values, extent=(x, x + width, y, y + height), aspect="auto", interpolation="nearest", **shades)
    axis.add_patch(Rectangle((x, y), width, height, fill=False, ec=PALE, lw=0.6))
    name, _, shape = text.partition("|")
    axis.text(x + width / 2, y + height + 0.1, name, ha="center", size=9)
    axis.text(x + width / 2, y - 0.1, shape, ha="center", va="top", size=8, color=PALE)


a, a_prime, b = question.a, question.a_prime, question.b
for i, (encoder, shown, part) in enumerate(zip("eeep", ([a], [a_prime], [b], [a, a_prime]), parts, strict=True)):
    y, width = 2.55 - 0.76 * i, 0.58 / len(shown)
    for k, picture in enumerate(shown):
        axis.imshow(to_pil(picture), extent=(0.4 + k * width, 0.4 + (k + 1) * width, y, y + width), aspect="auto")
    axis.text(0.2, y + 0.29, ("a", "a′", "b", "a, a′")[i], ha="center", va="center", size=10)
    axis.annotate("", (1.62, y + 0.29), (1.08, y + 0.29), arrowprops={"arrowstyle": "->", "color": PALE})
    axis.text(1.34, y + 0.36, encoder, ha="center", size=9, style="italic")
    put(part[0].reshape(-1, 8), 1.7, y, 0.3, 0.58, "" if i < 3 else f"|{EMBEDDING} each")
put(raw.reshape(-1, 8), 2.55, 0.4, 0.34, 2.6, f"joined|{len(raw)}")
put(query.reshape(-1, 8), 3.6, 0.4, 0.34, 2.6, f"q|{len(query)}")
put(P, 4.75, 1.2, 1.75, 1.0, f"$P_l$, learned|{KEY} × {len(query)}")
put(projected[:, None], 7.1, 0.9, 0.2, 1.6, f"$P_l\\,q$|{KEY}")
put(K, 7.85, 1.2, 1.0, 1.0, f"keys, learned|{N} × {KEY}")
put(chosen[:, None], 9.75, 0.9, 0.24, 1.6, f"$c_l$|{N}", "cividis")
for x, text in ((2.27, "⊕"), (3.24, "−μ\n÷σ"), (4.34, "→"), (6.8, "→"), (7.57, "→"), (9.3, "÷√$d_k$\nsoftmax")):
    axis.text(x, 1.7, text, ha="center", va="center", size=12 if len(text) == 1 else 8.5)
axis.add_patch(Rectangle((4.57, 0.45), 5.75, 2.6, fill=False, ec=COLOURS[0], lw=1.3, ls="--"))
axis.text(10.32, 3.13, f"once for each of {LAYERS} layers", ha="right", size=9, color=COLOURS[0])
axis.set(xlim=(0, 10.5), ylim=(-0.1, 3.5))
axis.axis("off")
figure

# %% [markdown]
# Here is the whole router in code, one layer at a time, compared with the package's:


# %%
@torch.no_grad()
def route(a: torch.Tensor, a_prime: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pictures [k, 3, 64, 64] to coefficients [k, layers, N]."""
    z = [editor.autoencoder.to_latent(picture) for picture in (a, a_prime, b)]
    e = [editor.encoder(latent) for latent in z]
    q = (torch.cat([*e, editor.pair_encoder(z[0], z[1])], -1) - router.mean) / router.deviation
    rows = []
    for P, keys in zip(router.query_projection, router.keys, strict=True):
        scores = (q @ P.T) @ keys.T / keys.shape[1] ** 0.5
        rows.append(scores.softmax(-1))
    return torch.stack(rows, 1)


mine, package = route(*as_batch(questions)[:3]), editor.route(*as_batch(questions)[:3])
print(f"shape {list(mine.shape)}, rows sum to 1 within {(mine.sum(-1) - 1).abs().max():.0e}")
print(f"largest difference to the package's router: {(mine - package).abs().max():.0e}")

# %% [markdown]
# Note what is *not* among the arguments. **b′** is not, since the router must not see the answer. The token and the
# time step are not, either: c is computed **once per question** and used for every token and every step. This is why a
# mixture can be merged into the weights.
#
# ### Where the parameters go
#
# A and B grow with the width of the layer; the keys with N; the projection with the length of the query.
# Below are the starter and the released weights of the paper (N = 32, r = 4, CLIP's 768 numbers a picture) on the
# layers of FLUX.1. For the latter we build the real transformer on PyTorch's *meta* device, without storage for its
# twelve billion parameters, and count.
#
# > **Predict before you run.** Which part is the largest, and is it the same in both?

# %%
from diffusers import FluxTransformer2DModel

from lorweb_mini.adapter import adapted_linears


def parameters(linears: list, n: int, rank: int, keys: int, query: int) -> dict[str, int]:
    """Parameters of a basis and its router on these layers, part by part."""
    return {
        "A": sum(linear.in_features for linear in linears) * n * rank,
        "B": sum(linear.out_features for linear in linears) * n * rank,
        "keys": len(linears) * n * keys,
        "query projections": len(linears) * keys * query,
    }


with torch.device("meta"):
    flux = FluxTransformer2DModel(guidance_embeds=True)  # diffusers' defaults are FLUX.1's
layers_of = {
    "starter": basis.modules,
    "paper, on FLUX.1": [flux.get_submodule(name) for name in adapted_linears(flux)],
}
sizes = {"starter": (N, RANK, KEY, len(query)), "paper, on FLUX.1": (32, 4, 128, 3 * 768)}
counts = {name: parameters(layers_of[name], *sizes[name]) for name in sizes}
figure, axis = figure_of(10, 2.1)
fills = (COLOURS[0], COLOURS[2], COLOURS[4], COLOURS[1])
for row, by_part in enumerate(counts.values()):
    left, total = 0.0, sum(by_part.values())
    for colour, (part, count) in zip(fills, by_part.items(), strict=True):
        axis.barh(row, count / total, left=left, color=colour, label=part if row == 0 else None, ec="white")
        if count / total > 0.05:
            place = {"ha": "center", "va": "center", "color": "white" if part == "A" else INK}
            axis.text(left + count / total / 2, row, f"{count / 1e6:.1f} M", size=9, **place)
        left += count / total
axis.set(yticks=range(len(counts)), yticklabels=counts, xlim=(0, 1), xlabel="share of the trained parameters")
axis.invert_yaxis()
axis.grid(axis="y", visible=False)
figure.legend(loc="outside right center", fontsize=8)
figure

# %%
totals = {name: sum(by_part.values()) for name, by_part in counts.items()}
lines = [
    f"| {name} | {len(layers_of[name])} | {totals[name]:,} | {max(by_part, key=by_part.get)} | "
    f"{(by_part['keys'] + by_part['query projections']) / totals[name]:.0%} |"
    for name, by_part in counts.items()
]
assert totals["starter"] == sum(p.numel() for p in [*basis.parameters(), *router.parameters()])
projections = [f"{x['query projections'] / (x['keys'] + x['query projections']):.0%}" for x in counts.values()]
CARD = 835_051_520  # what the model card of the released weights says
display(
    Markdown(
        "| | layers | trained parameters | largest part | share of the router |\n|:--|--:|--:|:--|--:|\n"
        + "\n".join(lines)
        + f"\n\nThe model card of the released weights says {CARD:,}, "
        + ("as counted here. " if totals["paper, on FLUX.1"] == CARD else "**not** what is counted here. ")
        + f"Of the two routers {' and '.join(projections)} are projections: one for each layer, though all of them "
        "look at the same query."
    )
)

# %% [markdown]
# ### How many LoRAs does a row use?
#
# A row of c is a distribution over N LoRAs. Its entropy $H = -\sum_n c_n \ln c_n$ measures how spread it is, and $e^H$,
# the **perplexity**, expresses this as a number of LoRAs: N equal coefficients have the perplexity N, one coefficient
# of 1 has the perplexity 1, two halves have 2.
#
# A new router should use *all* LoRAs, since a LoRA that it leaves out gets no gradient. With random keys and
# projections it does: the scores are small, so the softmax is nearly flat.
#
# For a new router we need the training's data, since μ and σ are taken from training triplets. `BasisRecipe` gathers
# all that a training needs: latents of the true pairs of all relations, a new basis (B = 0) and a new router. Here the
# new router gets **the paper's query**, $e(a), e(a'), e(b)$, without $p$.

# %%
from dataclasses import replace

from lorweb_mini.commands.train import BASES, DEFAULTS
from lorweb_mini.emoji.relations import select
from lorweb_mini.training import basis as basis_training

if SMOKE:
    basis_training.STANDARDISED = 128  # training triplets for μ and σ
PAIRS = 48 if SMOKE else 2000  # pictures that each procedural edit is shown on
recipe = basis_training.BasisRecipe(replace(BASES["starter"], query="cat"), select("seen", starter=True), PAIRS)
new_router = recipe.editor.router

RELATIONS = [name for name in splits()["starter"]["seen"] if not SMOKE or name in (*ASKED, "edit/shrink=0.35")]
unseen = [item for name in RELATIONS for item in lw.analogies("test", name, seed=2, n=2 if SMOKE else 8)]
labels = np.array([item.relation for item in unseen])
probe = embedded(*as_batch(unseen)[:3])
separate = probe[:3]  # the paper's query, which the new router has


def perplexity(c: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of rows [..., N]: [...], from 1 to N."""
    return torch.special.entr(c).sum(-1).exp()


@torch.no_grad()
def without_standardising(router, *parts: torch.Tensor) -> torch.Tensor:
    """What a router answers to the joined embeddings as they are: [k, layers, N]."""
    return router.logits(torch.cat(parts, -1)).softmax(-1)


with torch.no_grad():
    routings = {
        "new, query as it is": without_standardising(new_router, *separate),
        "new, query standardised": new_router(*separate),
        "trained (starter)": router(*probe),
    }

# %%
figure, axis = figure_of(10, 3.2)
for (name, c), colour, marker in zip(routings.items(), (COLOURS[1], COLOURS[2], COLOURS[0]), "s^o", strict=True):
    used = perplexity(c).numpy()  # [k, layers]
    axis.plot(used.mean(0), color=colour, marker=marker, ms=3.5, label=name)
    axis.fill_between(range(LAYERS), *np.quantile(used, [0.1, 0.9], axis=0), color=colour, alpha=0.18, lw=0)
axis.axhline(N, color=PALE, lw=0.9)
axis.text(LAYERS - 1, N + 0.2, f"uniform: {N}", ha="right", size=8, color=PALE)
axis.set(xlabel="layer, from the first block to the last", ylabel="perplexity of a routing", ylim=(0, 1.12 * N))
axis.set_title(f"LoRAs that one routing uses; bands hold 80 % of {len(unseen)} unseen analogies", loc="left")
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure

# %%
lines = []
for name, c in routings.items():
    moved = (c - c.mean(0)).abs().sum(-1).mean()
    lines.append(f"| {name} | {perplexity(c).mean():.1f} of {N} | {moved:.2f} |")
display(
    Markdown(
        "| router | perplexity of a routing | variation with the question |\n|:--|--:|--:|\n"
        + "\n".join(lines)
        + "\n\n*Variation* is the L1 distance of a row to the mean row of all questions, 0 where the router ignores "
        "what it is shown, at most 2."
    )
)

# %% [markdown]
# ### Why the query is standardised
#
# Here we depart from the paper. A score is a sum over the dimensions of the query, and these need not be on the same
# scale. Some dimensions may have nearly the same value for every picture, since all pictures here are small objects on
# white. Others may be much larger than the rest and dominate the scores of a new router. Subtracting μ removes what all
# questions share, and dividing by σ gives every dimension the same scale. How much this changes depends on the encoder,
# so we measure it.
#
# > **Predict before you run.** Take two questions at random. What is the cosine of their queries, as they are, and
# > standardised?

# %%
raw = torch.cat(separate, -1)
standard = new_router.query(*separate)


def shared(q: torch.Tensor) -> float:
    """How much of the queries' mean squared length is that of their common mean."""
    return float(q.mean(0).square().sum() / q.square().sum(1).mean())


def voices(q: torch.Tensor) -> float:
    """In how many dimensions the queries' variance lies: (sum of variances)² / sum of their squares."""
    variance = q.var(0)
    return float(variance.sum().square() / variance.square().sum())


pairs = torch.triu_indices(len(raw), len(raw), 1)
different = labels[pairs[0]] != labels[pairs[1]]
figure, axes = figure_of(10, 2.9, ncols=2, sharey=True)
alike = {}
for axis, (name, q) in zip(axes, {"as it is": raw, "standardised": standard}.items(), strict=True):
    unit = torch.nn.functional.normalize(q, dim=1)
    cosine = (unit @ unit.T)[pairs[0], pairs[1]].numpy()
    alike[name] = cosine[different].mean(), cosine[~different].mean()
    for part, label, colour in ((different, "other relation", COLOURS[2]), (~different, "same relation", COLOURS[4])):
        style = {"bins": np.linspace(-0.5, 1, 61), "density": True, "histtype": "stepfilled", "alpha": 0.45}
        axis.hist(cosine[part], color=colour, label=label, **style)
    axis.set(xlabel="cosine of two queries", title=f"query {name}")
axes[0].set_ylabel("density of pairs")
axes[1].legend()
figure

# %%
display(
    Markdown(
        f"Of a query's squared length **{shared(raw):.0%}** is the mean of all queries, the same for every question; "
        f"standardised, {shared(standard):.0%}. {'Most' if shared(raw) > 0.5 else 'Less than half'} of what a router "
        f"hears would be said every time. The variance lies in {voices(raw):.0f} of {raw.shape[1]} dimensions "
        f"(standardised: {voices(standard):.0f}). Two questions of different relations have a mean cosine of "
        f"{alike['as it is'][0]:.2f}, of the same relation {alike['as it is'][1]:.2f}; standardised "
        f"{alike['standardised'][0]:.2f} and {alike['standardised'][1]:.2f}. Whether it helps a training is measured "
        "in the next section."
    )
)

# %% [markdown]
# ## Collapse
#
# Basis and router are trained together, with nothing but the flow-matching loss of notebook 02: the mixture is put into
# the frozen editor, the editor predicts a velocity for a noisy b′, and the gradient of the error goes to A, B, keys and
# projections. What can go wrong for the router at the beginning?
#
# **At the first step its gradient is zero.** $\partial L / \partial c_n = \langle g,\, B_n A_n x\rangle$, with g the
# gradient at the layer's output, and all $B_n$ are zero. The router can learn which LoRA to use only after the LoRAs
# have learned something.
#
# **Then small, noisy gradients move it a lot.** Adam divides every gradient by its own size: each weight moves by about
# the learning rate η, however small its gradient is. A score is a sum over all weights of the projection, so one step
# can move it by as much as $\eta\, \lVert q \rVert_1 \lVert k \rVert_1 / \sqrt{d_k}$.
#
# **And early decisions persist.** Where the softmax has given one LoRA everything, hardly any gradient reaches the
# scores, and the LoRAs that are left out have $\partial L/\partial B_n \propto c_n \approx 0$.

# %%
RATE, WARMUP, BATCH = DEFAULTS["starter"].learning_rate, DEFAULTS["starter"].warmup_steps, 4 if SMOKE else 16
ROUTER_SCALE = basis_training.ROUTER_SCALE
loras, routing = recipe.parameter_groups()
recipe(recipe.batch(np.random.default_rng(0), BATCH))["loss"].backward()
norms = [torch.cat([p.grad.flatten() for p in group["params"]]).norm() for group in (loras, routing)]
lengths = new_router.query(*separate).abs().sum(1).mean(), new_router.keys.abs().sum(-1).mean()
reach = [rate * float((lengths[0] * lengths[1]).detach()) / KEY**0.5 for rate in (RATE, ROUTER_SCALE * RATE)]
spread = new_router.logits(new_router.query(*separate)).std().item()
display(
    Markdown(
        f"Gradient at the first step: **{norms[0]:.2g}** for the LoRAs, **{norms[1]:.2g}** for the router. A new "
        f"router's scores have a deviation of {spread:.1f}. At the LoRAs' rate, η = {RATE:g}, a single step of Adam "
        f"can move a score by up to {reach[0]:.0f}; at {ROUTER_SCALE:g} of it by up to {reach[1]:.1f}."
    )
)

# %% [markdown]
# This repository takes two precautions: the router has a smaller learning rate than the LoRAs, and its query is
# standardised. What does each of them change? We switch each on and off, in a training that is written out in full.
# After every step we compute the mixtures of unseen questions and record, **for every layer**: the perplexity of a
# routing; the perplexity of the *mean* routing, that is, how many LoRAs are in use at all; and the variation with the
# question.

# %%
from lorweb_mini.core.editor import new_editor

MEAN, DEVIATION = new_router.mean.clone(), new_router.deviation.clone()


def start_anew(seed: int, standardised: bool = True) -> None:
    """Gives the recipe's editor a new basis and a new router."""
    fresh = new_editor(recipe.editor.config, seed)
    recipe.editor.basis.load_state_dict(fresh.basis.state_dict())
    recipe.zero_grad()
    with torch.no_grad():
        new_router.keys.copy_(fresh.router.keys)
        new_router.query_projection.copy_(fresh.router.query_projection)
        new_router.mean.copy_(MEAN if standardised else torch.zeros_like(MEAN))
        new_router.deviation.copy_(DEVIATION if standardised else torch.ones_like(DEVIATION))


@torch.no_grad()
def health(c: torch.Tensor) -> torch.Tensor:
    """The three numbers for each layer, from routings [k, layers, N]: [3, layers]."""
    mean = c.mean(0)
    return torch.stack([perplexity(c).mean(0), perplexity(mean), (c - mean).abs().sum(-1).mean(0)])


# %%
def learn(router_scale: float, standardised: bool, seed: int, steps: int) -> tuple[np.ndarray, torch.Tensor]:
    """Trains anew; losses [steps] and health [steps + 1, 3, layers]."""
    start_anew(seed, standardised)
    loras, routing = recipe.parameter_groups()
    groups = [{**loras, "lr": RATE}, {**routing, "lr": RATE * router_scale}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / WARMUP))
    losses, seen = [], [health(new_router(*separate))]
    for step in range(steps):
        loss = recipe(recipe.batch(np.random.default_rng([seed, step]), BATCH))["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimiser.step()
        warm.step()
        losses.append(loss.item())
        seen.append(health(new_router(*separate)))
    return np.array(losses), torch.stack(seen)


FULL, SLOW = "at the LoRAs' rate", f"at {ROUTER_SCALE:g} of it"
SETTINGS = {
    f"{rate}, {query}": (scale, query == "standardised")
    for rate, scale in ((FULL, 1.0), (SLOW, ROUTER_SCALE))
    for query in ("query as it is", "standardised")
}
SEEDS, LENGTH = (1, 2) if SMOKE else (2, 80)

# %% [markdown]
# > **Predict before you run.** Four routers, several seeds each: at the LoRAs' own rate or at a tenth of it, with the
# > query as it is or standardised. Which will use few LoRAs in total? Which will depend least on the question? Which
# > will have the lowest loss?

# %%
runs = {name: [learn(*setting, seed, LENGTH) for seed in range(SEEDS)] for name, setting in SETTINGS.items()}
start_anew(0)

figure, axes = figure_of(11, 3.2, ncols=4)
for i, (name, several) in enumerate(runs.items()):
    colour, dash = COLOURS[4 if i < 2 else 0], "-" if SETTINGS[name][1] else ":"
    for seed, (losses, seen) in enumerate(several):
        width = min(10, len(losses))
        curves = [*seen.mean(2).T, np.convolve(losses, np.ones(width) / width, "valid")]
        for axis, curve in zip(axes, curves, strict=True):
            steps = np.arange(len(curve)) + (width if axis is axes[3] else 0)
            axis.plot(steps, curve, color=colour, ls=dash, lw=1.3, label=name if seed == 0 else None)
titles = ("LoRAs in one routing", "LoRAs in use at all", "variation with the question", "loss, mean of 10 steps")
for axis, title, top in zip(axes, titles, (1.05 * N, 1.05 * N, 1.95, None), strict=True):
    axis.set(xlabel="step", title=title)
    if top:
        axis.set_ylim(0, top)
axes[0].set_ylabel("perplexity, mean of the layers")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, title="router …")
figure

# %% [markdown]
# A mean over layers hides how they differ. Here is the first seed of each router, layer by layer.

# %%
figure, axes = figure_of(11, 5.6, nrows=3, ncols=4, sharex=True, sharey=True)
kinds = (("LoRAs in one routing", 1, N), ("LoRAs in use at all", 1, N), ("variation", 0, 1.9))
for column, (name, several) in zip(axes.T, runs.items(), strict=True):
    for i, (axis, (kind, low, high)) in enumerate(zip(column, kinds, strict=True)):
        values = several[0][1][:, i].T
        shown = axis.imshow(values, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
        axis.grid(False)
        if name == list(runs)[-1]:
            figure.colorbar(shown, ax=axes[i], label=kind, pad=0.01)
    column[0].set_title(name.replace(", ", "\n"), size=9)
    column[2].set_xlabel("step")
axes[1, 0].set_ylabel("layer, first block on top")
figure

# %%
ends = {name: torch.stack([seen[-1] for _, seen in several]) for name, several in runs.items()}  # [seeds, 3, layers]
last = {name: np.array([losses[-20:].mean() for losses, _ in several]) for name, several in runs.items()}


def verdict_on(end: torch.Tensor) -> str:
    """What has become of a router, from its health at the end."""
    one, used = float(end[:, 0].mean()), float(end[:, 1].mean())
    if used < 2:
        return f"collapsed: {used:.1f} of {N} LoRAs in use at all"
    if one < 2:
        return f"a switch: {one:.1f} LoRAs a question, {used:.1f} of {N} in use"
    if one > 0.95 * N:
        return "undecided: all LoRAs, always"
    return f"a mixer: {one:.1f} LoRAs a question, {used:.1f} of {N} in use"


lines = [
    f"| {name} | {ends[name][:, 2].mean():.2f} | {', '.join(f'{loss:.2f}' for loss in last[name])} | "
    f"{verdict_on(ends[name])} | {(ends[name][:, 1] < 1.5).float().mean():.0%} |"
    for name in runs
]
display(
    Markdown(
        f"After {LENGTH} steps:\n\n| router … | variation | loss at the end, by seed | what has become of it | layers "
        "with one LoRA for all |\n|:--|--:|--:|:--|--:|\n"
        + "\n".join(lines)
        + "\n\nPerplexities are means over layers "
        "and seeds. *Collapsed* is who uses fewer than two LoRAs in all, *a switch* who gives fewer than two to a "
        "question. In the last column, the layers whose mean routing has a perplexity below 1.5. The loss is the mean "
        "of the last 20 steps."
    )
)

# %%
pairs = {
    "A slow router": [(f"{SLOW}, {query}", f"{FULL}, {query}") for query in ("query as it is", "standardised")],
    "A standardised query": [(f"{rate}, standardised", f"{rate}, query as it is") for rate in (FULL, SLOW)],
}
said = []
for name, couples in pairs.items():
    loss = np.concatenate([last[with_it] - last[without] for with_it, without in couples])
    used = torch.cat([(ends[with_it] - ends[without])[:, 1].mean(1) for with_it, without in couples])
    said.append(
        f"- **{name}** changes the loss by {loss.mean():+.3f} (lower in {(loss < 0).sum()} of {len(loss)} pairs of "
        f"runs) and the LoRAs in use by {used.mean():+.1f} (more in {int((used > 0).sum())} of {len(used)})."
    )
display(
    Markdown(
        f"Each precaution on its own, all else and the seed alike, after {LENGTH} steps:\n\n"
        + "\n".join(said)
        + "\n\nThis is the beginning of a training. Whether a difference in the loss lasts is not measured here."
    )
)

# %% [markdown]
# How do you read this? Start with the two lines above. A minus sign says that a precaution lowered the early loss, and
# the bracket in how many pairs of runs it did. Whether that lasts in a long training is not measured here.
#
# Then read the columns of the table together. Few LoRAs in *one routing* are not a fault: such a router is certain. But
# a certain router can fail in two ways. If few are in use **at all** and nothing varies, it gives every question the
# same LoRA: the basis is one LoRA of rank r, and the N − 1 others are wasted. If it varies, but no question gets more
# than one LoRA, it is a *switch*: it assigns questions early, nothing is mixed, and where the softmax is saturated
# hardly any gradient can correct it. A router that stays uniform fails in another way: every question gets the same
# mixture of all LoRAs.
#
# ## Train it, live
#
# Now use `lorweb_mini.training.loop.train`, the loop that trained all weights of this course. To the loop above it adds
# a learning rate that falls at the end, a moving average of the weights, and one thing that matters on a laptop: **an
# interrupted training can be resumed.** All random numbers of step s depend on the seed and on s alone, so a resumed
# training uses the same ones as a training without an interruption.
#
# Try it with twenty steps first: once without interruption; then again, interrupted at step 12 (by `KeyboardInterrupt`,
# which the stop button sends), with everything in memory replaced by new random weights. Then `train` is called again.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

from IPython.utils.capture import capture_output

from lorweb_mini.training.live_training import unfinished
from lorweb_mini.training.loop import train

SHORT, FAILS_AT = (3, 2) if SMOKE else (20, 12)
REHEARSAL = replace(DEFAULTS["starter"], steps=SHORT, minutes=None, batch_size=BATCH // 2, checkpoint_minutes=0.01)
draw_batch = recipe.batch


def rehearse(folder: str, steps_until_failure: float = float("inf")) -> list[torch.Tensor]:
    """Trains in a folder from new weights, or goes on there; the weights afterwards."""
    start_anew(0)
    left = iter(range(int(min(steps_until_failure, 1e6))))

    def batch(rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return draw_batch(rng, size)

    recipe.batch = batch
    try:
        with capture_output():  # no progress bars
            train(recipe, REHEARSAL, folder)
    except KeyboardInterrupt:
        print(f"killed in step {steps_until_failure}; will go on from step {unfinished(folder)}")
    finally:
        recipe.batch = draw_batch
    return [p.detach().clone() for group in recipe.parameter_groups() for p in group["params"]]


# %%
with tempfile.TemporaryDirectory() as place:
    whole = rehearse(f"{place}/whole")
    rehearse(f"{place}/killed", FAILS_AT)
    resumed = rehearse(f"{place}/killed")
apart = max(float((x - y).abs().max()) for x, y in zip(whole, resumed, strict=True))
verdict = "the same, **bit for bit**" if apart == 0 else f"not the same: they differ by up to {apart:.0e}"
display(
    Markdown(
        f"{sum(x.numel() for x in whole):,} weights of the run in one go and of the killed one: {verdict}. The steps "
        "between the last checkpoint and the kill were taken again; nothing else was lost."
    )
)

# %% [markdown]
# Now the full training. Every few seconds the figure shows the loss, the perplexity of every layer, and what the editor
# draws for five questions about emoji that are in no training pair.
#
# You can interrupt this one, too. **While the next cell runs, restart the kernel**, and run the notebook again from the
# top: the cell then says from which step it continues. A checkpoint is written four times a minute, and only the steps
# after the last one are lost.
#
# > **Predict before you run.** Which of the five will be right first? (Notebook 01 showed which edits need to move
# > pixels and which only recolour them.)

# %%
from lorweb_mini.models.weights import WEIGHTS
from lorweb_mini.show.figures import film_figure
from lorweb_mini.training.live_training import Watched, read_film

MINUTES = TRAIN_MINUTES or 1.5
FOLDER = Path("../runs/notebook_04") / f"{'smoke' if SMOKE else f'{MINUTES:g}_minutes'}"
CONFIG = replace(DEFAULTS["starter"], minutes=MINUTES, checkpoint_minutes=0.25)
if SMOKE:
    CONFIG = replace(CONFIG, steps=4, minutes=None, batch_size=4)
finished = (FOLDER / WEIGHTS).is_file() and not unfinished(FOLDER)

if TRAIN_MINUTES and finished:
    print("This training has finished before: its film is shown again. Delete its folder to train anew.")
    film = read_film(FOLDER)
    display(film_figure(film, questions, N))
else:
    if unfinished(FOLDER):
        print(f"going on with a killed training from step {unfinished(FOLDER):,}")
    start_anew(CONFIG.seed)
    screen = display(display_id=True)

    def show(film) -> None:
        screen.update(film_figure(film, questions, N))

    watched = Watched(recipe, questions, FOLDER, every=5 if MINUTES < 5 else 15, show=show)
    summary, film = train(watched, CONFIG, FOLDER), watched.film
    print(f"{summary['seconds']:.0f} seconds by the clock, {watched.seconds:.0f} of them spent on looking")

# %%
from lorweb_mini.show.pictures import picture_rows

moments = sorted({round(i) for i in np.linspace(0, len(film.steps) - 1, 7)})
rows = {relation_label(x.relation).replace(": ", "\n"): torch.stack([x.b, *film.pictures[moments, i], x.b_prime])
        for i, x in enumerate(questions)}  # fmt: skip
heads = ["b", *(f"step {int(film.steps[m]):,}" for m in moments), "true b′"]
picture_rows(rows, columns=heads, title="What the editor drew while its basis learned", label_width=1.25, size=0.62)

# %%
steps = int(film.steps[-1])
samples = steps * CONFIG.batch_size
display(
    Markdown(
        f"{steps:,} steps of {CONFIG.batch_size} questions on {torch.get_num_threads()} threads. Perplexity of a "
        f"routing, mean of the layers: {film.perplexity[0].mean():.1f} before the first step, "
        f"{film.perplexity[-1].mean():.1f} after the last. The last look is at the moving average of the weights, "
        "which is what is saved; all others are at the weights in training."
    )
)

# %% [markdown]
# ### The short cut
#
# The shipped starter has as many LoRAs of the same rank. It also reads the encoder of the pair, and it learned fresh
# edits of fourteen kinds and two tones in place of these relations (no blur, pixelate or threshold). The next figure
# shows the log of its training beside that of the training above; the two losses are of different questions.

# %%
from lorweb_mini.models.weights import load_config, weights_dir
from lorweb_mini.show.figures import routing_curves
from lorweb_mini.training.log import read_log

shipped_log = read_log(weights_dir() / "starter" / "log.csv")
flow = "flow_matching" if "flow_matching" in shipped_log[0] else "loss"
own = ("The health of the router trained here", read_log(FOLDER / "log.csv"))
title, health_log = own if TRAIN_MINUTES else ("The shipped router's health", shipped_log)
figure, (left, right) = figure_of(10.4, 3.5, ncols=2)
seen = [row["samples"] for row in shipped_log]
left.plot(
    seen, [row[flow] for row in shipped_log], color=COLOURS[0], label="shipped (mean of 20 steps, other questions)"
)
left.plot(film.steps * CONFIG.batch_size, film.losses, color=COLOURS[4], marker="o", ms=3, label="here")
left.set(xlabel="questions seen", ylabel="flow-matching loss", xscale="log", ylim=(0, None))
left.xaxis.set_major_formatter("{x:,.0f}")
left.set_title("Loss", loc="left")
left.legend()
routing_curves(health_log, N, right).axes[1].set_title(title, loc="left")
figure

# %%
stored, end = load_config(weights_dir() / "starter"), shipped_log[-1]
used = f"what you have trained for {MINUTES:g} minutes" if TRAIN_MINUTES else "the shipped weights"
display(
    Markdown(
        f"The shipped starter learned for {end['seconds'] / 60:.0f} minutes from {end['samples']:,.0f} questions: "
        f"fresh edits of {len(stored['kinds'])} kinds, and {len(stored['relations'])} relations between artists' "
        f"pictures. Here it was {samples:,} questions. "
        f"**From here on this notebook uses {used}.**"
    )
)

# %% [markdown]
# ## Unseen content
#
# Does the model work on new emoji? The relations are those of the training *above*, but no drawing of any of these
# concepts, in any tone or style, was in it. One LoRA and the shipped starter learned other edits, fresh ones of
# fourteen kinds, so that blur, pixelate and threshold are new to them. Three baselines stand beside it:
#
# - **copy b**: do nothing. Scores 1 by definition.
# - **one LoRA**: no basis, no router. It has as many LoRA parameters, in a single LoRA; its transformer gets a and a′
#   as further reference pictures, so that it can see the edit.
# - **oracle**: the frozen editor alone, which is given the edit *in words*. It does not have to infer the edit.

# %%
from lorweb_mini.analysis.evaluation import counterfactuals, draw, evaluate, reconstruct, squared
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.show.ablations import told

here, one_lora = lw.load(FOLDER), lw.load(weights_dir() / "one_lora")
editor, other = (here, shipped) if TRAIN_MINUTES else (shipped, here)
router, basis = editor.router, editor.basis
OTHER = "LoRWeB, shipped" if TRAIN_MINUTES else "LoRWeB, trained above"
rivals = methods_of(editor, one_lora)
methods = {name: rivals[name] for name in ("copy b", "one LoRA", "oracle instruction", "LoRWeB")}
methods[OTHER] = methods_of(other)["LoRWeB"]

test = {name: lw.analogies("test", name, seed=3, n=2 if SMOKE else 16) for name in RELATIONS}
first = [items[0] for items in test.values()][:10]
drawn = {name: draw(methods[name], first) for name in ("one LoRA", "LoRWeB")}
b, b_prime = (reconstruct(editor.autoencoder, x) for x in as_batch(first)[2:])
errors = (squared(drawn["LoRWeB"], b_prime) / squared(b, b_prime)).tolist()
triplets(first, drawn, errors=errors, title="Unseen emoji; the error is LoRWeB's", size=0.58)

# %% [markdown]
# This is no test of a basis against one LoRA: what was trained above saw these very relations, one LoRA did not.
# Notebook 08 has the test on equal terms, and there one LoRA is ahead of the starter's recipe on unseen edits.
#
# > **Predict before you run.** For which relations will the basis be near the oracle, and where will one LoRA be as
# > good as sixteen?

# %%
groups = {"all": RELATIONS, **{name: [name] for name in RELATIONS}}
measured = evaluate(methods, test, editor.autoencoder, groups, retrieval_limit=1 if SMOKE else 6)
order = sorted(RELATIONS, key=lambda name: measured.groups[name]["LoRWeB"].error.value)

figure, axis = figure_of(10, 5.4)
shown = [method for method in methods if method != "copy b"]
fills = (COLOURS[1], COLOURS[3], COLOURS[0], COLOURS[2])
for j, (method, colour, marker) in enumerate(zip(shown, fills, "s^oD", strict=True)):
    for i, name in enumerate(order):
        error, y = measured.groups[name][method].error, i + 0.17 * (j - 1.5)
        axis.plot([error.low, error.high], [y, y], color=colour, lw=1.5)
        axis.plot(error.value, y, marker=marker, color=colour, ms=5, ls="", label=method if i == 0 else None)
axis.axvline(1, color=PALE, lw=0.9, ls="--")
axis.text(1.01, -0.62, "copy b", size=8, color=PALE, va="bottom")
axis.set_yticks(range(len(order)), [relation_label(name) for name in order])
axis.set(xlim=(0, 1.6), ylim=(len(order) - 0.4, -0.7))
axis.set_xlabel("normalised error; lines are 95 % intervals, cut off at 1.6")
axis.grid(axis="y", visible=False)
figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
figure

# %%
lines = []
for name in [*order, "all"]:
    cells = [str(measured.groups[name][method].error) for method in methods]
    lines.append(f"| {'*median*' if name == 'all' else relation_label(name)} | " + " | ".join(cells) + " |")
found = [f"{measured.groups['all'][method].retrieval.value:.0%}" for method in methods]
lines.append("| *right relation nearest* | " + " | ".join(found) + " |")
head = "| relation | " + " | ".join(methods) + " |\n|:--|" + "--:|" * len(methods) + "\n"
display(
    Markdown(
        head
        + "\n".join(lines)
        + f"\n\nNormalised error with 95 % intervals, {len(test[order[0]])} unseen analogies a relation. The last row "
        "is retrieval: how often the true answer of the right relation is nearer to the result than that of any other "
        f"relation (by guessing {measured.chance['all']:.0%})."
    )
)


# %%
def clear(better: str, worse: str) -> list[str]:
    """Relations for which one method's interval lies wholly below the other's."""
    score = measured.groups
    return [relation_label(n) for n in order if score[n][better].error.high < score[n][worse].error.low]


won, lost = clear("LoRWeB", "one LoRA"), clear("one LoRA", "LoRWeB")
near = clear("LoRWeB", "oracle instruction"), clear("oracle instruction", "LoRWeB")
failing = [relation_label(n) for n in order if measured.groups[n]["LoRWeB"].error.high > 1]
asked_one = read_log(weights_dir() / "one_lora" / "log.csv")[-1]["samples"]
asked_basis = samples if TRAIN_MINUTES else shipped_log[-1]["samples"]
loras = {name: sum(p.numel() for p in one.basis.parameters()) for name, one in (("basis", editor), ("one", one_lora))}
display(
    Markdown(
        f"- Against **one LoRA** ({loras['one'] / 1e6:.1f} million parameters, {asked_one:,.0f} questions in training; "
        f"the basis: {loras['basis'] / 1e6:.1f} million, {asked_basis:,.0f}): clearly better in {len(won)} of "
        f"{len(order)} relations, clearly worse in {len(lost)} ({', '.join(lost) or 'none'}).\n"
        f"- Against the **oracle**, which is told the edit: clearly better in {len(near[0])}, clearly worse in "
        f"{len(near[1])} ({', '.join(near[1]) or 'none'}).\n"
        f"- Not surely better than **handing b back**: {', '.join(failing) or 'none'}.\n\n"
        "*Clearly* means that the two intervals do not touch. One training each: another seed may move a relation. And "
        "the trainings differ in edits and length; notebook 08 compares equal ones."
    )
)

# %% [markdown]
# ### Does it really read the pair?
#
# A low error could also come from guessing the edit from b. So we exchange the pair and keep b. Another pair **of the
# same relation** must leave the answer as it was. A pair of **another relation** must change it, and into that other
# edit.

# %%
SWAPPED = ("edit/hue=120", "edit/invert", "edit/shrink=0.35")
swaps, labels_of = [], []
for i, name in enumerate(SWAPPED):
    own, sibling = test[name][:2]
    stranger = test[SWAPPED[(i + 1) % 3]][0]
    changed = lw.relations()[stranger.relation].apply_edits(own.b[None])[0]
    swaps += [own, replace(own, a=sibling.a, a_prime=sibling.a_prime)]
    swaps.append(replace(own, a=stranger.a, a_prime=stranger.a_prime, b_prime=changed))
    labels_of += [relation_label(name), "another pair of it", f"a pair of {relation_label(stranger.relation)}"]
triplets(swaps, draw(methods["LoRWeB"], swaps), columns=3, labels=labels_of, size=0.6)

# %%
limit = 2 if SMOKE else 4
moved = {name: counterfactuals(methods[name], test, editor.autoencoder, limit) for name in ("one LoRA", "LoRWeB")}
lines = [f"| {name} | {told(x.same, 3)} | {told(x.other)} |" for name, x in moved.items()]
same, other_pair = moved["LoRWeB"].same, moved["LoRWeB"].other
farther = f"{other_pair.value / same.value:.0f} times the squared distance of another right one"
reads = f"It reads the pair: a wrong one moves the answer by {farther}"
blind = "The two cannot be told apart: **the pair is not what decides the answer**"
display(
    Markdown(
        "How far the answer moves, as a multiple of the edit $\\lVert b - b' \\rVert^2$:\n\n"
        "| | another pair of the same relation | a pair of another relation |\n|:--|--:|--:|\n" + "\n".join(lines)
        + f"\n\n{reads if same.high < other_pair.low else blind}. The first column would be 0 if the mixture "
        "depended on the edit alone; the rest comes from *which* emoji show it."
    )
)  # fmt: skip

# %% [markdown]
# ## Reading a mixture
#
# Back to the tables of the first figure, now with two questions of each relation. The pictures have nothing in common
# but the edit.
#
# > **Predict before you run.** Will the two tables of a relation be equal? In which rows will they differ?

# %%
TWICE = ("edit/hue=120", "edit/flip_horizontal", "tone/yellow>dark")
twins = [item for name in TWICE for item in test[name][:2]]
answers = editor.edit(*as_batch(twins)[:3])
tables(twins, answers, columns=6)

# %%
from lorweb_mini.analysis.space import coefficients_of

items = [item for several in test.values() for item in several]
names = np.array([item.relation for item in items])
c = coefficients_of(editor, items)  # [k, layers, N]


def explained(c: torch.Tensor, names: np.ndarray) -> np.ndarray:
    """Share of each layer's variance of coefficients that lies between relations, [layers]."""
    centre = c.mean(0)
    between = sum((names == n).sum() * (c[names == n].mean(0) - centre).square().sum(-1) for n in set(names))
    return (between / (c - centre).square().sum((0, 2))).numpy()


def kind(layer: str) -> str:
    """What a layer does in its block."""
    return "modulation" if "norm" in layer else "attention" if ".attn." in layer else "feed-forward"


by_relation_share = explained(c, names)
chance = explained(c, np.random.default_rng(0).permutation(names)).mean()
kinds = [kind(layer) for layer in basis.layers]

# %%
figure, axes = figure_of(10.5, 3.2, ncols=2)
panels = ((by_relation_share, "share of the variance"), (perplexity(c).mean(0).numpy(), "perplexity of a routing"))
for axis, (values, label) in zip(axes, panels, strict=True):
    axis.plot(values, color=LINE, lw=1, zorder=1)
    for name, colour, marker in zip(dict.fromkeys(kinds), (COLOURS[0], COLOURS[1], COLOURS[4]), "osD", strict=False):
        at = [i for i, other in enumerate(kinds) if other == name]
        axis.scatter(at, values[at], color=colour, marker=marker, s=22, label=name, zorder=2)
    axis.set(xlabel="layer, from the first block to the last", ylabel=label, ylim=(0, None))
axes[0].axhline(chance, color=PALE, lw=0.9, ls="--")
axes[0].text(0, chance, "relations shuffled", size=8, color=PALE, va="bottom")
axes[0].set_ylim(0, 1)
axes[0].set_title("How much of a row is the relation", loc="left")
axes[1].set_title("How many LoRAs a row uses", loc="left")
axes[1].set_ylim(0, N)
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
figure

# %%
flat = c.flatten(1)
distance = torch.cdist(flat, flat, p=1).fill_diagonal_(torch.inf) / LAYERS  # mean L1 distance of a row, 0 to 2
nearest = names[distance.argmin(1).numpy()] == names
same = torch.from_numpy(names[:, None] == names[None]) & ~torch.eye(len(names), dtype=torch.bool)
others = torch.from_numpy(names[:, None] != names[None])
within, between = float(distance[same].mean()), float(distance[others].mean())
guess = float(same.sum() / (len(names) * (len(names) - 1)))
by_kind = {name: by_relation_share[np.array(kinds) == name].mean() for name in dict.fromkeys(kinds)}
leading = max(by_kind, key=by_kind.get)
display(
    Markdown(
        f"Two tables of one relation are {within:.2f} apart (L1, mean of the rows; 2 is the most), of different "
        f"relations {between:.2f}. For {nearest.mean():.0%} of {len(items)} unseen questions the nearest other table "
        f"is of the same relation; by guessing it would be {guess:.0%}. The relation explains "
        f"{by_relation_share.mean():.0%} of the variance of a row on average, from {by_relation_share.min():.0%} to "
        f"{by_relation_share.max():.0%} (shuffled: {chance:.0%}), most in layers of {leading} ({by_kind[leading]:.0%} "
        "on average). The rest is content: the router also sees *what* is edited."
    )
)

# %% [markdown]
# What do single coefficients do to the picture? Change the mixture of the first question yourself: each slider is the
# gain of one LoRA in all layers, and the rows are rescaled to sum to 1. On a page without a running kernel you see one
# slider as a strip of pictures.

# %%
from lorweb_mini.widgets.mixer import Mixer

routed = editor.route(question.a, question.a_prime, question.b)
mixer = Mixer(editor, question.b, routed, context=(question.a, question.a_prime))
mixer

# %% [markdown]
# The mixer changes all layers at once. The microscope shows the same question layer by layer: which LoRAs a layer
# mixes, and how much the picture changes when that layer's mixture alone is replaced: by a uniform one, by another
# question's, or by nothing. It also measures the gate at every sampling step, on the activations: the router runs once
# per question, so all steps must have the same gate. For this, it draws in four steps instead of one.
#
# > **Predict before you run.** In which layers does the mixture matter most: early or late, in attention or in the MLP?
# > Does the edit survive when a single layer is switched off?
#
# Click a layer or use the arrow keys. On a page without a running kernel you see the layer that matters most.

# %%
from lorweb_mini.widgets.microscope import Microscope

another = next(x for x in items if x.relation != question.relation)
microscope = Microscope(
    editor, question.a, question.a_prime, question.b, (another.a, another.a_prime), steps=2 if SMOKE else 4
)
microscope

# %% [markdown]
# ## Exercise 1: few LoRAs per question, all in use
#
# *Difficulty ●○○ · about 5 minutes*
#
# A router is healthy when each routing uses few LoRAs **and** all routings together use many. Write both numbers, for
# every layer, from routings c [k, layers, N]: the mean perplexity of one routing, and the perplexity of the mean
# routing. Mind that a coefficient may be exactly 0.


# %%
def check_use(use) -> str:
    """Both numbers on routings whose answer is known, and on the starter's."""
    sharp = torch.eye(4)[:, None].expand(4, 3, 4)  # four questions, three layers: each question wants its own LoRA
    if use(sharp) is None:
        return "Not yet: `use` returns None."
    single, whole = (torch.as_tensor(x) for x in use(sharp))
    if not (torch.isfinite(single).all() and torch.isfinite(whole).all()):
        return "Not yet: 0 · ln 0 is not a number to your computer."
    if single.shape != (3,) or whole.shape != (3,):
        return f"Not yet: expected two tensors [layers], [3] here, got {list(single.shape)} and {list(whole.shape)}."
    if not (torch.allclose(single, torch.ones(3)) and torch.allclose(whole, torch.full((3,), 4.0))):
        return f"Not yet: each uses 1 LoRA and all together 4; you say {single[0]:.2f} and {whole[0]:.2f}."
    single, whole = use(c)
    if not torch.allclose(torch.stack([single, whole]), health(c)[:2], rtol=1e-3):
        return "Not yet: right for the four questions, not for the starter's."
    return f"✓ Right: a routing uses {single.mean():.1f} of {N} LoRAs, all together use {whole.mean():.1f}."


# %% tags=["exercise"]
def use(c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(mean perplexity of one routing, perplexity of the mean routing), two tensors [layers]."""
    return None


# %%
print(check_use(use))

# %% [markdown]
# <details><summary>Hint</summary>
#
# It is the same function twice, with the mean over questions taken after it or before it. `torch.special.entr` is
# $-p \ln p$, also at 0.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def use(c):
#     def used(p):
#         return torch.special.entr(p).sum(-1).exp()
#
#     return used(c).mean(0), used(c.mean(0))
# ```
#
# Entropy is concave, so the second number is the larger one (up to the mean of perplexities in place of entropies). A
# collapsed router has 1 and 1, a uniform one N and N; only 1 and N say that the choice depends on the question.
#
# </details>

# %% [markdown]
# ## Exercise 2: half of the gate on either side
#
# *Difficulty ●●○ · about 5 minutes*
#
# Fold a mixture of one layer into a plain LoRA so that **both** halves carry the root of the gate: the rows of A and
# the columns of B are scaled by $\sqrt{c_n}$. (Halves of similar size lose less in half precision.)


# %%
def check_fold(fold) -> str:
    """The product and both halves, on a layer of the starter with the router's own mixture."""
    index = basis.layers.index("single_transformer_blocks.0.attn.to_q")
    low, high = (x.detach() for x in basis.factors(index))
    mixture = routed[0, index]
    if fold(low, high, mixture) is None:
        return "Not yet: `fold` returns None."
    plain_low, plain_high = fold(low, high, mixture)
    wanted = [(N * RANK, low.shape[2]), (high.shape[1], N * RANK)]
    if [tuple(x.shape) for x in (plain_low, plain_high)] != wanted:
        return f"Not yet: expected the shapes {wanted}, got {[tuple(x.shape) for x in (plain_low, plain_high)]}."
    update = sum(mixture[n] * high[n] @ low[n] for n in range(N))
    error = float((plain_high @ plain_low - update).abs().max() / update.abs().max())
    if error > 1e-3:
        return f"Not yet: the product is off by {error:.0%}. Do the blocks of A and B meet in the same order?"
    rows = plain_low.reshape(N, -1).norm(dim=1) / low.reshape(N, -1).norm(dim=1)
    if not torch.allclose(rows, mixture.sqrt(), rtol=1e-3):
        return f"Not yet: the product is right, but A's first block is scaled by {rows[0]:.2f}, not √{mixture[0]:.2f}."
    return f"✓ Right: a plain LoRA of rank {N * RANK}, off by {error:.0e}."


# %% tags=["exercise"]
def fold(A: torch.Tensor, B: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A [N, r, d], B [N, d′, r] and c [N] to the halves of a plain LoRA, [N·r, d] and [d′, N·r]."""
    return None


# %%
print(check_fold(fold))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Scale first, while there still is an axis for n: `c[:, None, None]`. Then stack A by `reshape`; for B the axis of the
# outputs has to come first, `permute(1, 0, 2)`.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def fold(A, B, c):
#     root = c.sqrt()[:, None, None]
#     low = (root * A).reshape(-1, A.shape[2])
#     high = (root * B).permute(1, 0, 2).reshape(B.shape[1], -1)
#     return low, high
# ```
#
# `editor.export_lora` leaves A alone and puts all of c into B, as `Basis.folded` does: that works for negative
# coefficients, too, whose root is not real. Notebook 06 will need them.
#
# </details>

# %% [markdown]
# ## Exercise 3: does the mixture depend on the time step?
#
# *Difficulty ●●○ · about 6 minutes*
#
# The next cell records one layer while a picture is drawn: at every step, $Ax$ before the gate and after it. Compute
# from these two which gate was applied at each step, [steps, N], and check whether it changes from pure noise to the
# finished picture.

# %%
STEPS = 2 if SMOKE else 8
ATTENTION = basis.layers.index("single_transformer_blocks.0.attn.to_q")


def record(item: lw.Analogy, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A x before and after the gate, two tensors [steps, tokens, N·r]."""
    low, seen = basis.modules[ATTENTION].lora_A["basis"], []
    handle = low.register_forward_hook(
        lambda module, inputs, gated: seen.append((inputs[0][0] @ module.weight.T, gated[0]))
    )
    try:
        with torch.no_grad():
            editor.edit(item.a, item.a_prime, item.b, steps=steps)
    finally:
        handle.remove()
    return tuple(torch.stack(part).detach() for part in zip(*seen, strict=True))


before, after = record(question, STEPS)


def check_gate(gates) -> str:
    """Whether the gates are the router's coefficients at every step, beside how much A x itself changes."""
    if gates(before, after) is None:
        return "Not yet: `gates` returns None."
    found = gates(before, after)
    if found.shape != (STEPS, N):
        return f"Not yet: expected the shape {[STEPS, N]}, got {list(found.shape)}."
    off = float((found - routed[0, ATTENTION]).abs().max())
    if off > 1e-3:
        return f"Not yet: at some step a gate is {off:.3f} away from the router's coefficient."
    change = float((before[-1] - before[0]).norm() / before[0].norm())
    drift = float((found[-1] - found[0]).abs().max())
    return f"✓ Right: from the first step to the last A x changes by {change:.0%}, the gate by {drift:.0e}."


# %% tags=["exercise"]
def gates(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor | None:
    """The gate of each LoRA at each step, [steps, N], from A x before and after it, [steps, tokens, N·r]."""
    return None


# %%
print(check_gate(gates))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Each LoRA owns RANK neighbouring numbers of each token, and all of them were multiplied by the same coefficient.
# A quotient of sums is safer than a mean of quotients: some of the numbers are close to 0.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def gates(before, after):
#     x, y = (z.unflatten(-1, (N, RANK)) for z in (before, after))
#     return (x * y).sum((1, 3)) / (x * x).sum((1, 3))
# ```
#
# The router reads a, a′ and b. None of them changes while b′ is drawn, and neither the noisy tokens nor the time are
# among its inputs; so c is computed once. Because c is the same at every step, so is $W + BDA$, and `editor.freeze` can
# merge it. A router that also read the time step could do more, but it could not be merged.
#
# </details>

# %% [markdown]
# ## Exercise 4: predict the start
#
# *Difficulty ●●● · about 12 minutes*
#
# A new router has keys from a standard normal and projections uniform in $[-1/\sqrt w,\ 1/\sqrt w]$, with w the length
# of the query as a list of numbers. From the query's norm alone you can compute with how many LoRAs it starts. Write
# the formula; the check builds new routers, the paper's among them, and measures.


# %%
def check_start(expected) -> str:
    """Predicted perplexity of new routers against measured ones."""
    from lorweb_mini.core.router import Router

    if expected(1.0, 576, 16) is None:
        return "Not yet: `expected_perplexity` returns None."
    norms = {"the paper's": (10 * 3**0.5, 2304, 32, 128), "ours": (3 * EMBEDDING) ** 0.5, "as it is": 10 * 3**0.5}
    told, right = [], True
    for name, given in norms.items():
        norm, width, n, keys = given if isinstance(given, tuple) else (given, 3 * EMBEDDING, N, KEY)
        torch.manual_seed(0)
        fresh = Router(12, n, width // 3, keys)
        query = norm * torch.nn.functional.normalize(torch.randn(64, width), dim=1)
        with torch.no_grad():
            found = float(perplexity(fresh.logits(query).softmax(-1)).mean())
        said = float(expected(norm, width, n))
        right = right and abs(said - found) < 0.15 * (n - found) + 0.02 * n
        told.append(f"{name}: {said:.1f} said, {found:.1f} of {n} measured")
    return f"{'✓ Right' if right else 'Not yet'}. " + "; ".join(told) + "."


# %% tags=["exercise"]
def expected_perplexity(norm: float, width: int, n: int) -> float | None:
    """Perplexity of a new router's rows, for queries of this norm and width, and n LoRAs."""
    return None


# %%
print(check_start(expected_perplexity))

# %% [markdown]
# <details><summary>Hint</summary>
#
# First the variance v of a score. A number uniform in $[-s, s]$ has the variance $s^2/3$, so each of the $d_k$ numbers
# of $Pq$ has the variance $\lVert q\rVert^2 / 3w$. A score is a sum of $d_k$ products of those with standard normal
# numbers, divided by $\sqrt{d_k}$. Then the entropy of a softmax over n scores of a small variance: it is
# $\ln n - v/2$, nearly.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# import math
#
# def expected_perplexity(norm, width, n):
#     variance = norm**2 / (3 * width)
#     return n * math.exp(-variance / 2)
# ```
#
# $d_k$ cancels: this is the purpose of $\sqrt{d_k}$. With embeddings of norm 10 and CLIP's width the paper's router
# starts almost exactly uniform. Standardising sets $\lVert q\rVert^2 \approx w$ and with it $v \approx 1/3$ for
# **every** width and every encoder: near uniform, and not so near that all questions look alike.
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - N LoRAs and their mixture are one LoRA with a gate between its halves, and PEFT can hold it. Train with the gate,
#   merge it for use.
# - The router is attention with one query and N keys. It reads a, a′ and b once, and every layer computes its own
#   coefficients.
# - Three numbers describe a router: how many LoRAs one routing uses, how many are in use at all, and how much a routing
#   depends on the question. The loss shows none of them.
# - Early gradients of the router are noisy, and its learning rate affects which kind of router it becomes. You have
#   measured what two precautions change: the LoRAs in use, and the loss of the first steps.
# - A training whose random numbers depend only on the seed and the step can be interrupted and resumed exactly.
# - Every figure here shows one training of a small model. What *you* have measured is in the cells.
#
# **Next: 05, The learned space.** Thousands of such tables at once: do similar edits lie together?
#
# ## Where it is in the paper
#
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) adapts every linear layer in all 57 blocks of
#   FLUX.1-Kontext; its released weights have N = 32 LoRAs of rank 4 and keys of 128 numbers. It mixes **products**
#   $B_n A_n$, not A and B apart, so that a mixture has a rank of up to N·r and an exact merge for each analogy.
# - Query: CLIP ViT-L/14's embeddings of a, a′ and b, joined. Softmax over keys, one head, no temperature to learn.
# - Departures here: the query is standardised; the router learns at a tenth of the LoRAs' rate; the transformer sees b
#   alone (in the paper it sees a grid of a, a′, b), so that the edit has no other way in than the mixture.
# - In this repository: `lorweb_mini/core/basis.py`, `lorweb_mini/core/router.py`, `BasisRecipe` in
#   `lorweb_mini/training/basis.py`, `lorweb_mini/training/loop.py`, and
#   `lorweb_mini/training/live_training.py` for what you watched.

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
