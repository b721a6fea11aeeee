# %% [markdown]
# # The learned space
#
# Do similar edits lie close together? The router looks at a, a′ and b and computes one table of coefficients: a point
# in the space that the basis of LoRAs spans. Below are thousands of such points, projected onto a plane. The router was
# never given the names of the edits; the colours were added afterwards.
#
# Left, each dot is an analogy whose answer no training saw. Right, the same plane with pictures: what the example pair
# showed to the router there. After this notebook you will know what you can conclude from such a map, and what you
# cannot.

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
from lorweb_mini.algebra import pca
from lorweb_mini.analysis.space import cloud_of
from lorweb_mini.emoji.sheets import STYLES
from lorweb_mini.images import to_pil
from lorweb_mini.show.pictures import relation_label
from lorweb_mini.show.style import COLOURS, INK, PALE, STYLE, figure_of

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
FEW = ("edit/blur", "edit/darken", "edit/hue", "tone/yellow", "style/noto", "compose/edit/invert")
matplotlib.rcParams.update({**STYLE, "figure.dpi": 80})  # many pictures: keeps the file small

editor, emoji, relations = lw.load(), lw.load_emoji(), lw.relations()
names = [name for name in relations if not SMOKE or name.startswith(FEW)]
cloud = cloud_of(editor, (lw.analogies("test", name, seed=5, n=8 if SMOKE else 14) for name in names))
layers, N = cloud.coefficients.shape[1:]
whole = pca(cloud.vectors, min(cloud.vectors.shape))

# %%
COLOUR = "hue grey invert sepia swap_channels background tint darken fade saturate contrast threshold posterize"
SORTS = {  # families of relations, with a colour and a marker for the maps
    "skin tone": (["tone"], COLOURS[4], "o"),
    "person": (["gender", "sex", "hair", "age", "role", "aid", "couple"], COLOURS[3], "D"),
    "clock and moon": (["clock", "moon"], COLOURS[7], "*"),
    "artist's style": (["style"], COLOURS[0], "s"),
    "edit of colours": ([f"edit/{kind}" for kind in COLOUR.split()], COLOURS[1], "^"),
    "edit of texture": ([f"edit/{kind}" for kind in ("blur", "pixelate", "thicken", "outline")], COLOURS[2], "v"),
    "edit of places": ([x for x in cloud.families if x.startswith("edit/")], COLOURS[5], "P"),  # the other edits
    "two in turn": (["compose"], INK, "X"),
    "another thing": (list(cloud.families), "#B5B5B5", "."),
}
LOOKS = {sort: look for sort, (_, *look) in SORTS.items()}
sort_of = {family: sort for sort, (families, *_) in reversed(SORTS.items()) for family in families}
sorts = np.array([sort_of[family] for family in cloud.families])


def pair(i: int) -> torch.Tensor:
    """What the router saw as a and a′ in the i-th analogy, side by side: [3, 64, 128]."""
    keys = [key.rsplit("@", 1) for key in cloud.keys[i][:2]]
    a, a_prime = emoji.tensor([emoji.index[key] for key, _ in keys], [STYLES.index(style) for _, style in keys])
    return torch.cat([a, relations[cloud.relations[i]].apply_edits(a_prime[None])[0]], 2)


def in_layers(labels: np.ndarray, looks: dict) -> list[tuple[str, str, str]]:
    """Labels with their colour and marker; those of most points first, so that few are drawn on top of many."""
    present = [label for label in looks if (labels == label).any()]
    return [(label, *looks[label]) for label in sorted(present, key=lambda label: -(labels == label).sum())]


def scatter(axis, points, labels, looks, size=11):
    """Points [k, 2] with a colour and a marker for each label."""
    for label, colour, marker in in_layers(labels, looks):
        style = {"s": size, "color": colour, "marker": marker, "linewidths": 0, "alpha": 0.75}
        axis.scatter(*points[labels == label, :2].T, label=label, **style)


# %%
figure, (left, right) = figure_of(12, 5.2, ncols=2, sharex=True, sharey=True)
scatter(left, whole.points, sorts, LOOKS)
low, high = np.quantile(whole.points[:, :2], [0.002, 0.998], axis=0)
cell = (high - low) / (9, 13)
for corner in np.array(np.meshgrid(np.arange(9), np.arange(13))).reshape(2, -1).T * cell + low:
    away = np.abs((whole.points[:, :2] - corner) / cell - 0.5).max(1)
    if away.min() < 0.5:
        near, far = corner + 0.04 * cell, corner + 0.96 * cell
        right.imshow(to_pil(pair(int(away.argmin()))), extent=(near[0], far[0], near[1], far[1]), aspect="auto")
titles = (f"{len(cloud):,} analogies, coloured by what is done", "a and a′ of one analogy at each place")
for axis, title in zip((left, right), titles, strict=True):
    axis.set(xlabel=f"first component ({whole.explained[0]:.0%} of the variance)")
    axis.set_title(title, loc="left")
    axis.set(xlim=(low[0] - cell[0], high[0] + cell[0]), ylim=(low[1] - cell[1], high[1] + cell[1]))
left.set(ylabel=f"second component ({whole.explained[1]:.0%})")
right.grid(False)
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=9, fontsize=8, markerscale=1.6)
figure

# %%
unseen = {name for name in set(cloud.relations) if relations[name].degree != "seen"}
display(
    Markdown(
        f"**{len(cloud):,} analogies** of {len(set(cloud.relations))} relations, {len(unseen)} of them never trained; "
        f"b shows one of {len(set(cloud.concepts))} concepts, and b or b′ one that no training saw. Each is a table of "
        f"{layers} layers × {N} coefficients, so a point with **{layers * N:,} coordinates**. What you see has two."
    )
)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. say how many dimensions the space really uses, and how much of it a map hides;
# 2. test whether a space contains a label: variance shares, probes and clusters, each against its own chance level;
# 3. find out what one LoRA of a basis does, alone and when it is removed;
# 4. compare weight updates correctly, although raw A and B have no meaning by themselves;
# 5. decide with a statistic whether tones, moon phases, hours and strengths lie in order on a line or a circle.
#
# **You need** notebooks 00 and 04; principal components and correlation; what a p-value is. No GPU, no network.
# **It takes** about an hour and a half of your time; the last cell measures the computing time.
#
# Many questions below may have the answer *no*. The cells compute the answers, including the words "is" and "is not".
#
# ## A point for every analogy
#
# In layer *l* the router gives one coefficient to each LoRA, and they sum to 1. All layers, concatenated, are the
# **routing vector** of an analogy:
#
# $$x = (c_{1,1}, \dots, c_{1,N},\ c_{2,1}, \dots, c_{L,N}) \in \mathbb R^{L N}$$
#
# `cloud_of` routes lists of analogies and keeps the vectors, the names and the router's input, the **query** of three
# embeddings. It does not keep the pictures. The example pair and b show different concepts wherever a relation has more
# than one, and b or b′ (for most relations both) is from the test side of the split.
#
# ### How many dimensions?
#
# Principal components turn the cloud so that its first axis is the direction of the largest variance, the second the
# largest of what is left, and so on. With variances $\lambda_i$, the **participation ratio**
#
# $$d = \frac{\left(\sum_i \lambda_i\right)^2}{\sum_i \lambda_i^2}$$
#
# counts how many axes share the variance: *d* equal ones give *d*, one that has all gives 1.
#
# > **Predict before you run.** The cell above gives the number of coordinates. How many numbers per point would you
# > need to keep nine tenths of the variance: ten, a hundred, or all of them?

# %%
variances = whole.explained * cloud.vectors.var(0).sum()
dealt = np.random.default_rng(0).permuted(cloud.vectors, axis=0)  # each column for itself: none knows of the others
chance = np.linalg.eigvalsh(np.cov(dealt.T, ddof=0))[::-1][: len(variances)]
ratio = variances.sum() ** 2 / (variances**2).sum()
kept = np.cumsum(whole.explained)
beyond = int(np.argmax(variances[: len(chance)] < chance))
ninety = int(np.searchsorted(kept, 0.9)) + 1

figure, (left, right) = figure_of(10.5, 3.2, ncols=2)
shown = min(80, len(variances))
left.semilogy(range(1, shown + 1), variances[:shown], color=COLOURS[0], label="the cloud")
left.semilogy(range(1, shown + 1), chance[:shown], color=PALE, ls="--", label="columns dealt out anew")
left.set(xlabel="component", ylabel="variance")
left.set_title("Scree", loc="left")
left.legend()
right.plot(range(1, shown + 1), kept[:shown], color=COLOURS[0])
for count in (2, 3):
    right.plot(count, kept[count - 1], "o", color=COLOURS[4])
    right.annotate(f"{count} components: {kept[count - 1]:.0%}", (count, kept[count - 1]), (9, 16 * count - 44),
                   textcoords="offset points", size=9)  # fmt: skip
right.set(xlabel="components", ylabel="share of the variance", ylim=(0, 1))
right.set_title("What so many components hold together", loc="left")
figure

