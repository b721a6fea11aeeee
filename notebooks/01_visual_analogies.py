# %% [markdown]
# # Visual analogies in real pictures
#
# Which visual analogies can you ask about emoji, and how far do you get **without any training**? Word vectors solve
# analogies by plain arithmetic, king − man + woman. This notebook tries the same with pictures and measures where it
# works.
#
# Each row below is a question, *a* : *a′* :: *b* : … In blue: the answer of arithmetic. To its right: the true *b′*.

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
from lorweb_mini.emoji.relations import Analogy, Relation, as_batch, relations
from lorweb_mini.show.pictures import relation_label, triplets
from lorweb_mini.show.style import STYLE

matplotlib.rcParams.update(STYLE)
SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"


def pixel_arithmetic(items: list[Analogy]) -> torch.Tensor:
    """b + (a′ − a) of k analogies, not clipped: [k, 3, 64, 64]."""
    a, a_prime, b, _ = as_batch(items)
    return b + (a_prime - a)


NEAR = {"edit/frame": 1, "edit/background=220": 1, "edit/tint=240": 4}  # relation to the seed of an example
FAR = {"edit/flip_horizontal": 2, "edit/hue=120": 2, "edit/rotate=90": 2}
examples = [pair for both in zip(NEAR.items(), FAR.items(), strict=True) for pair in both]
questions = [lw.analogies("test", name, seed=seed, n=1)[0] for name, seed in examples]
TITLE = "On the left plain arithmetic comes close, on the right it does not. Why?"
triplets(questions, {"b + (a′ − a)": pixel_arithmetic(questions)}, title=TITLE)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. say what is in the data: six sets of drawings, the relations between them, and how they are split;
# 2. find an analogy of your own among them, in a browser or in code;
# 3. measure an answer, and say why the split is by *concept*;
# 4. predict from one number on which relations arithmetic works, and say what a better method needs.
#
# **You need** notebook 00, numpy or torch, and linear regression. No GPU, no network, no account.
# **It takes** 40 to 50 minutes of your time; the last cell measures the computing time.
#
# ## Six sets of artists
#
# Unicode defines the emoji but does not draw them. Each of the sets below was drawn by its own artists and is openly
# licensed: [Noto](https://github.com/googlefonts/noto-emoji) (Apache-2.0),
# [Twemoji](https://github.com/jdecked/twemoji) (CC-BY-4.0), [OpenMoji](https://openmoji.org) in colour and as black
# line art (CC-BY-SA-4.0), and [Fluent](https://github.com/microsoft/fluentui-emoji), in glossy 3D and flat (MIT). Who
# made what, and what was changed, is in `data/emoji/ATTRIBUTION.md`.

# %%
from lorweb_mini.emoji.relations import STYLE_NAMES
from lorweb_mini.emoji.sheets import STYLES
from lorweb_mini.show.pictures import picture_rows

emoji = lw.load_emoji()
drawings = {name: emoji.tensor(emoji.find(name), np.arange(6)) for name in ("fox", "rocket", "woman astronaut")}
names = list(STYLE_NAMES.values())
picture_rows(drawings, columns=names, size=0.95, label_width=1.25, title="The same emoji, drawn six times")

# %%
counts = emoji.present.sum(0)
rows = [f"| {STYLE_NAMES[style]} | {count:,} |" for style, count in zip(STYLES, counts, strict=True)]
display(
    Markdown(
        f"**{len(emoji.emojis):,} emoji, {emoji.present.sum():,} drawings** of 64×64 pixels; "
        f"{emoji.present.all(1).sum():,} emoji are drawn by all six.\n\n| set | drawings |\n|:--|--:|\n"
        + "\n".join(rows)
    )
)

# %% [markdown]
# ## What a visual analogy is
#
# A visual analogy consists of four pictures in two pairs that share one relation: *a* : *a′* :: *b* : *b′*. Three are
# given, the fourth is the answer.
#
# To train on such questions you need many of them **with their answers**. Where do the answers come from? There are
# hardly any photographs of the same thing before and after an edit, so in published sets of edits the target was made
# by another model. A method trained on such targets learns that model's mistakes, and an evaluation on them measures
# agreement with that model.
#
# Emoji are an exception. The artist who drew the raw food also drew the meal, in the same style. Each row below is one
# question, and the pictures of each pair are by the same artist.

# %%
ASKED = {"food/raw>made": 1, "species/face>cat": 3, "weather/+rain": 12, "grow/young>adult": 8, "moon/+2": 31}
asked = [lw.analogies("train", name, seed=seed, n=1)[0] for name, seed in ASKED.items()]
artists = {relation_label(x.relation).replace(": ", ":\n", 1): x for x in asked}
four = {label: torch.stack([x.a, x.a_prime, x.b, x.b_prime]) for label, x in artists.items()}
picture_rows(four, columns=["a", "a′", "b", "true b′"], title="Every answer was drawn by the artist")

