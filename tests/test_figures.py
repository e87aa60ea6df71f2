"""Pictures of curves: many on one background show what each alone would, and the file is what was drawn."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from bnlab.curves import Curves
from bnlab.figures import DPI, curves, file_of, picture, pictures_of_many
from bnlab.figures.many import _canvas
from bnlab.figures.png import png

TITLE_HEIGHT = 60  # pixels; below it both ways of drawing are matplotlib's


def training(rate: float, num_epochs: int = 20, best_epoch: float | None = 12) -> Curves:
    epochs = range(1, num_epochs + 1)
    metrics = {
        "epoch": list(epochs),
        "train_loss": [2.3 * math.exp(-rate * epoch) for epoch in epochs],
        "val_loss": [2.3 * math.exp(-0.8 * rate * epoch) for epoch in epochs],
        "train_accuracy": [1 - 0.9 * math.exp(-rate * epoch) for epoch in epochs],
        "val_accuracy": [0.95 - 0.85 * math.exp(-rate * epoch) for epoch in epochs],
    }
    return Curves(metrics, f"a network with rate {rate:g}", best_epoch)


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (504, 1200)])
def test_a_png_is_read_back_to_the_same_pixels(size) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (*size, 4), dtype=np.uint8)
    image = Image.open(io.BytesIO(png(drawn)))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), drawn[..., :3])


def test_a_picture_has_the_pixels_that_matplotlib_saves() -> None:
    one = training(0.3)
    buffer = io.BytesIO()
    curves(one.metrics, one.title, one.best_epoch).savefig(buffer, format="png", dpi=DPI)
    drawn = pixels(picture(curves(one.metrics, one.title, one.best_epoch)))
    np.testing.assert_array_equal(drawn, pixels(buffer.getvalue()))


@pytest.mark.parametrize(("num_epochs", "best_epoch"), [(20, 3), (20, None), (1, 1)])
def test_a_picture_on_a_shared_background_is_the_one_that_matplotlib_draws_alone(num_epochs, best_epoch) -> None:
    one = training(0.3, num_epochs, best_epoch)
    (drawn,) = pictures_of_many([one])
    buffer = io.BytesIO()
    curves(one.metrics, one.title, one.best_epoch).savefig(buffer, format="png", dpi=DPI)
    alone, shared = pixels(buffer.getvalue()), pixels(drawn)
    assert shared.shape == alone.shape
    differs = (abs(shared - alone) > 8).any(2)[TITLE_HEIGHT:]
    assert differs.mean() < (1e-4 if best_epoch else 0.02)  # a legend that names a best epoch, though there is none
    ink = [np.nonzero((part[:TITLE_HEIGHT] < 128).all(2).any(0))[0] for part in (shared, alone)]
    assert abs(ink[0].min() - ink[1].min()) < 20  # the title has the same place and length
    assert abs(ink[0].max() - ink[1].max()) < 20


def test_a_long_title_takes_two_lines_inside_the_picture() -> None:
    title = f"digits, MLP {'-'.join(['100'] * 40)} leaky_relu, GhostBatchNorm1d after activation, AdamW lr 0.01, seed 0"
    one = Curves(training(0.3).metrics, title, best_epoch=12)
    for file in (picture(curves(one.metrics, one.title, 12)), *pictures_of_many([one])):
        ink = (pixels(file) < 128).all(2)
        rows, columns = np.nonzero(ink[:TITLE_HEIGHT])[0], np.nonzero(ink[:50])[1]
        assert len(np.unique(rows)) > 25  # two lines of 18 pixels' letters
        assert columns.min() > 6
        assert columns.max() < ink.shape[1] - 6
        assert not ink[50:54].any()  # between it and the titles of the axes


def test_letters_that_the_font_lacks_are_boxes_and_no_warnings() -> None:
    for suffix in (".png", ".svg", ".pdf"):
        file_of(curves(training(0.3).metrics, "数据.csv", 12), suffix)  # a warning is an error in the tests


def test_nothing_of_one_training_is_left_in_the_picture_of_the_next() -> None:
    trainings = [training(0.3), training(0.1, best_epoch=None), training(0.2, num_epochs=2, best_epoch=1)]
    forwards = list(pictures_of_many(trainings))
    backwards = list(pictures_of_many(trainings[::-1]))[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(other))
    assert len(set(forwards)) == 3


def test_a_picture_does_not_depend_on_what_was_drawn_before() -> None:
    """What is kept from one call to the next: axes, ticks and legends, for each kind of training."""
    diverged = Curves({**training(0.3).metrics, "train_loss": [-1.0, *[float("inf")] * 19]}, "diverged")
    kinds = [[training(0.3), training(0.05)], [training(1.2)], [diverged], [training(0.2, num_epochs=2)]]
    fresh = []
    for kind in kinds:
        _canvas.cache_clear()
        fresh.append(list(pictures_of_many(kind)))
    for _ in range(2):
        assert [list(pictures_of_many(kind)) for kind in kinds] == fresh


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.05, {"1", "2"}), (0.3, {"0.01", "0.02", "0.05", "0.1", "1"}), (1.2, {"0.0001", "0.01", "1"})],
)
def test_a_logarithmic_axis_has_several_plain_numbers(rate, expected) -> None:
    figure = curves(training(rate).metrics, "title")
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    shown = {tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high}
    assert expected <= shown
    assert len(shown) < 12


def test_a_training_that_diverged_says_so_and_flattens_neither_itself_nor_others() -> None:
    whole = training(0.3)
    losses = [*whole.metrics["val_loss"][:-3], 1e9, 1e27, float("nan")]
    diverged = Curves({**whole.metrics, "val_loss": losses}, "no norm", best_epoch=12)
    figure = curves(diverged.metrics, diverged.title, 12)
    assert figure.get_suptitle() == "no norm: diverged in epoch 20"
    assert figure.axes[0].get_yscale() == "log"
    assert curves(whole.metrics, whole.title).get_suptitle() == whole.title
    _canvas.cache_clear()
    first, second = map(pixels, pictures_of_many([whole, diverged]))
    axes = _canvas(True, False, ("loss", "accuracy")).figure.axes[0]
    assert axes.get_ylim()[1] == pytest.approx(10 * whole.metrics["val_loss"][0])
    assert (first[:TITLE_HEIGHT] != second[:TITLE_HEIGHT]).any()
    _canvas.cache_clear()


def test_a_training_without_a_finite_loss_bounds_no_axis() -> None:
    """Nothing of it is drawn; the median of what else is there must not be 0, which is on no log scale."""
    whole = training(0.3)
    nothing = [float("nan")] * 20
    hopeless = Curves({**whole.metrics, "train_loss": nothing, "val_loss": nothing}, "too fast", best_epoch=None)
    _canvas.cache_clear()
    list(pictures_of_many([whole, hopeless]))
    alone = _canvas(True, False, ("loss", "accuracy")).figure.axes[0].get_ylim()
    _canvas.cache_clear()
    list(pictures_of_many([whole]))
    assert alone == _canvas(True, False, ("loss", "accuracy")).figure.axes[0].get_ylim()
    _canvas.cache_clear()
