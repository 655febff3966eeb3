"""Hostile and damaged folders: every one is refused with a typed error, in little memory, and leaves no trace."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gmje_core.models.resnet  # noqa: F401  imported here, so that no folder is charged for loading torchvision
from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import CorruptModelError, GMJEModel, HubError, ModelNotFoundError, UnsafeWeightsError
from gmje_hub.folder import check_name

pytestmark = pytest.mark.xdist_group("hostile")

MEMORY = 200 * 2**20
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    torch.manual_seed(0)
    config = GMJEConfig(
        backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16, criterion_options={"components": 4}
    )
    folder = tmp_path_factory.mktemp("good")
    GMJEModel(config, Preprocessing(size=28, image_mean=(0.25,), image_std=(0.5,))).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def configuration(*, name: str = "config.json", **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def text(change: Callable[[str], str | bytes], name: str = "config.json") -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        new = change(path.read_text())
        path.write_bytes(new if isinstance(new, bytes) else new.encode())

    return damage


def weights(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """The header changed as JSON; the tensors stay."""

    def damaged(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + length])
        changed = change(values)
        new = json.dumps(values if changed is None else changed).encode()
        return struct.pack("<Q", len(new)) + new + content[8 + length :]

    return weights(damaged)


def entry(**changes: Any) -> Damage:
    return header(lambda values: values[sorted(values)[0]].update(changes))


def letter(seed: int) -> Damage:
    """One letter of the header replaced by another."""

    def damaged(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        head = content[8 : 8 + length].rstrip()
        source = random.Random(seed)
        place = source.randrange(len(head))
        letter = source.choice([c for c in b'aZ09_.{}[]:,"-' if c != head[place]])
        return content[: 8 + place] + bytes([letter]) + content[9 + place :]

    return weights(damaged)


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def linked(name: str) -> Damage:
    """A link out of the folder, to a file that would be right."""

    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return damage


def not_finite(value: float) -> Damage:
    def damaged(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + length])
        first = 8 + length + values["projector.layers.0.weight"]["data_offsets"][0]
        return content[:first] + struct.pack("<f", value) + content[first + 4 :]

    return weights(damaged)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


def preprocessing(**changes: Any) -> Damage:
    return configuration(name="preprocessor_config.json", **changes)


PREPROCESSING: tuple[dict[str, Any], ...] = (
    {"size": 2**62},
    {"size": 29},
    {"size": 0},
    {"image_mean": []},
    {"image_mean": [0.0] * 10_000, "image_std": [1.0] * 10_000},
    {"image_mean": [0.0] * 3, "image_std": [1.0] * 3},
    {"image_std": [0.0]},
    {"image_std": ["1"]},
    {"image_std": {"0": 1}},
    {"image_mean": [10**400]},
    {"schema_version": 2},
    {"image_processor_type": "evil.Processor"},
    {"auto_map": {"AutoImageProcessor": "evil.Processor"}},
)
SIZES = ("in_channels", "dim", "hidden", "layers", "image_size", "schema_version")
WRONG_SIZES = (0, -1, 2**16 + 1, 2**31, 2**63, 1.5, True, "8", None, [], {}, [8], {"a": 1})
OPTIONS: tuple[Any, ...] = (
    {"components": 10**12},
    {"components": 2**62},
    {"components": -1},
    {"components": 0},
    {"components": 1.5},
    {"components": "4"},
    {"components": [4]},
    {"components": {"a": {}}},
    {"component": 4},
    {"__class__": "os.system"},
    {"covariance_type": "../../etc/passwd"},
    {"update": "exec"},
    {"device": "cuda"},
    {"temperature": 10**400},
    {"components": 4, "dim": 10**6},
    [],
    "components",
)
BACKBONES = (
    "timm:hf-hub:evil/model",
    "timm:../../evil",
    "hf-hub:evil/model",
    "../../evil",
    "os.system",
    "resnet50",
    "smallconv\0",
    "",
    "x" * 60_000,
)
CASES: dict[str, Damage] = {
    **{f"{key} {value!r}"[:60]: configuration(**{key: value}) for key in SIZES for value in WRONG_SIZES},
    **{f"options {value!r}"[:60]: configuration(criterion_options=value) for value in OPTIONS},
    **{f"backbone {value!r}"[:60]: configuration(backbone=value) for value in BACKBONES},
    **{f"criterion {v!r}": configuration(criterion=v) for v in ("gmj", "../gje", "gje", "gmje-smc", 3, None, "")},
    **{f"momentum {v!r}": configuration(momentum=v) for v in (-0.1, 1.0, 2.0, 0.5, "x", None, 1, True)},
    **{f"normalize {v!r}": configuration(normalize=v) for v in (0, 1, "true", None)},
    **{f"huge {k}": configuration(**{k: 2**16}) for k in ("in_channels", "dim", "hidden")},
    "all huge": configuration(dim=2**16, hidden=2**16, layers=64, in_channels=2**16),
    "unknown key": configuration(trust_remote_code=True),
    "auto_map": configuration(auto_map={"AutoModel": "evil.Model"}),
    **{
        f"without {key}": text(lambda t, key=key: json.dumps({k: v for k, v in json.loads(t).items() if k != key}))
        for key in (*SIZES, "backbone", "criterion", "criterion_options", "momentum", "normalize", "small_images")
    },
    "empty": text(lambda _: ""),
    "null": text(lambda _: "null"),
    "a list": text(lambda _: "[]"),
    "a text": text(lambda _: '"config"'),
    "not UTF-8": text(lambda t: t.encode("utf-16")),
    "NaN": text(lambda t: t.replace("0.0", "NaN")),
    "infinity": text(lambda t: t.replace("0.0", "1e999")),
    "a key twice": text(lambda t: t.replace("{", '{"dim": 8,', 1)),
    "many digits": text(lambda t: t.replace('"dim": 8', '"dim": ' + "8" * 20_000)),
    "deep lists": text(lambda _: "[" * 60_000),
    "deep objects": text(lambda _: '{"a":' * 12_000),
    "closed deep lists": text(lambda _: "[" * 30_000 + "]" * 30_000),
    "a bomb": text(lambda _: "[" * 50_000_000),
    "a long text": text(lambda t: t.replace('"smallconv"', '"' + "a" * 10_000_000 + '"')),
    **{f"preprocessing {value!r}"[:60]: preprocessing(**value) for value in PREPROCESSING},
    **{
        f"preprocessing of {words[:8]!r}": text(lambda _, words=words: words, "preprocessor_config.json")
        for words in ("", "[]", "null", "{", "[" * 60_000, "[" * 50_000_000, "\0" * 60_000)
    },
    **{f"cut config {n}": text(lambda t, n=n: t[: len(t) * n // 15]) for n in range(15)},
    **{f"cut weights {n}": weights(lambda w, n=n: w[: len(w) * n // 25]) for n in range(25)},
    "one byte less": weights(lambda w: w[:-1]),
    "one byte more": weights(lambda w: w + b"\0"),
    "other bytes in front": weights(lambda w: b"PK\x03\x04" + w),
    "a pickle by another name": weights(lambda _: b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR."),
    "zeros": weights(lambda w: bytes(len(w))),
    **{
        f"header of {n}": weights(lambda w, n=n: struct.pack("<Q", n) + w[8:])
        for n in (0, 1, 2, 7, 2**20 + 1, 10**8, 2**40, 2**63, 2**64 - 1)
    },
    "a deep header": weights(lambda _: struct.pack("<Q", 2**19) + b"[" * 2**19),
    "a header of many": header(
        lambda _: {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}
    ),
    "a header that is a list": header(lambda _: []),
    "an empty header": header(lambda _: {}),
    **{
        f"shape {v!r}": entry(shape=v)
        for v in ([2**62], [-1], [2**40, 2**40], [1.5], "8", None, [[8]], [1] * 9, [True])
    },
    **{f"dtype {v!r}": entry(dtype=v) for v in ("F128", "object", "", 32, None, ["F32"], "f32")},
    **{
        f"offsets {v!r}": entry(data_offsets=v)
        for v in ([0, 2**62], [-4, 0], [4, 0], [0], [0, 4, 8], "01", None, [0, 4.0])
    },
    "a tensor less": header(lambda values: values.pop("criterion.critic.means")),
    "a tensor more": header(lambda v: v.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
    "another name": header(lambda v: v.update({"../../evil": v.pop("projector.layers.0.weight")})),
    **{f"letter {seed}": letter(seed) for seed in range(60)},
    "NaN weights": not_finite(float("nan")),
    "infinite weights": not_finite(float("inf")),
    "a pickle alone": pickled,
    **{f"no {name}": (lambda folder, n=name: (folder / n).unlink()) for name in ("config.json", "model.safetensors")},
    **{
        f"{name} is a link out": linked(name)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    },
    **{
        f"{name} is a {kind}": replaced(name, make)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
        for kind, make in (
            ("link to a file", lambda path: path.symlink_to("/etc/passwd")),
            ("link to a device", lambda path: path.symlink_to("/dev/zero")),
            ("link to nothing", lambda path: path.symlink_to("../nothing")),
            ("link to itself", lambda path: path.symlink_to(path.name)),
            ("folder", lambda path: path.mkdir()),
            ("pipe", lambda path: os.mkfifo(path)),
            ("sparse terabyte", lambda path: (path.touch(), os.truncate(path, 2**40))),
        )
    },
}


@pytest.fixture
def folder(good: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in good.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def peak() -> Callable[[], int]:
    """Bytes of memory that the process took at most since the fixture began, beyond what it had."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not tell a process's peak memory anew")
    start = _kibibytes("VmHWM")
    return lambda: (_kibibytes("VmHWM") - start) * 1024


