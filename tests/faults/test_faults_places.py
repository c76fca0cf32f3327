"""Where artefacts may stand, what lies there already, and what is read: the writer and the reader on their own."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from superweights.artefacts.disk import explained
from superweights.artefacts.file import new_file, write_text
from superweights.artefacts.folder import new_folder
from superweights.artefacts.growing import growing_file
from superweights.artefacts.manifest import Work, verify
from superweights.artefacts.place import MANIFEST, partial_of
from superweights.artefacts.reading import parse_json, parse_lines, read_text
from superweights.artefacts.shape import Between, shaped
from superweights.cli import run
from superweights.errors import SuperweightsError

pytestmark = pytest.mark.unit
A, B = Work("form", "model a", "plan"), Work("form", "model b", "plan")


def write(to: Path, work: Work = A, words: str = "a", stop: int = 9) -> None:
    """Three files of the same words; stopped before the file with the number `stop`."""
    with new_folder(to, work) as draft:
        for number in range(3):
            if number == stop:
                raise KeyboardInterrupt
            draft.add(f"{number}.bin", lambda path: path.write_text(words * 100))
        (draft.path / "config.json").write_text(words)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- before the work --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", [".", "./", "", "..", "full", "file", "link", "dangling", "file/in", "x" * 250, "a\0b"]
)
def test_a_place_where_no_new_folder_can_stand_is_refused_before_the_work(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for opened in (new_folder(Path(where), A), growing_file(Path(where), A)):
        with pytest.raises(SuperweightsError) as caught, opened:
            pytest.fail("the work was begun")
        assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("where", [".", "./", "", "link"])
@pytest.mark.parametrize(
    "command", [["quantize", "--format", "dense", "--keep", "none"], ["peel", "--weights", "x[0, 0]"]]
)
def test_commands_say_so_in_one_sentence(command, where, tmp_path, monkeypatch, capsys):
    from small import saved_llama

    source = saved_llama(tmp_path / "source", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("source")
    assert run([command[0], str(source), "--to", where, *command[1:]]) == 1
    said = capsys.readouterr().err
    assert said.count("error:") == said.count("hint:") == 1
    assert names(tmp_path) == ["link", "source"]


def test_a_place_that_may_not_be_written_in_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SuperweightsError, match="may not be written in"):
        write(tmp_path / "to")


def test_out_is_no_link_no_folder_and_no_device(tmp_path):
    (tmp_path / "held").write_text("old")
    (tmp_path / "link").symlink_to("held")
    os.mkfifo(tmp_path / "pipe")
    for where in ("link", ".", "nowhere/r.json", "pipe"):
        with pytest.raises(SuperweightsError):
            write_text(tmp_path / where, "new")
    assert (tmp_path / "held").read_text() == "old"
    write_text(tmp_path / "held", "new")
    assert (tmp_path / "held").read_text() == "new"
    assert names(tmp_path) == ["held", "link", "pipe"]


# --- what lies there --------------------------------------------------------------------------------------


def test_the_manifest_tells_of_every_file_and_nothing_else_is_there(tmp_path):
    write(tmp_path / "to")
    manifest = verify(tmp_path / "to", thoroughly=True)
    assert manifest is not None
    assert (manifest.source, sorted([*manifest.files, MANIFEST])) == ("model a", names(tmp_path / "to"))
    (tmp_path / "to" / "1.bin").write_text("b" * 100)
    with pytest.raises(SuperweightsError, match=r"1\.bin is not what was written"):
        verify(tmp_path / "to")
    (tmp_path / "to" / "1.bin").unlink()
    with pytest.raises(SuperweightsError, match=r"lacks 1\.bin"):
        verify(tmp_path / "to")
    verify(tmp_path / "to", "2.bin")


def test_a_large_file_is_held_against_its_head_and_thoroughly_against_all_of_it(tmp_path):
    with new_folder(tmp_path / "to", A) as draft:
        (draft.path / "large").write_bytes(bytes(3 << 20))
    with open(tmp_path / "to" / "large", "r+b") as file:
        file.seek(2 << 20)
        file.write(b"x")
    verify(tmp_path / "to")
    with pytest.raises(SuperweightsError, match="is not what was written"):
        verify(tmp_path / "to", thoroughly=True)


def test_a_stopped_run_goes_on_and_whole_files_are_not_written_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "to", stop=2)
    (partial,) = tmp_path.iterdir()
    times = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.bin")}
    write(tmp_path / "to")
    assert {name: (tmp_path / "to" / name).stat().st_mtime_ns for name in times} == times
    assert names(tmp_path) == ["to"]


def test_what_a_run_of_another_model_has_left_goes_into_nothing_and_goes_away(tmp_path):
    """Shards of model A under model B's name was the worst that could be."""
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "to", A, "a", stop=2)
    write(tmp_path / "to", B, "b")
    assert {(tmp_path / "to" / f"{n}.bin").read_text() for n in range(3)} == {"b" * 100}
    assert names(tmp_path) == ["to"]


