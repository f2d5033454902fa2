import hashlib
import pickle
import shutil
import tarfile
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import torch
from image_folders import S, opened, pixels, refused, tree
from PIL import Image

from workbench.data import cache, prepare, short_sides
from workbench.data.datasets import DRAWN
from workbench.data.sources import SOURCES
from workbench.presets import BUILT_IN_DATA


def test_every_built_in_data_set_has_defaults_and_a_source():
    assert {*DRAWN, *SOURCES} == set(BUILT_IN_DATA)
    assert all(defaults.keys() == BUILT_IN_DATA["twins"].keys() for defaults in BUILT_IN_DATA.values())


def test_a_folder_of_class_folders(tmp_path):
    root = tree(tmp_path / "pets", dog=2, cat=3)
    data = opened(root)
    assert (data.name, data.classes, data.num_classes, data.counts, data.length, data.size) == ("pets", ["cat", "dog"], 2, [3, 2], 5, S)
    x, y = data.batch(np.array([4, 0, 4]))
    assert x.shape == (3, 3, S, S) and x.dtype == torch.uint8 and y.dtype == torch.int64 and y.tolist() == [1, 0, 1]
    for image, file in zip(x, ["dog/1.png", "cat/0.png", "dog/1.png"], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(root / file)))


def test_a_path_that_is_no_folder(tmp_path, data_folder):
    tree(tmp_path / "flowers", rose=2)
    tree(data_folder / "birds", jay=2)
    message = refused(tmp_path / "flower")
    assert f"data='{tmp_path}/flower'" in message and f"did you mean '{tmp_path}/flowers'" in message
    assert "built in: twins, binding, binding-near, cifar10, imagenet" in message
    assert f"did you mean '{data_folder}/birds'" in refused("bird")
    assert "did you mean 'cifar10'" in refused("CIFAR-10")
    assert "did you mean" not in refused(tmp_path / "no/such/place/xyzzy")
    (tmp_path / "pets.zip").touch()
    assert "is a file" in refused(tmp_path / "pets.zip")


def cifar10_files(folder, monkeypatch):
    """CIFAR-10 as it is distributed, with 4 images per batch; returns pixels and labels of the training part."""
    from torchvision.datasets import CIFAR10

    names = [f"class{index}" for index in range(10)]
    content = {"batches.meta": {"label_names": names}}
    images = np.stack([pixels([7, index]) for index in range(24)])
    labels = [(3 * index) % 10 for index in range(24)]
    for index, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        part = slice(4 * index, 4 * index + 4)
        content[name] = {"data": images[part].transpose(0, 3, 1, 2).reshape(4, -1), "labels": labels[part]}
    folder.mkdir(parents=True)
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
    hashed = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in content}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, hashed[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, hashed[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashed["batches.meta"]})
    return images[:20], labels[:20]


def test_cifar10(data_folder, monkeypatch):
    images, labels = cifar10_files(data_folder / "cifar-10-batches-py", monkeypatch)
    data = opened("cifar10")
    assert data.name == "cifar10" and data.classes == [f"class{index}" for index in range(10)] and data.num_classes == 10
    assert np.array_equal(data.images, images) and data.labels.tolist() == labels
    assert opened("cifar10", image_size=64).images.shape == (20, 64, 64, 3)
    for unconditional in (opened("cifar10", num_classes=0), prepare("cifar10", data_folder / "all", S, unconditional=True, progress=False)):
        assert unconditional.length == 20 and unconditional.num_classes == 0 and unconditional.classes == ["all"]
        assert np.array_equal(unconditional.images, images) and not unconditional.labels.any()
    assert opened(data_folder / "all").num_classes == 0 and prepare("cifar10", data_folder / "ten", S, progress=False).num_classes == 10
    monkeypatch.setattr(cache, "pack", None)
    assert opened("cifar10").fingerprint == data.fingerprint


class Server(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_cifar10_is_downloaded(tmp_path, data_folder, monkeypatch):
    from torchvision.datasets import CIFAR10

    images, _ = cifar10_files(tmp_path / "server/cifar-10-batches-py", monkeypatch)
    archive = tmp_path / "server" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "server/cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), partial(Server, directory=tmp_path / "server")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/missing.tar.gz")
        message = refused("cifar10")
        assert (
            str(data_folder / "cifar-10-batches-py") in message and "404" in message and f"fetch {CIFAR10.url} and put it into" in message
        )
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        assert np.array_equal(opened("cifar10").images, images)
        server.shutdown()


def test_imagenet(data_folder, monkeypatch):
    message = refused("imagenet", num_classes=3)
    assert str(data_folder / "imagenet") in message and "ILSVRC2012_img_train.tar" in message and "devkit" in message
    wnids = {"n03126707": ("crane",), "n02012849": ("crane",), "n01440764": ("tench", "Tinca tinca")}
    root = tree(data_folder / "imagenet", **{f"train/{wnid}": 2 for wnid in wnids}, **{"val/n01440764": 1})
    for file in root.rglob("*.png"):
        file.rename(file.with_suffix(".JPEG"))
    torch.save((wnids, []), root / "meta.bin")
    data = opened("imagenet", num_classes=3)
    assert data.classes == ["tench", "crane (n02012849)", "crane (n03126707)"] and data.counts == [2, 2, 2] and data.name == "imagenet"
    assert np.array_equal(data.images[0], np.asarray(Image.open(root / "train/n01440764/0.JPEG")))
    shutil.copy(root / "train/n01440764/0.JPEG", root / "train/n01440764/2.JPEG")
    assert opened("imagenet", num_classes=3).counts == [3, 2, 2]
    unconditional = prepare("imagenet", data_folder / "all", S, unconditional=True, progress=False)
    assert unconditional.num_classes == 0 and unconditional.length == opened("imagenet", num_classes=0).length == 7
    assert short_sides("imagenet") == {S: 7}
    assert "num_classes=1000" in refused("imagenet") and "has 3 classes" in refused("imagenet")
