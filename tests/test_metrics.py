import pytest
import torch
import torch.nn.functional as F

from bnlab.training.metrics import REDUCE_EVERY, ClassificationMetrics


@pytest.mark.parametrize("num_batches", [1, 3, REDUCE_EVERY, REDUCE_EVERY + 5])
def test_epoch_metrics_weigh_every_sample_alike(num_batches: int) -> None:
    sizes = [2 + index % 5 for index in range(num_batches)]
    logits = [torch.randn(size, 4, dtype=torch.float64) for size in sizes]
    classes = [torch.randint(4, (size,)) for size in sizes]
    metrics = ClassificationMetrics()
    for epoch in range(2):  # the second call starts anew
        for batch_logits, y in zip(logits, classes, strict=True):
            metrics.update(batch_logits, y, F.cross_entropy(batch_logits, y))
        result = metrics.compute()
        whole, y = torch.cat(logits), torch.cat(classes)
        assert result["loss"] == pytest.approx(float(F.cross_entropy(whole, y)), rel=1e-12), epoch
        assert result["accuracy"] == float((whole.argmax(1) == y).double().mean())