# %% [markdown]
# One limit remains: the true *b′* is only *one* right answer. From corn, popcorn and an egg you cannot tell that this
# artist fries the egg, nor in which pan. Where several answers are right, even a good one has some distance to the one
# that was drawn.
#
# ## The relations
#
# A relation is a set of pairs that show the same change. There are three kinds, and compositions of two of them:
#
# | sort | pair | example |
# |:--|:--|:--|
# | semantic | two emoji, one style | `tone/yellow>dark` |
# | style | one emoji, two styles | `style/noto>twemoji` |
# | edit | a drawing and its exactly edited self | `edit/hue=120` |
# | composition | two in turn | `compose/edit/invert+edit/blur=4` |

# %%
by_family: dict[str, list[Relation]] = {}
for relation in relations().values():
    by_family.setdefault(relation.name.split("/")[0], []).append(relation)
semantic = {f: members for f, members in by_family.items() if f not in ("style", "edit", "compose")}
pairs = {f: sum(len(r.all_pairs) for r in members) for f, members in by_family.items()}
drawn = sum(pairs[f] for f in semantic)
display(
    Markdown(
        f"There are **{len(relations())} relations**: {sum(map(len, semantic.values()))} semantic ones in "
        f"{len(semantic)} families with {drawn:,} pairs, {len(by_family['style'])} between styles with "
        f"{pairs['style']:,}, {len(by_family['edit'])} edits that work on any drawing, and {len(by_family['compose'])} "
        f"compositions. Of the semantic pairs, **{pairs['tone'] / drawn:.0%} are changes of skin tone**."
    )
)

# %% [markdown]
# The last number is a problem. A model trained on pairs sampled at random would see mostly tones, and an average over
# pairs would mostly be an average over tones. So the training here samples a **relation** first and then one of its
# pairs. A relation with *P* training pairs has the weight $\sqrt{\min(P, 400)}$: more pairs mean more samples, but not
# in proportion.

# %%
from lorweb_mini.show.style import COLOURS, INK, LINE, PALE, figure_of


def shares(weight) -> dict[str, float]:
    """Share of each semantic family in a training on the seen relations, sampled with these weights."""
    seen = {f: [len(r.pairs("train")) for r in members if r.degree == "seen"] for f, members in semantic.items()}
    sums = {f: sum(map(weight, counts)) for f, counts in seen.items()}
    return {f: value / sum(sums.values()) for f, value in sums.items() if value}


by_pair, by_relation = shares(lambda count: count), shares(lambda count: min(count, 400) ** 0.5)
order = sorted(semantic, key=pairs.get)
figure, (left, right) = figure_of(9.6, 0.195 * len(order) + 1.2, ncols=2, sharey=True)
for y, family in enumerate(order):
    left.plot([1, pairs[family]], [y, y], color=LINE, lw=1.2)
    left.plot(pairs[family], y, "o", color=COLOURS[0], ms=5)
    text = f"{pairs[family]:,} in {len(semantic[family])}"
    left.text(1.3 * pairs[family], y, text, va="center", size=7.5, color=PALE)
    if family in by_pair:
        right.plot([by_pair[family], by_relation[family]], [y, y], color=LINE, lw=1.2)
        right.plot(by_pair[family], y, "o", mfc="white", color=INK, ms=5)
        right.plot(by_relation[family], y, "o", color=COLOURS[0], ms=5)
    else:
        right.text(1e-4, y, "held out", va="center", size=7.5, color=PALE)
left.set(xscale="log", xlim=(6, 900_000), ylim=(-0.8, len(order) - 0.2), xlabel="pairs")
left.set_yticks(range(len(order)), order, color=INK)
left.set_title("Pairs of each family, in so many relations", loc="left")
right.set(xscale="log", xlim=(6e-5, 1.2), xlabel="share of the training samples")
right.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
right.set_title("Hollow: sampled by pair. Filled: by relation", loc="left")
for axes in (left, right):
    axes.minorticks_off()
figure

# %% [markdown]
# ### Some relations are ordered
#
# Five skin tones, eight phases of the moon, eight directions, twenty-four faces of the clock: these come in an
# **order**, and what lies between two of them was drawn by an artist, too. So when you walk between two edits in
# notebook 06, the picture halfway can be compared with a true answer.

# %%
tones = [emoji.find(f"waving hand{t}") for t in ("", *(f": {x} skin tone" for x in
         ("light", "medium-light", "medium", "medium-dark", "dark")))]  # fmt: skip
ordered = {
    "tone": tones,
    "moon": [emoji.find(x) for x in "🌑🌒🌓🌔🌕🌖🌗🌘"],
    "direction": [emoji.find(x) for x in "⬆↗➡↘⬇↙⬅↖"],
    "clock\n(whole hours)": [emoji.find(chr(0x1F550 + hour)) for hour in range(12)],
}
strips = {label: emoji.tensor(positions, 0) for label, positions in ordered.items()}
picture_rows(strips, title="Ordered relations", size=0.62, label_width=1.1)

