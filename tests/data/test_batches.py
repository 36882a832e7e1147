import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.values.errors import ZsemError


def numbered(count: int) -> torch.Tensor:
    """Images that tell their number and their left side: pixel 0 is the number, pixel 1 is 255."""
    pixels = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    pixels[:, 0, :, 0] = torch.arange(count, dtype=torch.uint8)[:, None]
    pixels[:, 0, :, 1] = 255
    return pixels


def shown(images: torch.Tensor) -> list[int]:
    return images.amin(dim=(1, 2, 3)).tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 33), st.integers(0, 5))
def test_every_epoch_shows_every_image_once(count, batch_size, seed):
    batches = Batches(numbered(count), batch_size=batch_size, seed=seed)
    epochs = 3
    stream = [i for it in range(-(-epochs * count // batch_size)) for i in shown(batches.batch(it).images)]
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_batch_depends_on_seed_and_iteration_alone():
    first, second = (Batches(numbered(50), batch_size=8, seed=3, flip=True) for _ in range(2))
    later = [first.batch(i) for i in range(30)][17]
    direct = second.batch(17)
    assert torch.equal(later.images, direct.images) and later.names == direct.names
    assert direct.names == [(3, 17, position) for position in range(8)]
    assert not torch.equal(Batches(numbered(50), batch_size=8, seed=4).batch(17).images, direct.images)


def test_epochs_are_shuffled_differently():
    batches = Batches(numbered(40), batch_size=40)
    assert shown(batches.batch(0).images) != shown(batches.batch(1).images) != list(range(40))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_the_batch_of_a_single_process(world_size):
    images = numbered(30)
    single = Batches(images, batch_size=12, seed=1, flip=True).batch(5)
    for rank in range(world_size):
        part = Batches(images, batch_size=12, seed=1, flip=True, rank=rank, world_size=world_size).batch(5)
        assert torch.equal(part.images, single.images[rank::world_size])
        assert part.names == single.names[rank::world_size]


def test_flips_mirror_about_half_of_the_images_anew_in_every_iteration():
    batches = Batches(numbered(64), batch_size=64, flip=True)
    plain = Batches(numbered(64), batch_size=64)
    flipped = []
    for iteration in range(6):
        images = batches.batch(iteration).images
        assert shown(images) == shown(plain.batch(iteration).images)
        flipped.append((images[:, 0, 0, 0] == 255).numpy())
        assert 0.25 < flipped[-1].mean() < 0.75
    assert 0.4 < np.mean(flipped) < 0.6 and not np.array_equal(flipped[0], flipped[1])


def test_classes_follow_their_images():
    count = 20
    images = ImageSet(
        pixels=numbered(count),
        paths=[f"{i}.png" for i in range(count)],
        class_names=["even", "odd"],
        classes=torch.arange(count) % 2,
        attributes={},
        splits=["train"] * count,
        sha256=[""] * count,
        source="numbers",
    )
    batch = Batches(images, batch_size=7, flip=True).batch(4)
    assert batch.classes is not None
    assert batch.classes.tolist() == [i % 2 for i in shown(batch.images)]
    assert Batches(numbered(4), batch_size=2).batch(0).classes is None
    with pytest.raises(ZsemError, match="no images to train on"):
        Batches(images.subset([]), batch_size=2)


def test_what_cannot_be_shared_is_refused():
    for options in ({"batch_size": 5, "world_size": 2}, {"batch_size": 0}, {"batch_size": 4, "rank": 1}):
        with pytest.raises(ValueError, match="cannot be shared"):
            Batches(numbered(4), **options)


@given(st.integers(1, 9), st.integers(1, 12))
def test_parts_are_the_batch_in_order(size, number):
    whole = Batches(numbered(9), batch_size=size, seed=1).batch(4)
    parts = whole.parts(number)
    assert len(parts) == min(size, number)
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [name for part in parts for name in part.names] == whole.names
    sizes = [len(part.names) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_labels_go_with_their_parts(labelled_discs):
    whole = Batches(labelled_discs, batch_size=8, seed=1).batch(0)
    first, second = whole.parts(2)
    assert torch.equal(torch.cat([first.attributes, second.attributes]).nan_to_num(-1), whole.attributes.nan_to_num(-1))
    assert first.classes is None


def test_the_paths_of_an_iteration_are_those_of_its_images(labelled_discs):
    ranks = [Batches(labelled_discs, batch_size=8, seed=1, rank=rank, world_size=2) for rank in range(2)]
    paths = ranks[0].paths(70)
    assert paths == ranks[1].paths(70)
    rows = [labelled_discs.paths.index(path) for path in paths]
    for rank, batches in enumerate(ranks):
        assert torch.equal(batches.batch(70).images, labelled_discs.pixels[rows[rank::2]])
    assert set(Batches(numbered(3), batch_size=3).paths(0)) == {"image 0", "image 1", "image 2"}
