"""Sample sheets: what the generators make of a few fixed images, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_GUTTER = 4  # pixels of white between images


def draw_sheet(columns: Sequence[Tensor]) -> Image.Image:
    """A grid with a row for each sample and a column for each of ``columns``.

    Args:
        columns: Images [N, C, H, W] in [-1, 1], all of one N, H and W. Of more than three channels
            the first three are shown; of two the first.
    """
    framed = [_framed(column) for column in columns]
    rows = [torch.cat(row, dim=2) for row in zip(*framed, strict=True)]
    sheet = torch.cat(rows, dim=1)[:, :-_GUTTER, :-_GUTTER]  # [3, rows, columns]
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def _framed(images: Tensor) -> Tensor:
    images = images.detach().float().cpu()
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    images = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return F.pad(images, (0, _GUTTER, 0, _GUTTER), value=255)
