# %% [markdown]
# # Start here: edit a picture by example
#
# *a* is to *a′* as *b* is to … what? You show a model **one edit**, and it makes the same edit on another picture. You
# never name the edit: the model infers it from the pair.
#
# Run the next cell (Shift + Enter). It loads a trained model from disk and answers a page of such questions, all about
# emoji that the model never saw in training. You will build such a model in this course.

# %%
# %matplotlib inline
import os
import time

START = time.perf_counter()
os.environ["HF_HUB_OFFLINE"] = "1"  # everything is on this disk

import torch
from IPython.display import Markdown, display

import lorweb_mini as lw
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.emoji.relations import as_batch
from lorweb_mini.show.pictures import relation_label, triplets
from lorweb_mini.show.style import COLOURS, figure_of

editor = lw.load("starter")
SHOWN = ("tone/yellow>dark", "tone/dark>light", "edit/hue=120", "edit/grey", "edit/invert", "edit/background=280",
         "edit/tint=150", "edit/darken=0.3", "edit/flip_horizontal", "edit/shrink=0.6")  # fmt: skip


def shows(x: lw.Analogy) -> float:
    """How much an edit changes a and b: a symmetric arrow does not show that it was flipped."""
    return float((x.a - x.a_prime).pow(2).mean() * (x.b - x.b_prime).pow(2).mean())


questions = [max(lw.analogies("test", name, seed=5), key=shows) for name in SHOWN]  # no answer was looked at
answers = editor.edit(*[list(pictures) for pictures in as_batch(questions)[:3]])
FIRST_ANSWER = time.perf_counter() - START
triplets(questions, answers.pictures, title="a is to a′ as b is to …")

# %%
emoji = lw.load_emoji()
loras, rank, layers = editor.config.n_loras, editor.config.rank, len(editor.basis.layers)
display(
    Markdown(
        f"**{len(questions)} questions, answered {FIRST_ANSWER:.0f} seconds after you pressed the key**, imports "
        f"included. In blue: the model's result. To its right: the true b′, drawn by the artist of that emoji or made "
        f"by an exact edit. The pictures are {int(emoji.present.sum()):,} drawings of {len(emoji.emojis):,} emoji by "
        f"{emoji.present.shape[1]} sets of artists, which is rare luck: visual analogies **with a true answer**. The "
        "model was trained for ten minutes: compare colours, then shapes and sizes. (Of eight questions of each "
        "relation the page has the one whose edit shows most; the README's table is about all sorts.)"
    )
)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. ask the model a visual analogy of your own, and measure how well it did;
# 2. say what a *basis of LoRAs* is and what the *router* decides;
# 3. mix several edits of one picture and see what lies between them.
#
# **You need** some Python and a rough idea of what a neural network layer is. No GPU, no network, no account.
# **It takes** 20 to 30 minutes of your time; the last cell measures the computing time.
#
# The method is LoRWeB, by Manor, Gal, Maron, Michaeli and Chechik
# ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)). This is an independent implementation in miniature, small
# enough to train on a laptop.
#
# ## Preflight
#
# Is everything installed that the course needs?

# %%
from lorweb_mini.show.preflight import preflight

preflight()

# %% [markdown]
# ## One analogy, slowly
#
# Take one question from the page above. Below are *a*, *a′* and *b*; the model's result and the true *b′* are covered.
#
# > **Predict before you run.** Look at the pair. What is the edit? Now imagine it on *b*: which pixels change, and
# > which must stay exactly as they are?
#
# Where no `steps` are named, this course draws in one: from noise straight to the picture. Notebook 02 explains why
# that is enough for exact edits, and what it blurs.

# %%
from dataclasses import replace

RELATION = "tone/yellow>dark"
question = lw.analogies("test", RELATION, seed=5, n=1)[0]
covered = torch.full((3, 64, 64), 0.8)
triplets([replace(question, b_prime=covered)], covered[None], labels=["what was done here?"], size=1.1)

# %%
result = editor.edit(question.a, question.a_prime, question.b, seed=0)
triplets([question], result.pictures, size=1.1)