# %% [markdown]
# ## Exact edits, and their dials
#
# Where no artist drew the change, code can make it: turn the hue, rotate, blur. Such a pair is exact by construction,
# and its strength is a **dial** that can have any value. A few values of each dial are relations. The middle one of
# three is held out of training: does a model that learned weak and strong also make medium? (So it is with the fixed
# list of relations that notebook 04 trains on; the shipped bases learn random strengths.)

# %%
from lorweb_mini.emoji.edits import EDITS, apply_edit, relation_name

b = emoji.tensor(emoji.find("snail"), 0)
dials, notes = {}, {}
for kind in ("rotate", "darken", "pixelate", "shrink", "swirl"):
    low, middle, high = EDITS[kind].strengths
    dial = (low, (low + middle) / 2, middle, (middle + high) / 2, high)
    degree = {s: relations()[relation_name(kind, s)].degree for s in EDITS[kind].strengths}
    words = {"seen": "seen", "strength": "held out", "family": "held out"}
    label = f"{kind}\n({EDITS[kind].unit})"
    dials[label] = torch.cat([b, *(apply_edit(b, kind, s) for s in dial)])
    notes[label] = ["b", *(f"{s:g}, {words[degree[s]]}" if s in degree else f"{s:g}" for s in dial)]
picture_rows(dials, notes, size=0.75, title="Five dials: b, three relations, and two strengths between them")

# %% [markdown]
# ## Splits: by concept, never by picture
#
# Does a method generalise? To find out, test it on emoji that it never saw. The obvious way is to put 15 % of the
# drawings aside at random.
#
# > **Predict before you run.** Of the drawings put aside that way, what share has a *sibling* in the training part:
# > the same thing in another tone, another gender, or by another artist?

# %%
concept = np.unique([x.concept for x in emoji.emojis], return_inverse=True)[1]  # a number for each emoji's concept
rng = np.random.default_rng(0)


def leak(test: np.ndarray, of: np.ndarray) -> float:
    """Share of the test items (bool [k]) whose concept (``of``, int [k]) also occurs in the rest."""
    return float(np.isin(of[test], of[~test]).mean())


of_drawing = concept[np.argwhere(emoji.present)[:, 0]]
by_drawing = leak(rng.random(len(of_drawing)) < 0.15, of_drawing)
by_emoji = leak(rng.random(len(concept)) < 0.15, concept)
by_concept = leak(np.isin(concept, rng.permutation(concept.max() + 1)[: int(0.15 * concept.max())]), concept)
display(
    Markdown(
        f"| put aside at random | have a sibling in training |\n|:--|--:|\n"
        f"| 15 % of the drawings | **{by_drawing:.1%}** |\n"
        f"| 15 % of the emoji, all styles together | **{by_emoji:.1%}** |\n"
        f"| 15 % of the concepts | **{by_concept:.1%}** |\n\n"
        f"A *concept* is all tones, genders, directions and styles of one thing. There are {concept.max() + 1:,}; the "
        f"largest has {np.bincount(concept).max()} emoji."
    )
)

# %%
runners = np.flatnonzero(concept == concept[emoji.find("person running")])
chosen = rng.permutation([(i, s) for i in runners for s in np.flatnonzero(emoji.present[i])])
leaked = {
    "put aside\nfor the test": emoji.tensor(*chosen[:1].T),
    "some of its\nsiblings in training": emoji.tensor(*chosen[1:8].T),
}
picture_rows(leaked, title=f"One concept: {len(runners)} emoji, {len(chosen)} drawings", label_width=1.6)

# %% [markdown]
# A model that has seen the siblings can draw the test picture from memory. So the published split (`data/splits.json`)
# puts whole concepts on one side: train, val or test. A test pair has at least one end on the test side, and no
# training pair touches a test concept.
#
# ### Four degrees of generalisation
#
# New emoji are the easiest test. The relations are split, too, into four degrees of increasing difficulty:
#
# 1. **seen**: the relation was in training, only the emoji are new;
# 2. **strength**: weak and strong were in training, medium was not;
# 3. **composition**: both parts were in training, never together;
# 4. **family**: nothing of the kind was in training.

# %%
from collections import Counter

from lorweb_mini.emoji.relations import DEGREES, select

found = Counter((r.degree, r.known_to_base) for r in relations().values())
lines = [
    f"| {degree} | {found[degree, True]} | {found[degree, False]} | {len(select(degree, starter=True))} |"
    for degree in DEGREES
]
display(
    Markdown(
        "| degree | known to the base | known to nobody | in the starter set |\n|:--|--:|--:|--:|\n" + "\n".join(lines)
    )
)

# %%
COMPOSED = "compose/edit/flip_horizontal+edit/hue=120"
HARDER = {"tone/yellow>dark": 5, "edit/darken=0.45": 10, COMPOSED: 7, "edit/swirl=150": 1}
examples = [lw.analogies("test", name, seed=seed, n=1)[0] for name, seed in HARDER.items()]
four = {
    f"{degree}\n{relation_label(x.relation).replace(' + ', chr(10) + '+ ')}": torch.stack(
        [x.a, x.a_prime, x.b, x.b_prime]
    )
    for degree, x in zip(DEGREES, examples, strict=True)
}
picture_rows(four, columns=["a", "a′", "b", "true b′"], title="One question of each degree", label_width=2.0)

