# %% [markdown]
# # The learned space
#
# Do similar edits lie close together? The router looks at a, a′ and b and computes one table of coefficients: a point
# in the space that the basis of LoRAs spans. Below are thousands of such points, projected onto a plane. The router was
# given no names of edits, and the colours were added afterwards; but a part of what it reads, the encoder of the pair,
# was trained to tell what changed from a to a′.
#
# Left, each dot is an analogy with a b or b′ that no training saw. Right, the same plane with pictures: what the
# example pair showed to the router there. What can you conclude from such a map, and what not?

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
from lorweb_mini.show import space
from lorweb_mini.show.pictures import relation_label
from lorweb_mini.show.space import table
from lorweb_mini.show.style import COLOURS, INK, STYLE

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
FEW = ("edit/blur", "edit/darken", "edit/hue", "tone/yellow", "style/noto", "compose/edit/invert")
matplotlib.rcParams.update(STYLE)  # ticks are made when a figure is drawn

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
LOOKS = {sort: tuple(look) for sort, (_, *look) in SORTS.items()}
sort_of = {family: sort for sort, (families, *_) in reversed(SORTS.items()) for family in families}
sorts = np.array([sort_of[family] for family in cloud.families])


def pair(i: int) -> torch.Tensor:
    """What the router saw as a and a′ in the i-th analogy, side by side: [3, 64, 128]."""
    keys = [key.rsplit("@", 1) for key in cloud.keys[i][:2]]
    a, a_prime = emoji.tensor([emoji.index[key] for key, _ in keys], [STYLES.index(style) for _, style in keys])
    return torch.cat([a, relations[cloud.relations[i]].apply_edits(a_prime[None])[0]], 2)


# %%
space.picture_map(whole, sorts, LOOKS, pair)

