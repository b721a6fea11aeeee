# %% [markdown]
# # Walking through the space of edits
#
# What lies between two edits? Two example pairs give two points in the space of mixtures, and between two points there
# is a straight line. Below is a walk along it: the leftmost picture answers the first pair, the rightmost the second,
# and **for the pictures between them no example was given**.
#
# The lower row shows the true edits of the strengths in between. How close does the upper row come? Wherever a true
# answer exists, this notebook shows it below the walk and measures the distance.

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
from lorweb_mini.show.style import COLOURS, MARKERS, PALE, STYLE, figure_of

SMOKE = os.environ.get("LORWEB_PROFILE") == "smoke"
STEPS = 1 if SMOKE else 4  # Euler steps a picture; half of the usual, since thousands are drawn here
matplotlib.rcParams.update({**STYLE, "figure.dpi": 80})  # many pictures: keeps the file small

starter, HUE = lw.load("starter"), "hue: 120° → 240°"
found_b = ladders(SCALES[HUE], 8 if SMOKE else 32)
shown = max(found_b, key=lambda x: float((x.rungs[0] - x.rungs[-1]).pow(2).sum()))  # a colourful one
ts = tuple(np.linspace(0, 1, 5 if SMOKE else 9).tolist())
truth = Truth([shown], ts, starter.autoencoder)
way = walk(starter, [shown], "coefficients", ts, STEPS)
errors = [float(x) for x in truth.trace(way).error[0] / truth.length[0]]
picture_rows(
    {"the walk": way[0], "the truth": truth.pictures[0]},
    captions={"the truth": [f"error {x:.2f}" for x in errors]},
    columns=[f"t = {t:.3g}" for t in ts],
    title="From one analogy to another: the hue by 120°, then by ever more, up to 240°",
    label_width=0.9,
    size=0.72,
)

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
# Two editors are used. The **starter** was trained on simple edits. The **full** basis was trained on all relations
# that training may show, so only it can be used where a walk needs a clock, the moon or any two skin tones. Both were
# trained on analogies alone, never on a mixture between two of them.
#
# ## Half of one edit and half of another
#
# In notebook 00 you made the mixture exactly halfway between two edits. Does its picture show **both** edits, **half of
# each**, **one of the two**, or none of these? First look, then count.
#
# > **Predict before you run.** Halfway between "invert it" and "shrink it": what will be drawn?

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
halves = render(starter, b, middles, STEPS)  # [pictures, pairs, 3, 64, 64]


def stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    """Pictures [k, 3, 64, 64] of every pair, as the autoencoder sees them: [k, pairs, 3, 64, 64]."""
    whole = torch.stack(pictures, 1)
    return reconstruct(starter.autoencoder, whole.flatten(0, 1)).unflatten(0, whole.shape[:2])


one = stacked([edited[x] for x, _ in pairs])
other = stacked([edited[y] for _, y in pairs])
one_then_other = stacked([get_relation(y).apply_edits(edited[x]) for x, y in pairs])
other_then_one = stacked([get_relation(x).apply_edits(edited[y]) for x, y in pairs])
untouched = stacked([b for _ in pairs])

# %%
WISHED = (("edit/invert", "edit/shrink=0.35"), ("edit/hue=120", "edit/flip_horizontal"), ("edit/grey", "edit/blur=4"))
WISHED += (("edit/hue=120", "edit/hue=240"), ("edit/darken=0.25", "edit/background=220"))
places = [i for i, pair in enumerate(pairs) if pair in WISHED or pair[::-1] in WISHED] or [0]
which = int(b.std((1, 2, 3)).argmax())
rows = {
    "\nand ".join(relation_label(x).removeprefix("edit: ") for x in pairs[i]): torch.stack(
        [b[which], *(x[which, i] for x in (one, halves, other, one_then_other))]
    )
    for i in places
}
picture_rows(
    rows,
    columns=["b", "one edit", "halfway", "the other", "both in turn"],
    title="Halfway between two edits; all but the picture halfway are the truth",
    size=0.7,
    label_width=1.35,
)

# %%
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
lines = [
    f"| {name} | {(closest == i).mean():.0%} | {np.median(away[name] / apart):.2f} |" for i, name in enumerate(away)
]
winner = max(away, key=lambda name: (closest == list(away).index(name)).mean())
display(
    Markdown(
        "| what the picture halfway could be | nearest to it | median squared distance |\n|:--|--:|--:|\n"
        + "\n".join(lines)
        + f"\n\n{len(closest)} halfway pictures: {len(pairs)} pairs of edits on {len(b)} unseen drawings. Distances "
        f"are in units of the one between the two edits. Most often the middle is **{winner}**."
    )
)

# %% [markdown]
# Look at the third row. The mean of two pictures is a double exposure. No artist would draw it, and yet its squared
# error is small, as notebook 02 showed for blur. So **whenever a blend of pixels wins below, check whether it wins
# because it is right or because it is blurred.** For this reason the tables also have a measure of sharpness.
#
# ## What a straight line is
#
# Let $c_0$ and $c_1$ be the mixtures of two analogies, tables of layers × LoRAs. The simplest path is
#
# $$c(t) = (1 - t)\,c_0 + t\,c_1 .$$
#
# Rows of $c_0$ and $c_1$ sum to 1, so those of $c(t)$ do, too, and for $t$ in $[0, 1]$ no coefficient is negative. You
# might think of other paths. Which of them are really different? (All pictures of a walk start from the same noise, so
# that only the mixture changes along it.)
#
# **A line of weights.** Merge each mixture into the network and go in a straight line from one set of weights to the
# other, as in model averaging. In layer $l$ the update is $\Delta W = \sum_n c_n B_n A_n$, which is *linear* in $c$.
# Therefore
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
# **A line of embeddings.** Both analogies of a walk share *a* and *b*. Give the router an *a′* whose embedding lies
# between those of the two examples. The query is the row of the three embeddings, shifted and scaled; the logits are
# $P q \cdot k_n / \sqrt d$. All of this is affine in the embedding of *a′*, so the line of embeddings **is** the line
# of logits.
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


