# %% [markdown]
# # Walking through the space of edits
#
# What lies between two edits? Two example pairs give two points in the space of mixtures, and between two points there
# is a straight line. Below is a walk along it: the leftmost picture answers the first pair, the rightmost the second,
# and **for the pictures between them no example was given**.
#
# The lower row shows the true edits of the strengths in between. How close does the upper row come?

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
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.analysis.ladders import SCALES, ladders
from lorweb_mini.analysis.walking import Truth, walk
from lorweb_mini.show.pictures import picture_rows, relation_label
from lorweb_mini.show.style import STYLE

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
matplotlib.rcParams.update({**STYLE, "figure.dpi": 80})  # many pictures: keeps the file small

# %%
starter, HUE = lw.load("starter"), "hue: 120° → 240°"
found_b = ladders(SCALES[HUE], 8 if SMOKE else 32)
shown = max(found_b, key=lambda x: float((x.rungs[0] - x.rungs[-1]).pow(2).sum()))  # a colourful one
ts = tuple(np.linspace(0, 1, 5 if SMOKE else 9).tolist())
truth = Truth([shown], ts, starter.autoencoder)
way = walk(starter, [shown], "coefficients", ts)
errors = truth.trace(way).error[0] / truth.length[0]
TITLE = "From one analogy to another: the hue by 120°, then by ever more, up to 240°"
rows, captions = {"the walk": way[0], "the truth": truth.pictures[0]}, {"the truth": [f"error {x:.2f}" for x in errors]}
picture_rows(rows, captions, [f"t = {t:.3g}" for t in ts], TITLE, label_width=0.9, size=0.72)

# %% [markdown]
# ## What this notebook is for
#
# **After this notebook you can**
#
# 1. go from one analogy to another by several paths, and say which of them are the same path, and why;
# 2. judge a walk by numbers: its error against the true pictures in between, its order, and whether its middle is
#    right;
# 3. say what lies beyond the ends, at a single LoRA, and along a principal component;
# 4. add and subtract analogies, average several examples of one edit, and say what each of these achieves.
#
# **You need** notebooks 00 and 04: coefficients, the gate, the router. 01 and 02 help with the errors.
# **It takes** about an hour of your time; the last cell measures the computing time.
#
# Two editors are used. The **starter** was trained on simple edits (of the relations used below, *blur*, *pixelate* and
# *threshold* are not among them), the **full** basis on all relations that training may show, so only it was shown
# clocks, the moon and any two skin tones. Both were trained on analogies alone, never on a
# mixture between two of them.
#
# ## Half of one edit and half of another
#
# In notebook 00 you made the mixture exactly halfway between two edits. Does its picture show **both** edits, **half of
# each**, **one of the two**, or none of these? First look, then count.
#
# > **Predict before you run.** Halfway between "invert it" and "shrink it": what will you see?

# %%
from itertools import combinations

from lorweb_mini.analysis.walking import render
from lorweb_mini.emoji.relations import get_relation, splits

names = [name for name in splits()["starter"]["seen"] if name.startswith("edit/")]
some = found_b[: 2 if SMOKE else 5]
a, b = (torch.stack(x) for x in ([i.a for i in some], [i.b for i in some]))
edited = {name: get_relation(name).apply_edits(b) for name in names}
routed = {name: starter.route(a, get_relation(name).apply_edits(a), b) for name in names}

pairs = list(combinations(names, 2))[:: 9 if SMOKE else 1]
middles = torch.stack([(routed[one] + routed[other]) / 2 for one, other in pairs], 1)
halves = render(starter, b, middles)  # [pictures, pairs, 3, 64, 64]


def stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    """Pictures [k, 3, 64, 64] of every pair, as the autoencoder sees them: [k, pairs, 3, 64, 64]."""
    whole = torch.stack(pictures, 1)
    return reconstruct(starter.autoencoder, whole.flatten(0, 1)).unflatten(0, whole.shape[:2])


one, other = stacked([edited[x] for x, _ in pairs]), stacked([edited[y] for _, y in pairs])
one_then_other = stacked([get_relation(y).apply_edits(edited[x]) for x, y in pairs])
other_then_one = stacked([get_relation(x).apply_edits(edited[y]) for x, y in pairs])
untouched = stacked([b for _ in pairs])

# %%
WISHED = (("edit/invert", "edit/shrink=0.35"), ("edit/hue=120", "edit/flip_horizontal"), ("edit/grey", "edit/blur=4"))
WISHED += (("edit/hue=120", "edit/hue=240"), ("edit/darken=0.25", "edit/background=220"))
places = [i for i, pair in enumerate(pairs) if pair in WISHED or pair[::-1] in WISHED] or [0]
which = int(b.std((1, 2, 3)).argmax())
rows = {}
for i in places:
    label = "\nand ".join(relation_label(x).removeprefix("edit: ") for x in pairs[i])
    rows[label] = [b[which], *(x[which, i] for x in (one, halves, other, one_then_other))]
columns = ["b", "one edit", "halfway", "the other", "both in turn"]
TITLE = "Halfway between two edits; all but the picture halfway are the truth"
picture_rows(rows, columns=columns, title=TITLE, size=0.7, label_width=1.35)

# %%
from lorweb_mini.show.walks import markdown_table

candidates = {
    "one of the two": [one, other],
    "both, one after the other": [one_then_other, other_then_one],
    "half of each: the mean of the two pictures": [(one + other) / 2],
    "b, as if nothing had been asked": [untouched],
}
away = {
    name: np.min([squared(halves.flatten(0, 1), x.flatten(0, 1)) for x in options], 0)
    for name, options in candidates.items()
}
apart = squared(one.flatten(0, 1), other.flatten(0, 1))
closest = np.argmin(list(away.values()), 0)
share = {name: (closest == i).mean() for i, name in enumerate(away)}
winner = max(share, key=share.get)
ANSWERS = [("What is the picture halfway between two edits?", winner, f"nearest for {share[winner]:.0%}")]
lines = [(name, f"{share[name]:.0%}", f"{np.median(x / apart):.2f}") for name, x in away.items()]
display(
    Markdown(
        markdown_table(("what the picture halfway could be", "nearest to it", "median squared distance"), lines)
        + f"\n\n{len(closest)} halfway pictures: {len(pairs)} pairs of edits on {len(b)} unseen drawings. Distances "
        f"are in units of the one between the two edits. Most often the middle is **{winner}**."
    )
)