def test_a_stop_in_the_first_file_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "deep" / "to", stop=0)
    assert names(tmp_path) == []


def partial_with(tmp_path: Path, change: Any) -> Path:
    """A stopped run's folder, changed by `change`, and the same run again."""
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "to", stop=2)
    partial = partial_of(tmp_path / "to", A.mark)
    change(partial)
    write(tmp_path / "to")
    assert names(tmp_path / "to") == ["0.bin", "1.bin", "2.bin", "config.json", MANIFEST]
    assert {(tmp_path / "to" / f"{n}.bin").read_text() for n in range(3)} == {"a" * 100}
    verify(tmp_path / "to", thoroughly=True)
    return partial


@pytest.mark.parametrize(
    "what", ["strange file", "strange folder", "changed", "no manifest", "other manifest", "cut off"]
)
def test_what_the_manifest_does_not_name_or_names_otherwise_is_written_anew(what, tmp_path):
    def change(partial: Path) -> None:
        manifest = partial / MANIFEST
        if what == "strange file":
            (partial / ".tmpAbC12").write_text("half a shard")
            (partial / "2.bin").write_text("half a shard")
        elif what == "strange folder":
            (partial / "x").mkdir()
            (partial / "x" / "y").touch()
        elif what == "changed":
            (partial / "0.bin").write_text("b" * 100)
        elif what == "no manifest":
            manifest.unlink()
        elif what == "other manifest":
            manifest.write_text(manifest.read_text().replace("model a", "model b"))
        else:
            manifest.write_text(manifest.read_text()[:40])

    partial_with(tmp_path, change)


@pytest.mark.parametrize("link", ["soft", "hard", "folder"])
def test_nothing_is_written_through_links_in_a_partial_folder(link, tmp_path):
    precious = tmp_path / "elsewhere"
    precious.mkdir()
    (precious / "2.bin").write_text("precious")

    def change(partial: Path) -> None:
        if link == "soft":
            (partial / "2.bin").symlink_to(precious / "2.bin")
        elif link == "hard":
            os.link(precious / "2.bin", partial / "2.bin")
        else:
            (partial / "0.bin").unlink()
            (partial / "0.bin").symlink_to(precious)

    partial_with(tmp_path, change)
    assert (precious / "2.bin").read_text() == "precious"


def test_a_partial_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    partial_of(tmp_path / "to", A.mark).symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "to")
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "to"], [])


def test_a_run_that_is_at_work_is_left_alone(tmp_path):
    with new_folder(tmp_path / "to", A) as draft:
        draft.add("0.bin", lambda path: path.write_text("a"))
        for work in (A, B):
            with pytest.raises(SuperweightsError, match="Another process is writing"):
                write(tmp_path / "to", work)
        assert draft.path.is_dir()
    assert names(tmp_path) == ["to"]


def test_a_place_that_is_taken_meanwhile_stays_and_the_work_is_kept(tmp_path):
    def taken() -> None:
        with new_folder(tmp_path / "to", A) as draft:
            draft.add("0.bin", lambda path: path.write_text("a"))
            (tmp_path / "to").mkdir()
            (tmp_path / "to" / "mine").touch()

    with pytest.raises(SuperweightsError, match="has taken the place"):
        taken()
    assert names(tmp_path / "to") == ["mine"]
    (tmp_path / "to" / "mine").unlink()
    (tmp_path / "to").rmdir()
    with new_folder(tmp_path / "to", A) as draft:
        assert "0.bin" in draft.files


