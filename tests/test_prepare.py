"""Published data sets: every authors' layout ends in a manifest, and all that is odd is counted."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from affectgpt_r1.clips import Clip, read_labelled, read_manifest, write_manifest
from affectgpt_r1.datasets.npz import LIMIT_BYTES, read_dict
from affectgpt_r1.datasets.published import Prepared, prepare, published_sets
from affectgpt_r1.errors import InputError, MissingFileError
from affectgpt_r1.evaluation.unibench import SETS
from affectgpt_r1.media import read_media
from test_cli import answer, complaint, run
from test_media import write_sound, write_video

POLISHED = ("transcription-engchi-polish.csv", ("chinese", "english"))
SUBTITLE = ("subtitle_chieng.csv", ("chinese", "english"))
PLAIN, SUB = ("video", "audio"), ("subvideo", "subaudio")
OPENSET = ["[Happy, on edge]", "", "['sad']"]
WORDS = [("happy", "on edge"), ("neutral",), ("sad",)]
VALUES = [1.6, -0.4, 0.0]
SIGNS = [("positive",), ("negative",), ("neutral",)]

#: By hand from the description of the layouts: folder, media folders, labels (and the npz' member),
#: what they hold, the words that it means, subtitles.
LAYOUTS: dict[str, tuple[str, tuple[str, str], str, str, list[Any], list[Any], Any]] = {
    "mercaptionplus": (
        *("mer2025-dataset", PLAIN, "track2_train_mercaptionplus.csv", ""),
        *(OPENSET, WORDS, SUBTITLE),
    ),
    "ovmerd": (
        *("mer2025-dataset", PLAIN, "track2_train_ovmerd.csv", ""),
        *(OPENSET, WORDS, SUBTITLE),
    ),
    "mer2025ov": ("mer2025-dataset", PLAIN, "track2_test.csv", "", OPENSET, WORDS, SUBTITLE),
    "ovmerdplus": (
        *("ovmerdplus-process", PLAIN, "ovlabel.csv", ""),
        *(OPENSET, WORDS, ("subtitle_eng.csv", ("sentence",))),
    ),
    "mer2023": (
        *("mer2023-dataset-process", PLAIN, "label-6way.npz", "test1_corpus"),
        *(["worried", "neutral", "surprise"], [("worried",), ("neutral",), ("surprise",)]),
        POLISHED,
    ),
    "mer2024": (
        *("mer2024-dataset-process", PLAIN, "label-6way.npz", "test1_corpus"),
        *(["angry", "sad", "happy"], [("angry",), ("sad",), ("happy",)]),
        ("transcription_merge.csv", ("chinese",)),
    ),
    "meld": (
        *("meld-process", SUB, "label.npz", "test_corpus"),
        *([0, 3, np.int64(6)], [("anger",), ("neutral",), ("surprise",)], POLISHED),
    ),
    "iemocap": (
        *("iemocap-process", ("subvideo-tgt", "subaudio"), "label_4way.npz", "whole_corpus"),
        *([0, 2, np.int64(3)], [("happy",), ("neutral",), ("anger",)], POLISHED),
    ),
    "cmumosi": ("cmumosi-process", SUB, "label.npz", "test_corpus", VALUES, SIGNS, POLISHED),
    "cmumosei": (
        *("cmumosei-process", ("subvideo_new", "subaudio"), "label.npz", "test_corpus"),
        *([np.float32(v) for v in VALUES], SIGNS, POLISHED),
    ),
    "chsims": ("sims-process", PLAIN, "label.npz", "test_corpus", VALUES, SIGNS, POLISHED),
    "chsimsv2": (
        *("simsv2-process", ("video_new", "audio"), "label.npz", "test_corpus"),
        *(VALUES, SIGNS, POLISHED),
    ),
}
SENTIMENT = ("cmumosi", "cmumosei", "chsims", "chsimsv2")
ACTED = {"ravdess", "emodb"}


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, a sound and two files of crops, to be copied."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", 3)
    tone = np.sin(np.arange(4000, dtype=np.float32) / 9)[None]
    write_sound(folder / "a.wav", "pcm_s16le", tone, 16000)
    np.save(folder / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(folder / "none.npy", np.zeros((0,), np.float64))
    return folder


def write_csv(path: Path, columns: tuple[str, ...], *rows: tuple[str, ...], bom: str = "") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(bom)
        csv.writer(file).writerows([columns, *rows])


def lay_out(name: str, parent: Path, media: Path, letters: str = "abc") -> tuple[Path, list[str]]:
    """A set of three whole clips in the layout of its authors, and their names."""
    folder, (video, audio), labels, member, values, _, (subtitles, columns) = LAYOUTS[name]
    root = parent / folder
    names = [f"{'Ses05_' if name == 'iemocap' else ''}{letter}.x" for letter in letters]
    for place in (video, audio, "openface_face"):
        (root / place).mkdir(parents=True, exist_ok=True)  # two sets may share a folder
    for key in names:
        shutil.copy(media / "a.mp4", root / video / f"{key}.mp4")
        shutil.copy(media / "a.wav", root / audio / f"{key}.wav")
        nested = root / "openface_face" / (key if folder == "mer2025-dataset" else "")
        nested.mkdir(exist_ok=True)
        shutil.copy(media / "a.npy", nested / f"{key}.npy")
    if member:
        entry = "val" if name in SENTIMENT else "emo"
        truth: Any = {
            k: {"emo": 0, "val": 9.0, entry: v} for k, v in zip(names, values, strict=True)
        }
        others = {"Ses01_a": {"emo": 0, "val": 0.0}} if name == "iemocap" else {}
        np.savez_compressed(root / labels, **{member: truth | others, "train_corpus": {}})
    else:
        write_csv(
            root / labels, ("name", "openset"), *zip(names, values, strict=True), bom="\ufeff"
        )
        reasons = labels.replace("track2", "track3")
        if "track2_train" in labels:
            rows = [(key, f'"so",\nsays {key}') for key in names]
            write_csv(root / reasons, ("name", "reason"), *rows)
    said = [(key, *(f"{key} {column}, said" for column in columns)) for key in names]
    write_csv(root / subtitles, ("name", *columns), *said)
    return root, names


def counts(result: Prepared) -> dict[tuple[str, str], int]:
    found = {(line.kind, line.what): line.count for line in result.findings}
    assert len(found) == len(result.findings)
    return found


def npz(path: Path, content: bytes, member: str = "test_corpus") -> Path:
    """A compressed npz with an array of objects whose pickle is given."""
    header = io.BytesIO()
    form = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(header, form)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{member}.npy", header.getvalue() + content)
    return path


def boxed(value: object) -> Any:
    array = np.empty((), object)
    array[()] = value
    return array


def test_the_table_holds_the_sets_of_the_benchmark_and_a_wrong_name_lists_all() -> None:
    assert published_sets().keys() == LAYOUTS.keys() | ACTED
    assert published_sets().keys() >= SETS.keys()
    assert complaint("prepare", "?", ".").endswith(", ".join(["demo", *published_sets()]))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("direct", [True, False])
def test_every_layout_ends_in_a_manifest(
    name: str, direct: bool, tmp_path: Path, media: Path
) -> None:
    root, names = lay_out(name, tmp_path, media)
    folder = root if direct else tmp_path
    result = prepare(name, folder)
    clips = read_manifest(folder / f"{name}.jsonl")
    assert (result.manifest, result.clips) == (folder / f"{name}.jsonl", 3)
    assert [clip.id for clip in clips] == names
    assert [clip.labels for clip in clips] == LAYOUTS[name][5]
    assert {clip.dataset for clip in clips} == {name}
    for clip in clips:
        assert clip.video
        assert clip.audio
        assert clip.faces
        assert {clip.video.stem, clip.audio.stem, clip.faces.stem} == {clip.id}
    signed = name in SENTIMENT
    assert [clip.valence for clip in clips] == (
        [pytest.approx(value) for value in VALUES] if signed else [None] * 3
    )
    spoken = {"ovmerdplus": "sentence", "mer2024": "chinese"}.get(name, "english")
    assert [clip.subtitle for clip in clips] == [f"{key} {spoken}, said" for key in names]
    described = name in ("mercaptionplus", "ovmerd")
    assert [c.description for c in clips] == [
        f'"so",\nsays {k}' if described else None for k in names
    ]
    found = counts(result)
    assert found.pop(("left out", "of another part"), 0) == (name == "iemocap")
    there = ["video", "audio", "faces", "subtitle"] + ["description"] * described
    assert found == {("there", what): 3 for what in there}
    assert read_media(clips[0]).faces.shape == (8, 224, 224, 3)


def test_what_is_missing_broken_or_left_over_is_counted(tmp_path: Path, media: Path) -> None:
    root, _ = lay_out("meld", tmp_path, media)
    names = [f"n{i}" for i in range(9)]
    truth = {key: {"emo": 1, "val": 0.0} for key in names} | {
        "index": {"emo": 7},
        "none": {"val": 1.0},
        "odd": {"emo": "?!"},
        "flat": 3,
    }
    np.savez(root / "label.npz", test_corpus=boxed(truth))
    video, audio, faces = root / "subvideo", root / "subaudio", root / "openface_face"
    for key in names:
        shutil.copy(media / "a.mp4", video / f"{key}.mp4")
        shutil.copy(media / "a.wav", audio / f"{key}.wav")
        shutil.copy(media / "a.npy", faces / f"{key}.npy")
    (video / "n0.mp4").unlink()
    (video / "n0.avi").write_bytes(b"x")
    (video / "n1.mp4").unlink()
    (video / "n2.mp4").write_bytes(b"")
    (audio / "n2.wav").unlink()  # nothing is left of it
    (audio / "n3.wav").write_bytes(b"")
    (faces / "n0.npy").unlink()
    shutil.copy(media / "none.npy", faces / "n1.npy")
    np.save(faces / "n3.npy", np.zeros((2, 8, 8, 3), np.float32))
    (faces / "n4.npy").write_bytes((media / "a.npy").read_bytes()[:-1])
    np.save(faces / "n5.npy", boxed({}))
    (faces / "n6.npy").write_bytes(b"")
    (faces / "n7.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00{'a\n")
    rows = [("n0", "a", "b"), ("n1", "", ""), ("n1", "c", "d"), ("n3", "e", ""), ("zz", "f", "g")]
    write_csv(root / POLISHED[0], ("name", *POLISHED[1]), *rows)
    result = prepare("meld", tmp_path, tmp_path / "else/where.jsonl")
    assert counts(result) == {
        ("there", "video"): 7,
        ("there", "audio"): 7,
        ("there", "faces"): 1,
        ("there", "subtitle"): 2,
        ("missing", "video"): 1,
        ("missing", "audio"): 1,
        ("missing", "faces"): 1,
        ("missing", "subtitle"): 7,
        ("broken", "empty video"): 1,
        ("broken", "empty audio"): 1,
        ("broken", "empty faces"): 1,
        ("broken", "faces without a face"): 1,
        ("broken", "wrong faces"): 4,
        ("left out", "no media"): 1,
        ("left out", "no label"): 4,
        ("extra", "media without label"): 3,
        ("extra", "subtitle without label"): 1,
        ("extra", "name given twice"): 1,
    }
    first = {(line.kind, line.what): line.first for line in result.findings}
    assert first["left out", "no label"] == ("index", "none", "odd")
    assert first["broken", "wrong faces"] == ("n3", "n4", "n5")
    clips = {clip.id: clip for clip in read_manifest(tmp_path / "else/where.jsonl")}
    assert clips.keys() == {f"n{i}" for i in range(9)} - {"n2"}
    assert clips["n0"].video == tmp_path / "else" / os.path.relpath(
        video / "n0.avi", tmp_path / "else"
    )
    assert (clips["n1"].video, clips["n1"].faces, clips["n1"].subtitle) == (None, None, "d")
    assert clips["n3"].audio is None
    assert clips["n8"].faces


def test_a_set_without_subtitle_or_description_files_says_so(tmp_path: Path, media: Path) -> None:
    root, _ = lay_out("ovmerd", tmp_path, media)
    (root / "subtitle_chieng.csv").unlink()
    (root / "track3_train_ovmerd.csv").unlink()
    result = prepare("ovmerd", root)
    assert counts(result)["missing", "file"] == 2
    assert counts(result)["missing", "subtitle"] == counts(result)["missing", "description"] == 3
    assert {clip.description for clip in read_manifest(result.manifest)} == {None}


def test_media_that_no_clip_has_are_told_and_no_manifest_is_written(
    tmp_path: Path, media: Path
) -> None:
    root, _ = lay_out("chsims", tmp_path, media)
    shutil.rmtree(root / "video")
    shutil.rmtree(root / "audio")
    with pytest.raises(InputError, match="no media 3"):
        prepare("chsims", root)
    assert not (root / "chsims.jsonl").exists()


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path, media: Path) -> None:
    root, _ = lay_out("chsims", tmp_path, media)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        prepare("chsims", root, tmp_path / "out")
    assert not [*tmp_path.glob("*.tmp"), *(tmp_path / "out").iterdir()]


def test_the_rl_set_is_the_one_without_the_clips_of_the_test_set(
    tmp_path: Path, media: Path
) -> None:
    _, names = lay_out("mer2025ov", tmp_path, media)
    others, _ = lay_out("ovmerdplus", tmp_path, media)
    write_csv(others / "ovlabel.csv", ("name", "openset"), (names[1], "sad"))
    prepare("ovmerdplus", others)
    result = answer(
        *("prepare", "mer2025ov", tmp_path),
        *("--exclude", others / "ovmerdplus.jsonl", "--exclude", others / "ovmerdplus.jsonl"),
    )
    found = {(line["kind"], line["what"]): line for line in result["findings"]}  # type: ignore[attr-defined]
    assert found["left out", "excluded"] == {
        **{"kind": "left out", "what": "excluded"},
        **{"count": 1, "first": [names[1]]},
    }
    assert [clip.id for clip in read_manifest(tmp_path / "mer2025ov.jsonl")] == [names[0], names[2]]


def test_the_language_of_subtitles_can_be_chosen_where_there_are_two(
    tmp_path: Path, media: Path
) -> None:
    lay_out("mer2023", tmp_path, media)
    lay_out("mer2024", tmp_path, media)
    result = prepare("mer2023", tmp_path, language="chinese")
    assert read_manifest(result.manifest)[0].subtitle == "a.x chinese, said"
    assert prepare("mer2024", tmp_path, language="chinese").clips == 3
    for name in ("mer2024", "ovmerdplus", "emodb"):
        with pytest.raises(InputError, match=f"subtitles of {name}"):
            prepare(name, tmp_path, language="english")


def test_a_table_of_other_columns_tells_which_it_has(tmp_path: Path, media: Path) -> None:
    root, _ = lay_out("ovmerdplus", tmp_path, media)
    write_csv(root / "ovlabel.csv", ("id", "openset"), ("a", "sad"))
    with pytest.raises(InputError, match="has the columns id, openset and lacks name"):
        prepare("ovmerdplus", root)


@pytest.mark.parametrize(
    "content",
    [b'name,openset\na,"sad\n', b"name,openset\na,sad,happy\n", b"name,openset\na,\xff\n", b""],
)
def test_a_broken_table_is_an_error_with_its_line(
    content: bytes, tmp_path: Path, media: Path
) -> None:
    root, _ = lay_out("ovmerdplus", tmp_path, media)
    (root / "ovlabel.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"ovlabel\.csv"):
        prepare("ovmerdplus", root)


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=4))
@example(texts=["[?]", "-", "and", '"']).via("words that the robust parser drops")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_label_text_ends_in_a_manifest_that_can_be_read(
    texts: list[str], tmp_path: Path, media: Path
) -> None:
    root = tmp_path / "set"
    (root / "video").mkdir(parents=True, exist_ok=True)
    rows = [(f"n{i}", text) for i, text in enumerate([*texts, "sad"])]
    for key, _ in rows:
        (root / "video" / f"{key}.mp4").write_bytes(b"x")
    write_csv(root / "ovlabel.csv", ("name", "openset"), *rows)
    result = prepare("ovmerdplus", root)
    left_out = counts(result).get(("left out", "no label"), 0)
    assert len(read_manifest(result.manifest)) == result.clips == len(rows) - left_out


def test_acted_takes_are_read_from_their_names(tmp_path: Path, media: Path) -> None:
    folder = tmp_path / "Actor_07"
    folder.mkdir()
    for stem in ("01-01-05-02-02-01-07", "02-01-05-02-02-01-07", "02-01-08-01-01-02-07"):
        shutil.copy(media / "a.mp4", folder / f"{stem}.mp4")
    other = tmp_path / "audio/Actor_07"
    other.mkdir(parents=True)
    stems = ("03-01-05-02-02-01-07", "03-01-08-01-01-02-07", "03-01-02-01-02-02-12")
    for stem in (*stems, "03-02-02-01-02-02-12", "03-01-09-01-02-02-12", "notes"):
        shutil.copy(media / "a.wav", other / f"{stem}.WAV")
    shutil.copy(media / "a.wav", folder / "03-01-02-01-02-02-12.wav")  # unpacked twice
    (folder / "readme.txt").write_text("x")
    result = prepare("ravdess", tmp_path)
    clips = {clip.id: clip for clip in read_manifest(result.manifest)}
    angry, surprised, calm = (clips[stem[3:]] for stem in stems)
    assert len(clips) == 3
    assert angry.video == folder / "01-01-05-02-02-01-07.mp4"
    assert (angry.audio, angry.labels, angry.group) == (None, ("angry",), "ravdess-07")
    assert angry.subtitle == "Dogs are sitting by the door."
    assert surprised.video == folder / "02-01-08-01-01-02-07.mp4"
    assert surprised.audio == other / "03-01-08-01-01-02-07.WAV"
    assert (surprised.labels, surprised.subtitle) == (
        ("surprised",),
        "Kids are talking by the door.",
    )
    assert (calm.video, calm.labels, calm.group) == (None, ("calm",), "ravdess-12")
    assert counts(result) == {
        ("there", "video"): 2,
        ("there", "audio"): 2,
        ("there", "subtitle"): 3,
        ("missing", "video"): 1,
        ("missing", "audio"): 1,
        ("missing", "faces"): 3,
        ("extra", "media without label"): 3,
        ("extra", "other file of a take"): 3,
    }


def test_the_berlin_names_are_read(tmp_path: Path, media: Path) -> None:
    for stem in ("03a01Fa", "16b10Wb", "08a04L", "08a03Fa", "03a01Xa"):
        shutil.copy(media / "a.wav", tmp_path / f"{stem}.wav")
    result = prepare("emodb", tmp_path)
    clips = {clip.id: clip for clip in read_manifest(result.manifest)}
    assert {key: (clip.labels, clip.group) for key, clip in clips.items()} == {
        "03a01Fa": (("happiness",), "emodb-03"),
        "16b10Wb": (("anger",), "emodb-16"),
        "08a04L": (("boredom",), "emodb-08"),
    }
    assert clips["03a01Fa"].subtitle == "Der Lappen liegt auf dem Eisschrank."
    assert counts(result)["extra", "media without label"] == 2


def test_real_acted_speech_is_read(shared_dir: Path, tmp_path: Path) -> None:
    result = prepare("ravdess", shared_dir / "data", tmp_path / "ravdess.jsonl")
    clips = read_manifest(result.manifest)
    (filmed,) = [clip for clip in clips if clip.video]
    assert (filmed.id, filmed.labels) == ("01-01-01-01-01-01", ("neutral",))
    heard = [clip for clip in clips if clip.audio]
    assert len(heard) == len(clips) - 1
    assert {(clip.labels or ("",))[0] for clip in clips} == {
        *("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    }
    assert len({clip.group for clip in clips}) == 20
    assert len(read_media(filmed).frames) == len(read_media(heard[0]).windows) == 8


@pytest.mark.parametrize("protocol", range(6))
def test_labels_are_read_whatever_the_protocol(protocol: int, tmp_path: Path) -> None:
    truth = {
        "中": {"emo": np.str_("joy"), "val": np.float32(-1.5), "all": np.arange(3)},
        "b": {"emo": np.int64(2), "val": np.float64(0.25), "yes": np.bool_(True)},
    }
    path = npz(tmp_path / "l.npz", pickle.dumps(boxed(truth), protocol))
    assert read_dict(path, "test_corpus") == {
        "中": {"emo": "joy", "val": -1.5, "all": [0, 1, 2]},
        "b": {"emo": 2, "val": 0.25, "yes": True},
    }
    old = path.with_name("old.npz")  # written by numpy 1
    content = pickle.dumps(boxed(truth), 2).replace(b"numpy._core.", b"numpy.core.")
    assert read_dict(npz(old, content), "test_corpus") == read_dict(path, "test_corpus")


class Evil:
    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [True, False])
def test_a_malicious_pickle_is_refused_and_does_nothing(
    protocol: int, inside: bool, tmp_path: Path, media: Path
) -> None:
    victim = tmp_path / "victim"
    evil = Evil(os.mkdir, str(victim))
    value = boxed({"a": {"emo": evil, "val": 0.0}}) if inside else evil
    root, _ = lay_out("meld", tmp_path, media)
    npz(root / "label.npz", pickle.dumps(value, protocol))
    with pytest.raises(InputError) as caught:
        prepare("meld", tmp_path)
    assert not victim.exists()
    for part in ("label.npz", "test_corpus", f"{os.mkdir.__module__}.mkdir", "refused"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("meld.jsonl"))


@pytest.mark.parametrize(
    "call", [eval, getattr, np.load, np.frombuffer, np.memmap, np.fromfile, pickle.loads, print]
)
def test_no_other_global_is_let_through(call: Any, tmp_path: Path) -> None:
    path = npz(tmp_path / "l.npz", pickle.dumps(boxed({"a": Evil(call, "x")})))
    with pytest.raises(InputError, match=rf"{call.__name__}: refused"):
        read_dict(path, "test_corpus")


def test_a_forged_array_of_pointers_is_never_built(tmp_path: Path) -> None:
    # An object dtype that says it holds no objects makes numpy take bytes for pointers.
    content = pickle.dumps(boxed({"a": {"emo": np.arange(2)}}), 2)
    forged = content.replace(b"X\x02\x00\x00\x00i8", b"X\x02\x00\x00\x00O8")
    assert forged != content
    with pytest.raises(InputError, match="values of type <O8"):
        read_dict(npz(tmp_path / "l.npz", forged), "test_corpus")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    bomb = npz(tmp_path / "zeros.npz", b"\0" * (LIMIT_BYTES + 1))
    assert bomb.stat().st_size < 1 << 16
    with pytest.raises(InputError, match="above 16 MiB"):
        read_dict(bomb, "test_corpus")
    memo = npz(tmp_path / "memo.npz", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(InputError, match="larger than the file"):
        read_dict(memo, "test_corpus")
    length = npz(tmp_path / "length.npz", b"\x80\x05\x96\xff\xff\xff\xff\xff\0\0\0.")
    with pytest.raises(InputError, match="damaged"):
        read_dict(length, "test_corpus")


def test_what_is_no_file_of_labels_is_told(tmp_path: Path) -> None:
    path = tmp_path / "label.npz"
    with pytest.raises(MissingFileError, match="no file"):
        read_dict(path, "test_corpus")
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        read_dict(path, "test_corpus")
    np.savez(path, train_corpus=boxed({}), numbers=np.arange(3), list=boxed([1]))
    with pytest.raises(InputError, match="test_corpus"):
        read_dict(path, "test_corpus")
    with pytest.raises(InputError, match="not one pickled dict"):
        read_dict(path, "numbers")
    with pytest.raises(InputError, match="no dict is in it"):
        read_dict(path, "list")
    assert read_dict(path, "train_corpus") == {}


PICKLED = pickle.dumps(boxed({"a": {"emo": np.str_("sad"), "val": np.float32(1)}, "é": {}}), 4)


@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("stored", [True, False])
def test_flipped_bits_give_a_dict_or_one_clear_error(
    stored: bool, flips: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Of the pickle itself (the archive's checksum made anew), or of the whole file."""
    path = npz(tmp_path / "l.npz", PICKLED)
    content = bytearray(PICKLED if stored else path.read_bytes())
    for place, bit in flips:
        content[place % len(content)] ^= 1 << bit
    if stored:
        npz(path, bytes(content))
    else:
        path.write_bytes(content)
    found, told = {}, ""
    try:
        found = read_dict(path, "test_corpus")
    except InputError as error:
        told = str(error)
    assert isinstance(found, dict)
    assert not told or "l.npz" in told


