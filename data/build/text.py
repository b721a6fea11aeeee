"""Caches the sentence vector of every instruction and every emoji name: data/text.json and data/text.safetensors."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from lorweb_mini.emoji.relations import relations, unseen_relations
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.emoji.words import all_sentences
from lorweb_mini.files import data_dir
from lorweb_mini.models.text import cached_vectors, embed


def main() -> None:
    """Embeds all texts in a fixed order; half precision. Texts that are cached keep their vectors."""
    torch.manual_seed(0)
    texts = {t for r in relations().values() for t in r.instructions} | {e.name for e in load_emoji().emojis}
    held_out = [r for part in ("val", "test") for r in unseen_relations(part)]
    # A known chain of edits is the sum of its parts' vectors; the base has no words for the others.
    texts |= {t for r in held_out if not r.known_to_base for t in r.instructions}
    ordered = sorted(texts | set(all_sentences()))
    known = cached_vectors() if (data_dir() / "text.json").is_file() else {}
    fresh = [t for t in ordered if t not in known]
    vectors = {**known, **(dict(zip(fresh, embed(fresh), strict=True)) if fresh else {})}
    stacked = torch.stack([vectors[t] for t in ordered]).half()
    (data_dir() / "text.json").write_text(json.dumps(ordered, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    save_file({"vectors": stacked}, data_dir() / "text.safetensors")
    print(f"{len(ordered)} texts, {len(fresh)} of them new, {stacked.shape[1]} wide")


if __name__ == "__main__":
    main()