def _kibibytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def test_there_are_enough_and_the_folder_itself_is_good(folder: Path) -> None:
    assert len(CASES) >= 300
    assert GMJEModel.from_pretrained(folder).config.dim == 8


@pytest.mark.parametrize("case", CASES)
def test_every_hostile_folder_is_refused(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, peak: Callable[[], int]
) -> None:
    CASES[case](folder)
    monkeypatch.chdir(folder.parent)
    before = sorted(path for path in folder.parent.rglob("*"))
    with pytest.raises(HubError) as caught:
        GMJEModel.from_pretrained(folder)
    assert peak() < MEMORY
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2_000
    assert sorted(path for path in folder.parent.rglob("*")) == before
    assert isinstance(caught.value, UnsafeWeightsError) == (case == "a pickle alone")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_link_is_called_one(name: str, folder: Path) -> None:
    linked(name)(folder)
    with pytest.raises(CorruptModelError, match="it is a link; a model's files must be plain files"):
        GMJEModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "C:\\x", "a\\..\\b", "a/\0", "a\n", "c:/x"]
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(CorruptModelError, match="leads out"):
        check_name(name)


def test_missing_things_are_named(folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no folder"):
        GMJEModel.from_pretrained(tmp_path / "nothing")
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        GMJEModel.from_pretrained(folder)


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin"):
        GMJEModel.from_pretrained(folder)


def test_wrong_configuration_is_named(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dimm": 3}))
    with pytest.raises(CorruptModelError, match="did you mean 'dim'"):
        GMJEModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_men": [0]}, "did you mean 'image_mean'"),
        ({"size": 32}, "gives images of 32 pixels and 1 channels; the model takes 28 pixels and 1 channels"),
        ({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, "28 pixels and 3 channels"),
    ],
)
def test_wrong_preprocessing_is_named(folder, change, words):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptModelError, match=words):
        GMJEModel.from_pretrained(folder)