# %%
SUMMARY: list[tuple[str, str]] = []  # every statistic, for the table at the end
SUMMARY += [
    ("variance on 2 and on 3 components", f"{kept[1]:.0%}, {kept[2]:.0%}"),
    ("participation ratio; components for 90 %", f"{ratio:.1f}; {ninety}"),
    ("components above dealt-out columns", f"{beyond}"),
]
ANSWERS: list[tuple[str, str, str]] = []  # question, answer, number
ANSWERS.append(
    ("Does the map show most of the variance?", "yes" if kept[1] > 0.5 else "no", f"{kept[1]:.0%} on two components")
)
display(
    Markdown(
        f"The participation ratio is **{ratio:.1f}**; {ninety} components keep 90 % of the variance, and {beyond} have "
        f"more than chance would give them, of {layers * N:,} coordinates. The map above shows {kept[1]:.0%}. So what "
        f"lies **apart** on it is apart, but what lies **together** may be far apart in the {1 - kept[1]:.0%} that it "
        "hides. No claim below is read off a map."
    )
)

# %% [markdown]
# ### Three colourings of one map
#
# The points are the same; the colours answer different questions. *What is done?* (sort of relation), *who drew b?*
# (style), *how strongly?* (edits that come in three strengths; all other points pale). Hover over a point to read its
# relation and its style, choose a colouring from the list, click a name in the legend to hide it. A page without
# scripts shows a static figure.

# %%
import base64
import io
import json

import plotly.graph_objects as go
from matplotlib.figure import Figure

from lorweb_mini.emoji.edits import EDITS, relation_name
from lorweb_mini.emoji.relations import STYLE_NAMES

ROUND = ("hue", "rotate", "background", "tint")  # their strength is an angle, neither weak nor strong
GRADES = ("weak", "middle", "strong")
dials = {kind: edit.strengths for kind, edit in EDITS.items() if len(edit.strengths) == 3 and kind not in ROUND}
grade_of = {relation_name(kind, s): g for kind, three in dials.items() for s, g in zip(three, GRADES, strict=True)}
grades = np.array([grade_of.get(name, "no dial") for name in cloud.relations])
artists = np.array([STYLE_NAMES[style] for style in cloud.styles])
COLOURINGS = {
    "what is done": (sorts, LOOKS),
    "who drew b": (artists, dict(zip(STYLE_NAMES.values(), zip(COLOURS, "os^DvP", strict=False), strict=True))),
    "how strongly": (grades, {"no dial": ("#DADADA", "."), "weak": (COLOURS[2], "v"), "middle": (COLOURS[1], "o"),
                              "strong": (COLOURS[4], "^")}),
}  # fmt: skip


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


def interactive(figure: go.Figure, still: Figure) -> None:
    """Shows a plotly figure; where its script does not run, a static picture in its place."""
    live = json.loads(figure.to_json())
    fallback = base64.b64encode(png(still)).decode()
    display({"application/vnd.plotly.v1+json": live, "image/png": fallback, "text/plain": "a map"}, raw=True)


# %%
rng = np.random.default_rng(0)
sample = np.sort(rng.permutation(len(cloud))[:1000])
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
           "X": "x", "*": "star", ".": "circle"}  # fmt: skip
said = np.array([f"{relation_label(r)}<br>b: {a}" for r, a in zip(cloud.relations, artists, strict=True)])


def plane() -> go.Figure:
    """The first two components; a list of colourings."""
    found, sizes = go.Figure(), []
    for labels, looks in COLOURINGS.values():
        layers_of = in_layers(labels[sample], looks)
        for label, colour, marker in layers_of:
            mine = sample[labels[sample] == label]
            x, y = np.round(whole.points[mine, :2].T, 3).astype(np.float32)
            look = {"color": colour, "symbol": SYMBOLS[marker], "size": 6, "opacity": 0.8}
            found.add_scatter(x=x, y=y, text=said[mine], hovertemplate="%{text}<extra></extra>", name=label,
                              mode="markers", marker=look, visible=not sizes)  # fmt: skip
        sizes.append(len(layers_of))
    buttons = []
    for i, name in enumerate(COLOURINGS):
        visible = [i == j for j, size in enumerate(sizes) for _ in range(size)]
        buttons.append({"label": name, "method": "restyle", "args": [{"visible": visible}]})
    menu = {"buttons": buttons, "x": 0, "y": 1.12, "xanchor": "left", "yanchor": "middle"}
    return found.update_layout(template="none", width=880, height=560, updatemenus=[menu], margin=dict(t=60, r=20),
                               xaxis={"title": "first component", "zeroline": False},
                               yaxis={"title": "second component", "zeroline": False})  # fmt: skip


figure, axes = figure_of(12.5, 4.3, ncols=3, sharey=True)
for axis, (name, (labels, looks)) in zip(axes, COLOURINGS.items(), strict=True):
    scatter(axis, whole.points, labels, looks, 7)
    axis.set(xlabel="first component", xticks=[], yticks=[])
    axis.set_title(name, loc="left")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, handletextpad=0.1, markerscale=2)
axes[0].set_ylabel("second component")
interactive(plane(), figure)

# %% [markdown]
# A third component shows a little more. Rotate the cloud with the mouse.


# %%
def solid(count: int = 900) -> go.Figure:
    """The first three components, coloured by what is done."""
    found, some = go.Figure(), sample[:: max(1, len(sample) // count)]
    for label, colour, _ in in_layers(sorts[some], LOOKS):
        mine = some[sorts[some] == label]
        x, y, z = np.round(whole.points[mine, :3].T, 3).astype(np.float32)
        found.add_scatter3d(x=x, y=y, z=z, text=said[mine], name=label, mode="markers",
                            hovertemplate="%{text}<extra></extra>", marker={"color": colour, "size": 3})  # fmt: skip
    titles = {f"{axis}axis_title": name for axis, name in zip("xyz", ("first", "second", "third"), strict=True)}
    room = {"margin": dict(t=40, b=10, l=10, r=20), "legend": {"itemsizing": "constant"}}  # the toolbar lies on top
    return found.update_layout(template="none", width=880, height=600, scene=titles, **room)


figure, axes = figure_of(12.5, 4.2, ncols=3, subplot_kw={"projection": "3d"})
for axis, turn in zip(axes, (-70, -25, 20), strict=True):
    for label, colour, marker in in_layers(sorts, LOOKS):
        axis.scatter(*whole.points[sorts == label, :3].T, s=4, color=colour, marker=marker, linewidths=0, label=label)
    axis.view_init(22, turn)
    axis.set(xticks=[], yticks=[], zticks=[])
    for name, label in zip(("xlabel", "ylabel", "zlabel"), ("first", "second", "third"), strict=True):
        getattr(axis, f"set_{name}")(label, labelpad=-12)
    axis.set_title(f"turned to {turn}°", loc="left")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=9, fontsize=8, markerscale=3)
interactive(solid(), figure)

# %% [markdown]
# ### Hover to see, click to edit
#
# The next map shows pictures. It is computed from a dozen analogies of each family, so it need not look like the one
# above. Hover over a point to see the analogy's a, a′ and b; click to let the editor draw with the coefficients of that
# place.

# %%
from lorweb_mini.widgets.atlas import Atlas

Atlas(editor, lw.analogies("test", names, n=1) if SMOKE else None)

# %% [markdown]
# ## What moves a point?
#
# A router that read the edit and nothing else would give all analogies of a relation the same point. But it looks at
# three pictures, and its answer may also depend on who drew them and what they show. How much of the variance does each
# label account for? The textbook answer is $\eta^2 = SS_\text{between} / SS_\text{total}$, which is biased: with many
# labels of few points each, even meaningless labels have different means. So subtract what those would get:
#
# $$\varepsilon^2 = 1 - \frac{k - 1}{k - G} \cdot \frac{SS_\text{within}}{SS_\text{total}}$$
#
# for *k* points in *G* groups. Meaningless labels now score 0, on average.
#
# Relation and concept are not independent, since only clocks can be moved by an hour. So the shares overlap and need
# not add up.
#
# > **Predict before you run.** Which of the three will account for most: the relation, the style of b, or the concept
# > that b shows? And will the layers agree?

# %%
import re

from lorweb_mini.analysis.probes import variance_share

KINDS = {"norm1.linear": "modulation", "norm.linear": "modulation", "attn.to_q": "q", "attn.to_k": "k",
         "attn.to_v": "v", "attn.to_out.0": "out", "proj_out": "out", "ff.net.0.proj": "MLP in", "proj_mlp": "MLP in",
         "ff.net.2": "MLP out", "norm1_context.linear": "text: modulation", "attn.add_q_proj": "text: q",
         "attn.add_k_proj": "text: k", "attn.add_v_proj": "text: v", "attn.to_add_out": "text: out",
         "ff_context.net.0.proj": "text: MLP in", "ff_context.net.2": "text: MLP out"}  # fmt: skip


def place_of(layer: str) -> tuple[str, str]:
    """Block and kind of an adapted layer."""
    single, number, rest = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer).groups()
    return f"{'single' if single else 'double'} {number}", KINDS.get(rest, rest)


places = [place_of(layer) for layer in editor.basis.layers]
blocks, kinds = list(dict.fromkeys(b for b, _ in places)), list(dict.fromkeys(KINDS.values()))
LABELS = {"the relation": cloud.relations, "the style of b": cloud.styles, "the concept of b": cloud.concepts}
shares = {label: variance_share(cloud.coefficients.numpy(), values) for label, values in LABELS.items()}
overall = {label: float(variance_share(cloud.vectors, values)) for label, values in LABELS.items()}


