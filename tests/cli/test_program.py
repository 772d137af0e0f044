# SPDX-License-Identifier: Apache-2.0
"""The command line's contract: fixed forms, exit status, one line per failure, JSON shapes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import diskkit
from diskkit.cli import main
from makers import hosted_sparse, poke, sample_grain, write_descriptor
from tasks.images import CAPACITY, child, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]


def run(capfd: Out, *arguments: object) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return status, out, err


def as_json(capfd: Out, *arguments: object) -> tuple[int, Any]:
    status, out, _ = run(capfd, *arguments, "--json")
    return status, json.loads(out)


def test_info_tells_kind_size_ids_and_links(tmp_path: Path, capfd: Out) -> None:
    top = child(tmp_path, sparse(tmp_path))
    status, found = as_json(capfd, "info", top.path)
    assert status == 0
    assert found["format"] == "vmdk"
    assert found["create_type"] == "monolithicSparse"
    assert found["capacity"] == CAPACITY * 512
    assert (found["cid"], found["parent_cid"]) == ("00000002", "12345678")
    assert found["encrypted"] is False
    assert found["physical_bytes"] > 0
    assert [link["path"] for link in found["links"]] == [str(top.path), str(tmp_path / "base.vmdk")]
    assert found["links"][1]["parent_cid"] is None
    (extent,) = found["links"][0]["extents"]
    assert {k: extent[k] for k in ("kind", "access", "offset", "length", "grain_size")} == {
        "kind": "SPARSE",
        "access": "RW",
        "offset": 0,
        "length": CAPACITY * 512,
        "grain_size": 65536,
    }
    keys = {"path", "adapter_type", "hw_version", "uuid", "geometry", "metadata"}
    assert keys <= set(found)
    status, out, _ = run(capfd, "info", top.path)
    assert status == 0
    assert "monolithicSparse, 2 links" in out
    # With any other option the full program answers, and says the same.
    assert run(capfd, "info", top.path, "--max-depth", 3) == (0, out, "")


def test_info_loads_nothing_heavy(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    script = (
        "import sys; from diskkit.cli import main; main(['info', sys.argv[1]]);"
        "print({'numpy', 'typer', 'rich', 'isal', 'click'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, made.path], capture_output=True, text=True, check=True
    )
    assert done.stderr == "set()\n"


def test_map_as_json_is_the_map(tmp_path: Path, capfd: Out) -> None:
    top = child(tmp_path, sparse(tmp_path))
    status, found = as_json(capfd, "map", top.path)
    assert status == 0
    with diskkit.open_disk(top.path) as disk:
        wanted: list[dict[str, Any]] = [
            {
                "offset": r.offset,
                "length": r.length,
                "state": str(r.state),
                "link": r.link,
                "path": r.path,
                "file_offset": r.file_offset,
            }
            for r in disk.runs()
        ]
    assert found["runs"] == wanted
    assert found["capacity"] == CAPACITY * 512
    assert found["data_bytes"] == sum(r["length"] for r in wanted if r["state"] == "data")
    assert {r["state"] for r in wanted} == {"data", "zero", "hole"}


@pytest.mark.parametrize("name", ["odd 'name' \\ é\u2028.vmdk", "x" * 200 + ".vmdk"])
def test_map_as_json_survives_any_file_name(tmp_path: Path, capfd: Out, name: str) -> None:
    hosted_sparse(tmp_path / name, 128, {0: sample_grain(0)})
    status, found = as_json(capfd, "map", tmp_path / name)
    assert status == 0
    assert found["runs"][0]["path"] == str(tmp_path / name)


def test_map_of_compressed_data_points_at_no_file_offset(tmp_path: Path, capfd: Out) -> None:
    status, found = as_json(capfd, "map", packed(tmp_path, "A").path)
    assert status == 0
    assert found["runs"][0] == {
        "offset": 0,
        "length": 65536,
        "state": "data",
        "link": 0,
        "path": None,
        "file_offset": None,
    }


def test_json_numbers_have_every_width(tmp_path: Path) -> None:
    from diskkit.cli.mapjson import _decimal

    np = pytest.importorskip("numpy")
    values = sorted({0, 1, 9, *(10**n + d for n in range(1, 19) for d in (-1, 0, 1))})
    rows = _decimal(np.array(values, np.int64), 20)
    assert [int(row.tobytes()) for row in rows] == values
    assert all(len(row.tobytes().lstrip()) == len(str(v)) for row, v in zip(rows, values))  # noqa: B905


def test_map_is_drawn_and_lists_its_links(tmp_path: Path, capfd: Out) -> None:
    top = child(tmp_path, sparse(tmp_path))
    status, out, _ = run(capfd, "map", top.path)
    assert status == 0
    assert "data in link 0  child.vmdk" in out
    grid = "".join(line[13:] for line in out.split("\n\n")[0].splitlines())
    # Without colours a digit tells the link: grains 1 and 20 are the child's, grain 7 is zero.
    cells = [grid[int((grain + 0.1) * 65536 / (CAPACITY * 512) * len(grid))] for grain in range(41)]
    assert "".join(cells) == "101....z.1..........0.........1.........1".replace(".", "·")
    assert "data in link 1  base.vmdk" in out
    assert "\x1b" not in out


def test_map_for_borg_has_three_words_a_line(tmp_path: Path, capfd: Out) -> None:
    made = sparse(tmp_path)
    status, out, _ = run(capfd, "map", made.path, "--format", "borg")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["0", str(3 * 65536), "data"]
    assert {line[2] for line in lines} == {"data", "zero"}
    assert sum(int(line[1]) for line in lines) == CAPACITY * 512


def test_map_as_a_page_needs_nothing_else(tmp_path: Path, capfd: Out) -> None:
    top = child(tmp_path, sparse(tmp_path))
    page = tmp_path / "map.html"
    assert run(capfd, "map", top.path, "--html", page)[0] == 0
    text = page.read_text()
    assert "child.vmdk" in text
    assert "http" not in text
    assert "<script" not in text
    assert run(capfd, "map", top.path, "--html", page)[0] == 2
    assert run(capfd, "map", top.path, "--html", page, "--force")[0] == 0


def test_chain_shows_links_and_marks_what_is_broken(tmp_path: Path, capfd: Out) -> None:
    base = sparse(tmp_path)
    top = child(tmp_path, base)
    status, out, err = run(capfd, "chain", top.path)
    assert (status, err) == (0, "")
    assert out.index("child.vmdk") < out.index("base.vmdk")
    text = base.path.read_bytes().replace(b"CID=12345678", b"CID=87654321", 1)
    base.path.write_bytes(text)
    status, out, err = run(capfd, "chain", top.path)
    assert status == 1
    assert "BROKEN" in out
    assert "the child recorded 12345678" in err
    base.path.unlink()
    status, out, err = run(capfd, "chain", top.path)
    assert status == 1
    assert "base.vmdk  missing or refused" in out
    assert "the parent is not there" in err


def test_changed_prints_ranges_and_how_they_were_found(tmp_path: Path, capfd: Out) -> None:
    base = sparse(tmp_path)
    top = child(tmp_path, base)
    status, found = as_json(capfd, "changed", base.path, top.path)
    assert status == 0
    assert found == {
        "capacity": CAPACITY * 512,
        "runs": [{"offset": i * 65536, "length": 65536} for i in (1, 7, 20)],
        "changed_bytes": 3 * 65536,
        "method": "metadata",
    }
    status, out, _ = run(capfd, "changed", base.path, top.path)
    assert "changed: 192 KiB of 2.5 MiB, told by the links' tables" in out
    status, found = as_json(capfd, "changed", top.path, top.path)
    assert found["runs"] == []


def test_compare_answers_by_exit_status(tmp_path: Path, capfd: Out) -> None:
    base = sparse(tmp_path)
    top = child(tmp_path, base)
    (tmp_path / "same.raw").write_bytes(base.content)
    status, found = as_json(capfd, "compare", base.path, tmp_path / "same.raw")
    assert (status, found) == (0, {"identical": True, "first_difference": None})
    status, found = as_json(capfd, "compare", base.path, top.path)
    assert (status, found["identical"]) == (4, False)
    assert found["first_difference"] // 65536 == 1
    assert run(capfd, "compare", base.path, tmp_path / "none.raw")[0] == 1


def test_check_answers_by_exit_status(tmp_path: Path, capfd: Out) -> None:
    made = sparse(tmp_path)
    status, found = as_json(capfd, "check", made.path)
    assert (status, found) == (0, {"ok": True, "problems": []})
    poke(made.path, 21 * 512, "<I", 0x00FFFFFF)
    status, found = as_json(capfd, "check", made.path)
    assert (status, found["ok"]) == (4, False)
    assert set(found["problems"][0]) == {"code", "severity", "where", "message"}
    assert run(capfd, "check", tmp_path / "none.vmdk")[0] == 1


def test_convert_writes_and_reports(tmp_path: Path, capfd: Out) -> None:
    made = sparse(tmp_path)
    status, out, err = run(capfd, "convert", made.path, tmp_path / "a.raw", "--verify")
    assert (status, out) == (0, "")
    assert "verified" in err
    assert (tmp_path / "a.raw").read_bytes() == made.content
    status, out, _ = run(capfd, "convert", made.path, tmp_path / "b.raw", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["message_type"] == "summary"
    assert lines[-1]["verb"] == "convert"
    assert {"bytes_read", "bytes_written", "bytes_skipped", "seconds"} <= set(lines[-1])
    status, out, err = run(capfd, "convert", made.path, tmp_path / "b.raw", "--json")
    assert status == 2
    assert json.loads(out)["message_type"] == "error"
    assert err.startswith("diskkit: ")
    assert run(capfd, "convert", made.path, tmp_path / "b.raw", "--force", "-q") == (0, "", "")


@pytest.mark.parametrize("piped", [True, False])
def test_convert_to_standard_output(tmp_path: Path, piped: bool) -> None:
    made = packed(tmp_path, "D")
    command = [sys.executable, "-m", "diskkit", "convert", str(made.path), "-"]
    if piped:
        assert subprocess.run(command, capture_output=True, check=True).stdout == made.content
        return
    with (tmp_path / "out.raw").open("wb") as out:
        subprocess.run(command, stdout=out, check=True)
    assert (tmp_path / "out.raw").read_bytes() == made.content


def test_convert_from_standard_input(
    tmp_path: Path, capfd: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = packed(tmp_path, "A")

    with made.path.open("rb") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(capfd, "convert", "-", tmp_path / "out.raw", "--verify")[0] == 0
    assert (tmp_path / "out.raw").read_bytes() == made.content


def test_a_reader_that_leaves_ends_the_program_quietly(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    for verb in (["map", "--json"], ["convert"]):
        tail = ["-"] if verb == ["convert"] else []
        with subprocess.Popen(
            [sys.executable, "-m", "diskkit", *verb, str(made.path), *tail],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            error = process.stderr.read().decode()
            assert process.wait() == 1
        assert "Traceback" not in error
        assert error.count("\n") <= 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_told_to_end_leaves_nothing_half_made(tmp_path: Path, number: int) -> None:
    (tmp_path / "in").mkdir()
    made = packed(tmp_path / "in", "A")
    with subprocess.Popen(
        [sys.executable, "-m", "diskkit", "convert", "-", str(tmp_path / "out.raw")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(made.path.read_bytes()[:80000])
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.raw.*")):
            assert time.monotonic() < deadline
            os.sched_yield()
        process.send_signal(number)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"diskkit: interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_raw_image_needs_a_name_or_a_word_that_says_so(tmp_path: Path, capfd: Out) -> None:
    (tmp_path / "image").write_bytes(b"guest" * 1024)
    status, out, err = run(capfd, "info", tmp_path / "image")
    assert (status, out) == (1, "")
    assert err == (
        f"diskkit: {tmp_path}/image: file: is not a VMDK: it begins with b'guestgue' "
        "(if it is a raw image, say so: --format raw)\n"
    )
    assert run(capfd, "info", tmp_path / "image", "--format", "raw")[0] == 0
    made = sparse(tmp_path)
    made.path.rename(tmp_path / "disk.img")
    status, found = as_json(capfd, "info", tmp_path / "disk.img")
    assert found["format"] == "raw"  # its first bytes do not decide
    status, found = as_json(capfd, "map", tmp_path / "disk.img", "--format", "vmdk")
    assert found["capacity"] == CAPACITY * 512


def test_options_lift_what_is_refused(tmp_path: Path, capfd: Out) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "x-flat.vmdk").write_bytes(bytes(512 * 8))
    (tmp_path / "disk").mkdir()
    disk = tmp_path / "disk" / "x.vmdk"
    write_descriptor(disk, "monolithicFlat", [f'RW 8 FLAT "{outside}/x-flat.vmdk" 0'])
    status, _, err = run(capfd, "info", disk)
    assert status == 1
    assert "lies outside the disk's own folder" in err
    assert run(capfd, "info", disk, "--allow", outside)[0] == 0
    write_descriptor(disk, "custom", ['NOACCESS 8 FLAT "y" 0', "RW 8 ZERO"])
    assert run(capfd, "map", disk)[0] == 1
    status, found = as_json(capfd, "map", disk, "--noaccess-zeros")
    assert (status, found["data_bytes"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "a.vmdk", "b.vmdk"],
        ["convert", "a", "b", "--level", "11"],
        ["create", "a.vmdk", "--size", "10X"],
        ["create", "a.vmdk", "--size", "3T"],
        ["create", "a.vmdk", "--size", "1G", "--type", "qcow9"],
        ["map", "a", "--json", "--html", "b"],
        ["info"],
        ["nonsense"],
        ["info", "a", "--max-depth", "0"],
        ["info", "a", "--format", "qcow2"],
    ],
)
def test_wrong_usage_is_status_2_and_one_line(capfd: Out, arguments: list[str]) -> None:
    status, out, err = run(capfd, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("diskkit: ")
    assert err.count("\n") == 1


def test_debug_shows_where_a_failure_came_from(tmp_path: Path) -> None:
    with pytest.raises(diskkit.StorageError):
        main(["info", str(tmp_path / "none.vmdk"), "--debug"])


def test_names_inside_an_image_cannot_steer_the_terminal(tmp_path: Path, capfd: Out) -> None:
    disk = tmp_path / "x.vmdk"
    write_descriptor(disk, "monolithicFlat", ['RW 8 FLAT "a\u202eb\x9b31m" 0'])
    status, _, err = run(capfd, "info", disk)
    assert status == 1
    assert "\u202e" not in err
    assert "\x9b" not in err
    assert "\\u202e" in err


def test_help_names_every_verb_and_every_verb_has_help(capfd: Out) -> None:
    from diskkit.cli.program import COMMANDS

    status, out, _ = run(capfd, "--help")
    assert status == 0
    for verb in COMMANDS:
        assert f"\n  {verb} " in out
        assert run(capfd, verb, "--help")[0] == 0
    assert run(capfd, "--version")[1] == f"diskkit {diskkit.__version__}\n"