between = [torch.lerp(x, y, T) for x, y in zip(merged(c_0), merged(c_1), strict=True)]
by_weights = max(float((x - y).abs().max()) for x, y in zip(between, merged(torch.lerp(c_0, c_1, T)), strict=True))
first, last = embedded(shown.examples[0]), embedded(shown.examples[-1])
by_embedding = starter.router(*(torch.lerp(x, y, T) for x, y in zip(first, last, strict=True)))[0]
by_logits = geometric(c_0[None], c_1[None], [T])[0, 0]
display(
    Markdown(
        f"At t = {T}, largest difference of any number:\n\n"
        f"- line of weights against merged line of coefficients: **{by_weights:.0e}**;\n"
        f"- line of embeddings against line of logits: **{(by_embedding - by_logits).abs().max():.0e}**;\n"
        f"- line of logits against line of coefficients: **{(by_logits - torch.lerp(c_0, c_1, T)).abs().max():.2f}**."
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
strips = {path: walk(starter, [shown], path, quarters, STEPS)[0] for path in PATHS}
along = {path: truth.trace(x[None], quarters).error[0] / truth.length[0] for path, x in strips.items()}
picture_rows(
    {
        **{f"{path}\nerror {along[path][2]:.2f} at ½": x for path, x in strips.items()},
        "truth": truth.pictures[0, [truth.known.index(t) for t in quarters]],
    },
    columns=[f"t = {t:.3g}" for t in quarters],
    title="Five paths between the same two analogies",
    label_width=1.35,
    size=0.68,
)

# %% [markdown]
# ## Ladders: where the truth between is known
#
# How good is a walk? One walk is not enough to tell; we need many, with true pictures in between. The data offer two
# kinds:
#
# - **drawn**: from one yellow hand, relations lead to its light, medium-light, medium, medium-dark and dark versions,
#   all by the same artist. So halfway between "yellow → light" and "yellow → dark" lies medium. Hours of the clock,
#   phases of the moon and directions of an arrow give more;
# - **exact**: an edit with a strength has a dial, and the edit at any strength in between can be computed.
#
# Such a row of true answers is a *ladder*, each answer a *rung*. Below, b stands left and its rungs follow. Both ends
# are relations that the full basis was trained on. **The middle rung is not.**

# %%
display(
    picture_rows(
        {name: torch.cat([item.b[None], item.rungs]) for name, scale in SCALES.items() for item in ladders(scale, 1)},
        columns=["b", "first end"],
        title="Nine ladders",
        label_width=1.75,
        size=0.52,
    )
)
trained = set(splits()["starter"]["seen"]) | {r.name for r in lw.relations().values() if r.degree == "seen"}
middle = {name: scale.relations[len(scale.relations) // 2] for name, scale in SCALES.items() if scale.relations}
known = [name for name, relation in middle.items() if relation in trained]
display(
    Markdown(f"Middle rungs of drawn ladders that training showed as a relation: **{', '.join(known) or 'none'}**.")
)

# %% [markdown]
# ### What is measured
#
# **Error at $t$**: squared distance to the true rung, summed over all walks, divided by the summed length of the walks,
#
# $$\frac{\sum \lVert \text{picture}(t) - b'(t) \rVert^2}{\sum \lVert b'(1) - b'(0) \rVert^2}.$$
#
# Why not divide by the error of copying the nearer true end? Because that is zero at the ends. It is drawn as a curve
# of its own instead: **a walk is useful where it is below that curve.** A second curve shows the error of a straight
# line of pixels between *perfect* ends. Where it is low, the truth itself is a blend.
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
# **Right ends**: the share of walks whose two ends are nearest to their own rungs. Where the ends are wrong, the rest
# says little about the walk.
#
# One more row is measured for comparison, **asked**: the router gets the *true* example in between. This is not a walk;
# it shows what the model can do there if it is given an example.
#
# Intervals are 95 % bootstrap over *concepts*: the six artists' versions of one hand are no independent samples. Where
# there are only a few concepts, they may all agree by chance: five coins show the same side once in sixteen throws, six
# once in thirty-two. So **no difference is called beyond doubt on fewer than six concepts**, however narrow the
# interval.

# %%
from lorweb_mini.analysis.bootstrap import ENOUGH, beyond_doubt
from lorweb_mini.analysis.evaluation import gradient_energy

full, GRID, BEYOND = lw.load(), (0.0, 0.25, 0.5, 0.75, 1.0), (-0.5, 1.5)


def measure(editor, scale, paths: tuple[str, ...], n: int) -> tuple[dict, dict]:
    """Traces of every path on n ladders of a scale, and the sharpness at t = 1/2 (the truth's is 1)."""
    items = ladders(scale, n)
    at = tuple(sorted(GRID + BEYOND)) if scale.dial else GRID
    rungs = Truth(items, at, editor.autoencoder)
    there = rungs.pictures[:, rungs.known.index(0.5)]
    traces, sharp = {}, {}
    for path in paths:
        places = rungs.known if path == "asked" else at
        pictures = walk(editor, items, path, places, STEPS)
        traces[path] = rungs.trace(pictures, places)
        sharp[path] = gradient_energy(pictures[:, places.index(0.5)]).sum() / gradient_energy(there).sum()
    traces["nearer true end"] = rungs.trace(rungs.nearer_end(at))
    traces["blend of true ends"] = rungs.trace(rungs.blend(at))
    sharp["blend of true ends"] = gradient_energy(rungs.blend([0.5])[:, 0]).sum() / gradient_energy(there).sum()
    return traces, sharp


N_LADDERS = 2 if SMOKE else 20
some_scales = list(SCALES.items())[:: 5 if SMOKE else 1]
measured = {name: measure(full, scale, (*PATHS, "asked"), N_LADDERS) for name, scale in some_scales}
measured[f"{HUE} (starter)"] = measure(starter, SCALES[HUE], (*PATHS, "asked"), N_LADDERS)

# %% [markdown]
# > **Predict before you run.** For which of the nine ladders will a blend of pixels do as well as a walk in the space?
# > For which must it fail?

# %%
LOOKS = {path: (COLOURS[i], MARKERS[i], "-") for i, path in enumerate(PATHS)}
LOOKS |= {"asked": (COLOURS[5], "P", "--")}
LOOKS |= {"nearer true end": (PALE, "", ":"), "blend of true ends": (PALE, "", "-.")}


def error_panels(measured: dict, columns: int = 4, top: float = 1.6):
    """Normalised error against t, a panel a ladder; bars are 95 % intervals."""
    rows = -(-(len(measured) + 1) // columns)
    figure, axes = figure_of(2.8 * columns, 2.3 * rows, nrows=rows, ncols=columns, sharey=True, squeeze=False)
    for axis, (name, (traces, _)) in zip(axes.flat, measured.items(), strict=False):
        for i, (path, trace) in enumerate(traces.items()):
            colour, marker, dash = LOOKS[path]
            kept = [(t, e) for t, e in zip(trace.ts, trace.errors(), strict=True) if not np.isnan(e.value)]
            at, values = np.array([t for t, _ in kept]), [e for _, e in kept]
            if path in ("nearer true end", "blend of true ends"):
                axis.plot(at, [e.value for e in values], color=colour, ls=dash, lw=1.1, label=path, zorder=1)
                continue
            bars = [[e.value - e.low for e in values], [e.high - e.value for e in values]]
            axis.errorbar(at + 0.022 * (i - 2.5), [e.value for e in values], np.abs(bars), color=colour, ls=dash,
                          marker=marker, ms=3.4, lw=1.1, elinewidth=0.6, label=path)  # fmt: skip
        axis.axvspan(0, 1, color="#F6F6F6", zorder=0)
        cut = max(x.value for trace in traces.values() for x in trace.errors() if not np.isnan(x.value)) > top
        axis.set_title(name + (" (↑ cut off)" if cut else ""), size=8.5)
        axis.set(ylim=(0, top), xticks=[0, 0.5, 1])
    for axis in list(axes.flat)[len(measured) :]:
        axis.axis("off")
    list(axes.flat)[len(measured)].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", fontsize=8)
    figure.supylabel("error (length of the walk = 1)", size=9)
    figure.supxlabel("t; grey: between the two analogies", size=9)
    return figure


error_panels(measured)

# %%
chances = {rungs: (1 - 1 / rungs) / 2 for rungs in (3, 5)}  # a smooth walk between two rungs that are drawn by luck


def walk_table(measured: dict, path: str) -> str:
    """The measures of one path, a line a ladder."""
    lines = []
    for name, (traces, sharp) in measured.items():
        x = traces[path]
        at_half = x.errors()[x.ts.index(0.5)]
        cells = [x.right_ends(), x.order(), x.monotone(), f"{chances[x.rungs]:.2f}", x.midpoint(), f"{1 / x.rungs:.2f}"]
        cells += [at_half, f"{sharp[path]:.2f}"]
        count = f"{len(x.concepts)} ({len(set(x.concepts))})"
        lines.append(f"| {name} | {count} | " + " | ".join(map(str, cells)) + " |")
    return (
        "| ladder | walks (concepts) | right ends | order | monotone | chance | midpoint | chance | error at ½ | "
        "sharpness at ½ |\n|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n" + "\n".join(lines)
    )


lines = {name: x["coefficients"] for name, (x, _) in measured.items()}
judged = [name for name, x in lines.items() if len(set(x.concepts)) >= ENOUGH]
ordered = [name for name in judged if lines[name].monotone().low > chances[lines[name].rungs]]
centred = [name for name in judged if lines[name].midpoint().low > 1 / lines[name].rungs]
ANSWERS = [(f"Is the walk in order: {name}?", "yes" if name in ordered else "undecided", str(x.monotone()))
           for name, x in lines.items()]  # fmt: skip
display(
    Markdown(
        "**The line of coefficients** (the full basis, but for the last line)\n\n"
        f"{walk_table(measured, 'coefficients')}\n\n"
        f"In order more often than by chance, beyond doubt: **{', '.join(ordered) or 'none'}**. The middle in the "
        f"middle more often than by chance: **{', '.join(centred) or 'none'}**. Too few concepts for a verdict: "
        f"**{', '.join(name for name in lines if name not in judged) or 'none'}**. In {2 * len(judged)} questions "
        f"asked, luck alone would say yes about {2 * len(judged) * 0.025:.1f} times."
    )
)

# %% [markdown]
# Now compare the other paths with the line of coefficients on the *same* ladders. A negative number means that the
# other path is nearer to the truth halfway.

# %%
RIVALS = ("logits", "example", "latent", "pixel", "nearer true end", "asked")


def marked(gap, concepts) -> str:
    """A difference of errors with its sign, where that is beyond doubt and no less than a hundredth."""
    return f"{('', '▲', '▼')[beyond_doubt(gap, concepts, least=0.01)]} {gap}".strip()


def across(measured: dict, columns: tuple[str, ...], value) -> str:
    """A table with a line a ladder and a column a path; ``value(traces, sharpness, path)`` fills it."""
    rows = [
        f"| {name} | " + " | ".join(str(value(traces, sharp, path)) for path in columns) + " |"
        for name, (traces, sharp) in measured.items()
    ]
    return f"| ladder | {' | '.join(columns)} |\n|:--|{'--:|' * len(columns)}\n" + "\n".join(rows)


def behind(traces: dict, path: str) -> str:
    """Error of a path halfway minus that of the line of coefficients."""
    return marked(traces[path].excess(traces["coefficients"], 0.5), traces[path].concepts)


gaps = across(measured, RIVALS, lambda x, sharp, path: behind(x, path))
midpoints = across(measured, ("coefficients", *RIVALS), lambda x, sharp, path: x[path].midpoint())
drawn_paths = (*PATHS, "asked", "blend of true ends")
sharpness = across(measured, drawn_paths, lambda x, sharp, path: f"{sharp[path]:.2f}")
beside = {name: behind(x, "pixel") for name, (x, _) in measured.items()}
better, worse = ([name for name, gap in beside.items() if gap.startswith(sign)] for sign in "▲▼")
ANSWERS += [(f"Does the walk beat a blend of pixels: {name}?",
             {"▲": "yes", "▼": "no"}.get(gap[0], "undecided"), f"pixels' error minus the walk's {gap.strip('▲▼ ')}")
            for name, gap in beside.items()]  # fmt: skip
display(
    Markdown(
        f"**Error at ½ minus that of coefficients** (▼ better, ▲ worse: beyond doubt, by 0.01 at least; one mark in "
        f"twenty may be luck)\n\n{gaps}\n\n"
        f"**Midpoint accuracy of every path**\n\n{midpoints}\n\n"
        f"**Sharpness at ½** (the truth has 1; less is blurred, more is noisier)\n\n{sharpness}\n\n"
        f"Walking through the space beats blending the pixels of its own two ends for: "
        f"**{', '.join(better) or 'none'}**; it loses for: **{', '.join(worse) or 'none'}**."
    )
)

# %% [markdown]
# How do you read this table? *Asked* gets the true example, so its error is the model's and not the walk's. Where the
# ends are wrong, all paths between them are wrong. Where "blend of true ends" is low, the truth is a blend of pixels,
# as for a darker picture; there you cannot expect a walk to win, only not to lose. Where the truth is **not** a blend,
# as for the hand of a clock or a picture that shrinks or moves, a line of pixels shows two ghosts. It can have the
# smaller squared error all the same: look for ▼ under *latent* and *pixel*, above all in the rows *shrink* and *shift*.
# Here is what the paths draw in some of these cases:

# %%
GHOSTS = (
    "tone: light → dark",
    "clock: + 1 h → + 3 h",
    "arrow: 90° → 180°",
    "shrink: 0.75 → 0.35",
    "shift: 8 → 24 pixels",
)
GHOSTS = GHOSTS[: 1 if SMOKE else None]
seen = [ladders(SCALES[name], 4)[1] for name in GHOSTS]
halfway = {path: torch.cat([walk(full, [item], path, [0.5], STEPS)[0] for item in seen]) for path in PATHS}
picture_rows(
    {
        "b": torch.stack([item.b for item in seen]),
        "first end": torch.stack([item.rungs[0] for item in seen]),
        "true middle": torch.stack([item.rungs[len(item.rungs) // 2] for item in seen]),
        "last end": torch.stack([item.rungs[-1] for item in seen]),
        **halfway,
    },
    columns=[name.partition(":")[0] for name in GHOSTS],
    title="Halfway (full basis)",
    size=0.52,
    label_width=1.1,
)

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

UP = ("coefficients", "example", "latent", "pixel", "asked")
some_scales = list(FROM_NOTHING.items())[:: 5 if SMOKE else 1]
turned = {name: measure(starter, scale, UP, N_LADDERS) for name, scale in some_scales}
figure, (axes,) = figure_of(12.5, 2.7, ncols=len(turned), sharey=True, squeeze=False)
for axis, (name, (traces, _)) in zip(axes, turned.items(), strict=True):
    for path in UP:
        inside = [i for i, t in enumerate(traces[path].ts) if 0 <= t <= 1]
        colour, marker, dash = LOOKS[path]
        reached = traces[path].reached()[inside]
        axis.plot([traces[path].ts[i] for i in inside], reached, color=colour, marker=marker, ms=4, ls=dash, label=path)
    axis.plot([0, 1], [0, 1], color=PALE, lw=0.9, ls=":", label="the truth")
    axis.set_title(name, size=9)
    axis.set(xticks=[0, 0.5, 1], ylim=(-0.05, 1.05))
axes[0].set_ylabel("mean place of the nearest rung")
figure.supxlabel("t: how much of the LoRA", size=9)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
figure

# %%
half = {name: x["coefficients"].reached()[x["coefficients"].ts.index(0.5)] for name, (x, _) in turned.items()}
slow = [f"{name} ({x:.2f})" for name, x in half.items() if x < 0.4]
fast = [f"{name} ({x:.2f})" for name, x in half.items() if x > 0.6]
even = [f"{name} ({x:.2f})" for name, x in half.items() if 0.4 <= x <= 0.6]
nobody = {name: x["asked"].errors()[x["asked"].ts.index(0.0)] for name, (x, _) in turned.items()}
display(
    Markdown(
        f"**$c(t) = t\\,c_1$, starter basis.**\n\n{walk_table(turned, 'coefficients')}\n\n"
        f"Half the LoRA reaches on average (0 is b, 1 the whole edit): less than 0.4 for {', '.join(slow) or 'none'}; "
        f"more than 0.6 for {', '.join(fast) or 'none'}; about half for {', '.join(even) or 'none'}.\n\n"
        "Asked with a pair of two equal pictures, the answer misses b by (1 is the size of the whole edit): "
        + "; ".join(f"{name} {x}" for name, x in nobody.items())
        + ". Zero would mean that the router takes such a pair for no edit at all."
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
print(f"drawn: a picture of {starter.generate(shown.b, c_far, steps=STEPS).image.size}")
try:
    starter.generate(shown.b, broken)
except lw.InputError as error:
    print(f"refused: {error}")

# %%
far = (-1.0, -0.5, -0.25, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0)
wide = Truth([shown], far, starter.autoencoder)
past = {path: walk(starter, [shown], path, far, STEPS)[0] for path in ("coefficients", "logits", "pixel")}
rows = {**past, "truth": torch.ones(len(far), 3, 64, 64)}
for t, picture in zip(wide.known, wide.pictures[0], strict=True):
    rows["truth"][far.index(t)] = picture
picture_rows(
    rows,
    captions={"truth": [f"hue {120 + 120 * t:.0f}°" for t in far]},
    columns=[f"t = {t:g}" for t in far],
    title="Before the first analogy and past the second: hue 120° and 240° are the ends",
    label_width=1.0,
    size=0.62,
)

# %% [markdown]
# Beyond the ends the two paths differ clearly. The line of coefficients leaves the simplex; the line of logits never
# leaves it, and far out each row is a single LoRA. Which of them is nearer to the truth? For edits with a dial the
# truth is known at some places beyond both ends, and the walks above were measured there, too.

# %%
outside = {name: x[0] for name, x in measured.items() if -0.5 in x[0]["coefficients"].ts}
outside |= {f"{name} (from nothing, starter)": x[0] for name, x in turned.items()}
OUT = ("coefficients", "logits", "example", "pixel", "nearer true end", "asked")
lines, ahead, astern = [], [], []
for name, traces in outside.items():
    for t in BEYOND:
        own, stay = traces["coefficients"], traces["nearer true end"]
        if t not in own.ts or np.isnan(own.error[:, own.ts.index(t)]).any():
            continue
        cells = [str(traces[p].errors()[traces[p].ts.index(t)]) if p in traces else "–" for p in OUT]
        gap = marked(own.excess(stay, t), own.concepts)
        {"▼": ahead, "▲": astern}.get(gap[0], []).append(f"{name}, t = {t:g}")
        lines.append(f"| {name} | {t:g} | " + " | ".join(cells) + " |")
answer = "undecided" if bool(ahead) == bool(astern) else "yes" if ahead else "no"
ANSWERS.append(("Does going on beyond an end beat standing still there?", answer,
                f"better in {len(ahead)}, worse in {len(astern)} of {len(lines)} places"))  # fmt: skip
display(
    Markdown(
        f"| ladder | t | {' | '.join(OUT)} |\n|:--|--:|{'--:|' * len(OUT)}\n" + "\n".join(lines)
        + "\n\nGoing on along the line of coefficients beats standing still at the nearer true end for: "
        f"**{'; '.join(ahead) or 'none of them'}**. It is worse than standing still for: "
        f"**{'; '.join(astern) or 'none of them'}**. For the others the intervals leave it open."
    )
)  # fmt: skip

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
walker = Walk(full, walks, t=0.5, steps=2 if SMOKE else 4)
walker

# %% [markdown]
# ## Other directions
#
# ### From one LoRA to another
#
# The corners of the simplex are the basis LoRAs themselves: all weight on one LoRA in every layer. But which LoRA of
# another layer is "the same one"? The numbers are arbitrary: renumber the LoRAs of any layer together with their keys,
# and every picture stays as it is. **"LoRA 3 in all layers" is a grouping by chance.** There are two ways to make it
# mean something: one router for all layers (notebook 08 trains it), or **matching**: group the LoRAs of different
# layers that the router turns up and down together. Below are both readings, by number and matched, and beside them
# how well the groups hold together, also for a router with fresh weights.

# %%
from lorweb_mini.analysis.controls import untrained_router
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
    walks[f"{name}:\n{m} → {n}"] = render(starter, shown.b[None], path[None], STEPS)[0]
    alone[name] = render(starter, shown.b[None], corners[name][None], STEPS)[0]

# %%
start = reconstruct(starter.autoencoder, shown.b[None])
size = float(truth.length[0])
moved = {name: squared(x, start.expand_as(x)) / size for name, x in alone.items()}
display(
    picture_rows(
        walks,
        captions={name: [f"t = {t:.3g}" for t in quarters] for name in walks},
        title="A walk from one LoRA to another, in two readings of what one LoRA is",
        label_width=1.3,
        size=0.62,
    )
)
display(
    picture_rows(
        {f"{name} {half}": x[half * (count // 2) : (half + 1) * (count // 2)] for name, x in alone.items()
         for half in (0, 1)},
        title="Each LoRA alone, with a coefficient of 1 in every layer",
        label_width=1.3,
        size=0.56,
    )
)  # fmt: skip
_, chance = matched(fresh)
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
SIGMAS = (-3, -2, -1, 0, 1, 2, 3)
rows, captions, table, ends_at, off = {}, {}, [], [], 0.0
for axis in (0, 1):
    steps_out = plane.points[:, axis].std() * np.outer(SIGMAS, plane.axes[axis])
    raw = torch.from_numpy(plane.centre + steps_out).float().unflatten(1, (layers, count))
    projected, off = onto_simplex(raw), max(off, float((raw.sum(-1) - 1).abs().max()))
    drawn = [render(starter, shown.b[None], c[None], STEPS)[0] for c in (raw, projected)]
    change = squared(*drawn) / size
    negative = raw.clamp(max=0).sum(-1).abs().mean(-1)
    by_name = {x: plane.points[[y.relation == x for y in cloud], axis].mean() for x in splits()["starter"]["seen"]}
    low, high = (relation_label(pick(by_name, key=by_name.get)) for pick in (min, max))
    ends_at.append(f"component {axis + 1} ({plane.explained[axis]:.0%} of the variance): from {low} to {high}")
    rows |= {f"component {axis + 1}": drawn[0], f"{axis + 1}, projected:\nchanged by": drawn[1]}
    captions[f"{axis + 1}, projected:\nchanged by"] = [f"{x:.2f}" for x in change]
    table += [
        f"| {axis + 1} | {k:+d} | {x:.3f} | {y:.2f} |" for k, x, y in zip(SIGMAS, negative, change, strict=True) if k
    ]
display(
    picture_rows(rows, captions, [f"{k:+d} σ" if k else "centre" for k in SIGMAS], "Along the principal components",
                 size=0.58, label_width=1.15)
)  # fmt: skip
display(
    Markdown(
        "- " + "\n- ".join(ends_at) + f"\n\nRows sum to 1 all the way (worst: off by {off:.0e})."
        "\n\n| component | k | negative part of a row, mean | change of the picture by projecting |\n"
        "|--:|--:|--:|--:|\n" + "\n".join(table)
    )
)

# %% [markdown]
# The relations at its two ends show where a component leads. The picture in the middle shows the *centre*, the mean of
# all routings; it is the same in both rows.
#
# ## Adding analogies
#
# One pair shows "invert", another "blur". Is there a mixture for *both*? The truth is known: the data contain
# compositions that no training showed, with the true $b'$ for "first one, then the other". Let $c_1$ and $c_2$ be the
# mixtures of the two pairs, both for the same b. Here are some recipes and the reason for each:
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
# the example. For comparison the table has each of the two edits **alone**, which a sum has to beat; copying b scores
# 1.
#
# > **Predict before you run.** Which of the recipes wins? Which of the two ways without adding wins?

# %%
import functools

from lorweb_mini.analysis.space import concepts_of
from lorweb_mini.emoji.relations import composition_parts


@functools.cache
def pool(relation: str) -> list[tuple[lw.Analogy, str]]:
    """Test pairs (b, b') of a relation with the concept that each shows."""
    items = lw.analogies("test", relation, seed=8, n=24)
    return list(zip(items, concepts_of(items), strict=True)) if items else []


def examples(relation: str, concept: str, k: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """k pairs of a relation that show other concepts; None if there are fewer."""
    others = [x for x, other in pool(relation) if other != concept]
    order = np.random.default_rng(seed).permutation(len(others))[:k]
    return [(others[i].b, others[i].b_prime) for i in order] if len(others) >= k else None


def both_parts(items: list[lw.Analogy]) -> list[torch.Tensor]:
    """The pairs of the two parts of every composition: a, a' of the first, a, a' of the second, [k, 3, 64, 64] each."""
    found = []
    for i, (item, concept) in enumerate(zip(items, concepts_of(items), strict=True)):
        pairs = [examples(part, concept, 1, i) for part in composition_parts(item.relation)]
        found.append([x for pair in pairs if pair for x in pair[0]])
    return [torch.stack(x) for x in zip(*found, strict=True)]


# %%
from lorweb_mini.analysis.bootstrap import interval, median_ratio
from lorweb_mini.emoji.relations import as_batch

RECIPES = {
    "first alone": lambda one, two, centre, still: one,
    "second alone": lambda one, two, centre, still: two,
    "mean": lambda one, two, centre, still: (one + two) / 2,
    "sum": lambda one, two, centre, still: one + two,
    "sum − uniform": lambda one, two, centre, still: one + two - 1 / one.shape[-1],
    "sum − centre": lambda one, two, centre, still: one + two - centre,
    "sum − nothing": lambda one, two, centre, still: one + two - still,
    "product": lambda one, two, centre, still: (one.clamp_min(1e-12).log() + two.clamp_min(1e-12).log()).softmax(-1),
}


def added(editor, relations: list[str], n: int, seen: list[str]) -> dict:
    """Squared errors of every recipe on compositions, with their scale, relations and concepts; seen in training."""
    items = lw.analogies("test", relations, seed=7, n=n)
    first, first_prime, second, second_prime = both_parts(items)
    a, a_prime, b, b_prime = as_batch(items)
    one, two = editor.route(first, first_prime, b), editor.route(second, second_prime, b)
    centre = coefficients_of(editor, lw.analogies("test", seen, seed=1, n=2)).mean(0)
    mixed = {name: recipe(one, two, centre, editor.route(a, a, b)) for name, recipe in RECIPES.items()}
    mixed["composed pair"] = editor.route(a, a_prime, b)
    drawn = {name: render(editor, b, c[:, None], STEPS)[:, 0] for name, c in mixed.items()}
    halfway = drawn["first alone"]
    next_step = editor.route(second, second_prime, halfway)
    drawn["one after the other"] = render(editor, halfway, next_step[:, None], STEPS)[:, 0]
    seen_b, truth = (reconstruct(editor.autoencoder, x) for x in (b, b_prime))
    return {"error": {name: squared(x, truth) for name, x in drawn.items()}, "size": squared(seen_b, truth),
            "names": [x.relation for x in items], "concepts": concepts_of(items), "items": items,
            "drawn": drawn}  # fmt: skip


# %%
plain = splits()["starter"]
every = [x.name for x in lw.relations().values() if x.degree == "seen"][:: 90 if SMOKE else 3]
composed = [x.name for x in lw.relations().values() if x.degree == "composition"]
kinds = {kind: [x for x in composed if x.startswith(f"compose/{kind}")] for kind in ("edit", "style", "gender")}
few = slice(None, None, 8 if SMOKE else 1)
sums = {"edit + edit\n(starter)": added(starter, plain["composition"][few], 2 if SMOKE else 12, plain["seen"])}
labels = {"edit": "edit + edit\n(full)", "style": "style + edit\n(full)", "gender": "gender + tone\n(full)"}
for kind, label in list(labels.items())[: 1 if SMOKE else None]:
    sums[label] = added(full, kinds[kind][few], 2 if SMOKE else 8, every)


def score(part: dict, name: str, minus: str | None = None):
    """Normalised error of a recipe, median over relations; with ``minus`` the difference to another one's."""
    mine = median_ratio(part["error"][name], part["size"], part["names"])
    if minus is None:
        return interval(mine, part["concepts"])
    theirs = median_ratio(part["error"][minus], part["size"], part["names"])
    return interval(lambda weights: mine(weights) - theirs(weights), part["concepts"])


# %%
ways = [*RECIPES, "one after the other", "composed pair"]
figure, axes = figure_of(11.5, 3.7, ncols=len(sums), sharey=True)
for axis, (label, part) in zip(axes, sums.items(), strict=True):
    axis.axvline(1, color=COLOURS[4], lw=1, ls="--")
    for y, name in enumerate(reversed(ways)):
        value = score(part, name)
        colour = PALE if "alone" in name else COLOURS[0] if name in RECIPES else COLOURS[1]
        axis.plot([value.low, value.high], [y, y], color=colour, lw=2.4, solid_capstyle="round")
        axis.plot(value.value, y, "o", color=colour, ms=6, markeredgecolor="white")
    axis.set_title(f"{label}", size=9)
    axis.set(xlim=(0, 2.2), yticks=range(len(ways)))
    axis.grid(axis="y", visible=False)
axes[0].set_yticklabels(reversed(ways))
figure.supxlabel("normalised error (copying b = 1, dashed); median over relations, 95 % interval over concepts", size=9)
figure

# %%
lines, sentences = [], []
for label, part in sums.items():
    flat = label.replace("\n", " ")
    lines.append(f"| {flat} | " + " | ".join(str(score(part, name)) for name in ways) + " |")
    recipe = min(list(RECIPES)[2:], key=lambda name: score(part, name).value)
    alone = min(list(RECIPES)[:2], key=lambda name: score(part, name).value)
    gaps = {other: score(part, recipe, other) for other in (alone, "one after the other", "composed pair")}
    said = {"▼": "better than", "▲": "worse than"}
    words = [f"{said.get(marked(x, part['concepts'])[0], 'not to be told from')} {o}" for o, x in gaps.items()]
    ANSWERS.append((f"Is adding two analogies ({recipe}) better than {alone}: {flat}?",
                    {"▼": "yes", "▲": "no"}.get(marked(gaps[alone], part["concepts"])[0], "undecided"),
                    f"error by {gaps[alone]}"))  # fmt: skip
    sentences.append(f"- {flat}: the best recipe is **{recipe}**; it is {', '.join(words)}.")
display(
    Markdown(
        f"| compositions | {' | '.join(ways)} |\n|:--|{'--:|' * len(ways)}\n" + "\n".join(lines) + "\n\n"
        + "\n".join(sentences)
        + f"\n\nThe best of {len(RECIPES) - 2} recipes is picked with hindsight, on the same analogies; this flatters "
        "adding."
    )
)  # fmt: skip

# %%
part = sums["edit + edit\n(starter)"]
chosen = [part["names"].index(name) for name in dict.fromkeys(part["names"])][:5]
shown_ways = ("mean", "sum", "sum − centre", "one after the other", "composed pair")
rows = {}
for i in chosen:
    item, label = part["items"][i], relation_label(part["names"][i]).removeprefix("edit: ").replace(" + ", "\n+ ")
    rows[label] = torch.stack([item.b, *(part["drawn"][name][i] for name in shown_ways), item.b_prime])
picture_rows(
    rows,
    columns=["b", "mean", "sum", "− centre", "in turn", "composed", "true b′"],
    title="Two edits at once (starter)",
    size=0.58,
    label_width=1.35,
)

# %% [markdown]
# What is wrong with the recipes? The mean has half of each update; where the two do not overlap, each edit is reduced
# to half, as at $t = ½$ in "one analogy turned up". Exercise 4 turns this into a number. The sum has both at full
# strength, but *twice* what the two have in common, and it lies far from all mixtures of the training.
#
# ### And subtracting
#
# Show a composed pair, "flip and turn the hue", and subtract "turn the hue": is "flip" left? In the starter:
# $c = c_{12} - c_2$, with or without something added back so that rows sum to 1. It has to beat two baselines: the
# composed pair as it is, with nothing subtracted, and b returned unchanged, which scores 1. The best that you can hope
# for is the error of the first pair alone.

# %%
items = part["items"]
first, first_prime, second, second_prime = both_parts(items)
a, a_prime, b, _ = as_batch(items)
whole, one, two = (starter.route(*x, b) for x in ((a, a_prime), (first, first_prime), (second, second_prime)))
left = torch.cat(
    [get_relation(composition_parts(x.relation)[0]).apply_edits(x.b[None]) for x in items]  # the first edit alone
)
seen_left, seen_b = (reconstruct(starter.autoencoder, x) for x in (left, b))
AS_IT_IS, ASKED = "the composed pair, nothing subtracted", "the first pair alone, asked"
taken = {
    AS_IT_IS: whole,
    "c₁₂ − c₂": whole - two,
    "c₁₂ − c₂ + uniform": whole - two + 1 / count,
    "c₁₂ − c₂ + centre": whole - two + torch.from_numpy(plane.centre).float().view(layers, count),
    ASKED: one,
}
size, concepts = squared(seen_b, seen_left), part["concepts"]
missed = {
    name: median_ratio(squared(render(starter, b, c[:, None], STEPS)[:, 0], seen_left), size, part["names"])
    for name, c in taken.items()
}
remains = {name: interval(statistic, concepts) for name, statistic in missed.items()}
saved = {name: interval(lambda w, x=x: x(w) - missed[AS_IT_IS](w), concepts) for name, x in missed.items()}
best = min((name for name in taken if name.startswith("c₁₂")), key=lambda name: remains[name].value)
helps, near = marked(saved[best], concepts).startswith("▼"), remains[best].high < 1 and len(set(concepts)) >= ENOUGH
display(
    Markdown(
        "| mixture | error against the first edit alone (b copied = 1) | minus that of nothing subtracted |\n"
        "|:--|--:|--:|\n"
        + "\n".join(f"| {x} | {remains[x]} | {'' if x == AS_IT_IS else marked(saved[x], concepts)} |" for x in taken)
        + f"\n\nThe best subtraction, with hindsight, is {best}. That it comes nearer to the first edit than the "
        f"composed pair does is **{'' if helps else 'not '}shown**; that it comes nearer than b itself does is "
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
KS = (1, 2) if SMOKE else (1, 2, 4, 8)


def few_shot(editor, relations: list[str], n: int) -> dict:
    """Squared errors [k] by way and number of examples, with their scale, relations and concepts."""
    asked = [
        (item, pairs)
        for name in relations
        for i, (item, concept) in enumerate(pool(name)[:n])
        if (pairs := examples(name, concept, KS[-1], i)) is not None
    ]
    items = [item for item, _ in asked]
    b = torch.stack([item.b for item in items])
    shown = [torch.stack([torch.stack([pair[end] for pair in pairs]) for _, pairs in asked]) for end in (0, 1)]
    repeated = b.repeat_interleave(KS[-1], 0)
    routed = editor.route(*(x.flatten(0, 1) for x in shown), repeated).unflatten(0, (len(items), KS[-1]))
    each = render(editor, b, routed, STEPS)  # with every example alone
    mixed = {"space": [routed[:, :k].mean(1) for k in KS[1:]],
             "embedding": [routed[:, :k].clamp_min(1e-12).log().mean(1).softmax(-1) for k in KS[1:]]}  # fmt: skip
    truth = reconstruct(editor.autoencoder, torch.stack([item.b_prime for item in items]))
    drawn = {way: render(editor, b, torch.stack(c, 1), STEPS).unbind(1) for way, c in mixed.items()}
    drawn["pictures"] = [each[:, :k].mean(1) for k in KS[1:]]
    alone = squared(each[:, 0], truth)
    error = {way: dict(zip(KS, [alone, *(squared(x, truth) for x in several)], strict=True))
             for way, several in drawn.items()}  # fmt: skip
    size = squared(reconstruct(editor.autoencoder, b), truth)
    return {"error": error, "size": size, "names": [x.relation for x in items], "concepts": concepts_of(items)}


# %%
from lorweb_mini.analysis.space import spread_out

each = 2 if SMOKE else 5
degrees = ("strength", "composition", "family")
unseen = {r.name: r for r in lw.relations().values() if r.degree in degrees and len(r.pairs("test")) > 40}
seen_names = [r.name for r in lw.relations().values() if r.degree == "seen" and len(r.pairs("test")) > 40]
several = 2 if SMOKE else 13
shots = {
    "starter, seen relations": few_shot(starter, splits()["starter"]["seen"][:several], each),
    "starter, unseen": few_shot(starter, [x for d in degrees for x in splits()["starter"][d]][: 2 * several], each),
    "full, seen relations": few_shot(full, spread_out(seen_names, several), each),
    "full, unseen": few_shot(full, spread_out(list(unseen), several), each),
}
figure, axes = figure_of(11.5, 2.9, ncols=4)
gains = {}
for axis, (label, part) in zip(axes, shots.items(), strict=True):
    for i, (way, by_k) in enumerate(part["error"].items()):
        errors = {k: median_ratio(x, part["size"], part["names"]) for k, x in by_k.items()}
        values = [interval(x, part["concepts"]) for x in errors.values()]
        bars = [[x.value - x.low for x in values], [x.high - x.value for x in values]]
        axis.errorbar(np.arange(len(KS)) + 0.06 * (i - 1), [x.value for x in values], np.abs(bars), color=COLOURS[i],
                      marker=MARKERS[i], ms=5, elinewidth=0.9, label=way)  # fmt: skip
        first, last = errors[KS[0]], errors[KS[-1]]
        gains[label, way] = interval(lambda w, x=first, y=last: y(w) - x(w), part["concepts"])
    axis.set(xticks=range(len(KS)), xticklabels=KS, xlabel="examples k", ylim=(0, None))
    axis.set_title(f"{label} ({len(set(part['names']))})", size=9)
axes[0].set_ylabel("normalised error")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", title="average in", fontsize=8)
figure

# %%
lines = []
for label in shots:
    cells = []
    for way in ("space", "embedding", "pictures"):
        gain = gains[label, way]
        cells.append(marked(gain, shots[label]["concepts"]))
    lines.append(f"| {label} | " + " | ".join(cells) + " |")
for label in shots:
    gain = gains[label, "space"]
    sign = marked(gain, shots[label]["concepts"])[0]
    ANSWERS.append((f"Do {KS[-1]} examples help, averaged in the space: {label}?",
                    {"▼": "yes", "▲": "no"}.get(sign, "undecided"), f"error by {gain}"))  # fmt: skip
helped = [
    f"{label} by the {way}"
    for (label, way), gain in gains.items()
    if marked(gain, shots[label]["concepts"]).startswith("▼") and way != "pictures"
]
display(
    Markdown(
        f"**Error with {KS[-1]} examples minus error with one** (▼ better, ▲ worse, beyond doubt; median over "
        "relations; one mark in twenty may be luck)\n\n| | space | embedding | pictures |\n|:--|--:|--:|--:|\n"
        + "\n".join(lines)
        + "\n\nAt the price of a single drawing, more examples helped beyond doubt: "
        f"**{', '.join(helped) or 'nowhere'}**."
    )
)  # fmt: skip

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
# Pictures drawn at random, each nearest to any of $T$ rungs with equal probability. What is the chance that a walk of
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
display(
    Markdown(
        "| question | answer | number |\n|:--|:--|:--|\n"
        + "\n".join(f"| {question} | **{answer}** | {number} |" for question, answer, number in ANSWERS)
        + "\n\n*Undecided*: the interval holds chance or 0, or there are too few concepts for a verdict."
    )
)

# %% [markdown]
# ## What you have seen
#
# - Coefficients and weights give one path, logits and embeddings another. The first follows from the gate, the second
#   from the router being affine before its softmax.
# - Ladders make the quality of a walk measurable: error, order, midpoint, each with its interval, beside copying the
#   nearer end and beside a blend of pixels.
# - A blend of pixels is a strong baseline where the truth is a blend. Where something has to move, it shows two ghosts,
#   and it can have the smaller squared error all the same: see the rows *shift* and *shrink* of the table of
#   differences.
# - Beyond the ends the paths differ: one leaves the simplex, the other ends at single LoRAs.
# - Means of mixtures weaken edits; sums count twice what is shared; two edits in turn need no recipe.
# - Several examples can be averaged before anything is drawn, for the cost of one picture.
#
# **Next: 07, Unseen.** Ask for edits that no training showed, and find out why some answers are wrong.
#
# ## Where it is in the paper, and elsewhere
#
# - LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)) mixes products $B_n A_n$, with softmax coefficients
#   that depend on neither token nor time step; both are what makes the line of weights a line of coefficients. The
#   released code also has a tanh in place of the softmax, whose coefficients may be negative.
# - Adding and subtracting fine-tuned weights is *task arithmetic* ([arXiv 2212.04089](https://arxiv.org/abs/2212.04089)),
#   averaging them *model soups* ([arXiv 2203.05482](https://arxiv.org/abs/2203.05482)). With a shared basis both are
#   arithmetic of a few coefficients.
# - In this repository: `lorweb_mini/analysis/ladders.py`, `lorweb_mini/analysis/walking.py` (paths, measures),
#   `lorweb_mini/widgets/walk.py` (slider).

# %%
seconds = time.perf_counter() - START
display(Markdown(f"**This notebook took {seconds:.0f} seconds of computing** here, reading time included if you read."))