def table_of(values: np.ndarray) -> np.ndarray:
    """Values of the layers [L] as a table of kinds and blocks; NaN where a block has no such layer."""
    found = np.full((len(kinds), len(blocks)), np.nan)
    for (block, kind), value in zip(places, values, strict=True):
        found[kinds.index(kind), blocks.index(block)] = value
    return found


# %%
figure, axes = figure_of(11, 4.9, ncols=3, sharey=True)
highest = max(values.max() for values in shares.values())
for axis, (label, values) in zip(axes, shares.items(), strict=True):
    shown = axis.imshow(table_of(values), cmap="cividis", vmin=0, vmax=highest, aspect="auto")
    axis.set(xticks=range(len(blocks)), yticks=range(len(kinds)), yticklabels=kinds)
    axis.set_xticklabels(blocks, rotation=45, ha="right")
    axis.set_title(f"{label}: {overall[label]:.0%} of all", loc="left")
    axis.grid(False)
figure.colorbar(shown, ax=axes, label="share of the variance, ε²", pad=0.01)
figure

# %%
values = shares["the relation"]
most, least = int(values.argmax()), int(values.argmin())
leader = max(overall, key=overall.get)
SUMMARY += [(f"share of the variance, ε²: {label}", f"{share:.0%}") for label, share in overall.items()]
SUMMARY.append(("ε² of the relation, by layer", f"{values.min():.0%} to {values.max():.0%}"))
display(
    Markdown(
        f"Most is accounted for by **{leader}** ({overall[leader]:.0%}). The relation's share runs from "
        f"{values[least]:.0%} in *{', '.join(places[least])}* to {values[most]:.0%} in *{', '.join(places[most])}*. "
        "The shares need not sum to 1: the labels overlap, and what *a* shows has a part of its own."
    )
)

# %% [markdown]
# Look at single layers yourself. Each layer has its own keys, so each has its own small space of *N* coordinates.
# Choose a layer and a colouring; on a page without a running kernel you see the layer in which the relation accounts
# for most beside the one in which it accounts for least.

# %%
from lorweb_mini.widgets.controls import Choice


def layer_maps(shown: list[int], colour: str) -> Figure:
    """Principal components of single layers' coefficients."""
    labels, looks = COLOURINGS[colour]
    figure, axes = figure_of(5.4 * len(shown) + 1.6, 4.2, ncols=len(shown), squeeze=False)
    for axis, layer in zip(axes[0], shown, strict=True):
        found = pca(cloud.coefficients[:, layer].numpy())
        scatter(axis, found.points, labels, looks)
        axis.set(xlabel=f"first component ({found.explained[0]:.0%})", ylabel=f"second ({found.explained[1]:.0%})")
        axis.set_title(f"{', '.join(places[layer])}: relation {shares['the relation'][layer]:.0%}", loc="left")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, markerscale=1.6)
    return figure


# %%
Choice(
    lambda layer, colour: layer_maps([layer], colour),
    layer_maps([most, least], "what is done"),
    layer={f"{i}: {', '.join(place)}": i for i, place in enumerate(places)},
    colour={name: name for name in COLOURINGS},
)

# %% [markdown]
# ## Can a probe predict the label?
#
# A small share of the variance does not mean that a label is hard to predict: a label that moves points only a little,
# but always in the same direction, is easy. So train a classifier. A **linear probe** is a logistic regression from the
# routing vector to the label. It is tested on analogies of which it has seen **nothing**: neither a's concept, nor that
# of a′, nor that of b. Holding out b alone would not be enough, since a pair a, a′ occurs with several b and could be
# memorised. The cost is that many analogies mix concepts of both sides and can be used neither for fitting nor for
# testing.
#
# The probe is compared with
#
# - *chance*, the most frequent label;
# - *shuffled*: the labels permuted among the analogies, which shows what the probe memorises;
# - the *query*: the same probe on the router's own input, the three embeddings of the frozen encoder. What the query
#   does not contain, no router can find; what the query contains and the routing does not, the router has discarded;
# - the *change*: the difference of two embeddings alone, a′ − a. A probe that reads 64 principal components of the
#   query loses small differences first, so the query is easy to beat. A plain difference is harder to beat.
#
# Two scores need no training: **NMI**, how well *k*-means clusters agree with the labels (0 to 1), and the
# **silhouette**, whether a point lies nearer to its own label than to the next (−1 to 1).
#
# > **Predict before you run.** The router should forget who drew b and keep the relation. In which of the two will
# > routing do better than the query from which it was computed? Can it do better at all?

# %%
from lorweb_mini.analysis.bootstrap import over_concepts
from lorweb_mini.analysis.probes import clustering, read_off

_, index, counts = np.unique(cloud.relations, return_inverse=True, return_counts=True)
spread = np.array([len(set(cloud.concepts[index == i])) for i in range(len(counts))])
common = ((counts >= 8) & (spread >= 4))[index]  # relations with enough analogies and concepts to be held out
ASKED = {
    "relation": (cloud.relations, common),
    "family": (cloud.families, common),
    "style of b": (cloud.styles, np.ones(len(cloud), bool)),
    "strength": (grades, grades != "no dial"),
}
E = editor.encoder.embedding_dim
query = cloud.queries.numpy()
seen_change = query[:, E : 2 * E] - query[:, :E]
read, clusters = {}, {}
for label, (values, which) in ASKED.items():
    truth, shown = values[which], cloud.shown[which]
    for source, vectors in (("routing", cloud.vectors), ("query", query), ("change", seen_change)):
        read[label, source] = read_off(vectors[which], truth, shown)
        clusters[label, source] = clustering(vectors[which], truth)
    dealt = rng.permutation(truth)
    read[label, "shuffled"] = read_off(cloud.vectors[which], dealt, shown)
    clusters[label, "shuffled"] = clustering(cloud.vectors[which], dealt)

# %%
SOURCES = ("routing", "query", "change", "shuffled")
lines, unsupervised, gains = [], [], {}
for label, (values, which) in ASKED.items():
    shown, found = cloud.shown[which], {source: read[label, source] for source in SOURCES}
    accuracy = [str(over_concepts(right, shown)) for right in found.values()]
    gains[label] = [over_concepts(found["routing"] - found[rival], shown) for rival in ("query", "change")]
    _, of = np.unique(values[which], return_inverse=True)
    guess = f"{np.bincount(of).max() / len(of):.2f}"
    judged = int((~np.isnan(found["routing"])).sum())
    gain = gains[label][0]
    verdict_of = "yes" if gain.low > 0 else "no" if gain.high < 0 else "undecided"
    ANSWERS.append((f"Is the {label} easier to read off the routing than off the query?", verdict_of,
                    f"accuracy by {gain}"))  # fmt: skip
    cells = [label, of.max() + 1, f"{judged:,} of {len(of):,}", *accuracy, guess, *gains[label]]
    lines.append("| " + " | ".join(map(str, cells)) + " |")
    scores = {x: [f"{getattr(clusters[label, s], x):.2f}" for s in SOURCES] for x in ("nmi", "silhouette")}
    unsupervised.append(f"| {label} | " + " | ".join(scores["nmi"] + scores["silhouette"]) + " |")
    SUMMARY += [(f"probe for the {label}: {'; '.join(SOURCES)}; chance", "; ".join([*accuracy, guess]))]
    SUMMARY += [(f"{x.upper() if x == 'nmi' else x} of the {label}: {'; '.join(SOURCES)}", "; ".join(row))
                for x, row in scores.items()]  # fmt: skip
heads = ("label", "classes", "judged", *SOURCES, "chance", "routing − query", "routing − change")
columns = [f"{score}: {source}" for score in ("NMI", "silhouette") for source in SOURCES]
display(
    Markdown(
        f"| {' | '.join(heads)} |\n|:--|{'--:|' * 9}\n" + "\n".join(lines)
        + "\n\nAccuracy on analogies of which the probe met no concept; 95 % intervals, concepts resampled, analogy by "
        f"analogy in the differences.\n\n| label | {' | '.join(columns)} |\n|:--|{'--:|' * 8}\n"
        + "\n".join(unsupervised)
    )
)  # fmt: skip

# %%
said_of = []
for label, both in gains.items():
    words = ["better than" if x.low > 0 else "worse than" if x.high < 0 else "not clearly better or worse than"
             for x in both]  # fmt: skip
    routed, luck = (over_concepts(read[label, s], cloud.shown[ASKED[label][1]]) for s in ("routing", "shuffled"))
    weak = "" if routed.low > luck.high else "; not clearly better than off shuffled labels"
    said_of.append(f"- **{label}**: read off the routing {words[0]} off the query, {words[1]} off the change{weak}.")
nmi, apart = clusters["relation", "routing"].nmi, clusters["relation", "routing"].silhouette
lie = "separate clouds" if apart > 0.25 else "overlapping clouds" if apart > 0 else "no clouds of their own"
display(
    Markdown(
        "\n".join(said_of) + f"\n\nThese are {2 * len(gains)} comparisons: one whose interval just misses 0 may be "
        f"luck. By silhouette the relations are {lie} ({apart:.2f}); clusters found without labels agree with them to "
        f"{nmi:.2f}, with shuffled ones to {clusters['relation', 'shuffled'].nmi:.2f}."
    )
)