# %% [markdown]
# These four degrees are those of a fixed list of relations, which notebook 04 trains on. The shipped bases learn fresh
# edits with random strengths, some of the *held out* ones among them; what they never see is in `data/unseen.json`
# (notebook 07).
#
# Why are there two columns in the middle? The frozen editor itself was trained on many edits, with instructions in
# words. A held-out relation that the editor **knows** only has to be found by the router, as in the paper, whose base
# model knows far more edits than the LoRAs were trained on. A relation in the column *known to nobody* was in no
# training at all, neither the editor's nor the basis's.
#
# ## Look around yourself
#
# Search for an emoji, click it, choose one of its drawings, and follow a relation to its pairs. Try *moon*, *couple*,
# *apple*, or a character of your own. On a page without a running kernel you see a static figure instead.

# %%
from lorweb_mini.widgets.browser import Browser

browser = Browser()
browser

# %% [markdown]
# You can do the same in code: `search` finds emoji, `relations_of` the relations that start at a drawing, and
# `pairs_of` their pairs.

# %%
from lorweb_mini.widgets.search import relations_of, search

heart = search("red heart")[0]
starting = [name for name in relations_of(heart, "noto") if name.split("/")[0] in semantic]
display(Markdown(f"At Noto's *{emoji.emojis[heart].name}* start: " + ", ".join(f"`{name}`" for name in starting) + "."))

# %% [markdown]
# ## The measure
#
# How good is an answer? It is judged by its squared distance to the truth. But a weak edit leaves *b′* close to *b*,
# and then even a wrong answer is close. So the distance is divided by the size of the edit, both summed over the
# analogies of a relation:
#
# $$\text{error} = \frac{\sum_i \lVert \text{result}_i - b'_i \rVert^2}{\sum_i \lVert b_i - b'_i \rVert^2}$$
#
# **Copying *b* scores exactly 1**, the truth 0, and a result that is worse than doing nothing scores more than 1. As in
# notebook 00, all pictures pass through the autoencoder before they are compared, so that its losses do not count
# against any method.
#
# ## Four methods that need no training
#
# 1. **copy b**: do nothing.
# 2. **copy a′**: return the result of the example, whatever *b* is.
# 3. **pixel arithmetic**: $b + (a' - a)$, clipped to the range of pixels, as at the top of this notebook.
# 4. **latent arithmetic**: the same with the autoencoder's latents, $z_b + (z_{a'} - z_a)$.
#
# We try them on four groups of relations. **Wash**: the colour of the whole picture changes. **Recolour**: the object
# changes colour and its background stays white. **Move**: pixels move. **Redraw**: an artist drew the object anew.
#
# > **Predict before you run.** In which groups will arithmetic beat doing nothing? Is there one where it does harm?

# %%
from lorweb_mini.analysis.evaluation import by_relation as sort_by_relation
from lorweb_mini.analysis.evaluation import draw, evaluate, reconstruct, squared
from lorweb_mini.analysis.scores import table
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.weights import weights_dir

autoencoder = MiniAutoencoder.load(weights_dir() / "autoencoder")
GROUPS = {
    "wash": ["edit/tint=0", "edit/tint=240", "edit/darken=0.25", "edit/background=220", "edit/frame", "edit/invert"],
    "recolour": ["edit/hue=120", "edit/hue=240", "edit/grey", "tone/yellow>dark", "tone/dark>light"],
    "move": ["edit/flip_horizontal", "edit/flip_vertical", "edit/rotate=90", "edit/rotate=180", "rotate/90deg"],
    "redraw": ["gender/man>woman", "style/noto>twemoji", "clock/+3h", "moon/+2", "mirror/person"],
}


def latent_arithmetic(items: list[Analogy]) -> torch.Tensor:
    """z_b + (z_a′ − z_a), drawn by the autoencoder: k analogies to pictures [k, 3, 64, 64]."""
    a, a_prime, b = (autoencoder.to_latent(x) for x in as_batch(items)[:3])
    return autoencoder.to_picture(b + (a_prime - a))


METHODS = {
    "copy b": lambda items: reconstruct(autoencoder, as_batch(items)[2]),
    "copy a′": lambda items: reconstruct(autoencoder, as_batch(items)[1]),
    "pixel arithmetic": lambda items: reconstruct(autoencoder, pixel_arithmetic(items).clamp(-1, 1)),
    "latent arithmetic": latent_arithmetic,
}

items = lw.analogies("test", [name for names in GROUPS.values() for name in names], seed=0, n=6 if SMOKE else 32)
measured = evaluate(METHODS, sort_by_relation(items), autoencoder, groups=GROUPS, retrieval_limit=0)
display(
    Markdown(
        f"Normalised error on {len(items)} analogies about unseen emoji: the median over the relations of a group (so "
        f"many in brackets) with its 95 % bootstrap interval.\n\n{table(measured)}"
    )
)

