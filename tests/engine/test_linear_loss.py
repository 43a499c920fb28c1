"""The loss of logits of a whole vocabulary, and its gradient; tiles are in test_tiled_loss."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.engine.linear_loss import loss_and_gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_logits_is_that_of_their_loss(dtype):
    logits = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)) * 3
    logits, targets = logits.to(dtype), torch.arange(40)
    wide = logits.double().requires_grad_()
    loss = cross_entropy(wide, targets, reduction="sum")
    loss.backward()
    found, gradient = loss_and_gradient(logits, targets)
    assert (found.dtype, gradient.dtype) == (torch.float32, dtype)
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    close = {"rtol": 1e-5 if dtype == torch.float32 else 2**-8, "atol": 1e-7}
    torch.testing.assert_close(gradient.double(), wide.grad, **close)