# %% [markdown]
# The NMI of shuffled labels is far from zero where there are many classes. Without that column the space would look
# better than it is.
#
# A router cannot contain more information than its query. Where its probe is better all the same, the router makes
# visible what a *linear* probe on a few thousand analogies did not find in the query. Is that more than a difference of
# two embeddings? The last column answers this. Style is the control: who drew b is no part of the change, and a router
# that reads only the edit would discard it.
#
# ## Unseen relations: are they near their relatives?
#
# The basis never trained on the relations below. If the space is ordered by meaning, an unseen **strength** should fall
# near the other strengths of its edit, an unseen **composition** near one of its two parts. Relations of an unseen
# **family** have no relative; the second table shows which known relations they are near.
#
# We take the mean routing vector of every relation, centred on the mean over all known ones, and look for the known
# relation with the largest cosine.
#
# > **Predict before you run.** `edit/sepia` is of an unseen family. Which known relation will be its neighbour?

# %%
from lorweb_mini.analysis.probes import nearest_known
from lorweb_mini.emoji.relations import composition_parts

known = [name for name in relations if relations[name].degree == "seen" and name in set(cloud.relations)]
found = nearest_known(cloud.vectors, cloud.relations, known)


def relatives(name: str) -> set[str]:
    """The known relations that an unseen one is related to."""
    if relations[name].degree == "composition":
        return set(composition_parts(name)) & set(known)
    return {other for other in known if relations[other].family == relations[name].family}


related = {name: relatives(name) for name in found}
lines = []
for degree in ("strength", "composition"):
    these = [name for name in found if relations[name].degree == degree and related[name]]
    first = sum(found[name][0][0] in related[name] for name in these)
    three = sum(any(other in related[name] for other, _ in found[name]) for name in these)
    by_luck = np.array([len(related[name]) / len(known) for name in these])
    p = np.mean((rng.random((20_000, len(these))) < by_luck).sum(1) >= first)
    shown = "below 0.001" if p < 0.001 else f"{p:.3f}"
    lines.append(f"| {degree} | {len(these)} | {first} | {three} | {by_luck.sum():.1f} | {shown} |")
    SUMMARY.append((f"unseen {degree}: nearest known relation is a relative", f"{first} of {len(these)}, p {shown}"))
    ANSWERS.append((f"Do relations of degree {degree} lie nearest to a relative more often than by luck?",
                    "yes" if p < 0.05 else "undecided", f"{first} of {len(these)}, p {shown}"))  # fmt: skip
heading = "| unseen | relations | nearest is a relative | one of three is | expected by luck | p |"
display(Markdown(f"{heading}\n|:--|--:|--:|--:|--:|--:|\n" + "\n".join(lines)))

# %%
by_degree = {d: [n for n in found if relations[n].degree == d] for d in ("strength", "composition", "family")}


def rows_of(some: list[str]) -> str:
    """A table of unseen relations with their three nearest known ones; relatives in bold."""
    lines = []
    for name in some:
        bold = ["**" if other in related[name] else "" for other, _ in found[name]]
        near = [f"{s}{relation_label(x)}{s} {cosine:.2f}" for s, (x, cosine) in zip(bold, found[name], strict=True)]
        lines.append(f"| {relation_label(name)} | {relations[name].degree} | " + " | ".join(near) + " |")
    return "| unseen | degree | nearest | second | third |\n|:--|:--|:--|:--|:--|\n" + "\n".join(lines)