# %% [markdown]
# `edit` takes PIL pictures, arrays, tensors or file names, one or a list of them. `result.image` is a PIL picture.
#
# **How good is it?** One number should answer this for every relation. The model works in the latent space of an
# autoencoder, so its result is compared with the autoencoder's reconstruction of *b′*, not with *b′* itself. And where
# an edit changes little, every result is close to the truth, so the squared error is divided by the size of the edit:
#
# $$\text{error} = \frac{\lVert \text{result} - b' \rVert^2}{\lVert b - b' \rVert^2}$$
#
# 0 is the true answer, 1 is what you get by returning *b* unchanged. Read the number together with the picture: most of
# a picture is white ground, so that a smear in the right place can score well. *Shrink* on the page at the top is one.


# %%
def error(drawn: torch.Tensor, b: torch.Tensor, b_prime: torch.Tensor) -> list[float]:
    """Normalised error of each of k drawings, all [k, 3, 64, 64]."""
    b, b_prime = reconstruct(editor.autoencoder, b), reconstruct(editor.autoencoder, b_prime)
    return (squared(drawn, b_prime) / squared(b, b_prime)).tolist()


_, _, all_b, all_b_prime = as_batch(questions)
errors = error(answers.pictures, all_b, all_b_prime)
(mine,) = error(result.pictures, question.b[None], question.b_prime[None])
lines = [f"| {relation_label(x.relation)} | {e:.2f} |" for x, e in zip(questions, errors, strict=True)]
display(
    Markdown(
        f"This answer: **{mine:.2f}**. The page at the top, question by question "
        f"(median {torch.tensor(errors).median():.2f}):\n\n| relation | error |\n|:--|--:|\n" + "\n".join(lines)
    )
)

# %% [markdown]
# Elsewhere you will meet numbers far above 1. They usually mean that the edit changes little. Turning the hue of an
# almost black picture changes every pixel only a little, so the denominator is small and a small error counts a lot.
#
# One question per relation is too few for a measurement. `make run` evaluates many questions, with intervals and
# baselines.
#
# ## What the router decided
#
# The model was not told the name of the edit. How does it know what to do?
#
# It starts from a **frozen** image editor, a small version of FLUX.1-Kontext. Without an instruction this editor
# returns its input picture. Each of its layers *W* gets a **basis**: *N* corrections $B_n A_n$ of low rank, the LoRAs.
# A **router** looks at *a*, *a′* and *b* once and decides how much of each LoRA is added to the layer:
#
# $$y = W x + \sum_{n=1}^{N} c_n\, B_n A_n x, \qquad
# c = \operatorname{softmax}\!\left(\frac{P q \cdot k_n}{\sqrt d}\right), \qquad
# q = [\,e(a),\ e(a'),\ e(b),\ p(a, a')\,]$$
#
# *e* is an image encoder, *P* a projection and $k_n$ a key for each LoRA; every layer has its own *P* and keys. The
# last part of the query *q* is not in the paper: *p*, an encoder of the pair, was trained to tell what changed from *a*
# to *a′* (notebook 08 says how much depends on it). An edit is therefore a table of numbers with one row per layer and
# one column per LoRA, and every row sums to 1.

# %%
coefficients = result.coefficients[0]  # [layers, N]
figure, axes = figure_of(9, 3.4)
shown = axes.imshow(coefficients.T, aspect="auto", cmap="cividis", vmin=0)
axes.grid(False)
axes.set(xlabel="layer, from the first block to the last", ylabel="LoRA")
axes.set_title(f"The router's answer to this question: {layers} layers × {loras} LoRAs", loc="left")
figure.colorbar(shown, label="coefficient", pad=0.01)
figure

# %%
from lorweb_mini.analysis.mixtures import shares, strongest

leaders = strongest(coefficients, 3)
taken = shares(coefficients)[list(leaders)]
perplexity = torch.special.entr(coefficients).sum(-1).mean().exp()
trained = sum(p.numel() for p in [*editor.basis.parameters(), *editor.router.parameters()])
frozen = sum(p.numel() for p in editor.base.parameters()) - sum(p.numel() for p in editor.basis.parameters())
display(
    Markdown(
        f"- Every row sums to 1 (the furthest is off by {(coefficients.sum(-1) - 1).abs().max():.0e}).\n"
        f"- Most used here: LoRAs {', '.join(map(str, leaders))}, with {', '.join(f'{s:.0%}' for s in taken)} of the "
        f"mixture on average. A layer uses about {perplexity:.1f} of its {loras} LoRAs.\n"
        f"- The basis and its router have {trained / 1e6:.1f} million parameters (N = {loras}, rank {rank}); the "
        f"frozen editor has {frozen / 1e6:.1f} million, and they stayed as they were."
    )
)

