"""Nothing half-made, nothing lost: stopped, killed, two at once, full disks, damaged sources."""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from mlx_diffucoder import files as folder
from mlx_diffucoder import load
from mlx_diffucoder.convert import ConvertConfig, convert, shards, stream
from mlx_diffucoder.errors import CheckpointError, ConvertError, DiffucoderError

from ..conftest import DATA
from .test_convert import arrays

SOURCE = DATA / "dream-b"
HIDDEN = {".out.unfinished", ".out.unfinished.lock"}


@pytest.mark.parametrize(
    "make", [lambda out: out.mkdir(), lambda out: out.write_text("mine"), lambda out: out.symlink_to("gone")]
)
def test_an_existing_out_is_refused_and_left_alone(tmp_path, make):
    out = tmp_path / "out"
    make(out)
    with pytest.raises(ConvertError, match="exists already"):
        convert(DATA / "dream-b", out)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_out_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvertError, match=r"out: cannot be written"):
        convert(DATA / "dream-b", tmp_path / "file" / "out")


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_diffucoder.convert.converter.write_card", fail)
    with pytest.raises(ConvertError, match=r"out: cannot be written \(No space left on device\)"):
        convert(DATA / "dream-b", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_conversion_leaves_nothing_that_looks_finished(tmp_path, stop):
    """Stopped while the weights are written: they are held back until the signal has come."""
    script = (
        "import sys, time\n"
        "from mlx_diffucoder.convert import convert, converter\n"
        "write = converter.write_weights\n"
        "def slow(*args):\n"
        "    write(*args)\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
        "converter.write_weights = slow\n"
        "convert(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", script, DATA / "dream-b", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"written\n"
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert not out.exists()
    left = list(tmp_path.iterdir())
    assert {file.name for file in left} <= {".out.unfinished", ".out.unfinished.lock"}
    assert (len(left) == 0) == (stop == signal.SIGINT)  # a kill cannot clean up after itself
    convert(DATA / "dream-b", out)
    assert list(tmp_path.iterdir()) == [out]


# Converts in small steps, and says when it begins.
SLOWLY = """
import sys, time
from mlx_diffucoder.convert import convert, stream
stream.CHUNK = 20_000
def step(name, count):
    time.sleep(0.002)
convert(sys.argv[1], sys.argv[2], before_writing=lambda plan: print('begins', flush=True), progress=step)
"""


def begin_slowly(out, script=SLOWLY):
    process = subprocess.Popen([sys.executable, "-c", script, DATA / "dream-a", out], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begins\n"
    return process


def test_killed_at_random_moments_it_leaves_nothing_that_loads_and_the_next_run_cleans_up(tmp_path):
    out, moments = tmp_path / "out", [random.random() * 0.4 for _ in range(2)]
    for moment in moments:
        process = begin_slowly(out)
        time.sleep(moment)
        process.kill()
        process.communicate(timeout=30)
        left = {file.name for file in tmp_path.iterdir()}
        if out.exists():  # it was done before it was killed
            load(out)
            shutil.rmtree(out)
            continue
        assert left == HIDDEN, moments
        with pytest.raises(DiffucoderError):
            load(tmp_path / ".out.unfinished")
        for file in (tmp_path / ".out.unfinished").glob("*.safetensors"):
            with pytest.raises(SafetensorError), safe_open(file, framework="numpy"):
                pass
    convert(SOURCE, out)
    assert list(tmp_path.iterdir()) == [out]
    load(out)


def test_two_conversions_to_one_out_are_one_conversion_and_one_line(tmp_path):
    out = tmp_path / "out"
    process = begin_slowly(out)
    with pytest.raises(ConvertError, match="out: another conversion is writing it"):
        convert(SOURCE, out)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == [out]
    assert arrays(out).keys() == arrays(DATA / "dream-a").keys()


def test_of_many_conversions_to_one_out_exactly_one_wins(tmp_path):
    """In one process the lock is between open files, not between processes."""
    results = []

    def run():
        try:
            results.append(convert(SOURCE, tmp_path / "out"))
        except ConvertError as error:
            assert "another conversion" in str(error) or "exists already" in str(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1
    assert list(tmp_path.iterdir()) == results
    load(tmp_path / "out")


def test_too_little_disk_is_known_before_the_first_byte(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(shards.os, "pwrite", lambda *args: pytest.fail("a byte was written"))
    with pytest.raises(ConvertError, match=r"out: not enough disk space: 2\.\d\d MB to write, 1\.00 MB free"):
        convert(SOURCE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def pwrite(file, data, offset, real=os.pwrite):
        written.append(len(data))
        if sum(written) > 300_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, offset)

    monkeypatch.setattr(shards.os, "pwrite", pwrite)
    with pytest.raises(ConvertError, match=r"out: cannot be written \(No space left on device\)"):
        convert(SOURCE, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_writes_that_come_short_are_gone_on_with(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(shards.os, "pwrite", lambda file, data, offset: real(file, data[:1000], offset))
    out = convert(SOURCE, tmp_path / "out")
    for name, value in arrays(SOURCE).items():
        assert mx.array_equal(value, arrays(out)[name])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place that not even root can write")
def test_a_place_that_cannot_be_written_is_named():
    with pytest.raises(ConvertError, match=r"/proc/self/out: cannot be written"):
        convert(SOURCE, "/proc/self/out")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_weight_that_is_not_finite_is_named(broken, tmp_path, name, bad, quantize):
    for file in broken.glob("*.safetensors"):
        weights = mx.load(str(file))
        if name in weights:
            values = np.array(weights[name])
            values.flat[values.size - 3] = bad
            mx.save_safetensors(str(file), {**weights, name: mx.array(values)})
    with pytest.raises(CheckpointError, match=f"{name} holds infinities or NaNs"):
        convert(broken, tmp_path / "out", ConvertConfig(quantize=quantize))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_finite_is_what_mlx_calls_finite(dtype):
    kind = getattr(mx, dtype)
    bits = np.arange(2**16, dtype=np.uint16)
    raw = bits.view(np.uint8) if dtype != "float32" else (bits.astype(np.uint32) << 16 | 1).view(np.uint8)
    says = mx.isfinite(mx.array(raw).view(kind))
    for start in range(0, 2**16, 2**10):
        part = raw.reshape(2**16, -1)[start : start + 2**10]
        assert stream.all_finite(part.reshape(-1), kind) == mx.all(says[start : start + 2**10]).item()
    assert stream.all_finite(np.full(8, 255, np.uint8), mx.uint32)


def test_a_weight_too_large_for_the_type_it_is_cast_to_is_named(broken, tmp_path):
    file = broken / "model-00001-of-00002.safetensors"
    weights = mx.load(str(file))
    name = "model.embed_tokens.weight"
    mx.save_safetensors(str(file), {**weights, name: weights[name] + 1e6})
    with pytest.raises(ConvertError, match=f"{name}: too large for float16"):
        convert(broken, tmp_path / "out", ConvertConfig(dtype="float16"))
    convert(broken, tmp_path / "out", ConvertConfig(dtype="bfloat16"))


def test_a_flipped_byte_in_a_header_is_an_error_or_changes_nothing(broken, tmp_path):
    file = broken / "model-00002-of-00002.safetensors"
    good, expected = file.read_bytes(), arrays(broken)
    length = 8 + int.from_bytes(good[:8], "little")
    harmless = 0
    for place in [*range(8), *random.sample(range(8, length), 80)]:
        bad = bytearray(good)
        bad[place] ^= 1 << random.randrange(8)
        file.write_bytes(bad)
        try:
            out = convert(broken, tmp_path / "out")
        except DiffucoderError as error:
            assert len(str(error).splitlines()) == 1
            continue
        harmless += 1
        result = arrays(out)
        assert result.keys() == expected.keys(), place
        assert all(mx.array_equal(result[name], expected[name]) for name in expected), place
        shutil.rmtree(out)
    assert harmless < 20  # what stands under __metadata__, and spaces at the end
    file.write_bytes(good)
    convert(broken, tmp_path / "out")


def damage(broken, edit_json):
    """Name -> (what is done to the folder, what the line says)."""
    first, second = (broken / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))

    def cut():
        second.write_bytes(second.read_bytes()[:-1])

    def longer():
        second.write_bytes(second.read_bytes() + b"\0")

    def lacks():
        weights = mx.load(str(second))
        mx.save_safetensors(str(second), {name: value for name, value in weights.items() if name != "lm_head.weight"})

    def extra():
        mx.save_safetensors(str(second), {**mx.load(str(second)), "model.layers.0.mlp.gate.weight": mx.zeros(4)})

    return {
        "cut short": (cut, ["model-00002-of-00002.safetensors", "truncated or damaged"]),
        "too long": (longer, ["model-00002-of-00002.safetensors", "truncated or damaged"]),
        "missing shard": (first.unlink, ["model-00001-of-00002.safetensors is missing"]),
        "missing weight": (lacks, ["missing weight lm_head.weight"]),
        "unexpected weight": (extra, ["unexpected weight model.layers.0.mlp.gate.weight"]),
        "another width": (lambda: edit_json(broken / "config.json", intermediate_size=512), ["wrongly shaped", "mlp"]),
        "fewer layers": (lambda: edit_json(broken / "config.json", num_hidden_layers=2), ["unexpected weight", "layers.2"]),
        "a block for floats": (
            lambda: edit_json(broken / "config.json", quantization={"bits": 9, "group_size": 64}),
            ["config.json", "quantization block"],
        ),
        "another program's": (
            lambda: edit_json(broken / "config.json", quantization_config={"quant_method": "awq"}),
            ["config.json", "awq"],
        ),
    }


@pytest.mark.parametrize("kind", damage(Path("x"), None))
def test_a_damaged_source_is_one_line_and_is_left_alone(broken, edit_json, tmp_path, kind):
    harm, said = damage(broken, edit_json)[kind]
    harm()
    before = {file.name: file.read_bytes() for file in broken.iterdir()}
    with pytest.raises(DiffucoderError) as caught:
        convert(broken, tmp_path / "out", ConvertConfig(quantize=True))
    for words in said:
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"dream-a"}
    assert {file.name: file.read_bytes() for file in broken.iterdir()} == before


def test_a_shard_that_shrinks_while_it_is_read_is_named(broken, tmp_path):
    file = broken / "model-00002-of-00002.safetensors"
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: ends before the weight"):
        convert(broken, tmp_path / "out", before_writing=lambda plan: os.truncate(file, 200_000))
    assert not (tmp_path / "out").exists()


def test_a_hub_cache_of_links_is_read_and_left_alone(tmp_path):
    """The Hub's cache: files named by their hashes, and folders of links to them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((DATA / "dream-a").iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    before = {file.name: file.read_bytes() for file in blobs.iterdir()}
    out = convert(snapshot, tmp_path / "out", ConvertConfig(quantize=True))
    assert not [file for file in out.iterdir() if file.is_symlink()]
    assert {file.name: file.read_bytes() for file in blobs.iterdir()} == before
    load(out)
    (snapshot / "model-00002-of-00002.safetensors").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors is missing"):
        convert(snapshot, tmp_path / "again")


def test_each_byte_is_read_once_and_written_once(checkpoint, tmp_path, monkeypatch):
    """Counted where they pass: what is asked of the source's files and given to the new ones."""
    read, written = [], []
    count = stream._read
    monkeypatch.setattr(stream, "_read", lambda *args: read.append(args[1:]) or count(*args))
    real = os.pwrite

    def pwrite(file, data, offset):
        written.append((file, offset, offset + len(data)))
        return real(file, data, offset)

    monkeypatch.setattr(shards.os, "pwrite", pwrite)
    monkeypatch.setattr(stream, "CHUNK", 5000)
    out = convert(checkpoint, tmp_path / "out", ConvertConfig(quantize=True, q_group_size=32))
    rows = [(name, row) for stored, name, start, raw in read for row in range(start, start + raw.size // stored.row)]
    assert len(rows) == len(set(rows)) == sum(value.shape[0] for value in arrays(checkpoint).values())
    spans = sorted(written)
    assert all(before[2] == after[1] for before, after in itertools.pairwise(spans) if before[0] == after[0])
    assert sum(end - start for _, start, end in spans) == sum(file.stat().st_size for file in out.glob("*.safetensors"))