few = [name for several in by_degree.values() for name in several[:: max(1, len(several) // 5)][:6]]
few += [name for name in ("edit/sepia",) if name in found and name not in few]  # the one that you were asked about
display(
    Markdown(
        f"{rows_of(few)}\n\nCosines of centred mean vectors; relatives in bold.\n\n"
        f"<details><summary>All {len(found)} unseen relations</summary>\n\n{rows_of(list(found))}\n\n</details>"
    )
)

# %% [markdown]
# ## Which LoRA does what?
#
# There are three ways to find out, each more expensive than the one before: **how much a LoRA is used** (the
# coefficients), **what it does alone** (set the others to 0), **what is lost without it** (set it to 0). They need not
# agree.
#
# One warning first. The LoRAs of each layer may be renumbered, together with their keys, and nothing that is drawn
# changes. So "LoRA 3" is an object within *one* layer; LoRA 3 of all layers together, as it is used below, is an
# arbitrary grouping, because this basis has a router of its own in every layer. Notebook 06 matches LoRAs across layers
# and says how far that goes.

# %%
from lorweb_mini.analysis.space import basis_usage

present = [sort for sort in SORTS if (sorts == sort).any()]
usage = np.stack([cloud.coefficients[torch.from_numpy(sorts == sort)].mean((0, 1)).numpy() for sort in present])
by_use = np.argsort(-usage.mean(0))
used = basis_usage(cloud.coefficients)
figure, axis = figure_of(11, 3)
shown = axis.imshow(usage[:, by_use], cmap="cividis", aspect="auto", vmin=0)
axis.set(yticks=range(len(present)), yticklabels=present, xticks=range(N), xlabel="LoRA, the most used first")
axis.set_xticklabels(by_use, fontsize=8)
axis.grid(False)
axis.set_title("Who is used: mean coefficient over layers and analogies", loc="left")
figure.colorbar(shown, label=f"coefficient (uniform: {1 / N:.3f})", pad=0.01)
figure

# %%
SUMMARY += [
    ("LoRAs that carry the load of a layer, of N", f"{used.effective.mean():.1f} of {N}"),
    ("LoRAs in one routing (perplexity)", f"{np.exp(used.entropy):.1f}"),
]
display(
    Markdown(
        f"A layer spreads its load over **{used.effective.mean():.1f}** of its {N} LoRAs (perplexity of the mean "
        f"coefficients), one analogy over {np.exp(used.entropy):.1f} at a time. The most used LoRA has "
        f"{usage.mean(0).max() * N:.1f} times the uniform share, the least used {usage.mean(0).min() * N:.2f} times."
    )
)

# %% [markdown]
# ### Each alone
#
# The simplest test sets one coefficient to 1 in every layer and all others to 0. This is a corner of the space, far
# from every analogy: a LoRA that usually has a tenth of the mixture gets ten times its usual dose there. So we draw
# three times, without any other LoRA: at its **usual dose**, the coefficient that it has in the tenth of the analogies
# that use it most, layer by layer; at **three times** that; and with **everything**, a coefficient of 1. (Rows need not
# sum to 1.)
#
# > **Predict before you run.** Will a LoRA alone draw *one* edit that you could name?

# %%
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.emoji.relations import SPLITS, concept_sides
from lorweb_mini.show.pictures import picture_rows

STEPS = 1 if SMOKE else 4
SHOWN = ("octopus", "fire engine", "pineapple", "tram", "pizza", "peacock")
assert all(concept_sides()[emoji.find(name)] == SPLITS.index("test") for name in SHOWN)
b = torch.cat([emoji.tensor(emoji.find(name), i % 3) for i, name in enumerate(SHOWN[: 2 if SMOKE else 6])])
seen_b = reconstruct(editor.autoencoder, b)
one = torch.eye(N)[:, None].expand(N, layers, N)
usual = one * torch.quantile(cloud.coefficients, 0.9, dim=0)
doses = {"usual dose": usual, "three times that": 3 * usual, "everything": one}
alone = {  # dose to pictures [N, emoji, 3, 64, 64]
    dose: torch.stack([editor.generate(x, c, steps=STEPS).pictures for x in b], 1) for dose, c in doses.items()
}
rows, shown = {}, by_use[:12]
for i, name in enumerate(SHOWN[:2]):
    for dose in doses:
        if i == 0 or dose == "three times that":
            rows[f"{name}, {dose}"] = torch.cat([seen_b[i : i + 1], alone[dose][shown, i]])
heads = {list(rows)[-1]: ["b", *(f"LoRA {n}" for n in shown)]}
picture_rows(rows, heads, title="Each LoRA alone, the twelve most used", size=0.62, label_width=1.9)

# %% [markdown]
# Can you name what each one does? We measure the normalised error of notebook 00 of each LoRA's pictures against the
# exact answer of every edit that the basis was trained on. An edit that is half made scores a quarter, so below 0.8
# some of the edit is there, and below 0.4 most of it. But pale noise is close to any faded picture. So a name counts
# only if the pictures fit **their own b**: compared with the answers for other b, they must have at least twice the
# error.

# %%
exact = [name for name in known if relations[name].edits and not name.startswith("compose/")]
truths = torch.stack([reconstruct(editor.autoencoder, relations[name].apply_edits(b)) for name in exact])
size = np.array([squared(seen_b, truth).sum() for truth in truths])  # copying b scores 1
lines = []
for dose, pictures in alone.items():
    off = np.stack([[squared(drawn, truth).sum() for truth in truths] for drawn in pictures]) / size  # [N, edits]
    strange = np.stack([[squared(drawn.roll(1, 0), truth).sum() for truth in truths] for drawn in pictures]) / size
    off = np.where(2 * off <= strange, off, np.inf)
    moved = np.array([squared(drawn, seen_b).sum() for drawn in pictures]) / np.median(size)
    best, named = off.min(1), [relation_label(exact[i]) for i in off.argmin(1)]
    first = ", ".join(f"LoRA {n}: {named[n]} ({best[n]:.2f})" for n in np.argsort(best)[:5] if best[n] < 1)
    some, most_of_it = (int((best < limit).sum()) for limit in (0.8, 0.4))
    lines.append(f"| {dose} | {np.median(moved):.2f} | {some} | {most_of_it} | {first or 'none'} |")
    SUMMARY.append((f"LoRAs that alone, {dose}, do something of an edit; most of one", f"{some}; {most_of_it} of {N}"))
    ANSWERS.append((f"Can most LoRAs be named by what they draw alone, {dose}?",
                    "yes" if 2 * most_of_it > N else "no", f"{most_of_it} of {N}"))  # fmt: skip
display(
    Markdown(
        "| dose | moves b by (median) | error below 0.8 | below 0.4 | the five that can be named best |\n"
        "|:--|--:|--:|--:|:--|\n" + "\n".join(lines) + f"\n\nOf {N} LoRAs. b is moved by 1 in a typical edit."
    )
)

# %% [markdown]
# ### Each removed
#
# What breaks without a LoRA? Set its coefficient to 0 in all layers, rescale the rest to sum to 1 (`remix`, as the
# sliders of notebook 04 do), and draw the analogies again:
#
# $$\Delta_{n} = \text{error without LoRA } n \;-\; \text{error with all}$$
#
# > **Predict before you run.** If every edit had a LoRA of its own, how many bright cells would a row of the table
# > have? If all LoRAs did the same, how many?

# %%
from lorweb_mini.analysis.bootstrap import resampling_weights
from lorweb_mini.analysis.mixtures import remix
from lorweb_mini.analysis.space import coefficients_of
from lorweb_mini.emoji.relations import as_batch

TASKS = ("tone/yellow>dark", "tone/dark>light", "gender/man>woman", "style/noto>openmoji_black", "style/twemoji>noto",
         "edit/hue=120", "edit/grey", "edit/invert", "edit/background=220", "edit/darken=0.25", "edit/threshold",
         "edit/blur=4", "edit/pixelate=16", "edit/flip_horizontal", "edit/rotate=90", "edit/shrink=0.35")  # fmt: skip
tasks, EACH = TASKS[:: 6 if SMOKE else 1], 2 if SMOKE else 8
items = [item for name in tasks for item in lw.analogies("test", name, seed=9, n=EACH)]
asked_b, asked_truth = as_batch(items)[2:]
start, truth = (reconstruct(editor.autoencoder, x) for x in (asked_b, asked_truth))
routed = coefficients_of(editor, items)


def missed(mixtures: torch.Tensor) -> np.ndarray:
    """‖result − b′‖² of every analogy under its mixture, by relation: [relations, analogies]."""
    parts = zip(asked_b.split(64), mixtures.split(64), strict=True)
    drawn = torch.cat([editor.generate(some, c, steps=STEPS).pictures for some, c in parts])
    return squared(drawn, truth).reshape(len(tasks), EACH)


scale = squared(start, truth).reshape(len(tasks), EACH)
with_all = missed(routed)
lost = np.stack([missed(remix(routed, {n: 0.0})) for n in range(N)], 1) - with_all[:, None]  # [relations, N, analogies]
change = lost.sum(-1) / scale.sum(1, keepdims=True)
side = np.arange(EACH) % 2 == 1
by_half = [lost[..., half].sum(-1) / scale[:, half].sum(1, keepdims=True) for half in (side, ~side)]  # [relations, N]
weights = resampling_weights(EACH, 500, rng)
sure = np.quantile(lost @ weights.T / (scale @ weights.T)[:, None], 0.025, axis=-1)  # lower end of a 95 % interval

# %%
figure, axis = figure_of(11.5, 0.4 + 0.25 * len(tasks) + 0.9)
far = np.quantile(np.abs(change), 0.995)
shown = axis.imshow(change[:, by_use], cmap="PuOr_r", vmin=-far, vmax=far, aspect="auto")
task, which = np.nonzero(sure[:, by_use] > 0)
axis.scatter(which, task, s=5, color=INK, linewidths=0)
axis.set(xticks=range(N), yticks=range(len(tasks)), xlabel="LoRA that is taken out, the most used first")
axis.set_xticklabels(by_use, fontsize=8)
errors_now = with_all.sum(1) / scale.sum(1)
axis.set_yticklabels([f"{relation_label(x)}  ({e:.2f})" for x, e in zip(tasks, errors_now, strict=True)], fontsize=8)
axis.grid(False)
axis.set_title("What is lost without it (in brackets: the error with all)", loc="left")
figure.colorbar(shown, label="change of the error", pad=0.01)
figure

# %%
own = routed.mean(1).reshape(len(tasks), EACH, N).mean(1).numpy()  # how much each relation uses each LoRA
from lorweb_mini.analysis.order import rank_correlation

agree = np.array([rank_correlation(u, c) for u, c in zip(own, change, strict=True)])
worst = change.argmax(1)
row = np.arange(len(tasks))
fairly = np.mean([x[row, y.argmax(1)] for x, y in (by_half, by_half[::-1])], 0)  # picked and measured on other halves
again = np.median([rank_correlation(x, y) for x, y in zip(*by_half, strict=True)])
harm = np.clip(change, 0, None)
many = np.exp(torch.special.entr(torch.from_numpy(harm / harm.sum(1, keepdims=True).clip(1e-9))).sum(1).numpy())
hurt = np.bincount(worst, minlength=N)
says = "much" if np.median(agree) > 0.6 else "something" if np.median(agree) > 0.3 else "little"
SUMMARY += [
    ("loss by the worst missing LoRA, picked and measured on other halves, median", f"{np.median(fairly):.2f}"),
    ("rank correlation of the losses on two halves of the analogies, median", f"{again:.2f}"),
    ("LoRAs that share a relation's loss, median", f"{np.median(many):.1f} of {N}"),
    ("rank correlation of use and loss, median over relations", f"{np.median(agree):.2f}"),
]
display(
    Markdown(
        f"A dot marks a loss whose 95 % interval is above 0: {(sure > 0).sum()} of {change.size} cells, where luck "
        f"alone would give about {0.025 * change.size:.0f}. Measured on two halves of the analogies, the losses of a "
        f"relation have a rank correlation of {again:.2f}. The worst LoRA to miss costs **{np.median(fairly):.2f}** of "
        f"error in the median relation (picked on one half, measured on the other); the loss is shared by about "
        f"{np.median(many):.1f} LoRAs. {len(set(worst))} different LoRAs are the worst to miss for some of the "
        f"{len(tasks)} relations; LoRA {hurt.argmax()} is for {hurt.max()} of them. **How much a LoRA is used says "
        f"{says} about how much it is missed** (median rank correlation {np.median(agree):.2f})."
    )
)

# %% [markdown]
# A LoRA that others can replace is not missed, however much it is used. So a large coefficient does not prove
# importance; the same holds for attention weights.
#
# ## The geometry of the updates
#
# Coefficients give the position of an analogy; what is done there is determined by the updates $\Delta W_n = B_n A_n$.
# Are these different from each other? You might compare the stored matrices, $A_m$ and $A_n$, but that comparison has
# no meaning. For any invertible *M* of size *r × r*,
#
# $$A \to M A, \qquad B \to B M^{-1} \qquad\text{leaves}\qquad \Delta W = B A$$
#
# as it is. The network computes the same, and yet the cosine of raw factors can take almost any value. This freedom is
# called a **gauge**. Only quantities that do not change under it have a meaning.
#
# > **Predict before you run.** We give every LoRA another gauge, at random. Which of the four tables below will stay
# > the same?

# %%
from lorweb_mini.algebra import cosines
from lorweb_mini.analysis.space import update_gram

LAYER = most  # the layer that knows the relation best
A, B = (x.detach().double() for x in editor.basis.factors(LAYER))  # [N, r, in], [N, out, r]
torch.manual_seed(0)
M = torch.linalg.qr(torch.randn(N, A.shape[1], A.shape[1], dtype=torch.double)).Q
M = M * torch.tensor([0.2, 0.6, 1.5, 4.0])[: A.shape[1], None].double()  # stretched by very different amounts
other_A, other_B = M @ A, B @ torch.linalg.inv(M)


def cosine_table(x: torch.Tensor) -> torch.Tensor:
    """Cosines between N matrices, each as one long vector."""
    return cosines(x.flatten(1) @ x.flatten(1).T)


def update_cosines(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Cosines between updates: ⟨ΔW_m, ΔW_n⟩ = sum((A_m A_nᵀ) ∘ (B_mᵀ B_n)), so no ΔW is built."""
    return cosines((torch.einsum("mri,nsi->mnrs", A, A) * torch.einsum("mor,nos->mnrs", B, B)).sum((2, 3)))


tables = {"A, as stored": cosine_table(A), "A, other gauge": cosine_table(other_A),
          "ΔW, as stored": update_cosines(A, B), "ΔW, other gauge": update_cosines(other_A, other_B)}  # fmt: skip
figure, axes = figure_of(12, 3.1, ncols=4, sharey=True)
far = max(float((values - torch.eye(N)).abs().max()) for values in tables.values())
for axis, (title, values) in zip(axes, tables.items(), strict=True):
    shown = axis.imshow(values - torch.eye(N), cmap="PuOr_r", vmin=-far, vmax=far)
    axis.set(xlabel="LoRA", title=title)
    axis.grid(False)
axes[0].set_ylabel("LoRA")
figure.colorbar(shown, ax=axes, label="cosine (diagonal left out)", pad=0.01)
figure

# %%
moved_raw = float((tables["A, as stored"] - tables["A, other gauge"]).abs().max())
moved_update = float((tables["ΔW, as stored"] - tables["ΔW, other gauge"]).abs().max())
same = float((other_B @ other_A - B @ A).norm() / (B @ A).norm())
library = float((cosines(update_gram(editor.basis, LAYER)) - tables["ΔW, as stored"]).abs().max())
SUMMARY.append(("another gauge moves cosines: of raw A; of ΔW", f"{moved_raw:.2f}; {moved_update:.0e}"))
ANSWERS.append(("Do cosines of raw A mean anything?", "no" if moved_raw > 0.01 else "yes",
                f"another gauge moves them by {moved_raw:.2f}"))  # fmt: skip
display(
    Markdown(
        f"The updates are the same to {same:.0e}. Cosines of the raw A moved by up to **{moved_raw:.2f}**, those of ΔW "
        f"by {moved_update:.0e}. `space.update_gram` holds the same products (largest difference {library:.0e}); it "
        "needs $N^2$ small *r × r* matrices and never an *out × in* one."
    )
)

# %% [markdown]
# ### Do the LoRAs point different ways?
#
# Cosine 1: one LoRA can replace two. Cosine 0: they have nothing in common. Random matrices of this size have cosines
# very near 0, so even small ones mean something. Below: the mean over all layers, all pairs, and whether LoRAs that are
# *used together* also *do* the same.

# %%
all_cosines = torch.stack([cosines(update_gram(editor.basis, layer)) for layer in range(layers)])  # [L, N, N]
upper = np.triu_indices(N, 1)
pairs = all_cosines[:, *upper].numpy()  # [L, pairs]
together = np.stack([np.corrcoef(cloud.coefficients[:, layer].T.numpy())[upper] for layer in range(layers)])
random = torch.randn(N, *A.shape[1:], dtype=torch.double), torch.randn(N, *B.shape[1:], dtype=torch.double)
by_luck = float(update_cosines(*random)[*upper].std())
link = np.array([rank_correlation(x, y) for x, y in zip(together, pairs, strict=True)])
renamed = [rng.permutation(N) for _ in range(99 if SMOKE else 999)]  # LoRAs dealt out anew, as in Mantel's test
luck = [rank_correlation(x, np.stack([y[i][:, i][upper] for i in renamed]))
        for x, y in zip(together, all_cosines.numpy(), strict=True)]  # fmt: skip
tied = int(((1 + (np.array(luck) >= link[:, None]).sum(1)) / (1 + len(renamed)) < 0.05).sum())

figure, axes = figure_of(12, 3.2, ncols=3)
common_cosines = all_cosines.mean(0) - torch.eye(N)
far = float(common_cosines.abs().max())
shown = axes[0].imshow(common_cosines, cmap="PuOr_r", vmin=-far, vmax=far)
axes[0].set(xlabel="LoRA", ylabel="LoRA", title="mean over layers")
axes[0].grid(False)
figure.colorbar(shown, ax=axes[0], pad=0.02)
axes[1].hist(pairs.ravel(), 60, color=COLOURS[0])
axes[1].axvspan(-2 * by_luck, 2 * by_luck, color=COLOURS[1], alpha=0.35, label="random matrices, ±2 deviations")
axes[1].set(xlabel="cosine of two updates", ylabel="pairs in all layers", yticks=[])
axes[1].legend(fontsize=8)
axes[2].scatter(together[LAYER], pairs[LAYER], s=7, color=COLOURS[0], linewidths=0, alpha=0.6)
axes[2].set(xlabel="correlation of two coefficients", ylabel="cosine of the two updates")
axes[2].set_title(", ".join(places[LAYER]), loc="left")
figure

# %%
mean, largest, linked = np.abs(pairs).mean(), np.abs(pairs).max(), float(np.median(link))
alike = "have much in common" if mean > 0.3 else "are clearly different from each other"
ANSWERS.append(("Do the updates of the LoRAs point in different directions?", "no" if mean > 0.3 else "yes",
                f"mean absolute cosine {mean:.2f}; random {by_luck:.3f}"))  # fmt: skip
meaning = "tend to be alike" if linked > 0.2 else "tend to be opposed" if linked < -0.2 else "need not be alike"
SUMMARY += [
    ("absolute cosine of two updates: mean; largest; of random ones", f"{mean:.2f}; {largest:.2f}; {by_luck:.3f}"),
    ("rank correlation of used together and alike, median over layers", f"{linked:.2f}"),
    (f"layers of {layers} in which it is above 0 with p < 0.05 ({0.05 * layers:.0f} by luck)", f"{tied}"),
]
display(
    Markdown(
        f"The mean absolute cosine is **{mean:.2f}**, the largest {largest:.2f}; random updates of this shape have "
        f"{by_luck:.3f}. The LoRAs {alike}. Between being used together and being alike there is a rank correlation of "
        f"{linked:.2f} in the median layer ({link.min():.2f} to {link.max():.2f}), above 0 with p < 0.05 in {tied} of "
        f"{layers} layers, where luck would give {0.05 * layers:.0f}: those used together {meaning}."
    )
)

# %% [markdown]
# ### The rank of a mixture
#
# One LoRA has rank *r*. A mixture of products, $\sum_n c_n B_n A_n$, may have rank up to $N r$; this is the gain from
# mixing products and not factors. How much of it is used? The singular values of the mixture can be computed without
# building it. With the QR decompositions $B \operatorname{diag}(c) = Q_B R_B$ and $A^\top = Q_A R_A$,
#
# $$\Delta W = Q_B\,(R_B R_A^\top)\,Q_A^\top,$$
#
# so a matrix of size at most $N r$ has all of them. The **effective rank** is $\exp$ of the entropy of
# $\sigma_i / \sum_j \sigma_j$: *k* for *k* equal ones.

# %%
from lorweb_mini.algebra import effective_rank
from lorweb_mini.analysis.space import update_spectrum

ROUTED = "the router's mixture"
chosen = rng.permutation(len(cloud))[: 3 if SMOKE else 16]
stack = {
    "one LoRA alone": torch.eye(N)[by_use[:4]][:, None].expand(-1, layers, -1),
    ROUTED: cloud.coefficients[chosen],
    "all LoRAs alike": torch.full((1, layers, N), 1 / N),
}
some_layers = range(0, layers, 6) if SMOKE else range(layers)
spectra = {
    name: [[update_spectrum(editor.basis, layer, c[layer]) for c in mixtures] for layer in some_layers]
    for name, mixtures in stack.items()
}
ranks = {name: np.array([[effective_rank(s) for s in row] for row in rows]) for name, rows in spectra.items()}

figure, (left, right) = figure_of(11, 3.4, ncols=2, width_ratios=(1, 1.5))
position = min(range(len(some_layers)), key=lambda i: abs(some_layers[i] - LAYER))
for (name, rows), colour in zip(spectra.items(), (COLOURS[1], COLOURS[0], COLOURS[6]), strict=True):
    typical = torch.stack([s / s[0] for s in rows[position]]).mean(0)
    left.semilogy(range(1, len(typical) + 1), typical.clamp_min(1e-5), color=colour, label=name)
    right.plot(list(some_layers), ranks[name].mean(1), color=colour, marker="o", ms=3.5, label=name)
left.set(xlabel="singular value", ylabel="size (the largest = 1)", ylim=(2e-3, 1.3))
left.set_title(f"Spectrum in {', '.join(places[some_layers[position]])}", loc="left")
right.set(xlabel="layer", ylabel="effective rank", ylim=(0, None))
r = editor.config.rank
right.axhline(r, color=PALE, lw=0.9)
right.annotate(f"r = {r}", (0, r), (0, 3), textcoords="offset points", size=8, color=PALE)
left.legend(fontsize=8, loc="upper right")
right.set_title("Effective rank in every layer", loc="left")
figure

# %%
rank_of = {name: float(values.mean()) for name, values in ranks.items()}
SUMMARY.append((f"effective rank: {'; '.join(rank_of)}", "; ".join(f"{x:.1f}" for x in rank_of.values())))
display(
    Markdown(
        f"Mean effective rank: {', '.join(f'{name} {value:.1f}' for name, value in rank_of.items())}; the bound is "
        f"N·r = {N * r}. The router's mixture is **{rank_of[ROUTED] / r:.1f} times** as rich as one LoRA of rank {r} "
        "could be."
    )
)

# %% [markdown]
# ## Are they in order?
#
# Some relations have a natural order. Five skin tones go from light to dark. The moon has eight phases and then begins
# again; so do the directions of an arrow, the hours of a clock and the angle of a hue. A blur has a radius. If the
# space reflects this order, light, medium and dark should lie **on a line** in this order, and the hours **on a
# circle**.
#
# It is easy to fool yourself with the test. Suppose you take the five tones, find on *some* concepts the direction that
# orders them best, and check whether it orders the tones of *other* concepts. It nearly always does. But it would also
# do so for the order medium, dark, light: for five separate clouds in many dimensions there is a direction for **any
# order**. (You find one in exercise 3.) Such a test shows only that the tones are different.
#
# So the order must not determine the direction. Two statistics avoid this, both in `lorweb_mini/analysis/order.py`:
#
# 1. **Held out.** Fit the direction in which the levels' centres differ *most* (their first principal component; for a
#    circle the plane of the first two) on half of the concepts. Project the centres of the other half onto it, relative
#    to their own mean, and correlate the projection with the position: on a line by ranks (Spearman), on a circle by
#    angles, as below. Repeat with other halves and take the mean.
# 2. **Mantel.** Correlate the distances between centres with the distances between positions, along the line or round
#    the circle. Nothing is fitted at all.
#
# Angles have a correlation of their own (Fisher and Lee). It is 1 if one circle is the other, rotated by any angle:
#
# $$\rho = \frac{\sum_{i<j} \sin(x_i - x_j) \sin(y_i - y_j)}
# {\sqrt{\sum_{i<j} \sin^2(x_i - x_j)\ \sum_{i<j} \sin^2(y_i - y_j)}}$$
#
# For a p-value the positions are permuted among **whole levels**: of all arrangements of the tones, how many look as
# ordered as the true one? With five levels there are only 60 different ones, so p cannot fall below 1/60.
#
# > **Predict before you run.** Tones, moon, clock, arrows; hue, ground colour and rotation by any angle; blur,
# > darkness, size and swirl of any strength. Write down for each: line, circle or neither. (Swirl is of a family never
# > trained.)

# %%
from lorweb_mini.analysis.levels import crossed, dial
from lorweb_mini.analysis.order import CIRCLE, LINE, corrected, held_out_order, order_of, verdict

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
STEP = {f"tone/{s}>{t}": float(TONES.index(t) - TONES.index(s)) for s in TONES for t in TONES if s != t}
NAMED = {  # positions: any number on a line, a share of a full turn on a circle
    "skin tone, from yellow": ({f"tone/yellow>{tone}": float(i) for i, tone in enumerate(TONES)}, [LINE]),
    "skin tone, any to any": (STEP, [LINE]),
    "moon, +1 to +7 phases": ({f"moon/+{k}": k / 8 for k in range(1, 8)}, [LINE, CIRCLE]),
    "clock, +½ to +11½ hours": ({f"clock/+{k / 2:g}h": k / 24 for k in range(1, 24)}, [LINE, CIRCLE]),
    "arrow, 45° to 315°": ({f"rotate/{d}deg": d / 360 for d in range(45, 360, 45)}, [LINE, CIRCLE]),
}
DIALS = {
    "hue": (range(30, 360, 30), [LINE, CIRCLE]),
    "background": (range(0, 360, 30), [LINE, CIRCLE]),
    "rotate": (range(30, 360, 30), [LINE, CIRCLE]),
    "blur": ((0.5, 1, 1.5, 2, 3, 4, 5.5, 8), [LINE]),
    "darken": ((0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15), [LINE]),
    "shrink": ((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), [LINE]),
    "swirl": ((30, 60, 90, 120, 150, 180, 210, 240), [LINE]),
}
AT_EACH, PAIRS = (5, 5) if SMOKE else (36, 30)
ordered = {}
for name, (positions, shapes) in list(NAMED.items())[: 1 if SMOKE else None]:
    subgroup = "arrow" if name.startswith("arrow") else None
    lists = (crossed(relation, AT_EACH, subgroup=subgroup) for relation in positions)
    ordered[name] = cloud_of(editor, lists), positions, shapes
for kind, (strengths, shapes) in list(DIALS.items())[:: 3 if SMOKE else 1]:
    full = 360 if CIRCLE in shapes else 1
    at = [s / full if CIRCLE in shapes else float(i) for i, s in enumerate(strengths)]
    positions = {f"edit/{kind}={s:g}": x for s, x in zip(strengths, at, strict=True)}
    lists = dial(kind, strengths, PAIRS)
    ordered[f"{kind}, {strengths[0]:g} to {strengths[-1]:g}"] = cloud_of(editor, lists), positions, shapes

# %% [markdown]
# `crossed` combines every two pairs of a relation, which makes many analogies from the few test pairs of the moon;
# `dial` makes exact edits at **any** strength, most of which were not in the basis's training. Note about the moon: the
# full moon is its only phase on the test side, so the step determines which phase is shown beside the full moon. The
# last two columns of the table are a check for such cases: how ordered the **query** is before any router, and how
# ordered **b alone** is, which should not depend on the step. For the tones from any to any it can: a change by four
# tones up can only begin at light.

# %%
EFFORT = {"arrangements": 60, "resamples": 20} if SMOKE else {"arrangements": 2000, "resamples": 300}
tests, controls = {}, {}
for name, (points, positions, shapes) in ordered.items():
    queries = points.queries.numpy()
    for shape in shapes:
        given = points.relations, positions, points.concepts, shape
        tests[name, shape] = order_of(points.vectors, *given, **EFFORT)
        controls[name, shape] = [held_out_order(x, *given) for x in (queries, queries[:, 2 * E :])]
tests = dict(zip(tests, corrected(list(tests.values())), strict=True))
verdicts = {name: verdict([tests[name, shape] for shape in shapes]) for name, (_, _, shapes) in ordered.items()}
for name, (_, _, shapes) in ordered.items():
    if (alike := max(controls[name, shape][1] for shape in shapes)) > 0.5:
        verdicts[name] += f"; but b alone has {alike:.2f}, so nothing is proved"

# %%
lines = []
for (name, shape), x in tests.items():
    cells = [name, shape, x.levels, x.analogies, x.held_out, f"{x.p:.3f}", x.mantel, f"{x.mantel_p:.3f}"]
    cells += [f"{x.share:.0%}", *(f"{value:.2f}" for value in controls[name, shape])]
    lines.append("| " + " | ".join(map(str, cells)) + " |")
    SUMMARY.append((f"order of {name}, on a {shape}: held out; Mantel",
                    f"{x.held_out}, p {x.p:.3f}; {x.mantel}, p {x.mantel_p:.3f}"))  # fmt: skip
SUMMARY += [(f"verdict: {name}", said_of) for name, said_of in verdicts.items()]
for name, said_of in verdicts.items():
    proved = said_of.startswith(("in order", "roughly")) and "nothing is proved" not in said_of
    ANSWERS.append((f"Is this set in order: {name}?", "yes" if proved else "no" if said_of.startswith("not") else
                    "undecided", said_of))  # fmt: skip
display(
    Markdown(
        "| set | shape | levels | analogies | held-out correlation | p | Mantel | p | share | query | b alone |\n"
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n" + "\n".join(lines) + "\n\nCorrelations with 95 % intervals "
        f"(concepts resampled). p-values are corrected for {2 * len(tests)} tests (false discovery rate). *Share*: of "
        "the variance between centres, what the direction or plane holds. *Query*, *b alone*: the held-out correlation "
        "there."
    )
)  # fmt: skip

# %%
before = [
    name
    for name, (_, _, shapes) in ordered.items()
    if verdicts[name].startswith(("in order", "roughly"))
    and max(controls[name, s][0] for s in shapes) > max(tests[name, s].held_out.value for s in shapes) - 0.1
]
display(
    Markdown(
        "\n".join(f"- **{name}: {said_of}.**" for name, said_of in verdicts.items())
        + "\n\nAlready as ordered in the query (held-out correlation no more than 0.1 lower): "
        + f"{', '.join(before) or 'none of those in order'}."
    )
)

# %% [markdown]
# Here are the sets, each in the plane in which its own centres differ most. Small dots are analogies, large ones the
# centres, joined in their true order. Colours from light to dark mark a line, a cycle of colours a circle. The plots
# show all concepts; the numbers below them are those of the held-out statistics.


# %%
def draw_order(axis, name: str) -> None:
    """Analogies and centres of one set of levels, in the plane of the centres."""
    points, positions, shapes = ordered[name]
    levels = [level for level in positions if (points.relations == level).any()]
    centres = np.stack([points.vectors[points.relations == level].mean(0) for level in levels])
    plane = pca(centres)
    at = np.array([positions[level] for level in levels])
    ring = CIRCLE in shapes
    scaled = at if ring else (at - at.min()) / np.ptp(at)
    colours = matplotlib.colormaps["twilight" if ring else "cividis"](scaled)
    for level, colour in zip(levels, colours, strict=True):
        mine = plane.place(points.vectors[points.relations == level])
        axis.scatter(*mine.T, s=5, color=colour, alpha=0.35, linewidths=0)
    if len(set(at)) == len(at):
        line = np.concatenate([plane.points, plane.points[:1]]) if ring else plane.points
        axis.plot(*line.T, color=INK, lw=0.9)
    axis.scatter(*plane.points.T, s=42, color=colours, edgecolors=INK, linewidths=0.7, zorder=3)
    best = max((tests[name, shape] for shape in shapes), key=lambda x: x.held_out.value + x.mantel.value)
    axis.set(xticks=[], yticks=[])
    axis.set_title(name, loc="left", fontsize=9)
    axis.set_xlabel(f"{best.shape}: held out {best.held_out.value:.2f}, Mantel {best.mantel.value:.2f}", fontsize=8)


rows = -(-len(ordered) // 4)
figure, axes = figure_of(12, 3 * rows, nrows=rows, ncols=4, squeeze=False)
figure.get_layout_engine().set(h_pad=0.14)
for axis, name in zip(axes.flat, ordered, strict=False):
    draw_order(axis, name)
for axis in axes.flat[len(ordered) :]:
    axis.axis("off")
figure

# %% [markdown]
# Where the query is as ordered as the routing, the router did not create the order but kept it. Where b alone is
# ordered, the analogies differ in what they show, and the first columns cannot be trusted. A *share* well below one
# means that the levels leave the straight line or the plane, by a bend or by scatter; the figure shows which. On a line
# both statistics use ranks, so a bend does not lower them. Does order in this space mean that a *walk* through it draws
# the pictures in between? Not necessarily; notebook 06 measures it.
#
# ## Exercise 1: count the dimensions
#
# *Difficulty ●○○ · about 3 minutes*
#
# Write the participation ratio $\left(\sum_i \lambda_i\right)^2 / \sum_i \lambda_i^2$ of a cloud of points [k, d].


# %%
def check_ratio(function) -> str:
    """A cloud with three equal axes, one with a single axis, and the cloud of routing vectors."""
    normal = np.random.default_rng(0).normal
    ball = normal(size=(4000, 3)) @ np.linalg.qr(normal(size=(20, 3)))[0].T
    stick = np.linspace(-1, 1, 100)[:, None] * np.arange(1.0, 6.0)
    answers = [function(x) for x in (ball, stick)]
    if None in answers:
        return "Not yet: `participation` returns None."
    if not (abs(answers[0] - 3) < 0.05 and abs(answers[1] - 1) < 1e-6):
        return f"Not yet: a ball in three dimensions gives {answers[0]:.2f}, a stick {answers[1]:.2f}."
    return f"✓ Right: 3 for a ball, 1 for a stick, and {function(cloud.vectors):.1f} for the cloud of this notebook."


# %% tags=["exercise"]
def participation(points: np.ndarray) -> float | None:
    """Participation ratio of points [k, d]."""
    return None


# %%
print(check_ratio(participation))

# %% [markdown]
# <details><summary>Hint</summary>
#
# `pca(points, min(points.shape)).explained` has the variances as shares. Does it matter that they are shares?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def participation(points):
#     shares = pca(points, min(points.shape)).explained
#     return shares.sum() ** 2 / (shares**2).sum()
# ```
#
# A common factor drops out, so shares do as well as variances.
#
# </details>

# %% [markdown]
# ## Exercise 2: choose a gauge
#
# *Difficulty ●●○ · about 6 minutes*
#
# `A[0]` and `B[0]` are one LoRA of the layer above. Find another pair with the **same update** in which the rows of A
# are orthonormal: $\tilde A \tilde A^\top = I$. In this way two LoRAs are brought to a common form before their factors
# are compared.


# %%
def check_gauge(new_A: torch.Tensor | None, new_B: torch.Tensor | None) -> str:
    """Whether a pair is orthonormal on one side and still the same update."""
    if new_A is None or new_B is None:
        return "Not yet: `new_A` or `new_B` is still None."
    tilted = float((new_A @ new_A.T - torch.eye(len(A[0])).double()).abs().max())
    changed = float((new_B @ new_A - B[0] @ A[0]).norm() / (B[0] @ A[0]).norm())
    word = "✓ Right" if tilted < 1e-6 and changed < 1e-6 else "Not yet"
    return f"{word}: the rows are off orthonormal by {tilted:.0e}, and the update has changed by {changed:.0e}."


# %% tags=["exercise"]
new_A, new_B = None, None  # tensors [r, in] and [out, r]

# %%
print(check_gauge(new_A, new_B))

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.linalg.qr(A[0].T)` writes $A^\top = Q R$ with orthonormal columns of *Q*. Where does *R* have to go?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# Q, R = torch.linalg.qr(A[0].T)
# new_A, new_B = Q.T, B[0] @ R.T
# ```
#
# $B A = B\,(Q R)^\top = (B R^\top)\,Q^\top$. Even this form is not unique, since the rows may be rotated. Only products
# are unique.
#
# </details>

# %% [markdown]
# ## Exercise 3: any order can be found
#
# *Difficulty ●●○ · about 6 minutes*
#
# Five levels at equal distances from each other, in twenty dimensions: there is no order in them. `centres` [5, 20] are
# the means of their clouds, and `wanted` is an arbitrary order. Find a `direction` [20] along which *new* points of the
# five levels lie in that order.

# %%
levels = 8 * np.linalg.qr(np.random.default_rng(3).normal(size=(20, 20)))[0][:5]
draw = np.random.default_rng(4).normal
centres = (levels[:, None] + draw(size=(5, 40, 20))).mean(1)
wanted = np.array([3.0, 0.0, 4.0, 1.0, 2.0])


def check_reading(direction: np.ndarray | None) -> str:
    """Order of new points along a direction, and what the honest statistic says of the same points."""
    if direction is None:
        return "Not yet: `direction` is still None."
    new = (levels[:, None] + draw(size=(5, 40, 20))).reshape(-1, 20)
    names = np.repeat([f"level {i}" for i in range(5)], 40)
    read = rank_correlation(new @ direction, np.repeat(wanted, 40))
    positions = {f"level {i}": float(w) for i, w in enumerate(wanted)}
    honest = order_of(new, names, positions, np.tile(np.arange(40) // 4, 5), LINE, 120, 50)
    word = "✓ Right" if read > 0.85 else "Not yet"
    return f"{word}: correlation of new points with the order {read:.2f}; Mantel's p-value is {honest.mantel_p:.2f}."


# %% tags=["exercise"]
direction = None  # an array [20]

# %%
print(check_reading(direction))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Add up the centres, weighted by their place in the order: positive weights at the end, negative ones at the beginning.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# direction = (wanted - wanted.mean()) @ (centres - centres.mean(0))
# ```
#
# It works for each of the 120 orders, even on new points. A held-out score guards against memorised *points*. It does
# not guard against a test that every order passes.
#
# </details>

# %% [markdown]
# ## Exercise 4: remove one LoRA
#
# *Difficulty ●○○ · about 3 minutes*
#
# Choose **one** LoRA whose removal raises the error of the first relation of `tasks` as much as possible *more* than
# that of the last one. The table `change` [relations, N] is still there.


# %%
def check_surgery(n: int | None) -> str:
    """Whether no other LoRA hurts the first relation by more than the last one."""
    if n is None:
        return "Not yet: `culprit` is still None."
    gap = change[0] - change[-1]
    first, last = (relation_label(tasks[i]) for i in (0, -1))
    word = "✓ Right" if gap[n] == gap.max() else "Not yet"
    return f"{word}: without LoRA {n}, {first} loses {change[0, n]:+.2f} and {last} {change[-1, n]:+.2f}."


# %% tags=["exercise"]
culprit = None  # the number of a LoRA

# %%
print(check_surgery(culprit))

# %% [markdown]
# <details><summary>Hint</summary>
#
# `argmax` of a difference of two rows.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# culprit = int((change[0] - change[-1]).argmax())
# ```
#
# The printed numbers show how selective the removal is. It can destroy one edit and keep the other only as far as the
# basis uses different LoRAs for them.
#
# </details>

# %% [markdown]
# ## Questions and answers

# %%
numbers = "\n".join(f"| {what} | {value} |" for what, value in SUMMARY)
display(
    Markdown(
        "| question | answer | number |\n|:--|:--|:--|\n"
        + "\n".join(f"| {question} | **{answer}** | {number} |" for question, answer, number in ANSWERS)
        + "\n\n<details><summary>Every number of this notebook</summary>\n\n| statistic | value |\n|:--|:--|\n"
        + f"{numbers}\n\n</details>"
    )
)

# %% [markdown]
# ## What you have seen
#
# - A map is a projection. You can compute how much of the variance it hides, and should base no claim on the map alone.
# - Every score has a chance level of its own: permuted columns, shuffled labels, corrected shares, random matrices.
# - How much a LoRA is used, what it does alone and what is lost without it are three different questions.
# - Only quantities that do not depend on the gauge have a meaning, and they can be computed from small matrices.
# - A set counts as ordered only if permuted levels would hardly ever look as ordered. Where the verdict above says
#   *not*, no such line or circle was found, whatever the plot suggests.
#
# **Next: 06, Walking.** Go from one point to another, and see what is drawn on the way.
#
# ## Where it is in the paper
#
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) gives every adapted layer its own keys and its own
#   projection of the query, and mixes products $B_n A_n$ by a softmax: hence one coordinate for each layer and LoRA, a
#   mixture of rank up to $N r$, and one place for each analogy, the same in every step of drawing.
# - The paper's title claims that the basis *spans* a space of edits. The tests here are this course's own, on this
#   course's small model; they neither prove nor disprove that claim.
# - Effective rank: Roy and Vetterli, EUSIPCO 2007. Circular correlation: Fisher and Lee, Biometrika 70, 1983. Mantel's
#   test: Cancer Research 27, 1967. False discovery rate: Benjamini and Hochberg, JRSS B 57, 1995.
# - In this repository: `lorweb_mini/analysis/space.py` and `lorweb_mini/analysis/order.py`.

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
