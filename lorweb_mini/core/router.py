"""The router: from the triplet (a, a', b) to mixing coefficients, one row of N for each adapted layer.

With q the concatenated embeddings of a, a' and b, P_l the query projection of layer l and k_{l,n} its keys,

    c_{l,n} = softmax_n( (P_l q) · k_{l,n} / sqrt(d) ),

the ``cat-aa'b`` query of the paper (arXiv 2602.15727). The coefficients depend on neither token nor time step, so they
are computed once an analogy. One departure: the embeddings are standardised, each of their dimensions to mean 0 and
deviation 1 over training triplets. All pictures are small objects on white, so their embeddings share most of their
length, and a projection would need minutes of training to ignore what they share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MIXINGS = ("softmax", "tanh", "top-1", "top-2", "top-4")


class Standardised(nn.Module):
    """Reads a query of so many numbers, each standardised over training triplets."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # Fixed before training, see standardise; saved with the weights.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def query(self, *embeddings: Tensor) -> Tensor:
        """Embeddings of pictures, and of the pair if it is used, to the query [B, Q]; b' is not among them."""
        return (torch.cat(embeddings, dim=-1) - self.mean) / self.deviation

    def standardise(self, *embeddings: Tensor) -> None:
        """Fixes mean and deviation of the query's inputs from the embeddings of K training triplets, [K, ...] each."""
        deviation, self.mean = torch.std_mean(torch.cat(embeddings, dim=-1), dim=0)
        self.deviation = deviation.clamp_min(1e-4)


class Router(Standardised):
    """Keys and query projections of all layers, held as two stacked tensors.

    Args:
        layers: number L of adapted layers.
        n_loras: size N of the basis.
        embedding_dim: width of one picture's embedding.
        keys_dim: d.
        pair_dim: width of an embedding of the pair (a, a') that the query ends with; the paper has none.
        pictures: number of pictures' embeddings in the query; the paper's has three.
        mixing: logits to coefficients, one of :data:`MIXINGS`; the paper's is softmax.
        temperature: divides the logits.
        shared: one projection and one set of keys serve all layers, so that an analogy has one mixture c of N.
    """

    def __init__(
        self,
        layers: int,
        n_loras: int,
        embedding_dim: int,
        keys_dim: int = 128,
        pair_dim: int = 0,
        *,
        pictures: int = 3,
        mixing: str = "softmax",
        temperature: float = 1.0,
        shared: bool = False,
    ) -> None:
        width = pictures * embedding_dim + pair_dim
        super().__init__(width)
        self.layers, self.mixing, self.temperature = layers, mixing, temperature
        own = 1 if shared else layers
        self.keys = nn.Parameter(torch.empty(own, n_loras, keys_dim))
        self.query_projection = nn.Parameter(torch.empty(own, keys_dim, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh keys and projections; the standardisation stays."""
        nn.init.normal_(self.keys)
        bound = 1 / math.sqrt(self.query_projection.shape[-1])
        nn.init.uniform_(self.query_projection, -bound, bound)

    def logits(self, query: Tensor) -> Tensor:
        """Scaled similarities of the projected query to the keys, [B, layers, N]."""
        projected = torch.einsum("lkq,bq->blk", self.query_projection, query)
        logits = torch.einsum("blk,lnk->bln", projected, self.keys) / math.sqrt(self.keys.shape[-1])
        return (logits / self.temperature).expand(-1, self.layers, -1)

    def mix(self, logits: Tensor) -> Tensor:
        """Logits [..., N] to coefficients; tanh, the release's other choice, gives signed ones."""
        if self.mixing == "tanh":
            return logits.tanh()
        if self.mixing.startswith("top-"):
            least = logits.topk(min(int(self.mixing[4:]), logits.shape[-1]), dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        return logits.softmax(-1)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """What :meth:`query` takes to coefficients [B, layers, N]; with softmax, rows sum to 1."""
        return self.mix(self.logits(self.query(*embeddings)))