# %%
LOOK = [
    "edit/tint=0",
    "edit/frame",
    "edit/grey",
    "edit/hue=240",
    "edit/flip_vertical",
    "edit/rotate=90",
    "moon/+2",
    "clock/+3h",
]
seen = [next(x for x in items if x.relation == name) for name in LOOK]
answers = {"pixels": METHODS["pixel arithmetic"](seen), "latents": draw(latent_arithmetic, seen)}
triplets(seen, answers, title="What arithmetic draws", size=0.6)

# %% [markdown]
# ## Why: an addition cannot move a pixel
#
# Where do the ghosts come from? $a' - a$ removes *a* from the places where *a* is. Added to *b*, it removes *a* from
# places where *a* never was. This works only if the change does not depend on what the picture shows. A frame is the
# same on every picture; the change from a snail to its mirror image does not fit a rocket.
#
# This can be made exact. Call $s = x' - x$ the shift of a pair, and take two independent pairs of a relation. Then
#
# $$\mathbb E\,\bigl\lVert (b + s_a) - b' \bigr\rVert^2 = \mathbb E\,\lVert s_a - s_b \rVert^2
# = 2\,\bigl(\mathbb E\,\lVert s\rVert^2 - \lVert \mathbb E\, s\rVert^2\bigr),$$
#
# and dividing by $\mathbb E\,\lVert s_b \rVert^2$, which is the error of copying *b*:
#
# $$\text{error} = 2\,(1 - \rho), \qquad \rho = \frac{\lVert \mathbb E\, s \rVert^2}{\mathbb E\, \lVert s \rVert^2}.$$
#
# $\rho$, from 0 to 1, is the share of the shift that **all pairs have in common**. You can compute it for each relation
# before you run any method. Arithmetic beats doing nothing where $\rho > 1/2$. Where the pairs have nothing in common
# it scores 2: the example's own change is added, and *b*'s is still missing.
#
# > **Predict before you run.** The points below are measured errors, one for each relation. The line is $2(1 - \rho)$.
# > Clipping to black and white throws away what cannot be shown. Will the clipped errors lie above the line or below?


