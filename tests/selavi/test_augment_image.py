import pytest
import torch
from torch import Tensor

from selavi.augment.image import ImageAugmentation, blur
from selavi.config import ImageConfig

SIDE = 24
NOTHING = {
    "decode_size": SIDE,
    "size": SIDE,
    "crop_area": (1.0, 1.0),
    "crop_ratio": 1.0,
    "flip": 0.0,
    "colour_jitter": 0.0,
    "greyscale": 0.0,
    "blur": 0.0,
    "mean": (0.0, 0.0, 0.0),
    "std": (1 / 255,) * 3,
}
"""Settings of a view that is the picture, in levels of 0 to 255."""


def draws(num_clips: int, **named: float) -> dict[str, Tensor]:
    """A half for everything but what is named."""
    return {name: torch.full((num_clips,), named.get(name, 0.5)) for name in ImageAugmentation.draws}


def pictures(num_clips: int = 3) -> Tensor:
    """Smooth noise, (B, h, w, 3) uint8."""
    noise = torch.rand(num_clips, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bilinear")
    return (smooth.permute(0, 2, 3, 1) * 255).byte()


def planes(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2).float()


def view(values: Tensor, changed: dict[str, object], **numbers: float) -> Tensor:
    return ImageAugmentation(ImageConfig(**NOTHING | changed)).random(values, draws(len(values), **numbers))


def test_without_changes_a_view_is_the_picture() -> None:
    values = pictures()
    torch.testing.assert_close(view(values, {}), planes(values), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        ImageAugmentation(ImageConfig(**NOTHING)).plain(values), planes(values), atol=1e-2, rtol=0
    )


def test_a_plain_view_is_normalised_and_resized() -> None:
    config = ImageConfig(decode_size=SIDE, size=16)
    plain = ImageAugmentation(config).plain(torch.full((2, SIDE, SIDE, 3), 255, dtype=torch.uint8))
    assert plain.shape == (2, 3, 16, 16) and plain.dtype == torch.float32
    expected = (1 - torch.tensor(config.mean)) / torch.tensor(config.std)
    torch.testing.assert_close(plain[0, :, 3, 5], expected)


def test_a_quarter_of_the_area_lies_where_the_numbers_say() -> None:
    values = pictures()
    quarter = {"crop_area": (0.25, 0.25), "size": SIDE // 2}
    corner = view(values, quarter, crop_x=0.0, crop_y=1.0)
    torch.testing.assert_close(corner, planes(values)[:, :, SIDE // 2 :, : SIDE // 2], atol=1e-2, rtol=0)


def test_more_than_the_whole_area_goes_beyond_the_edges() -> None:
    values = pictures()
    wide = view(values, {"crop_area": (4.0, 4.0), "size": 2 * SIDE})
    inside = wide[:, :, SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
    torch.testing.assert_close(inside, planes(values), atol=1e-2, rtol=0)
    torch.testing.assert_close(wide[:, :, 0, 0], planes(values)[:, :, 0, 0], atol=1e-2, rtol=0)


def test_mirrors_and_turns() -> None:
    values = pictures()
    torch.testing.assert_close(view(values, {"flip": 1.0}), planes(values).flip(3), atol=1e-2, rtol=0)
    turned = view(values, {"rotation": 90.0}, rotation=1.0)
    torch.testing.assert_close(turned, torch.rot90(planes(values), 1, (2, 3)), atol=1e-2, rtol=0)
    both = view(values, {"rotation": 90.0, "flip": 1.0}, rotation=0.0)
    torch.testing.assert_close(both, torch.rot90(planes(values), -1, (2, 3)).flip(3), atol=1e-2, rtol=0)


def test_a_slant_shifts_rows_against_each_other() -> None:
    upright = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    upright[:, :, SIDE // 2 - 1 : SIDE // 2 + 1] = 255
    slanted = view(upright, {"shear": 45.0}, shear=1.0)[0, 0]
    columns = slanted.argmax(1)
    assert columns[4] - columns[-5] >= SIDE - 10 and abs(int(columns[SIDE // 2]) - SIDE // 2) <= 1


def test_the_ratio_presses_the_picture() -> None:
    values = pictures(1)
    wide = view(values, {"crop_ratio": 4.0, "crop_area": (0.25, 0.25)}, ratio=1.0)  # as wide as the picture
    rows = planes(values)[:, :, SIDE // 2 - 3 : SIDE // 2 + 3]
    pressed = torch.nn.functional.interpolate(rows, (SIDE, SIDE), mode="bilinear")
    torch.testing.assert_close(wide[:, :, 4:-4], pressed[:, :, 4:-4], atol=1.0, rtol=0)


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ({"crop_area": (0.3, 1.0)}, "area"),
        ({"crop_area": (0.3, 0.3), "crop_ratio": 2.0}, "ratio"),
        ({"crop_area": (0.3, 0.3)}, "crop_x"),
        ({"crop_area": (0.3, 0.3)}, "crop_y"),
        ({"flip": 0.5}, "flip"),
        ({"colour_jitter": 0.4}, "brightness"),
        ({"colour_jitter": 0.4}, "contrast"),
        ({"colour_jitter": 0.4}, "saturation"),
        ({"colour_jitter": 0.4}, "hue"),
        ({"greyscale": 0.5}, "greyscale"),
        ({"blur": 0.9, "size": 200}, "blur"),
        ({"rotation": 20.0}, "rotation"),
        ({"shear": 20.0}, "shear"),
    ],
)
def test_every_number_changes_what_it_is_named_after(changed: dict[str, object], number: str) -> None:
    values = pictures()
    assert not torch.allclose(
        view(values, changed, **{number: 0.1}), view(values, changed, **{number: 0.85}), atol=0.05
    )
    assert len(ImageAugmentation.draws) == 13


def test_a_blur_keeps_the_mean_and_takes_contrast() -> None:
    values = planes(pictures())
    torch.testing.assert_close(blur(values, torch.full((3,), 1.0)), values, atol=1e-3, rtol=0)
    large = torch.nn.functional.interpolate(values, (200, 200))
    blurred = blur(large, torch.tensor([0.0, 0.9, 1.5]))
    torch.testing.assert_close(blurred[[0, 2]], large[[0, 2]], atol=1e-3, rtol=0)
    assert blurred[1].diff(dim=2).abs().max() < 0.5 * large[1].diff(dim=2).abs().max()
    torch.testing.assert_close(blurred.mean((2, 3)), large.mean((2, 3)), atol=1.0, rtol=0)


def test_a_view_is_the_same_in_any_batch() -> None:
    config = ImageConfig(decode_size=SIDE, size=16, rotation=10, shear=10)
    values, augmentation = pictures(6), ImageAugmentation(config)
    numbers = {n: torch.rand(6, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(augmentation.draws)}
    together = augmentation.random(values, numbers)
    alone = augmentation.random(values[[4, 1]], {name: number[[4, 1]] for name, number in numbers.items()})
    torch.testing.assert_close(alone, together[[4, 1]], atol=1e-4, rtol=1e-4)
