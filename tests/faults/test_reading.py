"""A manifest or an account file that is written while a pass reads it."""

import os
from pathlib import Path

import pytest

from mountd.kernel.syscalls import Fd
from mountd.reconcile.reading import read_bounded


@pytest.mark.fault(20, "written in place between two reads of a pass")
def test_what_is_read_half_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fstat = tmp_path / "file", os.fstat
    written = [b"all of it", b"half"]

    def written_meanwhile(number: int) -> os.stat_result:
        if written:
            file.write_bytes(written.pop())
        return fstat(number)

    monkeypatch.setattr(os, "fstat", written_meanwhile)
    file.write_bytes(b"before")
    with Fd(os.open(file, os.O_RDONLY)) as opened:
        assert read_bounded(opened, 1 << 20) == b"all of it"
    assert not written
