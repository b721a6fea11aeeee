"""The ledger: the paper's claims against this repository's result files.

    .venv/bin/python -m benchmarks.claims        # writes figures/claims.md and the table of the README

Each claim names the notebook that goes into it, the number with its interval, and what follows *here*, at this size
and on these pictures. Numbers are read from ``data/results/*.csv`` (over seeds) and ``figures/run/report.json`` (one
training, over analogies), so that the ledger follows the files; a test fails where they disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lorweb_mini.analysis.results import by_seed, command, effects, over_seeds, rows_of
from lorweb_mini.errors import InputError
from lorweb_mini.files import write_atomically
from lorweb_mini.show.ablations import told

from .cells import BOTH, BOTH_PAPER, CONTEXT_TOTAL, PAIR_ADAPTER, STARTER
from .timing import markdown, write_readme
from .verdicts import (
    CANNOT,
    FAILS,
    HOLDS,
    MISSING,
    OPEN,
    ROOT,
    Verdict,
    against_one,
    against_trivial,
    change,
    controlled,
    dialled,
    on_equal_terms,
    swapped,
    untestable,
)

LEDGER = ROOT / "figures" / "claims.md"
HEAD = """# The paper's claims, one by one

Made by `.venv/bin/python -m benchmarks.claims` from the result files; do not edit. The claims are those of a public
summary of LoRWeB ([arXiv 2602.15727](https://arxiv.org/abs/2602.15727)), in our words. They were made for a model of
twelve billion parameters on photographs; *here* means 9 million parameters, 64×64 emoji and trainings of about ten
minutes or less, most of them two, so that nothing below refutes or confirms the paper at its own scale. *Unseen* means
unseen by the basis, its router and the encoder of the pair; the frozen base was told some of these edits in words, as
the paper's base knows many edits.

*Holds* and *does not hold* need an interval over seeds without 0 and a difference of at least 0.01; with one seed a
comparison is undecided. Differences are written the way round in which a negative one speaks for the claim. The first
three claims of RQ1, the controls and those of RQ2 compare single published trainings: there two intervals over
analogies must not overlap, which says nothing about another training. Everything else is *undecided*. The verdicts are
not corrected for their number. Errors: 0 is the true answer, 1 is what copying *b* scores. *One LoRA* has rank 119 and
sees *a*, *a′* and *b*, with as many trained parameters as the LoRAs and the router of *the basis*, whose transformer
sees *b* alone; another basis sees all three, as extra tokens (the paper shows a grid). These have 19,200 training
samples each, all other trainings of `ablations` 5,760.

"""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        question: the paper's research question. text: the claim.
        notebook, section: where it is gone into.
        source: the file that the number is from, or the command that makes it.
        judged: reads number and verdict from the file.
        says: verdict to the sentence that is written.
    """

    question: str
    text: str
    notebook: str
    section: str
    source: str
    judged: Callable[[], Verdict]
    says: dict[str, str] = field(default_factory=dict)

    def row(self) -> tuple[str, str, str]:
        """Number, verdict, and sentence."""
        number, verdict = self.judged()
        usual = {
            OPEN: "The trainings made so far leave it open.",
            MISSING: f"The trainings have not been made yet; the command is `{self.source}`.",
        }
        return number, verdict, {**usual, **self.says}[verdict]


RUN = "make run"
HEADLINE_RUN, ABLATIONS, DIAL, CONTROLS = (command(x) for x in ("headline", "ablations", "dial", "controls"))
UNSEEN, CASES, MANY, PANEL = "07_unseen", "Groups and null models", "How many edits does it take?", "Controls"
GRID, RIVAL, SIZE, OWN = "08_what_matters", "A rival on equal terms", "Size: N and r", "The panel of controls"
TEN = "Ten questions to the grid"
CLAIMS = (
    Claim("RQ1", "A basis with a router makes edits whose strength its training did not show", UNSEEN, CASES, RUN,
          lambda: against_trivial("unseen strength"),
          {HOLDS: "Strengths between trained ones are made, better than copying or arithmetic do.",
           OPEN: "No clear difference from the best trivial baseline.",
           FAILS: "A trivial method is closer."}),
    Claim("RQ1", "… and edits that are new compositions", UNSEEN, "Compositions by their parts", RUN,
          lambda: against_trivial("unseen composition"),
          {HOLDS: "Compositions of known edits are made better than by any trivial method.",
           OPEN: "No clear difference from the best trivial baseline.",
           FAILS: "A trivial method is closer."}),
    Claim("RQ1", "… and edits of kinds that trained ones cannot imitate", UNSEEN, "Inside and outside the span", RUN,
          lambda: against_trivial("unseen kind, outside"),
          {HOLDS: "Even kinds outside the span are made better than by any trivial method.",
           OPEN: "No clear difference from the best trivial baseline.", FAILS: "A trivial method is closer."}),
    Claim("RQ1", "The basis, whose transformer sees b alone, generalises better than one LoRA of as many trained "
          "parameters that sees a and a′", GRID, RIVAL, HEADLINE_RUN, on_equal_terms(STARTER),
          {HOLDS: "On unseen edits the basis, which reads the encoder of the pair, is closer than one LoRA.",
           FAILS: "On unseen edits one LoRA is closer than the basis, which reads the encoder of the pair."}),
    Claim("RQ1", "… with the paper's own query, without the encoder of the pair", GRID, RIVAL,
          ABLATIONS, change(CONTEXT_TOTAL, -1, reference="query cat"),
          {HOLDS: "On unseen edits the basis with the paper's query is closer than one LoRA on equal terms.",
           FAILS: "On unseen edits one LoRA on equal terms is closer than the basis with the paper's query."}),
    Claim("RQ1", "… where the basis' transformer sees a and a′ as well, as the paper's does", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(BOTH),
          {HOLDS: "On unseen edits the basis that sees a and a′ as well is closer than one LoRA that sees them.",
           FAILS: "On unseen edits one LoRA is closer than the basis, though both see a and a′."}),
    Claim("RQ1", "… there on kinds outside the span", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(BOTH, "outside"),
          {HOLDS: "Outside the span the basis that sees a and a′ is closer than one LoRA.",
           FAILS: "Outside the span one LoRA is closer than the basis that sees a and a′."}),
    Claim("RQ1", "… there on the four new compositions, all with a move", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(BOTH, "composition"),
          {HOLDS: "On compositions that were never sampled the basis that sees a and a′ is closer than one LoRA.",
           FAILS: "On compositions that were never sampled one LoRA is closer."}),
    Claim("RQ1", "… on all unseen edits, with the paper's own query", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(BOTH_PAPER),
          {HOLDS: "Without the encoder of the pair the basis is closer than one LoRA, too, where both see a and a′.",
           FAILS: "Without the encoder of the pair one LoRA is closer than the basis, though both see a and a′."}),
    Claim("RQ1", "Generalisation grows with the number of distinct training relations (not the paper's claim; its "
          "training set's size rests on it)", UNSEEN, MANY, DIAL, lambda: dialled(128),
          {HOLDS: "A fresh relation for every sample generalises better than 128 fixed ones.",
           FAILS: "128 fixed relations generalise no worse than fresh ones."}),
    Claim("RQ1", "… also beyond 2,048 of them", UNSEEN, MANY, DIAL, lambda: dialled(2048),
          {HOLDS: "A fresh relation for every sample generalises better than 2,048 fixed ones.",
           OPEN: "Fresh relations are not told apart from 2,048 fixed ones.",
           FAILS: "2,048 fixed relations generalise better than fresh ones."}),
    Claim("RQ1", "The router matters: a mixture by input beats the mean mixture", GRID, OWN, CONTROLS,
          lambda: controlled("mean mixture"),
          {HOLDS: "On edits that training could have sampled the same mixture for every question is behind.",
           FAILS: "One mixture serves all questions.",
           OPEN: "The mean mixture is not told apart from the routed one."}),
    Claim("RQ1", "… on kinds outside the span as well", GRID, OWN, CONTROLS,
          lambda: controlled("mean mixture", "outside"),
          {HOLDS: "Also there the routed mixture is closer.", FAILS: "There the mean mixture is closer.",
           OPEN: "There the mean mixture is not told apart from the routed one."}),
    Claim("RQ2", "The result follows the example pair", "04_a_basis_and_a_router",
          "Does it really read the pair?", RUN, swapped,
          {HOLDS: "Another pair of the same relation hardly moves the result, one of another relation changes it.",
           FAILS: "The pair hardly matters.", OPEN: "The two are not told apart."}),
    Claim("RQ2", "Mixing by input keeps detail better than a single LoRA (on single edits)", "04_a_basis_and_a_router",
          "Unseen content", RUN, lambda: against_one("single edit", "preserved_error"),
          {HOLDS: "What should stay is kept better (root mean square error in grey levels), with one training of each.",
           FAILS: "One LoRA keeps more of what should stay.", OPEN: "Both keep about as much."}),
    Claim("RQ2", "… while it makes the right edit (on single edits)", "04_a_basis_and_a_router", "Unseen content", RUN,
          lambda: against_one("single edit", "retrieval", True),
          {HOLDS: "The right relation's answer is nearest more often (retrieval), with one training of each.",
           FAILS: "One LoRA makes the right edit more often.", OPEN: "Both make the right edit about as often."}),
    Claim("RQ3", "LoRWeB beats pair-conditioned adapters in generalisation", GRID, RIVAL, ABLATIONS,
          change(PAIR_ADAPTER, -1),
          {HOLDS: "It beats one LoRA with cross-attention to the pair, re-implemented here at equal parameters.",
           FAILS: "One LoRA with cross-attention to the pair, re-implemented at equal parameters, is closer."}),
    Claim("RQ3", "… and in edit accuracy", GRID, RIVAL, ABLATIONS,
          change(PAIR_ADAPTER, -1, "drawn"),
          {HOLDS: "On edits that training could have sampled it beats the re-implemented adapter.",
           FAILS: "On edits that training could have sampled the re-implemented adapter is closer."}),
    Claim("RQ3", "LoRWeB beats the published analogy methods on photographs", GRID, RIVAL, "–", untestable,
          {CANNOT: "Their models and data do not fit this project's size; only their kinds are re-implemented."}),
    Claim("RQ4", "A larger basis is better: N = 32 against 16, r = 4", GRID, SIZE, ABLATIONS,
          change("N 32, r 4", 1, "drawn"),
          {HOLDS: "Twice as many LoRAs help.", FAILS: "Twice as many LoRAs do harm at this length of training."}),
    Claim("RQ4", "A smaller basis is worse: N = 4 against 16, r = 4", GRID, SIZE, ABLATIONS,
          change("N 4, r 4", -1, "drawn"),
          {HOLDS: "A quarter of the LoRAs are worse.", FAILS: "A quarter of the LoRAs are no worse, but better."}),
    Claim("RQ4", "Rank without diversity hurts: N = 4, r = 16 against N = 16, r = 4", GRID, SIZE, ABLATIONS,
          change("N 4, r 16", -1, "drawn"),
          {HOLDS: "At the same N·r, few LoRAs of a high rank are worse.",
           FAILS: "At the same N·r, few LoRAs of a high rank are better."}),
    Claim("RQ5", "Separate embeddings of a, a′ and b are a better query than a difference", GRID, TEN, ABLATIONS,
          change("query difference", -1, "drawn", "query cat"),
          {HOLDS: "The difference of the embeddings alone is worse.", FAILS: "The difference alone is better."}),
    Claim("RQ5", "Showing the transformer the whole triplet lowers the error", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(STARTER, "drawn", BOTH, 1),
          {HOLDS: "With a and a′ as tokens beside the router the error is smaller.",
           FAILS: "With a and a′ as tokens beside the router the error is larger."}),
    Claim("RQ5", "… on unseen edits", GRID, RIVAL, HEADLINE_RUN,
          on_equal_terms(STARTER, "unseen", BOTH, 1),
          {HOLDS: "On unseen edits the error is smaller with a and a′ as tokens.",
           FAILS: "On unseen edits the error is larger with a and a′ as tokens."}),
    Claim("RQ5", "CLIP and SigLIP both serve as the router's encoder", GRID, TEN, "–", untestable,
          {CANNOT: "Neither is here; the grid has tiny CLIP, EfficientNet, latents and pixels in their place."}),
)  # fmt: skip


def ledger() -> str:
    """The whole ledger as Markdown."""
    rows = []
    for claim in CLAIMS:
        number, verdict, sentence = claim.row()
        source = claim.source if claim.source in ("–", RUN) else claim.source.split("benchmarks.")[1]
        place = f"[{claim.notebook[:2]}](../notebooks/{claim.notebook}.ipynb), {claim.section}"
        rows.append([claim.question, claim.text, place, number, f"**{verdict}**", sentence, f"`{source}`"])
    return HEAD + worded(["", "claim", "notebook, section", "number", "verdict", "in a sentence", "from"], rows) + "\n"


def summary() -> str:
    """The table of the README."""
    rows = []
    for claim in CLAIMS:
        number, verdict, _ = claim.row()
        place = f"[{claim.notebook[:2]}](notebooks/{claim.notebook}.ipynb)"
        rows.append([claim.question, claim.text, place, number, verdict])
    return worded(["", "claim", "notebook", "number (95 % interval)", "verdict"], rows)


HEADLINE = {  # what is trained: its cell
    "one LoRA, transformer sees *a*, *a′*, *b*": CONTEXT_TOTAL,
    "basis, transformer sees *b* (the starter's recipe)": STARTER,
    "basis, transformer sees *a*, *a′*, *b*": BOTH,
    "basis, transformer sees *a*, *a′*, *b*, the paper's query": BOTH_PAPER,
}
COLUMNS = {  # of its table: heading to group and measure
    "training distribution": ("drawn", "error"),
    "single edits of it": ("drawn edit", "error"),
    "unseen": ("unseen", "error"),
    "compositions among these": ("composition", "error"),
    "share of their results with both edits": ("composition", "both"),
    "kinds outside the span": ("outside", "error"),
}


def headline() -> str:
    """The basis against one LoRA: means over seeds, then the differences seed by seed."""
    rows, means, gaps = rows_of("headline"), [], []
    if not rows:
        raise InputError(f"expected the results of the headline study, found none: {command('headline')} makes them")
    count = {r["group"]: r["relations"] for r in rows}
    if lacking := {group for group, _ in COLUMNS.values()} - count.keys():
        raise InputError(f"expected results on {', '.join(sorted(lacking))} in the headline study, found none")
    heads = [f"{head} ({count[group]})" if measure == "error" else head for head, (group, measure) in COLUMNS.items()]
    for name, cell in HEADLINE.items():
        values = [by_seed(rows, cell, group, measure=measure).values() for group, measure in COLUMNS.values()]
        means.append([f"{name} ({len(values[0])})", *(told(over_seeds(list(x)), 3) for x in values)])
        if cell != CONTEXT_TOTAL:
            found = [effects(rows, group, CONTEXT_TOTAL, measure).get(cell) for group, measure in COLUMNS.values()]
            told_gaps = (told(effect.estimate, 3) if effect else "–" for effect in found)
            gaps.append([f"*minus one LoRA, seed by seed*: {name}", *told_gaps])
    known = [by_seed(rows_of("controls"), "starter", group, "memoriser", m) for group, m in COLUMNS.values()]
    memory = ["nothing (a memoriser of 10,000 sampled edits)", *(f"{x.get(0, math.nan):.3f}" for x in known)]
    return worded(["what is trained", *heads], [*means, *([memory] if all(known) else []), *gaps])


def worded(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with columns of words, which begin at the left."""
    return markdown(heads, rows).replace("---:", "---")


def main() -> None:
    """Writes all three."""
    texts = ledger(), summary(), headline()  # before anything is written, since it may fail
    write_atomically(LEDGER, texts[0].encode())
    write_readme(ROOT / "README.md", "claims", texts[1])
    write_readme(ROOT / "README.md", "headline", texts[2])


if __name__ == "__main__":
    main()
