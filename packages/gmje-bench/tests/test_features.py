"""Features of splits: how they are kept, what is refused, and readers that stay."""

import pytest
import torch
from dataset_factories import folder_of
from torch import nn

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.reading import _readers
from gmje_bench.evaluation.features import embed_split, extract_features
from gmje_bench.evaluation.models import open_model
from gmje_bench.protocol import PROTOCOL
from gmje_core import NonFiniteError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return load_dataset("embedded", limit=300)


def features(data, function, **how):
    return extract_features(open_model(function, data).module, data.train, data, device=CPU, **how)


def test_large_splits_are_kept_in_half_precision(data, monkeypatch):
    whole = features(data, lambda images: 10 * images.flatten(1))
    assert whole.dtype == torch.float32
    monkeypatch.setitem(PROTOCOL.__dict__, "half_features", 299)
    half = features(data, lambda images: 10 * images.flatten(1))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=1e-3, atol=1e-4)
    with pytest.raises(NonFiniteError, match=r"a feature is 1e\+05, .* more than 299 images .* 65504"):
        features(data, lambda images: 1e5 * images.flatten(1).clamp_min(1.0))


def test_features_that_are_not_numbers_are_refused(data):
    with pytest.raises(NonFiniteError, match="hold NaN"):
        features(data, lambda images: images.flatten(1).log())


def test_autocast_computes_in_the_precision_asked_for(data):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 7))
    seen = []
    network[1].register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    exact, rounded = features(data, network), features(data, network, precision=torch.bfloat16)
    assert set(seen) == {torch.float32, torch.bfloat16}
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=2e-2)


def test_images_are_read_where_they_are_asked_for_and_not_kept(data):
    embedded = embed_split(open_model(lambda images: images.flatten(1), data).module, data.test, data, device=CPU)
    assert embedded.images is data.test
    chosen = torch.tensor([3, 0])
    assert torch.equal(embedded.images[chosen], data.test.batch(chosen))
    assert torch.equal(embedded.images[:5], data.test.batch(torch.arange(5)))


def test_large_images_are_made_smaller_a_few_at_a_time(data):
    assert torch.equal(data.test.reduced(32), data.test.batch(torch.arange(len(data.test))))
    assert data.test.reduced(7).shape == (len(data.test), 1, 7, 7)


def test_readers_stay_for_the_next_call_and_give_what_this_process_reads(tmp_path):
    folder_of(tmp_path / "train", {"ant": 5, "bee": 6}, size=(130, 110))
    folder_of(tmp_path / "val", {"ant": 2, "bee": 2}, size=(130, 110))
    split = load_dataset(f"imagefolder:{tmp_path}", image_size=100).train
    readers = set()
    for seed in range(2):
        order = list(torch.randperm(11, generator=torch.Generator().manual_seed(seed)).split(3))
        for (images, _, index), wanted in zip(split.batches(order, 1), order, strict=True):
            assert torch.equal(index, wanted)
            assert torch.equal(images, split.batch(wanted))
        loader, _ = _readers(split.source, 1)
        readers |= {worker.pid for worker in loader._iterator._workers}
    assert len(readers) == 1