# %% [markdown]
# ## Same *b*, another pair
#
# If the model infers the edit from the pair, then another pair must give another edit, even though *b* stays the same.
#
# > **Predict before you run.** We keep *b* and show the router pairs from three other relations. What will the three
# > results be? And in the bar chart: will the three mixtures share LoRAs with the first one?

# %%
OTHERS = ["edit/hue=120", "edit/invert", "edit/background=220"]
swapped = []
for name in OTHERS:
    pair = lw.analogies("test", name, seed=3, n=1)[0]
    truth = lw.relations()[name].apply_edits(question.b[None])[0]
    swapped.append(replace(pair, b=question.b, b_prime=truth))
a, a_prime, b, _ = as_batch(swapped)
others = editor.edit(list(a), list(a_prime), list(b))
triplets(swapped, others.pictures, columns=1, size=0.95)

# %%
figure, axes = figure_of(9, 2.6)
mixtures = torch.cat([result.coefficients, others.coefficients])
for i, (name, mixture) in enumerate(zip([RELATION, *OTHERS], mixtures, strict=True)):
    axes.bar(torch.arange(loras) + 0.2 * (i - 1.5), shares(mixture), 0.18, color=COLOURS[i], label=relation_label(name))
axes.set(xlabel="LoRA", ylabel="share of the mixture", xticks=range(loras))
axes.grid(axis="x", visible=False)
axes.set_title("Four pairs, four mixtures", loc="left")
axes.legend(ncols=4, loc="upper right", fontsize=8)
axes.set_ylim(0, 1.25 * float(mixtures.mean(1).max()))
figure

# %% [markdown]
# ## Ask your own questions
#
# So far, the questions were chosen for you. In the explorer below you choose *a*, *a′* and *b* yourself: search for an
# emoji, upload a picture file, or draw. The model answers after every change. Where the data have a true *b′*, it is
# shown with the error. Below the pictures you see the mixture, and the relations of this model's training whose mean
# mixture is most similar to it (cosine similarity of the tables).
#
# > **Predict before you run.** Swap *a* and *a′*: will the model undo the edit, even if no training pair ever showed
# > that? Then press "Put b′ into b" and let it edit its own result: will the edit get stronger, stay, or change?
#
# The arrow keys work inside each group of buttons. On a page without a running kernel you see one question and its
# answer as a static figure.

# %%
from lorweb_mini.widgets.explorer import Explorer

explorer = Explorer(editor, relations=SHOWN)
explorer.nearest()
explorer

# %% [markdown]
# ## Mix several edits
#
# `editor.generate(b, c)` renders **any** table of coefficients, not only those that the router would choose. At the
# corners of the square below are the four pairs of "Same *b*, another pair", each with the table $c_k$ that the router
# gives it for the same *b*. A point of the square mixes the four tables with bilinear weights,
#
# $$c = \sum_{k=1}^{4} w_k\, c_k, \qquad w_k \ge 0, \qquad \sum_k w_k = 1,$$
#
# so every row of the mixture still sums to 1.
#
# > **Predict before you run.** In the middle all four pairs count the same. Will you see four edits at once, a little
# > of each, or a picture that is none of them? Where along an edge does one edit turn into the other?
#
# Drag the point, or use the arrow keys; the keys 1 to 4 go to a corner and 0 to the middle. While a picture is being
# computed, newer positions replace older ones, so the last picture always belongs to the last position. On a page
# without a running kernel you see a grid of pictures.

# %%
from lorweb_mini.widgets.pads import Pads

pads = Pads(editor, [question, *swapped], question.b)
pads

# %% [markdown]
# ## Exercise 1: the mixture that does nothing
#
# *Difficulty ●○○ · about 3 minutes*
#
# Find a table of coefficients with which the editor returns *b* unchanged, whatever the pair shows. Assign it to
# `nothing` and run the cell and the check below it.