# %% [markdown]
# Look at the third line of the table. The mean of two pictures is a double exposure. No artist would draw it, and yet
# its squared error is small, as notebook 02 showed for blur. So **whenever a blend of pixels wins below, check whether
# it is right or only blurred**: the tables also have a measure of sharpness. All pictures here are drawn in one step,
# so a walk, too, may be the mean of several answers; read its sharpness as well.
#
# ## What a straight line is
#
# Let $c_0$ and $c_1$ be the mixtures of two analogies, tables of layers × LoRAs. The simplest path is
#
# $$c(t) = (1 - t)\,c_0 + t\,c_1 .$$
#
# Rows of $c_0$ and $c_1$ sum to 1, so those of $c(t)$ do, too, and for $t$ in $[0, 1]$ no coefficient is negative.
# Which other paths are really different? (All pictures of a walk start from the same noise: only the mixture changes.)
#
# **A line of weights.** Merge each mixture into the network and go in a straight line from one set of weights to the
# other, as in model averaging. In each layer the update $\Delta W = \sum_n c_n B_n A_n$ is *linear* in $c$. Therefore
#
# $$(1 - t)\,\Delta W_0 + t\,\Delta W_1 = \sum_n \bigl[(1 - t)\,c_{0,n} + t\,c_{1,n}\bigr]\,B_n A_n = \Delta W(c(t)),$$
#
# and the line of weights **is** the line of coefficients. This holds because both ends share one basis. Two LoRAs that
# were trained separately have no common coefficients, and for them only the line of weights exists.
#
# **A line of the router's logits**, softmax afterwards. Now $\log c_n$ is the logit up to a constant of its row, so
#
# $$c(t)_n \propto c_{0,n}^{\,1 - t}\; c_{1,n}^{\,t},$$
#
# the geometric mean instead of the arithmetic one. This is a different path: halfway, a LoRA that only one end uses has
# half of its coefficient on the line of coefficients, and almost nothing here.
#
# **A line of embeddings.** Both analogies of a walk share *a* and *b*. Give the router embeddings of *a′* and of the
# pair that lie between those of the two examples. The query is the row of all embeddings, shifted and scaled; the
# logits are
# $P q \cdot k_n / \sqrt d$. All of this is affine in the embeddings, so the line of embeddings **is** the line of
# logits.
#
# Here is the check by numbers:

# %%
from lorweb_mini.analysis.walking import ends, geometric

c_0, c_1 = (c[0] for c in ends(starter, [shown]))  # [layers, N] each
T = 0.3


def merged(c: torch.Tensor) -> list[torch.Tensor]:
    """All adapted weight matrices with a mixture merged into them."""
    with starter.freeze(c):
        return [module.get_base_layer().weight.detach().clone() for module in starter.basis.modules]


def embedded(example: torch.Tensor) -> list[torch.Tensor]:
    """The parts of the router's query, [1, width] each, with this a′."""
    latents = [starter.autoencoder.to_latent(picture[None]) for picture in (shown.a, example, shown.b)]
    with torch.no_grad():
        return starter.embeddings(*latents)


# %%
between = [torch.lerp(x, y, T) for x, y in zip(merged(c_0), merged(c_1), strict=True)]
by_weights = max(float((x - y).abs().max()) for x, y in zip(between, merged(torch.lerp(c_0, c_1, T)), strict=True))
first, last = embedded(shown.examples[0]), embedded(shown.examples[-1])
by_embedding = starter.router(*(torch.lerp(x, y, T) for x, y in zip(first, last, strict=True)))[0]
by_logits = geometric(c_0[None], c_1[None], [T])[0, 0]
CHECKS = {
    "line of weights against merged line of coefficients": by_weights,
    "line of embeddings against line of logits": float((by_embedding - by_logits).abs().max()),
    "line of logits against line of coefficients": float((by_logits - torch.lerp(c_0, c_1, T)).abs().max()),
}
ANSWERS += [(f"Same path: {x}?", "yes" if gap < 1e-4 else "no", f"off by {gap:.2g}") for x, gap in CHECKS.items()]
display(
    Markdown(
        f"At t = {T}, largest difference of any number:\n\n"
        + "\n".join(f"- {name}: **{gap:.2g}**" for name, gap in CHECKS.items())
    )
)

# %% [markdown]
# So the four descriptions are only two paths. Three more paths do not follow a line of mixtures:
#
# - **example**: blend the *pictures* of the two examples, $a'(t) = (1 - t)\,a'_0 + t\,a'_1$, and ask the router. The
#   encoder is no linear map, so this is not the line of embeddings;
# - **latent**: draw both ends, and blend the latents of the two results;
# - **pixel**: draw both ends, and blend their pixels.
#
# The last two need no space of mixtures at all. They are the baselines for a walk.

# %%
PATHS = ("coefficients", "logits", "example", "latent", "pixel")
quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
strips = {path: walk(starter, [shown], path, quarters)[0] for path in PATHS}
along = {path: truth.trace(x[None], quarters).error[0] / truth.length[0] for path, x in strips.items()}
rows = {f"{path}\nerror {along[path][2]:.2f} at ½": x for path, x in strips.items()}
rows["truth"] = truth.pictures[0, [truth.known.index(t) for t in quarters]]
columns, TITLE = [f"t = {t:.3g}" for t in quarters], "Five paths between the same two analogies"
picture_rows(rows, columns=columns, title=TITLE, label_width=1.35, size=0.68)

# %% [markdown]
# ## Ladders: where the truth between is known
#
# How good is a walk? To tell, we need many walks with true pictures in between. The data offer two kinds:
#
# - **by artists**: from one yellow hand, relations lead to its light, medium-light, medium, medium-dark and dark
#   versions, all by the same artist. So halfway between "yellow → light" and "yellow → dark" lies medium. Hours of the
#   clock, phases of the moon and directions of an arrow give more;
# - **exact**: an edit with a strength has a dial, and the edit at any strength in between can be computed.
#
# Such a row of true answers is a *ladder*, each answer a *rung*. Below, b stands left and its rungs follow. Both ends
# are relations that the full basis was trained on. **The middle rung is not** on the ladders by artists, nor for hue
# and shrink; middle rungs of darken, blur and shift its fresh edits may have come near.

