"""Files and folders are written whole or not at all."""

import os
import stat

import pytest

from mlx_diffucoder.errors import ConvertError, FileError
from mlx_diffucoder.files import folder_atomically, new_folder, write_atomically, write_output


def failing(path):
    path.write_text("half")
    raise OSError(28, "No space left on device")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("content", ["new\r\nü", "new\r\nü".encode(), lambda path: path.write_bytes("new\r\nü".encode())])
def test_a_file_is_written_from_text_bytes_or_a_function(tmp_path, content):
    file = tmp_path / "file.txt"
    write_atomically(file, content)
    assert file.read_bytes() == "new\r\nü".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, failing)
    with pytest.raises(FileError, match=rf"^--out {file}: cannot be written \(No space left on device\)$"):
        write_output(file, failing, flag="--out")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_file_follows_the_umask_or_is_private_and_an_old_one_keeps_its_mode(tmp_path):
    public, private, old = (tmp_path / name for name in ("public", "private", "old"))
    old.write_text("old")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_atomically(public, "a")
        write_atomically(private, "a", private=True)
        write_atomically(old, "a", private=True)
    finally:
        os.umask(before)
    assert [mode(path) for path in (public, private, old)] == [0o640, 0o600, 0o640]


def test_a_link_stays_a_link(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    write_atomically(link, "new")
    assert link.is_symlink() and file.read_text() == "new"


def test_the_temporary_file_has_the_suffix_by_which_libraries_choose_a_format(tmp_path):
    suffixes = []
    write_atomically(tmp_path / "picture.svg", lambda path: suffixes.append(path.suffix))
    assert suffixes == [".svg"]


def test_a_device_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "text")
        assert os.read(reader, 10) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("flush", [False, True])
def test_a_folder_gets_its_name_when_all_is_written(tmp_path, flush):
    out = tmp_path / "out"
    with folder_atomically(out, flush=flush) as unfinished:
        (unfinished / "file").write_text("text")
        assert not out.exists()
    assert (out / "file").read_text() == "text"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_is_removed_where_its_writing_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_atomically(tmp_path / "out") as unfinished:
        (unfinished / "file").write_text("text")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "old").write_text("old")
    with new_folder(tmp_path / "out") as unfinished:
        (unfinished / "new").write_text("new")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["new"]


def test_a_new_folder_has_one_writer_and_is_not_written_over(tmp_path):
    with new_folder(tmp_path / "out"), pytest.raises(ConvertError, match="another conversion"), new_folder(tmp_path / "out"):
        pass
    with pytest.raises(ConvertError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