# %%
def check_nothing(mixture: torch.Tensor | None) -> str:
    """Whether a mixture [layers, N] gives b back: error against b, in units of this question's edit."""
    if mixture is None:
        return "Not yet: `nothing` is still None."
    drawn = editor.generate(question.b, mixture, context=(question.a, question.a_prime)).pictures
    b, b_prime = (reconstruct(editor.autoencoder, x[None]) for x in (question.b, question.b_prime))
    left = float(squared(drawn, b)[0] / squared(b, b_prime)[0])
    return f"{'✓ Right' if left < 0.25 else 'Not yet'}: {left:.2f} of the edit is left (below 0.25 counts as nothing)."


# %% tags=["exercise"]
nothing = None  # your mixture: a tensor of the same shape as `coefficients`

# %%
print(check_nothing(nothing))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Coefficients need not come from a softmax, and their rows need not sum to 1. What is left of
# $y = W x + \sum_n c_n B_n A_n x$ if you want the frozen editor alone?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# nothing = torch.zeros_like(coefficients)
# ```
#
# Without its LoRAs the model is the frozen editor, which was trained to return its input picture when it gets no
# instruction. So the LoRAs only have to *add* the edit; the rest of the picture is kept without them.
#
# </details>

# %% [markdown]
# ## Exercise 2: halfway between two edits
#
# *Difficulty ●●○ · about 5 minutes*
#
# `result.coefficients[0]` makes one edit of *b*, `others.coefficients[0]` another. Make the mixture that lies exactly
# halfway between them. Does its picture show both edits, half of each, or neither?


# %%
def check_half(mixture: torch.Tensor | None) -> str:
    """Whether a mixture [layers, N] is the midpoint; shows the two edits with the mixture's picture between them."""
    if mixture is None:
        return "Not yet: `half` is still None."
    ends = torch.stack([result.coefficients[0], others.coefficients[0]])
    if not torch.allclose(mixture, ends.mean(0), atol=1e-5):
        return f"Not yet: the rows sum to {mixture.sum(-1).mean():.2f}; as far from one end as from the other?"
    path = torch.stack([ends[0], mixture, ends[1]])
    drawn = editor.generate(question.b, path, context=(question.a, question.a_prime))
    figure, axes = figure_of(5, 1.9, ncols=3)
    for axis, picture, title in zip(axes, drawn.images, ("one edit", "half way", "the other"), strict=True):
        axis.imshow(picture.resize((256, 256)))
        axis.set_title(title)
        axis.axis("off")
    display(figure)
    return "✓ Right: and its rows still sum to 1, as those of any average of two mixtures do."


# %% tags=["exercise"]
half = None  # your mixture

# %%
print(check_half(half))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Tensors can be added and divided like numbers.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# half = (result.coefficients[0] + others.coefficients[0]) / 2
# ```
#
# The midpoint of two mixtures is their average. But the map from a mixture to a picture is not linear, so it has to be
# measured whether the picture shows a little of both edits. Notebook 06 does that.
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - The model gets three pictures; the edit is never named.
# - The router turns them into one table of coefficients; the table mixes a basis of LoRAs into a frozen editor.
# - Another pair gives another table, and every table gives a picture: the tables form a **space of edits** that you can
#   explore.
#
# ## What the rest of the course covers
#
# | notebook | question |
# |:--|:--|
# | 01 Visual analogies in real pictures | Which analogies do emoji offer, and how far does plain arithmetic get? |
# | 02 Flow matching and the editor | How does the frozen editor draw? |
# | 03 One LoRA | What does a single LoRA learn, and where does it fail? |
# | 04 A basis and a router | How do you train a basis like it? (An hour, ten minutes of it training.) |
# | 05 The learned space | Which LoRA does what, and do similar edits lie together? |
# | 06 Walking | What lies between two edits and beyond them, and how close is it to the true answer? |
# | 07 Unseen | Does it make edits that no training showed? |
# | 08 What matters | Which parts of the method matter, over several seeds? |
# | 09 To the real FLUX | How does the same code run at full scale? |
#
# ## Where the paper says it
#
# [arXiv 2602.15727](https://arxiv.org/abs/2602.15727), *Spanning the Visual Analogy Space with a Weight Basis of
# LoRAs*: its method section describes the basis, the router's query and the softmax over keys of the formula above. In
# this repository they are `lorweb_mini/core/basis.py` and `lorweb_mini/core/router.py`, a page each.

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
