import math

import pytest
import torch

from zsem.hspace.collect import collect
from zsem.hspace.engine import Edited
from zsem.hspace.injection import Injection, inject, region_of, turn
from zsem.values.draws import normal
from zsem.values.errors import ZsemError

LEVELS = (900.0, 100.0)


def rows(seed, number, shape=(4, 3, 2)):
    return normal([(seed, i) for i in range(number)], shape)


def test_h_is_turned_and_keeps_its_length():
    h, other = rows(11, 5), 7 * rows(12, 5)
    for gamma in (0.0, 0.3, 1.0):
        turned = turn(h, other, gamma)
        torch.testing.assert_close(turned.flatten(1).norm(dim=1), h.flatten(1).norm(dim=1))
        angles = [
            torch.nn.functional.cosine_similarity(h.flatten(1), x.flatten(1)).clamp(-1, 1).acos()
            for x in (turned, other)
        ]
        torch.testing.assert_close(angles[0], gamma * angles[1], atol=1e-3, rtol=0)
    torch.testing.assert_close(turn(h, 3 * h, 0.5), h)


def test_the_reference_is_that_of_the_nearest_timestep_and_of_each_image():
    reference, h = rows(13, 3, (2, 4, 3, 2)), rows(14, 3)
    t = torch.tensor([950.0, 300.0, 501.0])
    change = Injection(reference, LEVELS, 0.4)(h, t)
    for i, step in enumerate((0, 1, 0)):
        wanted = turn(h[i : i + 1], reference[i : i + 1, step], 0.4)
        torch.testing.assert_close(h[i : i + 1] + change[i : i + 1], wanted)
    one = Injection(reference[:1], LEVELS, 0.4)(h, t)
    torch.testing.assert_close(h[1:2] + one[1:2], turn(h[1:2], reference[:1, 1], 0.4))
    with pytest.raises(ValueError, match="3 images and 2 references"):
        Injection(reference[:2], LEVELS)(h, t)
    with pytest.raises(ValueError, match="gamma lies in"):
        Injection(reference, LEVELS, 1.5)


def test_a_region_alone_is_changed_and_keeps_its_length():
    reference, h = rows(15, 2, (1, 4, 3, 2)), rows(16, 2)
    region = torch.tensor([[True, False], [True, True], [False, False]])
    change = Injection(reference, (500.0,), 0.5, region=region)(h, torch.tensor([500.0, 500.0]))
    assert not change[..., ~region].any() and change[..., region].abs().min() > 0
    lengths = [x[..., region].flatten(1).norm(dim=1) for x in (h, h + change)]
    torch.testing.assert_close(*lengths)


def test_content_is_injected_on_the_way_to_the_image(model, model_noise):
    images = model_noise.clamp(-1, 1)
    reference, _ = collect(model, images[2:], steps=5)
    codes = model.invert(images[:2], steps=5)
    plain = model.decode(codes)
    assert torch.equal(inject(model, codes, reference, gamma=0), plain)
    assert torch.equal(inject(model, codes, reference, gain=0), plain)
    mixed = inject(model, codes, reference, gamma=0.6, gain=3, interval=(300, 999))
    assert (mixed - plain).abs().mean() > 1e-3
    alone = inject(model, codes, reference, gamma=0.6, gain=3, interval=(300, 999), batch_size=1)
    torch.testing.assert_close(mixed, alone, atol=1e-3 * float((mixed - plain).abs().max()), rtol=0)
    own, _ = collect(model, images[:2], steps=5)  # an image's own content changes nothing but by rounding
    torch.testing.assert_close(inject(model, codes, own, gamma=0.6), plain, atol=1e-4, rtol=0)


def test_guidance_never_gives_one_image_the_content_of_another(model):
    injected = Edited(model.denoiser, Injection(rows(17, 2, (1, *model.bottleneck_shape)), (500.0,)), alike=False)
    assert not injected.rowwise


def test_a_mask_of_the_image_becomes_a_region_of_the_map(model):
    mask = torch.zeros(16, 16)
    mask[:8, 4:] = 1
    region = region_of(model, mask)
    height, width = model.bottleneck_shape[1:]
    assert tuple(region.shape) == (height, width)
    factor = 16 // height
    wanted = mask.view(height, factor, width, factor).mean(dim=(1, 3)) >= 0.5
    assert torch.equal(region, wanted) and math.isclose(float(region.float().mean()), 0.375)
    with pytest.raises(ZsemError, match="covers no place"):
        region_of(model, torch.zeros(16, 16))
    with pytest.raises(ZsemError, match=r"must be \[16, 16\]"):
        region_of(model, torch.ones(8, 8))


def test_references_must_fit(model, random_model, model_noise):
    images = model_noise.clamp(-1, 1)
    codes = model.invert(images, steps=3)
    pooled, _ = collect(model, images[:1], steps=3, pooled=True)
    foreign, _ = collect(random_model(prediction="v", image_channels=3, learned_range=True), images[:1], steps=3)
    for reference in (pooled, foreign):
        with pytest.raises(ZsemError, match="another model, or was pooled"):
            inject(model, codes, reference)
    two, _ = collect(model, images[:2], steps=3)
    with pytest.raises(ZsemError, match="not 2 for 4"):
        inject(model, codes, two)
