"""Sums of picked rows: the native kernel and the reference against plain indexing."""

from __future__ import annotations

import pytest
import torch

from pix2gan.ops.sum_rows import sum_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [1, 16, 45, 600])
def test_it_sums_the_rows_that_are_named(backend, dtype: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(7, columns, generator=generator).to(dtype)
    with_zeros = torch.cat((x, torch.zeros(1, columns, dtype=dtype))).double()
    for count, terms in ((0, 2), (5, 1), (9, 4), (300, 3)):  # the last one in several tasks
        index = torch.randint(0, 8, (count, terms), generator=generator)
        exact = with_zeros[index].sum(1)
        found = sum_rows(x, index)
        assert found.dtype == dtype
        if terms == 1:
            assert torch.equal(found.double(), exact)
        else:  # summed in float32, rounded once
            torch.testing.assert_close(found, exact.to(dtype))


def test_rows_with_gaps_between_them(backend) -> None:
    x, index = torch.randn(4, 20)[:, ::2], torch.tensor([[3, 0], [4, 4]])
    torch.testing.assert_close(sum_rows(x, index), torch.stack((x[3] + x[0], torch.zeros(10))))


def test_a_row_that_is_not_there_is_an_error(backend) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        sum_rows(torch.zeros(4, 3), torch.tensor([[5]]))
    with pytest.raises((RuntimeError, IndexError)):
        sum_rows(torch.zeros(4, 3), torch.tensor([[-1]]))