def test_predictions_carry_the_truth_that_the_benchmark_scores(tmp_path: Path, media: Path) -> None:
    files = []
    for name in ("cmumosi", "mer2023"):
        lay_out(name, tmp_path, media)
        clips = read_manifest(prepare(name, tmp_path).manifest)
        rows = [
            {"id": c.id, "words": ["joyful"], "dataset": c.dataset, "labels": c.truth}
            for c in clips
        ]
        files.append(tmp_path / f"{name}-said.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    bare = tmp_path / "bare.jsonl"
    said = [
        {"id": clip.id, "words": ["joyful"]} for clip in read_manifest(tmp_path / "cmumosi.jsonl")
    ]
    bare.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    row = answer("unibench", *files, "--lexicon", "builtin")
    found = {line["title"]: line["n"] for line in row["rows"]}  # type: ignore[attr-defined]
    assert (found["CMU-MOSI"], found["MER2023"]) == (3, 3)
    joined = ("score", bare, "--labels", tmp_path / "cmumosi.jsonl")
    scored = answer(*joined, "--metric", "sentiment")
    assert (scored["accuracy"], scored["n"]) == (0.5, 2)  # one of 1.6 and -0.4; 0.0 is left out
    assert "numbers" not in complaint(*joined)
    assert len(read_labelled(tmp_path / "cmumosi.jsonl")) == 3  # their signs are words


@pytest.mark.parametrize("valence", ["high", [1], True, 1e400, "nan"])
def test_an_intensity_is_a_finite_number(valence: object, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "a", "valence": valence}), encoding="utf-8")
    with pytest.raises(InputError, match="'valence' must be a finite number"):
        read_manifest(path)