# %%
unseen = {name for name in set(cloud.relations) if relations[name].degree != "seen"}
display(
    Markdown(
        f"**{len(cloud):,} analogies** of {len(set(cloud.relations))} relations, {len(unseen)} of them not on the "
        "basis's list; "
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
# Each section ends in rows of a table, question, answer and number, which stands in full at the end. Many answers may
# be *no*; the cells compute them.
#
# ## A point for every analogy
#
# In layer *l* the router gives one coefficient to each LoRA, and they sum to 1. All layers, concatenated, are the
# **routing vector** of an analogy:
#
# $$x = (c_{1,1}, \dots, c_{1,N},\ c_{2,1}, \dots, c_{L,N}) \in \mathbb R^{L N}$$
#
# `cloud_of` routes lists of analogies and keeps the vectors, the names and the router's input, but no pictures. That
# input, the **query**, is an embedding each of a, a′ and b, and one of the pair a, a′. The example pair and b show
# different concepts wherever a relation has more than one, and b or b′ (for most relations both) is from the test side
# of the split.
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
space.scree(variances, chance)

# %%
SUMMARY: list[tuple[str, str]] = []  # every statistic, for the table at the end
ANSWERS: list[tuple[str, str, str]] = []  # question, answer, number


def conclude(text: str, *rows: tuple[str, str, str]) -> None:
    """Shows a text and rows of question, answer and number, which are kept for the table at the end."""
    ANSWERS.extend((question, f"**{answer}**", number) for question, answer, number in rows)
    last = ANSWERS[len(ANSWERS) - len(rows) :]
    display(Markdown("\n\n".join([text, table(("question", "answer", "number"), last, left=3)])))


SUMMARY += [
    ("variance on 2 and on 3 components", f"{kept[1]:.0%}, {kept[2]:.0%}"),
    ("participation ratio; components for 90 %", f"{ratio:.1f}; {ninety}"),
    ("components above dealt-out columns", f"{beyond}"),
]
conclude(
    f"The participation ratio is **{ratio:.1f}**; {ninety} components keep 90 % of the variance, and {beyond} have "
    f"more than chance would give them, of {layers * N:,} coordinates. The map above shows {kept[1]:.0%}. So what lies "
    f"**apart** on it is apart, but what lies **together** may be far apart in the {1 - kept[1]:.0%} that it hides. No "
    "claim below is read off a map.",
    ("Does the map show most of the variance?", "yes" if kept[1] > 0.5 else "no", f"{kept[1]:.0%} on two components"),
)

# %% [markdown]
# ### Three colourings of one map
#
# *What is done?* (sort of relation), *who drew b?* (style), *how strongly?* (edits that come in three strengths; all
# other points pale). Hover over a point to read its relation and its style, choose a colouring from the list, click a
# name in the legend to hide it. A page without scripts shows a static figure.

# %%
from lorweb_mini.emoji.edits import EDITS, relation_name
from lorweb_mini.emoji.relations import STYLE_NAMES

ROUND = ("hue", "rotate", "background", "tint")  # their strength is an angle, neither weak nor strong
GRADES = {"no dial": ("#DADADA", "."), "weak": (COLOURS[2], "v"), "middle": (COLOURS[1], "o"),
          "strong": (COLOURS[4], "^")}  # fmt: skip
dials = {kind: edit.strengths for kind, edit in EDITS.items() if len(edit.strengths) == 3 and kind not in ROUND}
grade_of = {
    relation_name(kind, s): g for kind, three in dials.items() for s, g in zip(three, list(GRADES)[1:], strict=True)
}
grades = np.array([grade_of.get(name, "no dial") for name in cloud.relations])
artists = np.array([STYLE_NAMES[style] for style in cloud.styles])
COLOURINGS = {
    "what is done": (sorts, LOOKS),
    "who drew b": (artists, dict(zip(STYLE_NAMES.values(), zip(COLOURS, "os^DvP", strict=False), strict=True))),
    "how strongly": (grades, GRADES),
}
said = np.array([f"{relation_label(r)}<br>b: {a}" for r, a in zip(cloud.relations, artists, strict=True)])

# %%
rng = np.random.default_rng(0)
some = np.sort(rng.permutation(len(cloud))[:1000])  # all of them would make the page large
few = {name: (labels[some], looks) for name, (labels, looks) in COLOURINGS.items()}
live = space.live_map(whole.points[some], few, said[some])
display(space.live_or_still(live, space.colouring_maps(whole.points, COLOURINGS)), raw=True)

# %% [markdown]
# A third component shows a little more. Rotate the cloud with the mouse.

# %%
live = space.live_space(whole.points[some], sorts[some], LOOKS, said[some])
display(space.live_or_still(live, space.turned_maps(whole.points, sorts, LOOKS)), raw=True)

# %% [markdown]
# ### Hover to see, click to edit
#
# This map is computed from a dozen analogies of each family, so it need not look like the one above. Hover over a point
# to see the analogy's a, a′ and b; click to let the editor draw with the coefficients of that place.

# %%
from lorweb_mini.widgets.atlas import Atlas

Atlas(editor, lw.analogies("test", names, n=1) if SMOKE else None)

# %% [markdown]
# ## What moves a point?
#
# A router that read the edit and nothing else would give all analogies of a relation the same point. But its answer may
# also depend on who drew the three pictures and what they show. How much of the variance does each label account for?
# The textbook answer, $\eta^2 = SS_\text{between} / SS_\text{total}$, is biased: with many labels of few points each,
# even meaningless labels have different means. So subtract what those would get:
#
# $$\varepsilon^2 = 1 - \frac{k - 1}{k - G} \cdot \frac{SS_\text{within}}{SS_\text{total}}$$
#
# for *k* points in *G* groups. Meaningless labels now score 0, on average. Relation and concept are not independent,
# since only clocks can be moved by an hour. So the shares overlap and need not add up.
#
# > **Predict before you run.** Which of the three will account for most: the relation, the style of b, or the concept
# > that b shows? And will the layers agree?

# %%
from lorweb_mini.analysis.layers import layer_label
from lorweb_mini.analysis.probes import variance_share

places = [layer_label(layer) for layer in editor.basis.layers]
places = [(block, kind.removesuffix(", picture")) for block, kind in places]  # single blocks share one for all tokens
LABELS = {"the relation": cloud.relations, "the style of b": cloud.styles, "the concept of b": cloud.concepts}
shares = {label: variance_share(cloud.coefficients.numpy(), values) for label, values in LABELS.items()}
overall = {label: float(variance_share(cloud.vectors, values)) for label, values in LABELS.items()}
titled = {f"{label}: {overall[label]:.0%} of all": values for label, values in shares.items()}
space.layer_tables(titled, places, "share of the variance, ε²")

# %%
values = shares["the relation"]
most, least = int(values.argmax()), int(values.argmin())
leader = max(overall, key=overall.get)
SUMMARY += [(f"share of the variance, ε²: {label}", f"{share:.0%}") for label, share in overall.items()]
SUMMARY.append(("ε² of the relation, by layer", f"{values.min():.0%} to {values.max():.0%}"))
conclude(
    f"Most is accounted for by **{leader}** ({overall[leader]:.0%}). The relation's share runs from "
    f"{values[least]:.0%} in *{': '.join(places[least])}* to {values[most]:.0%} in *{': '.join(places[most])}*.",
    ("What accounts for most of the variance?", leader, "; ".join(f"{x} {share:.0%}" for x, share in overall.items())),
)

# %% [markdown]
# Each layer has its own keys, so each has its own small space of *N* coordinates. Choose a layer and a colouring; on a
# page without a running kernel you see the layer in which the relation accounts for most beside the one in which it
# accounts for least.

# %%
from lorweb_mini.widgets.controls import Choice


def layer_maps(shown: list[int], colour: str):
    """Principal components of single layers' coefficients."""
    titles = [f"{': '.join(places[i])}: relation {shares['the relation'][i]:.0%}" for i in shown]
    clouds = {title: cloud.coefficients[:, i].numpy() for title, i in zip(titles, shown, strict=True)}
    return space.component_maps(clouds, *COLOURINGS[colour])


Choice(
    lambda layer, colour: layer_maps([layer], colour),
    layer_maps([most, least], "what is done"),
    layer={f"{i}: {', '.join(place)}": i for i, place in enumerate(places)},
    colour={name: name for name in COLOURINGS},
)

# %% [markdown]
# ## Can a probe predict the label?
#
# A label that moves points only a little, but always in the same direction, has a small share of the variance and is
# easy to predict. A **linear probe** is a logistic regression from the routing vector to the label. It is tested on
# analogies of which it has seen **nothing**: neither a's concept, nor that of a′, nor that of b. (A pair a, a′ occurs
# with several b and could be memorised.) Many analogies mix concepts of both sides and can then be used neither for
# fitting nor for testing.
#
# The probe is compared with
#
# - *chance*, the most frequent label;
# - *shuffled*: the labels permuted among the analogies, which shows what the probe memorises;
# - the *query*: the same probe on the router's own input. What the query does not contain, no router can find; what the
#   query contains and the routing does not, the router has discarded;
# - the *change*: the difference of two embeddings alone, a′ − a. A probe that reads 64 principal components of the
#   query loses small differences first, so the query is easy to beat. A plain difference is harder to beat;
# - the *pair*: the part of the query that the encoder of the pair adds. It was trained to tell edits, so a router that
#   only passed it on would do as well.
#
# Two scores need no training: **NMI**, how well *k*-means clusters agree with the labels (0 to 1), and the
# **silhouette**, whether a point lies nearer to its own label than to the next (−1 to 1).
#
# > **Predict before you run.** Who drew b, and the relation: for which of the two will routing do better than the query
# > from which it was computed? Can it do better at all?

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
E, query = editor.encoder.embedding_dim, cloud.queries.numpy()
READ = {
    "routing": cloud.vectors,
    "query": query,
    "change": query[:, E : 2 * E] - query[:, :E],
    "pair": query[:, 3 * E :],
}
SOURCES = (*READ, "shuffled")
read, clusters = {}, {}
for label, (values, which) in ASKED.items():
    truth = values[which]
    tried = {source: (vectors, truth) for source, vectors in READ.items()}
    tried["shuffled"] = cloud.vectors, rng.permutation(truth)
    for source, (vectors, told) in tried.items():
        read[label, source] = read_off(vectors[which], told, cloud.shown[which])
        clusters[label, source] = clustering(vectors[which], told)

# %%
lines, unsupervised, accuracy, gains = [], [], {}, {}
for label, (values, which) in ASKED.items():
    right, shown = [read[label, source] for source in SOURCES], cloud.shown[which]
    accuracy[label] = [over_concepts(x, shown) for x in right]
    gains[label] = [over_concepts(right[0] - x, shown) for x in right[1:4]]
    _, of = np.unique(values[which], return_counts=True)
    judged, guess = f"{(~np.isnan(right[0])).sum():,} of {of.sum():,}", f"{of.max() / of.sum():.2f}"
    lines.append((label, len(of), judged, *accuracy[label], guess, *gains[label]))
    scores = {x: [f"{getattr(clusters[label, s], x.lower()):.2f}" for s in SOURCES] for x in ("NMI", "silhouette")}
    unsupervised.append((label, *scores["NMI"], *scores["silhouette"]))
    cells = "; ".join(map(str, [*accuracy[label], guess]))
    SUMMARY.append((f"probe for the {label}: {'; '.join(SOURCES)}; chance", cells))
    SUMMARY += [(f"{x} of the {label}: {'; '.join(SOURCES)}", "; ".join(row)) for x, row in scores.items()]
heads = ("label", "classes", "judged", *SOURCES, "chance", "routing − query", "routing − change", "routing − pair")
columns = [f"{score}: {source}" for score in ("NMI", "silhouette") for source in SOURCES]
display(
    Markdown(
        f"{table(heads, lines)}\n\nAccuracy on analogies of which the probe met no concept; 95 % intervals, concepts "
        f"resampled, analogy by analogy in the differences.\n\n{table(('label', *columns), unsupervised)}"
    )
)

# %%
SAID = {"yes": "better than", "no": "worse than", "undecided": "not clearly better or worse than"}
said_of, rows = [], []
for label, gained in gains.items():
    answers = ["yes" if x.low > 0 else "no" if x.high < 0 else "undecided" for x in gained]
    compared = ", ".join(f"{SAID[x]} off the {of}" for x, of in zip(answers, ("query", "change", "pair"), strict=True))
    weak = "" if accuracy[label][0].low > accuracy[label][-1].high else "; not clearly better than off shuffled labels"
    said_of.append(f"- **{label}**: read off the routing {compared}{weak}.")
    for i, of in ((0, "query"), (2, "embedding of the pair")):
        rows.append((f"Is the {label} easier to read off the routing than off the {of}?", answers[i],
                     f"accuracy by {gained[i]}"))  # fmt: skip
nmi, apart = clusters["relation", "routing"].nmi, clusters["relation", "routing"].silhouette
lie = "separate clouds" if apart > 0.25 else "overlapping clouds" if apart > 0 else "no clouds of their own"
conclude(
    "\n".join(said_of) + f"\n\nThese are {3 * len(gains)} comparisons: one whose interval just misses 0 may be luck. "
    f"By silhouette the relations are {lie} ({apart:.2f}); clusters found without labels agree with them to "
    f"{nmi:.2f}, with shuffled ones to {clusters['relation', 'shuffled'].nmi:.2f}.",
    *rows,
)

# %% [markdown]
# The NMI of shuffled labels is far from zero where there are many classes; without that column the space would look
# better than it is. A router cannot contain more information than its query. Where its probe is better all the same,
# the router makes visible what a *linear* probe on a few thousand analogies did not find in the query; the last two
# columns tell whether that is more than a difference of two embeddings, and more than the encoder of the pair gives it.
# Style is a control: but for the style relations, who drew b is no part of the change, and a router that reads only the
# edit would discard it.
#
# ## Unseen relations: are they near their relatives?
#
# The relations below are not on the basis's list (eleven of them its fresh edits can still make, as `tile=3`; the model
# card says which). If the space is ordered by meaning, an unseen **strength** should fall
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
lines, rows = [], []
for degree in ("strength", "composition"):
    these = [name for name in found if relations[name].degree == degree and related[name]]
    first = sum(found[name][0][0] in related[name] for name in these)
    three = sum(any(other in related[name] for other, _ in found[name]) for name in these)
    by_luck = np.array([len(related[name]) / len(known) for name in these])
    p = np.mean((rng.random((20_000, len(these))) < by_luck).sum(1) >= first)
    shown = "below 0.001" if p < 0.001 else f"{p:.3f}"
    lines.append((degree, len(these), first, three, f"{by_luck.sum():.1f}", shown))
    rows.append((degree, "yes" if p < 0.05 else "undecided", f"{first} of {len(these)}, p {shown}"))
SUMMARY += [(f"unseen {degree}: nearest known relation is a relative", number) for degree, _, number in rows]
heads = ("unseen", "relations", "nearest is a relative", "one of three is", "expected by luck", "p")
asked = "Do relations of degree {} lie nearest to a relative more often than by luck?"
conclude(table(heads, lines), *((asked.format(degree), *row) for degree, *row in rows))

# %%
by_degree = {d: [n for n in found if relations[n].degree == d] for d in ("strength", "composition", "family")}


def neighbours(unseen: list[str]) -> str:
    """A table of unseen relations with their three nearest known ones; relatives in bold."""
    lines = []
    for name in unseen:
        bold = ["**" if other in related[name] else "" for other, _ in found[name]]
        near = [f"{s}{relation_label(x)}{s} {cosine:.2f}" for s, (x, cosine) in zip(bold, found[name], strict=True)]
        lines.append((relation_label(name), relations[name].degree, *near))
    return table(("unseen", "degree", "nearest", "second", "third"), lines, left=5)


few = [name for several in by_degree.values() for name in several[:: max(1, len(several) // 5)][:6]]
few += [name for name in ("edit/sepia",) if name in found and name not in few]  # the one that you were asked about
display(
    Markdown(
        f"{neighbours(few)}\n\nCosines of centred mean vectors; relatives in bold.\n\n"
        f"<details><summary>All {len(found)} unseen relations</summary>\n\n{neighbours(list(found))}\n\n</details>"
    )
)

# %% [markdown]
# ## Which LoRA does what?
#
# Three ways to find out, each more expensive than the one before, need not agree: **how much a LoRA is used** (the
# coefficients), **what it does alone** (set the others to 0), **what is lost without it** (set it to 0).
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
title = "Who is used: mean coefficient over layers and analogies"
space.lora_table(usage, present, by_use, title, f"coefficient (uniform: {1 / N:.3f})")

# %%
load, at_once = used.effective.mean(), np.exp(used.entropy)
SUMMARY += [
    ("LoRAs that carry the load of a layer, of N", f"{load:.1f} of {N}"),
    ("LoRAs in one routing (perplexity)", f"{at_once:.1f}"),
]
conclude(
    f"A layer spreads its load over **{load:.1f}** of its {N} LoRAs (perplexity of the mean coefficients), one analogy "
    f"over {at_once:.1f} at a time. The most used LoRA has {usage.mean(0).max() * N:.1f} times the uniform share, the "
    f"least used {usage.mean(0).min() * N:.2f} times.",
    ("Does a layer spread its load over most of its LoRAs?", "yes" if load > N / 2 else "no",
     f"{load:.1f} of {N}, one analogy {at_once:.1f}"),
)  # fmt: skip

# %% [markdown]
# ### Each alone
#
# A coefficient of 1 in every layer and 0 for all others is a corner of the space, far from every analogy: a LoRA that
# usually has a tenth of the mixture gets ten times its usual dose there. So we draw three times, without any other
# LoRA: at its **usual dose**, the coefficient that only a tenth of the analogies exceed, layer by layer; at **three
# times** that; and with **everything**, a coefficient of 1. (Rows need not sum to 1.)
#
# > **Predict before you run.** Will a LoRA alone draw *one* edit that you could name?

# %%
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.emoji.relations import SPLITS, concept_sides
from lorweb_mini.show.pictures import picture_rows

SHOWN = ("octopus", "fire engine", "pineapple", "tram", "pizza", "peacock")
assert all(concept_sides()[emoji.find(name)] == SPLITS.index("test") for name in SHOWN)
b = torch.cat([emoji.tensor(emoji.find(name), i % 3) for i, name in enumerate(SHOWN[: 2 if SMOKE else 6])])
seen_b = reconstruct(editor.autoencoder, b)
one = torch.eye(N)[:, None].expand(N, layers, N)
usual = one * torch.quantile(cloud.coefficients, 0.9, dim=0)
doses = {"usual dose": usual, "three times that": 3 * usual, "everything": one}
alone = {  # dose to pictures [N, emoji, 3, 64, 64]
    dose: torch.stack([editor.generate(x, c).pictures for x in b], 1) for dose, c in doses.items()
}
rows, shown = {}, by_use[:12]
for i, name in enumerate(SHOWN[:2]):
    for dose in doses if i == 0 else ["three times that"]:
        rows[f"{name}, {dose}"] = torch.cat([seen_b[i : i + 1], alone[dose][shown, i]])
heads = {list(rows)[-1]: ["b", *(f"LoRA {n}" for n in shown)]}
picture_rows(rows, heads, title="Each LoRA alone, the twelve most used", size=0.62, label_width=1.9)

# %% [markdown]
# Can you name what each one does? We measure the normalised error of notebook 00 of each LoRA's pictures against the
# exact answer of every edit that the basis was trained on. An edit that is half made scores a quarter, so below 0.8
# a tenth of it or more is there, and below 0.2 more than half. But pale noise is close to any faded picture. So a name
# counts only if the pictures fit **their own b**: compared with the answers for other b, they must have at least twice
# the error.

# %%
exact = [name for name in known if relations[name].edits and not name.startswith("compose/")]
truths = torch.stack([reconstruct(editor.autoencoder, relations[name].apply_edits(b)) for name in exact])
size = np.array([squared(seen_b, truth).sum() for truth in truths])  # copying b scores 1
lines, rows = [], []
for dose, pictures in alone.items():
    off = np.stack([[squared(drawn, truth).sum() for truth in truths] for drawn in pictures]) / size  # [N, edits]
    strange = np.stack([[squared(drawn.roll(1, 0), truth).sum() for truth in truths] for drawn in pictures]) / size
    off = np.where(2 * off <= strange, off, np.inf)
    moved = np.median([squared(drawn, seen_b).sum() for drawn in pictures]) / np.median(size)
    best, named = off.min(1), [relation_label(exact[i]) for i in off.argmin(1)]
    first = ", ".join(f"LoRA {n}: {named[n]} ({best[n]:.2f})" for n in np.argsort(best)[:5] if best[n] < 1)
    part, nearly = (int((best < limit).sum()) for limit in (0.8, 0.2))
    lines.append((dose, f"{moved:.2f}", part, nearly, first or "none"))
    SUMMARY.append((f"LoRAs that alone, {dose}, do something of an edit; most of one", f"{part}; {nearly} of {N}"))
    rows.append((f"Can most LoRAs be named by what they draw alone, {dose}?", "yes" if 2 * nearly > N else "no",
                 f"{nearly} of {N}"))  # fmt: skip
heads = ("dose", "moves b by (median)", "error below 0.8", "below 0.2", "the five that can be named best")
conclude(f"{table(heads, lines)}\n\nOf {N} LoRAs. b is moved by 1 in a typical edit.", *rows)

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
    drawn = torch.cat([editor.generate(some, c).pictures for some, c in parts])
    return squared(drawn, truth).reshape(len(tasks), EACH)


# %%
scale, with_all = squared(start, truth).reshape(len(tasks), EACH), missed(routed)
lost = np.stack([missed(remix(routed, {n: 0.0})) for n in range(N)], 1) - with_all[:, None]  # [relations, N, analogies]
change = lost.sum(-1) / scale.sum(1, keepdims=True)
weights = resampling_weights(EACH, 500, rng)
sure = np.quantile(lost @ weights.T / (scale @ weights.T)[:, None], 0.025, axis=-1)  # lower end of a 95 % interval
error = with_all.sum(1) / scale.sum(1)
rows = [f"{relation_label(x)}  ({e:.2f})" for x, e in zip(tasks, error, strict=True)]
title = "What is lost without it (in brackets: the error with all; a dot: the loss is above 0)"
space.lora_table(change, rows, by_use, title, "change of the error", sure > 0)

# %%
from lorweb_mini.analysis.order import rank_correlation

own = routed.mean(1).reshape(len(tasks), EACH, N).mean(1).numpy()  # how much each relation uses each LoRA
agree = np.median([rank_correlation(u, c) for u, c in zip(own, change, strict=True)])
side = np.arange(EACH) % 2 == 1
halves = [lost[..., half].sum(-1) / scale[:, half].sum(1, keepdims=True) for half in (side, ~side)]  # [relations, N]
row = np.arange(len(tasks))
fairly = np.mean([x[row, y.argmax(1)] for x, y in (halves, halves[::-1])], 0)  # picked and measured on other halves
again = np.median([rank_correlation(x, y) for x, y in zip(*halves, strict=True)])
harm = np.clip(change, 0, None)
harm = torch.from_numpy(harm / harm.sum(1, keepdims=True).clip(1e-9))
many = np.median(torch.special.entr(harm).sum(1).exp().numpy())
hurt = np.bincount(change.argmax(1), minlength=N)
says = "much" if agree > 0.6 else "something" if agree > 0.3 else "little"

# %%
SUMMARY += [
    ("loss by the worst missing LoRA, picked and measured on other halves, median", f"{np.median(fairly):.2f}"),
    ("rank correlation of the losses on two halves of the analogies, median", f"{again:.2f}"),
    ("LoRAs that share a relation's loss, median", f"{many:.1f} of {N}"),
    ("rank correlation of use and loss, median over relations", f"{agree:.2f}"),
]
conclude(
    f"A dot marks a loss whose 95 % interval is above 0: {(sure > 0).sum()} of {change.size} cells, where luck alone "
    f"would give about {0.025 * change.size:.0f}. Measured on two halves of the analogies, the losses of a relation "
    f"have a rank correlation of {again:.2f}. The worst LoRA to miss costs **{np.median(fairly):.2f}** of error in the "
    f"median relation (picked on one half, measured on the other); the loss is shared by about {many:.1f} LoRAs. "
    f"{(hurt > 0).sum()} different LoRAs are the worst to miss for some of the {len(tasks)} relations; LoRA "
    f"{hurt.argmax()} is for {hurt.max()} of them.",
    ("How much does a LoRA's use say about how much it is missed?", says, f"median rank correlation {agree:.2f}"),
)

# %% [markdown]
# A LoRA that others can replace is not missed, however much it is used. So a large coefficient does not prove
# importance; the same holds for attention weights.
#
# ## The geometry of the updates
#
# What is done at a place of the space is determined by the updates $\Delta W_n = B_n A_n$. Are these different from
# each other? Comparing the stored matrices, $A_m$ and $A_n$, has no meaning. For any invertible *M* of size *r × r*,
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
space.cosine_tables(tables)

# %%
moved_raw = float((tables["A, as stored"] - tables["A, other gauge"]).abs().max())
moved_update = float((tables["ΔW, as stored"] - tables["ΔW, other gauge"]).abs().max())
same = float((other_B @ other_A - B @ A).norm() / (B @ A).norm())
library = float((cosines(update_gram(editor.basis, LAYER)) - tables["ΔW, as stored"]).abs().max())
SUMMARY.append(("another gauge moves cosines: of raw A; of ΔW", f"{moved_raw:.2f}; {moved_update:.0e}"))
conclude(
    f"The updates are the same to {same:.0e}. Cosines of the raw A moved by up to **{moved_raw:.2f}**, those of ΔW by "
    f"{moved_update:.0e}. `update_gram` holds the same products (largest difference {library:.0e}); it needs $N^2$ "
    "small *r × r* matrices and never an *out × in* one.",
    ("Do cosines of raw A mean anything?", "no" if moved_raw > 0.01 else "yes",
     f"another gauge moves them by {moved_raw:.2f}"),
)  # fmt: skip

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
space.update_angles(all_cosines, by_luck, together[LAYER], LAYER, ": ".join(places[LAYER]))

# %%
mean, largest, linked = np.abs(pairs).mean(), np.abs(pairs).max(), float(np.median(link))
SUMMARY += [
    ("absolute cosine of two updates: mean; largest; of random ones", f"{mean:.2f}; {largest:.2f}; {by_luck:.3f}"),
    ("rank correlation of used together and alike, median over layers", f"{linked:.2f}"),
    (f"layers of {layers} in which it is above 0 with p < 0.05 ({0.05 * layers:.0f} by luck)", f"{tied}"),
]
conclude(
    f"The mean absolute cosine is **{mean:.2f}**, the largest {largest:.2f}; random updates of this shape have "
    f"{by_luck:.3f}. Between being used together and being alike there is a rank correlation of {linked:.2f} in the "
    f"median layer ({link.min():.2f} to {link.max():.2f}), above 0 with p < 0.05 in {tied} of {layers} layers, where "
    f"luck would give {0.05 * layers:.0f}.",
    ("Do the updates of the LoRAs point in different directions?", "no" if mean > 0.3 else "yes",
     f"mean absolute cosine {mean:.2f}; random {by_luck:.3f}"),
    ("Are LoRAs that are used together alike?",
     "they tend to be" if linked > 0.2 else "they tend to be opposed" if linked < -0.2 else "they need not be",
     f"median rank correlation {linked:.2f}"),
)  # fmt: skip

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
# $\sigma_i / \sum_j \sigma_j$: *k* for *k* equal ones. Beside it stands chance: random LoRAs, each factor with the norm
# of the trained one, mixed by the same coefficients.

# %%
from lorweb_mini.algebra import effective_rank
from lorweb_mini.analysis.space import update_spectrum

ROUTED, RANDOM, r = "the router's mixture", "random LoRAs, mixed alike", editor.config.rank
chosen = rng.permutation(len(cloud))[: 3 if SMOKE else 16]
stack = {
    "one LoRA alone": torch.eye(N)[by_use[:4]][:, None].expand(-1, layers, -1),
    ROUTED: cloud.coefficients[chosen],
    "all LoRAs alike": torch.full((1, layers, N), 1 / N),
    RANDOM: cloud.coefficients[chosen],
}
luck = torch.Generator().manual_seed(0)
some_layers = list(range(0, layers, 6) if SMOKE else range(layers))
spectra = {
    name: [
        [update_spectrum(editor.basis, layer, c[layer], luck if name == RANDOM else None) for c in mixtures]
        for layer in some_layers
    ]
    for name, mixtures in stack.items()
}
ranks = {name: np.array([[effective_rank(s) for s in row] for row in rows]) for name, rows in spectra.items()}
at = min(range(len(some_layers)), key=lambda i: abs(some_layers[i] - LAYER))
typical = {name: torch.stack([s / s[0] for s in rows[at]]).mean(0) for name, rows in spectra.items()}
in_layer = {name: values.mean(1) for name, values in ranks.items()}
space.ranks(typical, in_layer, some_layers, r, ": ".join(places[some_layers[at]]))

# %%
rank_of = {name: float(values.mean()) for name, values in ranks.items()}
SUMMARY.append((f"effective rank: {'; '.join(rank_of)}", "; ".join(f"{x:.1f}" for x in rank_of.values())))
conclude(
    f"Mean effective rank: {', '.join(f'{name} {value:.1f}' for name, value in rank_of.items())}; the bound is "
    f"N·r = {N * r}.",
    ("Is the router's mixture richer than one LoRA could be?", "yes" if rank_of[ROUTED] > r else "no",
     f"effective rank {rank_of[ROUTED] / r:.1f} times r = {r}"),
    ("Does it share directions more than random LoRAs?", "yes" if rank_of[ROUTED] < 0.9 * rank_of[RANDOM] else "no",
     f"effective rank {rank_of[ROUTED]:.1f}; random {rank_of[RANDOM]:.1f}"),
)  # fmt: skip

# %% [markdown]
# ## Are they in order?
#
# Some relations have a natural order. Five skin tones go from light to dark. The moon has eight phases and then begins
# again; so do the directions of an arrow, the hours of a clock and the angle of a hue. A blur has a radius. If the
# space reflects this order, light, medium and dark should lie **on a line** in this order, and the hours **on a
# circle**.
#
# It is easy to fool yourself with the test. Find on *some* concepts the direction that orders the five tones best, and
# check whether it orders the tones of *other* concepts. It nearly always does. But it would also do so for the order
# medium, dark, light: for five separate clouds in many dimensions there is a direction for **any order**. (You find one
# in exercise 3.) Such a test shows only that the tones are different.
#
# So the order must not determine the direction. Two statistics, both in `lorweb_mini/analysis/order.py`:
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
from lorweb_mini.analysis.ladders import crossed, dial
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

# %%
AT_EACH, PAIRS = (5, 5) if SMOKE else (36, 30)
ordered = {}
for name, (positions, shapes) in list(NAMED.items())[: 1 if SMOKE else None]:
    subgroup = "arrow" if name.startswith("arrow") else None
    lists = (crossed(relation, AT_EACH, subgroup=subgroup) for relation in positions)
    ordered[name] = cloud_of(editor, lists), positions, shapes
for kind, (strengths, shapes) in list(DIALS.items())[:: 3 if SMOKE else 1]:
    on = [s / 360 if CIRCLE in shapes else float(i) for i, s in enumerate(strengths)]
    positions = {f"edit/{kind}={s:g}": x for s, x in zip(strengths, on, strict=True)}
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
        controls[name, shape] = [held_out_order(x, *given) for x in (queries, queries[:, 2 * E : 3 * E])]
tests = dict(zip(tests, corrected(list(tests.values())), strict=True))
by_set = {name: [tests[name, shape] for shape in shapes] for name, (_, _, shapes) in ordered.items()}
verdicts = {name: verdict(several) for name, several in by_set.items()}
for name, (_, _, shapes) in ordered.items():
    if (alike := max(controls[name, shape][1] for shape in shapes)) > 0.5:
        verdicts[name] += f"; but b alone has {alike:.2f}, so nothing is proved"

# %%
lines = []
for (name, shape), x in tests.items():
    cells = [name, shape, x.levels, x.analogies, x.held_out, f"{x.p:.3f}", x.mantel, f"{x.mantel_p:.3f}"]
    lines.append((*cells, f"{x.share:.0%}", *(f"{value:.2f}" for value in controls[name, shape])))
    SUMMARY.append((f"order of {name}, on a {shape}: held out; Mantel",
                    f"{x.held_out}, p {x.p:.3f}; {x.mantel}, p {x.mantel_p:.3f}"))  # fmt: skip
heads = "set", "shape", "levels", "analogies", "held-out correlation", "p", "Mantel", "p", "share", "query", "b alone"
display(
    Markdown(
        f"{table(heads, lines, left=2)}\n\nCorrelations with 95 % intervals (concepts resampled). p-values are "
        f"corrected for {2 * len(tests)} tests (false discovery rate). *Share*: of the variance between centres, what "
        "the direction or plane holds. *Query*, *b alone*: the held-out correlation there."
    )
)

# %%
SUMMARY += [(f"verdict: {name}", said_of) for name, said_of in verdicts.items()]
in_order = [name for name in ordered if verdicts[name].startswith(("in order", "roughly"))]
before, rows = [], []
for name, (_, _, shapes) in ordered.items():
    proved = name in in_order and "nothing is proved" not in verdicts[name]
    answer = "yes" if proved else "no" if verdicts[name].startswith("not") else "undecided"
    rows.append((f"Is this set in order: {name}?", answer, verdicts[name]))
    highest = max(x.held_out.value for x in by_set[name])
    if name in in_order and max(controls[name, shape][0] for shape in shapes) > highest - 0.1:
        before.append(name)
conclude(
    "Already as ordered in the query (held-out correlation no more than 0.1 lower): "
    f"{', '.join(before) or 'none of those in order'}.",
    *rows,
)

# %% [markdown]
# Here are the sets, each in the plane in which its own centres differ most. Small dots are analogies, large ones the
# centres, joined in their true order. Colours from light to dark mark a line, a cycle of colours a circle. The plots
# show all concepts; the numbers below them are those of the held-out statistics.

# %%
sets = {name: (points.vectors, points.relations, positions) for name, (points, positions, _) in ordered.items()}
space.order_maps(sets, by_set)

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
numbers = table(("statistic", "value"), SUMMARY, left=2)
display(
    Markdown(
        f"{table(('question', 'answer', 'number'), ANSWERS, left=3)}\n\n"
        f"<details><summary>Every number of this notebook</summary>\n\n{numbers}\n\n</details>"
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