def test_leftovers_of_a_file_are_cleared_when_it_is_written_the_next_time(tmp_path):
    partial_of(tmp_path / "r.json", "0" * 16).write_text("left by a killed run")
    (tmp_path / ".other.json.0000000000000000.partial").write_text("of another file")
    with new_file(tmp_path / "r.json") as partial:
        partial.write_text("whole")
    assert names(tmp_path) == [".other.json.0000000000000000.partial", "r.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence_whoever_says_it(number, tmp_path):
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"I/O error: full (os error {number})")):
        with pytest.raises(SuperweightsError, match="The disk is full"), explained(tmp_path / "to"):
            raise error
    torchs = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 73472 vs 73364")
    streams = RuntimeError("basic_ios::clear: iostream error")
    for error in (torchs, streams):
        with pytest.raises(SuperweightsError, match="the disk is full"), explained(tmp_path / "to"):
            raise error
    with pytest.raises(RuntimeError), explained(tmp_path / "to"):
        raise RuntimeError("a defect of ours")


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        '{"a": Infinity}',
        "[-Infinity]",
        "1e999",
        "9" * 30,
        "[" * 100_000,
        '{"a": 1, "a": 2}',
        "\ufeff1",
    ],
)
def test_what_is_no_json_of_ours_is_refused(text):
    with pytest.raises(SuperweightsError, match=r"^x\.json"):
        parse_json(text, "x.json")


def test_depth_has_a_limit_that_is_ours():
    assert parse_json("[" * 64 + "]" * 64, "x.json")
    with pytest.raises(SuperweightsError, match="deeper than 64"):
        parse_json("[" * 66 + "]" * 66, "x.json")


def test_lines_and_one_value_are_told_apart():
    assert parse_lines('{"a": 1}\n\n{"a": 2}\n', "x") == [{"a": 1}, {"a": 2}]
    assert parse_lines("[1, 2]", "x") == [1, 2]
    with pytest.raises(SuperweightsError, match="x, line 2 is not JSON"):
        parse_lines('{"a": 1}\n{"a": ', "x")


def test_pipes_folders_and_bytes_are_no_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_text("12345")
    for name in ("pipe", ".", "bytes", "absent", "a\0b"):
        with pytest.raises(SuperweightsError):
            read_text(tmp_path / name)
    with pytest.raises(SuperweightsError, match="more than"):
        read_text(tmp_path / "large", largest=4)


@dataclass(frozen=True)
class Inner:
    layer: Annotated[int, Between(0, 9)]
    kind: Literal["a", 1] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inners: tuple[Inner, ...] = ()
    by_name: dict[str, float] | None = None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "name is missing"),
        ({"name": 3}, "name is to be a text, not 3"),
        ({"name": "x", "y": 1}, "y is no field"),
        (
            {"name": "x", "inners": [{"layer": 3}, {"layer": 3e6}]},
            r"inners\[1\]\.layer is to be a whole number from 0 to 9",
        ),
        ({"name": "x", "inners": [{"layer": True}]}, "layer is to be a whole number"),
        ({"name": "x", "inners": [{"layer": 1, "kind": True}]}, "kind is to be one of 'a', 1, not True"),
        ({"name": "x", "inners": {}}, "inners is to be a list, not an object of 0"),
        ({"name": "x", "by_name": {"a": "1"}}, r"by_name\.a is to be a number, not '1'"),
        ({"name": "x", "by_name": {"a": 10**400}}, r"by_name\.a is to be a finite number"),
        ([], "what it holds is to be an object"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file_and_its_field(data, said):
    with pytest.raises(SuperweightsError, match=rf"^x\.json: .*{said}"):
        shaped(Outer, data, "x.json", "-")


def test_what_fits_is_the_noun_itself():
    data = json.loads('{"name": "x", "inners": [{"layer": 3, "kind": 1}], "by_name": {"a": 1}}')
    assert shaped(Outer, data, "x", "-") == Outer("x", (Inner(3, 1),), {"a": 1.0})
    assert shaped(Outer, {"name": "x", "more": 1}, "x", "-", "some") == Outer("x")
    with pytest.raises(SuperweightsError, match="by_name is missing"):
        shaped(Outer, {"name": "x"}, "x", "-", "whole")