@given(value=st.floats(-1e6, 1e6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_intensity_is_written_and_read_as_it_is(value: float, tmp_path: Path) -> None:
    clip = Clip("a", labels=("sad",), dataset="cmumosi", valence=value)
    write_manifest(tmp_path / "m.jsonl", [clip])
    assert read_manifest(tmp_path / "m.jsonl") == (clip,)
    (tmp_path / "m.csv").write_text(f"id,labels,dataset,valence\na,sad,cmumosi,{value!r}\n")
    assert read_manifest(tmp_path / "m.csv") == (clip,)


def test_the_command_shows_one_table_and_prints_one_object(tmp_path: Path, media: Path) -> None:
    lay_out("iemocap", tmp_path, media)
    done = run("prepare", "iemocap", tmp_path, "--out", tmp_path / "i.jsonl")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert (row["dataset"], row["clips"]) == ("iemocap", 3)
    assert row["manifest"] == str(tmp_path / "i.jsonl")
    assert "of another part" in done.stderr
    assert "Ses01_a" in done.stderr


def test_wrong_options_and_names_are_one_line(tmp_path: Path) -> None:
    assert "mercaptionplus" in complaint("prepare", "imdb", tmp_path)
    assert "no label.npz in" in complaint("prepare", "meld", tmp_path / "gone")
    assert "no media" in complaint("prepare", "emodb", tmp_path)
    assert "--seed" in complaint("prepare", "meld", tmp_path, "--seed", "1")
    for option in ("--out", "--exclude", "--language"):
        assert "demo's" in complaint("prepare", "demo", tmp_path, option, tmp_path / "x")
    assert "--language french" in complaint("prepare", "meld", tmp_path, "--language", "french")
    assert not list(tmp_path.iterdir())
