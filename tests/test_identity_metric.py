"""The identity cosine against a crop by cv2.warpAffine and an embedding in numpy.

No network of the kind comes with the tests: small ones of random weights stand in, one that scales
its pixels itself, as SFace does, and one that does not, as ArcFace's of insightface.
"""

import cv2
import numpy as np
import pytest
import torch

import synthetic
from errors import MetricError
from faces import align
from metrics.identity import degrees, identity

onnx = pytest.importorskip('onnx')

# Where ArcFace's training has the five points in 112 x 112 pixels.
ARCFACE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
PATCH = 7


def weights(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(4, 3, PATCH, PATCH)).astype(np.float32)
    last = rng.normal(size=(4 * 16 * 16, 8)).astype(np.float32)
    # Without it, the cosine would be the same at any scale of the pixels.
    bias = 5 * rng.normal(size=4).astype(np.float32)
    return kernel, bias, last


def network(path, *, scales, outputs=8, side=112):
    """An ONNX file: (pixels - 127.5) / 128 where it scales, a convolution, ReLU, a matrix."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kernel, bias, last = weights()
    constants = {'kernel': kernel, 'bias': bias, 'last': last[: 4 * (side // PATCH) ** 2, :outputs]}
    nodes, pixels = [], 'data'
    if scales:
        constants |= {'half': np.float32(127.5), 'unit': np.float32(1 / 128)}
        nodes += [helper.make_node('Sub', ['data', 'half'], ['centred'])]
        nodes += [helper.make_node('Mul', ['centred', 'unit'], ['scaled'])]
        pixels = 'scaled'
    nodes += [
        helper.make_node('Conv', [pixels, 'kernel', 'bias'], ['maps'], strides=[PATCH, PATCH]),
        helper.make_node('Relu', ['maps'], ['positive']),
        helper.make_node('Flatten', ['positive'], ['flat']),
        helper.make_node('MatMul', ['flat', 'last'], ['fc1']),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        'embedding',
        [helper.make_tensor_value_info('data', kind, [1, 3, side, side])],
        [helper.make_tensor_value_info('fc1', kind, [1, outputs])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def similarity(source, target):
    """Least squares of a turn, a scale and a shift, [2, 3]: four unknowns."""
    rows, wanted = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        wanted += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


def embedding(image, unit):
    """numpy's of [S, S, 3] uint8 RGB"""
    side = len(image)
    points = (align.TEMPLATE + 0.5) * (side / 512) - 0.5
    crop = cv2.warpAffine(image, similarity(points, ARCFACE), (112, 112), flags=cv2.INTER_LINEAR)
    x = (crop.astype(np.float64) - 127.5) / unit
    patches = x.reshape(16, PATCH, 16, PATCH, 3)
    kernel, bias, last = weights()
    maps = np.einsum('iyjxc,kcyx->kij', patches, kernel)
    return np.maximum(maps + bias[:, None, None], 0).ravel() @ last


def tensor(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.fixture(scope='module')
def faces():
    return [synthetic.face(seed, 256).image for seed in range(3)]


@pytest.mark.parametrize('side', [256, 512])
@pytest.mark.parametrize('scales', [True, False], ids=['sface', 'arcface'])
def test_cosines_are_numpys(scales, side, faces, tmp_path):
    a = [cv2.resize(face, (side, side)) for face in faces]
    b = [cv2.GaussianBlur(a[0], (0, 0), 3), a[2], a[2]]
    measured = identity(network(tmp_path / 'net.onnx', scales=scales))(tensor(*a), tensor(*b))
    unit = 128 if scales else 127.5
    expected = []
    for pair in zip(a, b, strict=True):
        x, y = (embedding(image, unit) for image in pair)
        expected.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert measured.dtype == torch.float64 and measured.shape == (3,)
    # Measured: 6e-5 at most. The two scales are 8e-4 apart.
    assert measured.tolist() == pytest.approx(expected, abs=2e-4)
    assert measured[2].item() == pytest.approx(1, abs=1e-12)
    # Others are seen to be others: the comparison can fail.
    assert measured[1] < measured[0] < 0.9999


def test_the_crop_is_of_the_face_alone(faces, tmp_path):
    """What lies outside of it is not seen; what lies inside is."""
    measure = identity(network(tmp_path / 'net.onnx', scales=True))
    face = faces[0]
    around, within = face.copy(), face.copy()
    around[:20], around[:, :20] = 0, 0
    within[100:140, 110:150] = 0
    assert measure(tensor(face), tensor(around)).item() == pytest.approx(1, abs=1e-12)
    assert measure(tensor(face), tensor(within)).item() < 0.999


def test_degrees():
    cosines = torch.tensor([1 + 1e-12, 0.5, 0.0, -1.0, torch.nan], dtype=torch.float64)
    assert degrees(cosines)[:4].tolist() == pytest.approx([0, 60, 90, 180], abs=1e-12)
    assert degrees(cosines)[4].isnan()


def test_wrong_pictures(faces, tmp_path):
    measure = identity(network(tmp_path / 'net.onnx', scales=True))
    x = tensor(faces[0])
    with pytest.raises(MetricError, match='256x200: faces .* are square'):
        measure(x[..., :200, :], x[..., :200, :])
    with pytest.raises(ValueError, match='uint8'):
        measure(x.float(), x)


def test_wrong_files(tmp_path):
    (tmp_path / 'text.onnx').write_text('hello')
    network(tmp_path / 'small.onnx', scales=True, side=56)
    network(tmp_path / 'number.onnx', scales=True, outputs=1)
    for name, reason in (
        ('text.onnx', 'no ONNX file of SFace or ArcFace'),
        ('small.onnx', 'no ONNX file of SFace or ArcFace'),
        ('number.onnx', 'returns one number'),
        ('none.onnx', 'cannot be read'),
        ('.', 'a folder'),
    ):
        with pytest.raises(MetricError, match=reason):
            identity(tmp_path / name)