# %%
rows = {name: [x.b, *x.rungs] for name, scale in SCALES.items() for x in ladders(scale, 1)}
display(picture_rows(rows, columns=["b", "first end"], title="Nine ladders", label_width=1.75, size=0.52))
trained = set(splits()["starter"]["seen"]) | {r.name for r in lw.relations().values() if r.degree == "seen"}
middle = {name: scale.relations[len(scale.relations) // 2] for name, scale in SCALES.items() if scale.relations}
known = ", ".join(name for name, relation in middle.items() if relation in trained)
display(Markdown(f"Middle rungs of ladders by artists that training showed as a relation: **{known or 'none'}**."))

# %% [markdown]
# ### What is measured
#
# **Error at $t$**: squared distance to the true rung, summed over all walks, divided by the summed length of the walks,
#
# $$\frac{\sum \lVert \text{picture}(t) - b'(t) \rVert^2}{\sum \lVert b'(1) - b'(0) \rVert^2}.$$
#
# The error of copying the nearer true end is zero at the ends, so it cannot be the divisor. It is a curve of its own:
# **a walk is useful where it is below that curve.** A second curve shows a straight line of pixels between *perfect*
# ends. Where it is low, the truth itself is a blend.
#
# **Order**: which rung is nearest to each picture of a walk? The number of the rung should grow with $t$. We give the
# mean rank correlation, and the share of walks that are *monotone*: never a step back, and a later rung at the end than
# at the start. What would chance give? Pictures that fall on rungs independently and at random are hardly ever in order
# (exercise 2). But a walk is smooth: whatever its two ends are, it goes from one to the other. If only the **ends**
# fall on random rungs, out of $T$, the later end is on the later rung with probability $(1 - 1/T)/2$. The tables use
# this chance level.
#
# **Midpoint**: the share of walks whose picture at $t = ½$ is nearest to the middle rung, out of all rungs.
#
# **Right ends**: the share of walks whose two ends are nearest to their own rungs. Where the ends are wrong, all paths
# between them are wrong.
#
# One more row, **asked**, is no walk: the router gets the *true* example in between. It shows what the model can do
# there if it is given an example.
#
# Intervals are 95 % bootstrap over *concepts*: the six artists' versions of one hand are no independent samples. A few
# concepts may all agree by chance: five coins show the same side once in sixteen throws, six once in thirty-two. So
# **no difference is called beyond doubt on fewer than six concepts**, however narrow the interval.

# %%
from lorweb_mini.analysis.bootstrap import ENOUGH
from lorweb_mini.analysis.walking import measure

full, GRID, BEYOND = lw.load(), (0.0, 0.25, 0.5, 0.75, 1.0), (-0.5, 1.5)
N_LADDERS, WALKED = 2 if SMOKE else 20, (*PATHS, "asked")


def on_ladders(editor, scale, paths: tuple[str, ...]) -> tuple[dict, dict]:
    """Traces of every path on the ladders of a scale, and the sharpness at t = 1/2 (the truth's is 1)."""
    places = sorted(GRID + BEYOND) if scale.dial else GRID
    return measure(editor, ladders(scale, N_LADDERS), paths, tuple(places))


some_scales = list(SCALES.items())[:: 5 if SMOKE else 1]
measured = {name: on_ladders(full, scale, WALKED) for name, scale in some_scales}
measured[f"{HUE} (starter)"] = on_ladders(starter, SCALES[HUE], WALKED)

# %% [markdown]
# > **Predict before you run.** For which of the nine ladders will a blend of pixels do as well as a walk in the space?
# > For which must it fail?

# %%
from lorweb_mini.show.walks import error_panels, marked, walk_table

traces_of = {name: traces for name, (traces, _) in measured.items()}
sharpness_of = {name: sharp for name, (_, sharp) in measured.items()}
error_panels(traces_of)

# %%
straight = {name: x["coefficients"] for name, x in traces_of.items()}
judged = {name: x for name, x in straight.items() if len(set(x.concepts)) >= ENOUGH}
ordered = [name for name, x in judged.items() if x.monotone().low > x.chance]
centred = [name for name, x in judged.items() if x.midpoint().low > 1 / x.rungs]
ANSWERS += [(f"Is the walk in order: {name}?", "yes" if name in ordered else "undecided", str(x.monotone()))
            for name, x in straight.items()]  # fmt: skip
display(
    Markdown(
        "**The line of coefficients** (the full basis, but for the last line)\n\n"
        f"{walk_table(traces_of, sharpness_of, 'coefficients')}\n\n"
        f"In order more often than by chance, beyond doubt: **{', '.join(ordered) or 'none'}**. The middle in the "
        f"middle more often than by chance: **{', '.join(centred) or 'none'}**. Too few concepts for a verdict: "
        f"**{', '.join(name for name in straight if name not in judged) or 'none'}**. In {2 * len(judged)} questions "
        f"asked, luck alone would say yes about {2 * len(judged) * 0.025:.1f} times."
    )
)

# %% [markdown]
# Now compare the other paths with the line of coefficients on the *same* ladders. A negative number means that the
# other path is nearer to the truth halfway.

# %%
RIVALS = ("logits", "example", "latent", "pixel", "nearer true end", "asked")


def across(columns: tuple[str, ...], value) -> str:
    """A table with a line a ladder and a column a path; ``value(ladder, path)`` fills it."""
    return markdown_table(("ladder", *columns), [(name, *(value(name, path) for path in columns)) for name in measured])


def behind(ladder: str, path: str) -> str:
    """Error of a path halfway minus that of the line of coefficients."""
    other = traces_of[ladder][path]
    return marked(other.excess(straight[ladder], 0.5), other.concepts)


beside = {name: behind(name, "pixel") for name in measured}
better, worse = (", ".join(name for name, gap in beside.items() if gap.startswith(sign)) for sign in "▲▼")
ANSWERS += [(f"Does the walk beat a blend of pixels: {name}?", {"▲": "yes", "▼": "no"}.get(gap[0], "undecided"),
             f"pixels' error minus the walk's {gap.strip('▲▼ ')}") for name, gap in beside.items()]  # fmt: skip
display(
    Markdown(
        f"**Error at ½ minus that of coefficients** (▼ better, ▲ worse: beyond doubt, by 0.01 at least; one mark in "
        f"twenty may be luck)\n\n{across(RIVALS, behind)}\n\n**Midpoint accuracy of every path**\n\n"
        + across(("coefficients", *RIVALS), lambda name, path: traces_of[name][path].midpoint())
        + "\n\n**Sharpness at ½** (the truth has 1; less is blurred, more is noisier)\n\n"
        + across((*PATHS, "asked", "blend of true ends"), lambda name, path: f"{sharpness_of[name][path]:.2f}")
        + "\n\nWalking through the space beats blending the pixels of its own two ends for: "
        f"**{better or 'none'}**; it loses for: **{worse or 'none'}**."
    )
)

# %% [markdown]
# How do you read this table? The error of *asked* is the model's and not the walk's. Where the curve "blend of
# true ends" of the figure is low, as for a darker picture, a walk cannot be expected to win, only not to lose. Where
# the truth is **not** a blend, as for the hand of a clock or a picture that shrinks or moves, a line of pixels between
# good ends would show two ghosts. Its squared error need not be larger: where the ends themselves are blurred, as in
# *shrink* and *shift*, every path is a blur, and ▲ need not stand under *latent* and *pixel*. Here are some of these
# cases:

# %%
GHOSTS = ["tone: light → dark", "clock: + 1 h → + 3 h", "arrow: 90° → 180°", "shrink: 0.75 → 0.35"]
GHOSTS = [*GHOSTS, "shift: 8 → 24 pixels"][: 1 if SMOKE else None]
seen = [ladders(SCALES[name], 4)[1] for name in GHOSTS]
halfway = {path: torch.cat([walk(full, [item], path, [0.5])[0] for item in seen]) for path in PATHS}
rungs = {"first end": 0.0, "true middle": 0.5, "last end": 1.0}
rows = {name: [x.rungs[int(t * (len(x.rungs) - 1))] for x in seen] for name, t in rungs.items()}
rows, columns = {"b": [x.b for x in seen], **rows, **halfway}, [name.partition(":")[0] for name in GHOSTS]
picture_rows(rows, columns=columns, title="Halfway (full basis)", size=0.52, label_width=1.1)

# %% [markdown]
# ## One analogy turned up: from nothing to an edit
#
# Without its LoRAs the editor returns b: at $c = 0$ nothing changes. So one analogy alone gives a walk, too,
# $c(t) = t\,c_1$, which is the slider that image generators call the strength or scale of a LoRA. Does half the LoRA
# make half the edit?
#
# The truth is known here as well: b itself is the lowest rung. And for *asked*, this walk begins with a pair whose *a*
# and *a′* are **the same picture**, which the router never saw in its training.
#
# > **Predict before you run.** At half strength, will the edit be half made, less than half, or more?

# %%
from lorweb_mini.analysis.ladders import FROM_NOTHING
from lorweb_mini.show.walks import reached_panels

UP = ("coefficients", "example", "latent", "pixel", "asked")
some_scales = list(FROM_NOTHING.items())[:: 5 if SMOKE else 1]
turned = {name: on_ladders(starter, scale, UP) for name, scale in some_scales}
turned_traces = {name: traces for name, (traces, _) in turned.items()}
reached_panels(turned_traces, UP)

# %%
from lorweb_mini.analysis.generalisation import WORKS  # an error up to which answers look right: 0.15

half = {name: x["coefficients"].reached()[x["coefficients"].ts.index(0.5)] for name, x in turned_traces.items()}
pace = {name: "less than 0.4" if x < 0.4 else "more than 0.6" if x > 0.6 else "about half" for name, x in half.items()}
said = [", ".join(f"{name} ({half[name]:.2f})" for name in half if pace[name] == word) or "none"
        for word in ("less than 0.4", "more than 0.6", "about half")]  # fmt: skip
nobody = {name: x["asked"].errors()[x["asked"].ts.index(0.0)] for name, x in turned_traces.items()}
ANSWERS += [(f"How much of the edit does half the LoRA make: {x}?", pace[x], f"{half[x]:.2f}") for x in half]
ANSWERS.append(("Is a pair of two equal pictures taken for no edit?",
                f"for {sum(x.value < WORKS for x in nobody.values())} of {len(nobody)} scales",
                f"error below {WORKS:g}"))  # fmt: skip
display(
    Markdown(
        "**$c(t) = t\\,c_1$, starter basis.**\n\n"
        + walk_table(turned_traces, {name: sharp for name, (_, sharp) in turned.items()}, "coefficients")
        + f"\n\nHalf the LoRA reaches on average (0 is b, 1 the whole edit): less than 0.4 for {said[0]}; "
        f"more than 0.6 for {said[1]}; about half for {said[2]}.\n\n"
        "Asked with a pair of two equal pictures, the answer misses b by (1 is the size of the whole edit): "
        + "; ".join(f"{name} {x}" for name, x in nobody.items())
        + ". Zero would mean that the router takes such a pair for no edit at all.\n\nThe place is that of the nearest "
        "rung. A picture that fades to white is nearest to the smallest *shrink*, so read the place beside sharpness "
        "and error."
    )
)

# %% [markdown]
# ## Beyond the ends
#
# What happens beyond $t = 1$? `editor.generate` takes any finite coefficients, also negative ones, which a softmax
# never gives.

# %%
c_far = 2 * c_1 - c_0  # t = 2
broken = c_far.clone()
broken[0, 0] = float("nan")
print(f"least coefficient at t = 2: {c_far.min():.2f}; a row's sum: {c_far.sum(-1).mean():.3f}")
print(f"drawn: a picture of {starter.generate(shown.b, c_far).image.size}")
try:
    starter.generate(shown.b, broken)
except lw.InputError as error:
    print(f"refused: {error}")

# %%
far = (-1.0, -0.5, -0.25, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0)
wide = Truth([shown], far, starter.autoencoder)
past = {path: walk(starter, [shown], path, far)[0] for path in ("coefficients", "logits", "pixel")}
true = dict(zip(wide.known, wide.pictures[0], strict=True))
rows, captions = {**past, "truth": [true.get(t) for t in far]}, {"truth": [f"hue {120 + 120 * t:.0f}°" for t in far]}
TITLE = "Before the first analogy and past the second: hue 120° and 240° are the ends"
picture_rows(rows, captions, [f"t = {t:g}" for t in far], TITLE, label_width=1.0, size=0.62)

# %% [markdown]
# The line of coefficients leaves the simplex; the line of logits never does, and far out each row is a single LoRA.
# Which of them is nearer to the truth? For edits with a dial the truth is known at some places beyond both ends, and
# the walks above were measured there, too.

# %%
outside = {name: x for name, x in traces_of.items() if -0.5 in x["coefficients"].ts}
outside |= {f"{name} (from nothing, starter)": x for name, x in turned_traces.items()}
OUT = ("coefficients", "logits", "example", "pixel", "nearer true end", "asked")
lines, ahead, astern = [], [], []
for name, traces in outside.items():
    own = traces["coefficients"]
    for t in BEYOND:
        if t not in own.ts or np.isnan(own.error[:, own.ts.index(t)]).any():
            continue
        gap = marked(own.excess(traces["nearer true end"], t), own.concepts)
        {"▼": ahead, "▲": astern}.get(gap[0], []).append(f"{name}, t = {t:g}")
        here = {path: trace.errors()[trace.ts.index(t)] for path, trace in traces.items() if t in trace.ts}
        lines.append((name, f"{t:g}", *(here.get(path, "–") for path in OUT)))
answer = "in some places" if ahead and astern else "yes" if ahead else "no" if astern else "undecided"
ANSWERS.append(("Does going on beyond an end beat standing still there?", answer,
                f"better in {len(ahead)}, worse in {len(astern)} of {len(lines)} places"))  # fmt: skip
display(
    Markdown(
        markdown_table(("ladder", "t", *OUT), lines)
        + "\n\nGoing on along the line of coefficients beats standing still at the nearer true end for: "
        f"**{'; '.join(ahead) or 'none of them'}**. It is worse than standing still for: "
        f"**{'; '.join(astern) or 'none of them'}**. For the others the intervals leave it open."
    )
)

# %% [markdown]
# ## Walk yourself
#
# Choose a walk and a path, and move $t$. Beside the picture you see the truth, where it is known, and the error. Click
# the slider and use the arrow keys, or drag. On a page without a running kernel you see a strip of pictures instead.
#
# > **Predict before you run.** Take *pixel*, then *coefficients*, at the same $t$. For which walks can you tell them
# > apart?

# %%
from lorweb_mini.widgets.walk import Walk

MENU = (HUE, "tone: light → dark", "darken: 0.65 → 0.25", "shrink: 0.75 → 0.35", "blur: 1 → 4 pixels")
walks = {HUE: shown, **{name: ladders(SCALES[name], 4)[1] for name in MENU[1:]}}
walker = Walk(full, walks, t=0.5)
walker

# %% [markdown]
# ## Other directions
#
# ### From one LoRA to another
#
# The corners of the simplex are the basis LoRAs themselves: all weight on one LoRA in every layer. But which LoRA of
# another layer is "the same one"? The numbers are arbitrary: renumber the LoRAs of any layer together with their keys,
# and every picture stays as it is. **"LoRA 3 in all layers" is a grouping by chance.** There are two ways to make it
# mean something: one router for all layers (a cell of notebook 08), or **matching**: group the LoRAs of different
# layers that the router turns up and down together. Below are both readings, and how well the groups hold together,
# also for a router with fresh weights.

# %%
from lorweb_mini.analysis.methods import untrained_router
from lorweb_mini.analysis.mixtures import matched

known = [x for name in names for x in lw.analogies("val", name, n=2 if SMOKE else 6)]
triplets_of = [torch.stack([getattr(x, part) for x in known]) for part in ("a", "a_prime", "b")]
coefficients = starter.route(*triplets_of)
with torch.no_grad():
    latents = [starter.autoencoder.to_latent(x) for x in triplets_of]
    fresh = untrained_router(starter.router)(*starter.embeddings(*latents))
groups, together = matched(coefficients)
layers, count = groups.shape
by_number = np.tile(np.arange(count), (layers, 1))
_, chance = matched(fresh)
ANSWERS.append(("How well do the LoRAs of a matched group hold together?", f"{together:.2f}",
                f"mean correlation; with an untrained router {chance:.2f}"))  # fmt: skip

# %%
held = {"by number": coefficients, "matched": coefficients[:, np.arange(layers)[:, None], groups]}
corners = {
    name: torch.nn.functional.one_hot(torch.from_numpy(order).T.contiguous(), count).float()  # [N, layers, N]
    for name, order in (("by number", by_number), ("matched", groups))
}
most_used = {}
for name, table in held.items():  # from the group that one edit uses most, to the one that another adds most to
    row = {k: table[[x.relation == name_of for x in known]].mean((0, 1)) for k, name_of in enumerate(names[:2])}
    most_used[name] = int(row[0].argmax()), int((row[1] - row[0]).argmax())
walks, alone = {}, {}
for name, (m, n) in most_used.items():
    path = torch.stack([torch.lerp(corners[name][m], corners[name][n], t) for t in quarters])
    walks[f"{name}:\n{m} → {n}"] = render(starter, shown.b[None], path[None])[0]
    alone[name] = render(starter, shown.b[None], corners[name][None])[0]

# %%
start = reconstruct(starter.autoencoder, shown.b[None])
size = float(truth.length[0])
moved = {name: squared(x, start.expand_as(x)) / size for name, x in alone.items()}
captions = {name: [f"t = {t:.3g}" for t in quarters] for name in walks}
TITLE = "A walk from one LoRA to another, in two readings of what one LoRA is"
display(picture_rows(walks, captions, title=TITLE, label_width=1.3, size=0.62))
parts = (range(count // 2), range(count // 2, 2 * (count // 2)))
rows = {f"{name},\n{part[0]} to {part[-1]}": x[list(part)] for name, x in alone.items() for part in parts}
TITLE = "Each LoRA alone, with a coefficient of 1 in every layer"
display(picture_rows(rows, title=TITLE, label_width=1.3, size=0.56))
display(
    Markdown(
        f"Mean correlation of a LoRA's coefficients with its group's in the other layers: matched **{together:.2f}**, "
        f"with an untrained router {chance:.2f}. A LoRA alone moves b by a median of "
        + ", ".join(f"{np.median(x):.2f} ({name})" for name, x in moved.items())
        + " lengths of the walk above. The figures in the rest of this course use LoRAs by number unless they say so."
    )
)

# %% [markdown]
# ### Along a principal component
#
# The routings of many analogies form a cloud, and PCA finds the directions in which it is longest (notebook 05). From
# the centre $\bar c$ we go $k$ standard deviations along component $u$, and back from the plane to a mixture:
#
# $$c = \bar c + k\,\sigma\,u .$$
#
# Rows of all mixtures sum to 1, so rows of $u$ sum to 0, and a row of this $c$ still sums to 1. But some coefficients
# may be negative. You can keep them, or go to the nearest mixture without negative ones, the **projection onto the
# simplex**.
#
# > **Predict before you run.** How many standard deviations can you go before the projection changes the picture?

# %%
from lorweb_mini.algebra import pca
from lorweb_mini.analysis.plane import onto_simplex
from lorweb_mini.analysis.space import coefficients_of

cloud = lw.analogies("test", splits()["starter"]["seen"], seed=2, n=2 if SMOKE else 24)
routings = coefficients_of(starter, cloud)  # [k, layers, N]
plane = pca(routings.flatten(1).numpy(), 2)
centre, SIGMAS = torch.from_numpy(plane.centre).float().view(layers, count), (-3, -2, -1, 0, 1, 2, 3)
rows, captions, lines, ends_at, off = {}, {}, [], [], 0.0
for axis in (0, 1):
    steps_out = plane.points[:, axis].std() * np.outer(SIGMAS, plane.axes[axis])
    raw = torch.from_numpy(plane.centre + steps_out).float().unflatten(1, (layers, count))
    projected, off = onto_simplex(raw), max(off, float((raw.sum(-1) - 1).abs().max()))
    drawn = [render(starter, shown.b[None], c[None])[0] for c in (raw, projected)]
    change, negative = squared(*drawn) / size, raw.clamp(max=0).sum(-1).abs().mean(-1)
    by_name = {x: plane.points[[y.relation == x for y in cloud], axis].mean() for x in splits()["starter"]["seen"]}
    low, high = (relation_label(pick(by_name, key=by_name.get)) for pick in (min, max))
    ends_at.append(f"- component {axis + 1} ({plane.explained[axis]:.0%} of the variance): from {low} to {high}")
    rows |= {f"component {axis + 1}": drawn[0], f"{axis + 1}, projected:\nchanged by": drawn[1]}
    captions[f"{axis + 1}, projected:\nchanged by"] = [f"{x:.2f}" for x in change]
    lines += [(axis + 1, f"{k:+d}", float(x), float(y)) for k, x, y in zip(SIGMAS, negative, change, strict=True) if k]

# %%
columns = [f"{k:+d} σ" if k else "centre" for k in SIGMAS]
display(picture_rows(rows, captions, columns, "Along the principal components", size=0.58, label_width=1.15))
most = {k: max(x[3] for x in lines if abs(int(x[1])) == k) for k in (1, 3)}
ANSWERS.append(("How much does projecting onto the simplex change a picture along a component?",
                f"{most[1]:.2f} at most at 1 σ", f"{most[3]:.2f} at 3 σ (length of the walk = 1)"))  # fmt: skip
head = ("component", "k", "negative part of a row, mean", "change of the picture by projecting")
table = markdown_table(head, [(i, k, f"{x:.3f}", f"{y:.2f}") for i, k, x, y in lines])
display(Markdown("\n".join(ends_at) + f"\n\nRows sum to 1 all the way (worst: off by {off:.0e}).\n\n{table}"))

# %% [markdown]
# The relations at its two ends show where a component leads. The picture in the middle shows the *centre*, the mean of
# all routings; it is the same in both rows.
#
# ## Adding analogies
#
# One pair shows "invert", another "blur". Is there a mixture for *both*? The truth is known: the data contain
# compositions, most of which no training could show, with the true $b'$ for "first one, then the other". Let $c_1$ and
# $c_2$ be the mixtures of the two pairs, both for the same b. Here are some recipes and the reason for each:
#
# | recipe | mixture | because |
# |:--|:--|:--|
# | mean | $(c_1 + c_2) / 2$ | stays on the simplex |
# | sum | $c_1 + c_2$ | both updates at full strength: $\Delta W_1 + \Delta W_2$ |
# | sum − uniform | $c_1 + c_2 - 1/N$ | rows sum to 1 again |
# | sum − centre | $c_1 + c_2 - \bar c$ | what all edits share is counted once |
# | sum − nothing | $c_1 + c_2 - c(a, a, b)$ | the routing of a pair without an edit is counted once |
# | product | $\propto c_1\,c_2$ | logits added: what *both* use |
#
# Two ways need no adding: apply **one after the other**, each with a routing of its own, or use a **composed pair** as
# the example. A sum has to beat each of the two edits **alone**; copying b scores 1. The recipes are in
# `lorweb_mini/analysis/combining.py`.
#
# > **Predict before you run.** Which of the recipes wins? Which of the two ways without adding wins?

# %%
from lorweb_mini.analysis.combining import COMPOSED, IN_TURN, RECIPES, added

plain = splits()["starter"]
every = [x.name for x in lw.relations().values() if x.degree == "seen"][:: 90 if SMOKE else 3]
composed = [x.name for x in lw.relations().values() if x.degree == "composition"]
kinds = {kind: [x for x in composed if x.startswith(f"compose/{kind}")] for kind in ("edit", "style", "gender")}
few, n = slice(None, None, 8 if SMOKE else 1), 2 if SMOKE else 8


def sums_of(editor, relations: list[str], seen: list[str], n: int):
    """All recipes on n compositions of each of some relations; the centre is the mean of relations seen in training."""
    cloud = lw.analogies("test", seen, seed=1, n=2)
    return added(editor, lw.analogies("test", relations, seed=7, n=n), coefficients_of(editor, cloud).mean(0))


SIMPLE = "edit + edit\n(starter)"
sums = {SIMPLE: sums_of(starter, plain["composition"][few], plain["seen"], 2 if SMOKE else 12)}
labels = {"edit": "edit + edit\n(full)", "style": "style + edit\n(full)", "gender": "gender + tone\n(full)"}
for kind, label in list(labels.items())[: 1 if SMOKE else None]:
    sums[label] = sums_of(full, kinds[kind][few], every, n)

# %%
from lorweb_mini.show.walks import recipe_intervals

ways = (*RECIPES, IN_TURN, COMPOSED)
scores = {label: {way: part.error(way) for way in ways} for label, part in sums.items()}
recipe_intervals(scores, pale=("first alone", "second alone"), contrast=(IN_TURN, COMPOSED))

# %%
lines, sentences, SIGNS = [], [], {1: "better than", -1: "worse than", 0: "not to be told from"}
YES = {1: "yes", -1: "no", 0: "undecided"}
for label, part in sums.items():
    flat, score = label.replace("\n", " "), {way: x.value for way, x in scores[label].items()}
    lines.append((flat, *scores[label].values()))
    recipe, single = min(list(RECIPES)[2:], key=score.get), min(list(RECIPES)[:2], key=score.get)
    words = [f"{SIGNS[part.better(recipe, other)]} {other}" for other in (single, IN_TURN, COMPOSED)]
    sentences.append(f"- {flat}: the best recipe is **{recipe}**; it is {', '.join(words)}.")
    ANSWERS.append((f"Is adding two analogies ({recipe}) better than {single}: {flat}?",
                    YES[part.better(recipe, single)], f"error by {part.gap(recipe, single)}"))  # fmt: skip
display(
    Markdown(
        markdown_table(("compositions", *ways), lines) + "\n\n" + "\n".join(sentences)
        + f"\n\nThe best of {len(RECIPES) - 2} recipes is picked with hindsight, on the same analogies; this flatters "
        "adding."
    )
)  # fmt: skip

# %%
part, rows = sums[SIMPLE], {}
shown_ways = {"mean": "mean", "sum": "sum", "sum − centre": "− centre", IN_TURN: "in turn", COMPOSED: "composed"}
for name in list(dict.fromkeys(part.relations.tolist()))[:5]:
    i = part.relations.tolist().index(name)
    label = relation_label(name).removeprefix("edit: ").replace(" + ", "\n+ ")
    rows[label] = [part.items[i].b, *(part.pictures[way][i] for way in shown_ways), part.items[i].b_prime]
columns = ["b", *shown_ways.values(), "true b′"]
picture_rows(rows, columns=columns, title="Two edits at once (starter)", size=0.58, label_width=1.35)

# %% [markdown]
# What is wrong with the recipes? The mean has half of each update; where the two do not overlap, each *update* is
# reduced to half; what that does to a picture varies with the edit, see "one analogy turned up". Exercise 4 turns this
# into a number. The sum has both at full
# strength, but *twice* what the two have in common, and it lies far from all mixtures of the training.
#
# ### And subtracting
#
# Show a composed pair, "flip and turn the hue", and subtract "turn the hue": is "flip" left? In the starter:
# $c = c_{12} - c_2$, with or without something added back so that rows sum to 1. It has to beat the composed pair with
# nothing subtracted, and b returned unchanged, which scores 1. The best to hope for is the first pair's own error.

# %%
from lorweb_mini.analysis.combining import NOTHING_SUBTRACTED, subtracted

left = subtracted(starter, part.items, centre)
remains = {name: left.error(name) for name in left.errors}
best = min((name for name in remains if name.startswith("c₁₂")), key=lambda name: remains[name].value)
verdict, saved = left.better(best, NOTHING_SUBTRACTED), left.gap(best, NOTHING_SUBTRACTED)
near = remains[best].high < 1 and len(set(left.concepts)) >= ENOUGH
ANSWERS.append((f"Does subtracting ({best}) come nearer to the first edit than the composed pair?", YES[verdict],
                f"error by {saved}"))  # fmt: skip
head = ("mixture", "error against the first edit alone (b copied = 1)", "minus that of nothing subtracted")
gaps = {x: marked(left.gap(x, NOTHING_SUBTRACTED), left.concepts) for x in remains} | {NOTHING_SUBTRACTED: ""}
display(
    Markdown(
        markdown_table(head, [(name, remains[name], gaps[name]) for name in remains])
        + f"\n\nThe best subtraction, with hindsight, is {best}. That it comes nearer to the first edit than the "
        f"composed pair does is **{'' if verdict > 0 else 'not '}shown**; that it comes nearer than b itself does is "
        f"**{'' if near else 'not '}shown**."
    )
)

# %% [markdown]
# ## Several examples of one edit
#
# One pair can be ambiguous: if a red car became green, was the hue turned, or were red things painted green? Show $k$
# pairs of the same relation and average. There are three places to average:
#
# - in the **space**: the mean of the $k$ mixtures;
# - in the **embedding**: the mean of the encoder's embeddings, which by the proof above is the geometric mean of the
#   $k$ mixtures;
# - in the **pictures**: draw with each and average the results, at $k$ times the cost. This lowers the squared error by
#   itself, since it removes the spread (exercise 4 of notebook 02).
#
# > **Predict before you run.** Which relations gain most: those that training showed, or the others?

# %%
from lorweb_mini.analysis.combining import averaged
from lorweb_mini.analysis.space import spread_out
from lorweb_mini.show.walks import example_panels

KS, each, several = (1, 2) if SMOKE else (1, 2, 4, 8), 2 if SMOKE else 5, 2 if SMOKE else 13
degrees = ("strength", "composition", "family")
enough = [r for r in lw.relations().values() if r.degree in ("seen", *degrees) and len(r.pairs("test")) > 40]
seen_names, unseen = ([r.name for r in enough if (r.degree == "seen") == known] for known in (True, False))
shots = {
    "starter, seen relations": (starter, plain["seen"][:several]),
    "starter, unseen": (starter, [x for degree in degrees for x in plain[degree]][: 2 * several]),
    "full, seen relations": (full, spread_out(seen_names, several)),
    "full, unseen": (full, spread_out(unseen, several)),
}
shots = {label: averaged(editor, names, each, KS) for label, (editor, names) in shots.items()}
WAYS = ("space", "embedding", "pictures")
example_panels(
    {
        f"{label} ({len(set(part.relations))})": {way: {str(k): part.error(f"{way}, {k}") for k in KS} for way in WAYS}
        for label, part in shots.items()
    }
)

# %%
lines, helped = [], []
for label, part in shots.items():
    gains = {way: part.gap(f"{way}, {KS[-1]}", f"{way}, 1") for way in WAYS}
    signs = {way: part.better(f"{way}, {KS[-1]}", f"{way}, 1") for way in WAYS}
    lines.append((label, *(marked(gain, part.concepts) for gain in gains.values())))
    helped += [f"{label} by the {way}" for way in WAYS[:2] if signs[way] > 0]
    ANSWERS.append((f"Do {KS[-1]} examples help, averaged in the space: {label}?", YES[signs["space"]],
                    f"error by {gains['space']}"))  # fmt: skip
display(
    Markdown(
        f"**Error with {KS[-1]} examples minus error with one** (▼ better, ▲ worse, beyond doubt; median over "
        f"relations; one mark in twenty may be luck)\n\n{markdown_table(('', *WAYS), lines)}\n\n"
        "At the price of a single drawing, more examples helped beyond doubt: "
        f"**{', '.join(helped) or 'nowhere'}**."
    )
)

# %% [markdown]
# ## Exercise 1: the edge of the simplex
#
# *Difficulty ●○○ · about 4 minutes*
#
# Walk from `c_0` (through `c_1` and on) along the line of coefficients. What is the largest $t$ at which no coefficient
# of any layer is negative yet?


# %%
def check_edge(t: float | None) -> str:
    """Whether at t the least coefficient is zero and just beyond it one is negative."""
    if t is None:
        return "Not yet: `edge` is still None."
    first, last = c_0.double(), c_1.double()
    here, beyond = (float((first + s * (last - first)).min()) for s in (t, 1.001 * t))
    right = t > 0.999 and here > -1e-5 and beyond < 0
    found = f"at t = {t:.3f} the least coefficient is {here:.5f}, a little further {beyond:.5f}"
    return f"{'✓ Right' if right else 'Not yet'}: {found}."


# %% tags=["exercise"]
edge = None  # a number, from c_0 and c_1

# %%
print(check_edge(edge))

# %% [markdown]
# <details><summary>Hint</summary>
#
# Only coefficients that fall can become negative. When does each of these reach zero?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# falling = c_1 < c_0
# edge = float((c_0[falling] / (c_0 - c_1)[falling]).min())
# ```
#
# With hundreds of coefficients that fall, one of them soon reaches zero. So hardly any point beyond the ends is on the
# simplex.
#
# </details>

# %% [markdown]
# ## Exercise 2: orderly by chance
#
# *Difficulty ●●○ · about 10 minutes*
#
# Pictures at random, each nearest to any of $T$ rungs with equal probability. What is the chance that a walk of
# $S$ of them counts as monotone: never a step back, and a later rung at the end than at the start?


# %%
def check_chance(chance) -> str:
    """The formula against counting all walks one by one."""
    from itertools import product

    lines = []
    for steps, rungs in ((3, 3), (5, 3), (5, 5)):
        said = chance(steps, rungs)
        if said is None:
            return "Not yet: `chance_of_order` returns None."
        walks = list(product(range(rungs), repeat=steps))
        counted = sum(list(x) == sorted(x) and x[-1] > x[0] for x in walks) / len(walks)
        if abs(said - counted) > 0.004:
            return f"Not yet: for {steps} pictures and {rungs} rungs you say {said:.4f}, counting gives {counted:.4f}."
        lines.append(f"{steps} pictures, {rungs} rungs: {counted:.3f}")
    return "✓ Right: " + "; ".join(lines) + "."


# %% tags=["exercise"]
def chance_of_order(steps: int, rungs: int) -> float | None:
    """Chance that a random walk of so many pictures is monotone. A formula, or a simulation."""
    return None


# %%
print(check_chance(chance_of_order))

# %% [markdown]
# <details><summary>Hint</summary>
#
# A walk without a step back is known when you know how often each rung occurs in it. In how many ways can $S$ pictures
# be shared out among $T$ rungs? Then subtract the walks that stay on one rung.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# from math import comb
#
# def chance_of_order(steps, rungs):
#     return (comb(steps + rungs - 1, steps) - rungs) / rungs**steps
# ```
#
# This is far below the column *chance* of the tables, because pictures of a walk are not independent. Compared with
# this formula nearly every smooth walk would look orderly.
#
# </details>

# %% [markdown]
# ## Exercise 3: the logits path without a router
#
# *Difficulty ●●○ · about 6 minutes*
#
# You have two mixtures and nothing else, neither logits nor embeddings. Write the path of the router's mixtures when
# the embedding of *a′* moves in a straight line.


# %%
def check_logits(path) -> str:
    """The path against the router's own answer to an embedding in between."""
    if path(c_0, c_1, 0.5) is None:
        return "Not yet: `logits_path` returns None."
    worst = 0.0
    for t in (-0.5, 0.25, 0.5, 1.5):
        ends_of = zip(embedded(shown.examples[0]), embedded(shown.examples[-1]), strict=True)
        expected = starter.router(*(torch.lerp(x, y, t) for x, y in ends_of))[0]
        worst = max(worst, float((path(c_0, c_1, t) - expected).abs().max()))
    return f"{'✓ Right' if worst < 1e-3 else 'Not yet'}: largest difference to the router {worst:.0e}."


# %% tags=["exercise"]
def logits_path(first: torch.Tensor, last: torch.Tensor, t: float) -> torch.Tensor | None:
    """The mixture [layers, N] at t between two mixtures [layers, N]."""
    return None


# %%
print(check_logits(logits_path))

# %% [markdown]
# <details><summary>Hint</summary>
#
# The logarithm of a softmax is the logit minus a constant of the row. What does a softmax do to such a constant?
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def logits_path(first, last, t):
#     return ((1 - t) * first.log() + t * last.log()).softmax(-1)
# ```
#
# A softmax does not change when a constant is added to its row, so you need not know the constants. This is why the
# logits path needs no router.
#
# </details>

# %% [markdown]
# ## Exercise 4: the weak middle
#
# *Difficulty ●●● · about 10 minutes*
#
# Let `gram` hold the inner products $G_{mn} = \langle \Delta W_m, \Delta W_n \rangle$ of one layer's LoRAs (notebook
# 05), and `first`, `last` the layer's rows of two mixtures. How large is the squared norm of the update in the middle,
# as a share of the mean of both ends? Do not build any $\Delta W$.


# %%
from lorweb_mini.analysis.space import update_gram

LAYER = len(starter.basis.layers) // 2
gram = update_gram(starter.basis, LAYER)  # float64 [N, N]
inverted, shrunk = (routed[name][0] for name in ("edit/invert", "edit/shrink=0.35"))  # [layers, N]


def check_middle(share) -> str:
    """The share against weight matrices that are really built, for two very different edits."""
    first, last = inverted[LAYER].double(), shrunk[LAYER].double()
    said = share(gram, first, last)
    if said is None:
        return "Not yet: `share_in_the_middle` returns None."
    A, B = (x.detach().double() for x in starter.basis.factors(LAYER))
    norms = [float(torch.einsum("n,nor,nri->oi", c, B, A).pow(2).sum()) for c in (first, last, (first + last) / 2)]
    expected = norms[2] / (norms[0] / 2 + norms[1] / 2)
    right = abs(float(said) - expected) < 1e-3
    return f"{'✓ Right' if right else 'Not yet'}: you say {float(said):.3f}, the matrices have {expected:.3f}."


# %% tags=["exercise"]
def share_in_the_middle(gram: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> float | None:
    """Squared norm of the update of (first + last) / 2 over the mean of those of first and last."""
    return None


# %%
print(check_middle(share_in_the_middle))

# %% [markdown]
# <details><summary>Hint</summary>
#
# $\lVert \sum_n c_n \Delta W_n \rVert^2 = c^\top G\, c$.
#
# </details>
#
# <details><summary>Solution</summary>
#
# ```python
# def share_in_the_middle(gram, first, last):
#     middle = (first + last) / 2
#     norms = [c @ gram @ c for c in (first, last, middle)]
#     return float(norms[2] / ((norms[0] + norms[1]) / 2))
# ```
#
# For two updates of the same norm at right angles the share is a half; for two equal ones it is 1. A straight line
# between points of a sphere runs inside the sphere. This is why a mean of two edits is a weak edit, and why a sum may
# be a better one.
#
# </details>

# %% [markdown]
# ## Questions and answers

# %%
rows = "\n".join(f"| {question} | **{answer}** | {number} |" for question, answer, number in ANSWERS)
note = "*Undecided*: the interval holds chance or 0, the difference is below 0.01, or there are too few concepts."
display(Markdown(f"| question | answer | number |\n|:--|:--|:--|\n{rows}\n\n{note}"))

# %% [markdown]
# ## What you have seen
#
# - Coefficients and weights give one path, logits and embeddings another. The first follows from the gate, the second
#   from the router being affine before its softmax.
# - Ladders make the quality of a walk measurable: error, order, midpoint, each with its interval, beside copying the
#   nearer end and beside a blend of pixels.
# - A blend of pixels is a strong baseline where the truth is a blend. Where something has to move, it shows two ghosts
#   or, between blurred ends, a blur, and its squared error need not be larger: see the rows *shift* and *shrink* of the
#   table of differences.
# - Beyond the ends the paths differ: one leaves the simplex, the other ends at single LoRAs.
# - Means of mixtures weaken edits; sums count twice what is shared; two edits in turn need no recipe.
# - Several examples can be averaged before a picture is made, for the cost of one picture.
#
# **Next: 07, Unseen.** Ask for edits that no training showed, and find out why some answers are wrong.
#
# ## Where it is in the paper, and elsewhere
#
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) mixes products $B_n A_n$, with softmax coefficients
#   that depend on neither token nor time step; both are what makes the line of weights a line of coefficients. The
#   released code also has a tanh in place of the softmax, whose coefficients may be negative.
# - Adding and subtracting fine-tuned weights is *task arithmetic* ([arXiv
#   2212.04089](https://arxiv.org/abs/2212.04089)), averaging them *model soups* ([arXiv
#   2203.05482](https://arxiv.org/abs/2203.05482)). With a shared basis both are arithmetic of a few coefficients.
# - In this repository: `lorweb_mini/analysis/ladders.py`, `lorweb_mini/analysis/walking.py` (paths, measures),
#   `lorweb_mini/analysis/combining.py` (sums, means), `lorweb_mini/widgets/walk.py` (slider).

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