# %%
def pairs_in(name: str, split: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most n visibly different pairs of a relation, at random: two tensors [k, 3, 64, 64]."""
    relation = relations()[name]
    rows = np.random.default_rng(0).permutation(relation.pairs(split))[:n]
    first, second = relation.pictures(rows)
    visible = (first - second).abs().mean((1, 2, 3)) > 2 / 255
    return first[visible], second[visible]


def in_common(first: torch.Tensor, second: torch.Tensor) -> float:
    """ρ of k pairs, without the bias 1/k that the mean of k random shifts has."""
    s = (second - first).flatten(1)
    share = float(s.mean(0).square().sum() / s.square().sum(1).mean())
    return (len(s) * share - 1) / (len(s) - 1)


def arithmetic_error(name: str, clip: bool) -> float:
    """Normalised error of pixel arithmetic against the true pixels."""
    here = [x for x in items if x.relation == name]
    _, _, b, b_prime = as_batch(here)
    result = pixel_arithmetic(here)
    return float(squared(result.clamp(-1, 1) if clip else result, b_prime).sum() / squared(b, b_prime).sum())


rho = {name: in_common(*pairs_in(name, "test", 60 if SMOKE else 240)) for name in measured.relations}
plain, clipped = ({name: arithmetic_error(name, clip) for name in rho} for clip in (False, True))

# %%
figure, axes = figure_of(8.4, 4.3)
axes.plot([0, 1], [2, 0], color=INK, lw=1.2, zorder=1, label="2 (1 − ρ)")
axes.axhline(1, color=PALE, lw=0.9, ls="--")
axes.text(1.0, 1.03, "copying b", ha="right", size=8, color=PALE)
for colour, marker, (group, names) in zip(COLOURS, "osD^", GROUPS.items(), strict=False):
    x = [rho[name] for name in names]
    axes.scatter(x, [plain[n] for n in names], s=34, marker=marker, color=colour, label=group, zorder=3)
    axes.scatter(x, [clipped[n] for n in names], s=34, marker=marker, facecolors="white", edgecolors=colour, zorder=2)
for name in ("edit/tint=240", "edit/invert", "tone/dark>light", "edit/hue=120"):
    text = relation_label(name).removeprefix("edit: ")
    axes.annotate(text, (rho[name], plain[name]), (8, 4), textcoords="offset points", size=8)
axes.set(xlabel="ρ: share of the shift that all pairs have in common", ylabel="normalised error", xlim=(-0.03, 1.02))
axes.set_ylim(0)
axes.set_title("ρ predicts the error of arithmetic (filled: not clipped, hollow: clipped)", loc="left")
axes.legend(loc="upper right")
figure

# %%
off = {name: abs(plain[name] - 2 * (1 - rho[name])) for name in rho}  # each relation's distance to the line
farthest, typical = max(off, key=off.get), np.median(list(off.values()))
better = [name for name in rho if rho[name] > 0.5]
listed = ", ".join(relation_label(name).removeprefix("edit: ") for name in better)
hue, flip = rho["edit/hue=120"], rho["edit/flip_horizontal"]
display(
    Markdown(
        f"Without clipping most points lie close to the line: the median distance is {typical:.2f}, the largest "
        f"{off[farthest]:.2f} ({relation_label(farthest)}). The formula assumes independent pairs. "
        f"The two pairs of a question never show the same emoji, those in ρ may: with few emoji, as for the moon, the "
        f"error lies above the line. Clipping lowers the error, because it removes colours beyond black and white.\n\n"
        f"The pairs have more than half of the shift in common for: {listed}. In these edits **the white ground itself "
        f"changes**, and the ground is most of a picture. Turning the hue is also a change of colour, and yet ρ is "
        f"only {hue:.2f}: the ground stays white, and the shift from red to green is not the shift from blue to red. "
        f"For the mirror image ρ is {flip:.2f}."
    )
)

# %% [markdown]
# ## A linear map: learned from many pairs, for one relation
#
# Adding a shift is the simplest linear method. The next one uses a matrix, $z_{b'} \approx W z_b + w$, fitted by ridge
# regression to the **training pairs of one relation**. A matrix *can* move pixels, since every permutation is a matrix.
# What does it cost? A latent has 16 × 8 × 8 numbers, so *W* has a million entries.
#
# > **Predict before you run.** How many pairs will it take to rotate better than copying *b*? And to rotate well?

# %%
from sklearn.linear_model import Ridge

LEARNED = ["edit/rotate=90", "edit/hue=120", "edit/flip_horizontal", "tone/yellow>dark"]
SIZES = [10, 30, 100] if SMOKE else [10, 30, 100, 300, 1000, 2400]


def latents(x: torch.Tensor) -> np.ndarray:
    """Normalised latents of pictures [k, 3, 64, 64] as rows [k, 1024]."""
    with torch.no_grad():
        return torch.cat([autoencoder.to_latent(part).flatten(1) for part in x.split(64)]).numpy()


def ridge_method(z: np.ndarray, z_prime: np.ndarray):
    """The method that maps every b by the matrix fitted to these pairs."""
    model = Ridge(alpha=30).fit(z, z_prime)

    def method(items: list[Analogy]) -> torch.Tensor:
        mapped = model.predict(latents(as_batch(items)[2]))
        return autoencoder.to_picture(torch.from_numpy(mapped).float().view(-1, 16, 8, 8))

    return method


curves, maps = {}, {}
for name in LEARNED:
    z, z_prime = map(latents, pairs_in(name, "train", SIZES[-1]))
    sizes = sorted({min(size, len(z)) for size in SIZES})
    maps[name] = {str(size): ridge_method(z[:size], z_prime[:size]) for size in sizes}
    here = {name: [x for x in items if x.relation == name]}
    scores = evaluate(maps[name], here, autoencoder, retrieval_limit=0).relations[name]
    curves[name] = {int(size): score["error"] for size, score in scores.items()}

# %%
figure, axes = figure_of(8.4, 3.9)
axes.axhline(1, color=PALE, lw=0.9, ls="--")
axes.text(SIZES[-1], 1.04, "copying b", ha="right", size=8, color=PALE)
for colour, marker, name in zip(COLOURS, "o^Ds", LEARNED, strict=False):
    axes.plot(list(curves[name]), list(curves[name].values()), marker=marker, color=colour, label=relation_label(name))
    axes.plot(1, measured.relations[name]["latent arithmetic"]["error"], marker=marker, mfc="white", color=colour)
axes.set(xscale="log", xlabel="training pairs of this one relation", ylabel="normalised error", ylim=(0, None))
axes.set_xticks([1, *SIZES], ["1:\narithmetic", *map(str, SIZES)])
axes.minorticks_off()
axes.set_title("A matrix for one relation (filled) against one pair and addition (hollow)", loc="left")
axes.legend(loc="upper right")
figure

# %%
seen = [next(x for x in items if x.relation == name) for name in LEARNED]
few, many = ([list(maps[x.relation].values())[place] for x in seen] for place in (1, -1))
answers = {
    label: torch.cat([draw(method, [x]) for method, x in zip(methods, seen, strict=True)])
    for label, methods in ((f"{SIZES[1]} pairs", few), ("all pairs", many))
}
triplets(seen, answers, title="Matrices, each fitted to its own relation", size=0.6)

# %%
lines = []
for name, curve in curves.items():
    first = next((size for size, value in curve.items() if value < 1), None)
    last, value = list(curve.items())[-1]
    beats = f"{first:,}" if first else "more than we have"
    lines.append(f"| {relation_label(name)} | {beats} | {last:,} | {value:.2f} |")
display(
    Markdown(
        "| relation | pairs until it beats copying b | pairs at the end | error at the end |\n|:--|--:|--:|--:|\n"
        + "\n".join(lines)
    )
)

# %% [markdown]
# What does this show? **A matrix works**: moving pixels and turning colours are close to linear in this latent space,
# and a matrix learns them from enough pairs. **But it does not solve an analogy**: it needs many pairs of one relation,
# it is told which relation that is, it never looks at *a* and *a′*, and the next relation needs another matrix. Where
# the change depends on what is shown, as a skin tone depends on where there is skin, every further pair helps less.
#
# A better method combines the two: it needs only **one** pair for a new edit, as arithmetic does, and it has learned in
# training to move pixels and to tell skin from cloth. LoRWeB learns a basis of changes, and a router computes their
# mixture from the one pair.
#
# ## Exercise 1: a busy emoji
#
# *Difficulty ●○○ · about 4 minutes*
#
# Use the browser above. Find an emoji whose Noto drawing is the start of relations from at least **five families**
# drawn by artists (`tone`, `role`, …), and assign its name to `busy`.


# %%
def check_busy(name: str | None) -> str:
    """Whether relations of at least five semantic families start at Noto's drawing of an emoji."""
    if name is None:
        return "Not yet: `busy` is still None."
    families = {x.split("/")[0] for x in relations_of(emoji.find(name), "noto")} & set(semantic)
    verdict = "✓ Right" if len(families) >= 5 else "Not yet"
    return f"{verdict}: {len(families)} families start at {name}: {', '.join(sorted(families))}."


# %% tags=["exercise"]
busy = None  # the name of an emoji

# %%
print(check_busy(busy))

# %% [markdown]
# <details><summary>Hint</summary>
#
# People have jobs, hair, skin, and age. Whose hair changes?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# busy = "man"
# ```
#
# Most relations start at plain people, which is why the split keeps them in training: they are the source of every job.
#
# </details>

# %% [markdown]
# ## Exercise 2: a split without a leak
#
# *Difficulty ●●○ · about 6 minutes*
#
# Make a test set of your own: a boolean array `held_out`, one entry for each emoji, that holds **between 10 and 20 % of
# the emoji** and leaks nothing. `concept` has the number of each emoji's concept.


# %%
def check_split(test: np.ndarray | None) -> str:
    """Whether a bool array [n] puts 10 to 20 % of the emoji aside and no concept on both sides."""
    if test is None:
        return "Not yet: `held_out` is still None."
    test = np.asarray(test)
    if test.dtype != bool or test.shape != concept.shape:
        return f"Not yet: expected {len(concept)} booleans, got {test.dtype} of shape {list(test.shape)}."
    both = set(concept[test]) & set(concept[~test])
    right = not both and 0.1 <= test.mean() <= 0.2
    return f"{'✓ Right' if right else 'Not yet'}: {test.mean():.1%} put aside, {len(both)} concepts on both sides."


# %% tags=["exercise"]
held_out = None  # a boolean array with an entry for each emoji

# %%
print(check_split(held_out))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sample concepts, not emoji. `np.isin(concept, sampled)` then marks all their emoji at once.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# drawn_concepts = np.random.default_rng(1).permutation(concept.max() + 1)[: int(0.15 * concept.max())]
# held_out = np.isin(concept, drawn_concepts)
# ```
#
# The share of emoji only comes close to the share of concepts, since concepts differ in size. The published split also
# samples within groups (people, food, flags, …), so that every group is on every side.
#
# </details>

# %% [markdown]
# ## Exercise 3: many pairs, one shift
#
# *Difficulty ●●○ · about 8 minutes*
#
# Arithmetic with one pair scores $2(1 - \rho)$. Suppose you had many training pairs and added their **mean** shift.
# Make `mean_shift`, a picture [3, 64, 64], from training pairs of `tone/yellow>dark`, and assign to `predicted` the
# error that the theory predicts for it (not clipped), as a formula in `rho[SHIFTED]`.


# %%
SHIFTED = "tone/yellow>dark"


def check_shift(shift: torch.Tensor | None, promised: float | None) -> str:
    """Whether a shift [3, 64, 64] is as good as a mean can be, and its error was predicted to within 0.15."""
    if shift is None or promised is None:
        return "Not yet: `mean_shift` or `predicted` is still None."
    b, b_prime = pairs_in(SHIFTED, "test", 240)
    reached, best = (
        float(squared(b + s, b_prime).sum() / squared(b, b_prime).sum()) for s in (shift, (b_prime - b).mean(0))
    )
    if reached > best + 0.1:
        return f"Not yet: the shift reaches {reached:.2f}; a mean shift can reach about {best:.2f}."
    verdict = "✓ Right" if abs(promised - reached) < 0.15 else "Not yet"
    return (
        f"{verdict}: you promised {promised:.2f}, the mean shift reaches {reached:.2f}, one pair {plain[SHIFTED]:.2f}."
    )


# %% tags=["exercise"]
mean_shift = None  # a picture [3, 64, 64]
predicted = None  # a number

# %%
print(check_shift(mean_shift, predicted))

# %% [markdown]
# <details><summary>Hint</summary>
#
# `pairs_in(SHIFTED, "train", 400)` gives pairs. If the shift that you add is $\mathbb E\,s$ and no longer random, what
# remains of $\mathbb E\,\lVert s_a - s_b \rVert^2$?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# first, second = pairs_in(SHIFTED, "train", 400)
# mean_shift = (second - first).mean(0)
# predicted = 1 - rho[SHIFTED]
# ```
#
# $\mathbb E\,\lVert \mathbb E s - s_b \rVert^2 = \mathbb E\,\lVert s \rVert^2 - \lVert \mathbb E s \rVert^2$: half of
# what one pair costs, and never more than copying *b*. No other constant shift does better.
#
# </details>

# %% [markdown]
# ## Exercise 4: where is the middle?
#
# *Difficulty ●●● · about 10 minutes*
#
# Take the straight line in latent space from the yellow drawing to the dark one: $z(t) = z_0 + t\,(z_1 - z_0)$. The
# artists also drew the **medium** tone, $z_m$. At which *t*, the same for all emoji, is the line nearest to it? Assign
# it to `middle`. The next cell computes the three sets of latents, as rows.

# %%
dark, medium = (
    {tuple(row[:2]): tuple(row[2:]) for row in relations()[f"tone/yellow>{tone}"].pairs("test").tolist()}
    for tone in ("dark", "medium")
)
yellow = [drawing for drawing in dark if drawing in medium and drawing[1] == STYLES.index("noto")]
steps = {
    "yellow": emoji.tensor(*zip(*yellow, strict=True)),
    "medium": emoji.tensor(*zip(*(medium[drawing] for drawing in yellow), strict=True)),
    "dark": emoji.tensor(*zip(*(dark[drawing] for drawing in yellow), strict=True)),
}
z_0, z_m, z_1 = (latents(pictures) for pictures in steps.values())  # each [k, 1024]


def check_middle(t: float | None) -> str:
    """Whether no other t brings the line nearer to the medium drawings; shows where it leads."""
    if t is None:
        return "Not yet: `middle` is still None."
    grid = np.linspace(0, 1, 201)
    distance = [np.square(z_0 + g * (z_1 - z_0) - z_m).sum() for g in grid]
    if abs(t - grid[np.argmin(distance)]) > 0.01:
        here = np.square(z_0 + t * (z_1 - z_0) - z_m).sum()
        return f"Not yet: at t = {t:.2f} the squared distance is {here / min(distance):.2f} times the least one."
    between = autoencoder.to_picture(torch.from_numpy(z_0 + t * (z_1 - z_0)).float().view(-1, 16, 8, 8)[:6])
    shown = {"yellow": steps["yellow"][:6], f"t = {t:.2f}": between, "true medium": steps["medium"][:6]}
    display(picture_rows({**shown, "dark": steps["dark"][:6]}, label_width=1.0))
    left = min(distance) / np.square(z_0 - z_m).sum()
    return f"✓ Right: t = {t:.2f}, and {left:.0%} of the squared distance from yellow to medium is left."


# %% tags=["exercise"]
middle = None  # a number between 0 and 1

# %%
print(check_middle(middle))

# %% [markdown]
# <details><summary>Hint</summary>
#
# $\sum \lVert z_0 + t\,(z_1 - z_0) - z_m \rVert^2$ is a parabola in *t*. Where is its derivative zero?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# along = z_1 - z_0
# middle = float(((z_m - z_0) * along).sum() / (along * along).sum())
# ```
#
# It is the projection of $z_m - z_0$ onto the line. The rest of the distance cannot be removed by any point of the
# line: medium is not a mixture of yellow and dark, since yellow is not a skin tone. Notebook 06 also tries paths that
# are not straight.
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Emoji give visual analogies **with a true answer**, drawn by artists or made exactly. Their families differ a lot in
#   size, so training samples relations, not pairs.
# - A split by picture leaks nearly everything; a split by concept leaks nothing. New relations come in four degrees.
# - Dividing by the size of the edit makes errors comparable: copying *b* scores 1.
# - Arithmetic with one pair has the expected error $2(1 - \rho)$. It works only where all pairs change alike.
# - A matrix can do much more, for one named relation, after hundreds of pairs.
#
# Notebook 02 opens the frozen editor, which can move pixels; 03 and 04 teach it to do so from one pair.
#
# ## Where the paper says it
#
# [arXiv 2602.15727](https://arxiv.org/abs/2602.15727) states the task as here: *a*, *a′*, *b* in, *b′* out, the edit
# never named. It trains on Relation252K, 33,274 images of 218 editing tasks; its targets are pictures of the data set,
# where ours are drawings. A difference also occurs in the paper, but between embeddings: the router's query is made of
# image embeddings $e(a), e(a'), e(b)$, and $e(a') - e(a)$ is one of the variants in the released code. That can work
# where differences of pixels and latents fail, since it only has to *identify* the change; the LoRAs make it.

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
