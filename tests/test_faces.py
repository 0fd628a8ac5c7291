"""Faces found by a model file, and crops written for others: the way of OpenFace without it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.config import LoraSettings
from affectgpt_r1.errors import MissingFileError, ModelFolderError
from affectgpt_r1.media import MediaFlag, read_media
from affectgpt_r1.media.faces import crop_faces, detect_with_cascade, yunet_detector
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source, encoders_of
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import encode_clips
from affectgpt_r1.perception.features import perceive
from affectgpt_r1_demo.clips import demo_lines, write_demo
from test_media import write_sound, write_video

SIDE = 160


def write_yunet(path: Path, box: tuple[int, int, int, int], confidence: float = 0.9) -> Path:
    """A model with YuNet's twelve outputs that finds one face wherever it looks."""
    x, y, width, height = box
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    outputs = []
    for part, size in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            cells = SIDE // stride
            values = np.zeros((1, cells * cells, size), np.float32)
            if stride == 8:
                across, down = (x + width / 2) / stride, (y + height / 2) / stride
                cell = int(down) * cells + int(across)
                if part == "bbox":
                    sides = math.log(width / stride), math.log(height / stride)
                    values[0, cell] = (across % 1, down % 1, *sides)
                elif part != "kps":
                    values[0, cell] = confidence
            name = f"{part}_{stride}"
            constants.append(numpy_helper.from_array(values, f"{name} values"))
            nodes.append(helper.make_node("Add", [f"{name} values", "nothing"], [name]))
            shape = list(values.shape)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    graph = helper.make_graph(nodes, "yunet", [given], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.save(model, path)
    return path


def test_a_model_file_finds_faces_and_says_how_sure_it_is(tmp_path: Path) -> None:
    detect = yunet_detector(write_yunet(tmp_path / "y.onnx", (40, 30, 64, 72)))
    ((box, confidence),) = detect(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert box == (40, 30, 64, 72)
    assert confidence == pytest.approx(0.9)
    unsure = yunet_detector(write_yunet(tmp_path / "u.onnx", (40, 30, 64, 72), 0.3))
    assert unsure(np.zeros((SIDE, SIDE, 3), np.uint8)) == []
    crops, flags = crop_faces(np.zeros((2, SIDE, SIDE, 3), np.uint8), detect)
    assert (crops.shape, flags) == ((2, 224, 224, 3), frozenset())


@pytest.mark.parametrize("content", [b"", b"no model", bytes(2000)])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"bad\.onnx is no YuNet model"):
        yunet_detector(tmp_path / "bad.onnx")


def test_features_are_kept_apart_by_detector_and_a_model_remembers_its_own(tmp_path: Path) -> None:
    clip = Clip("a", video=write_video(tmp_path / "a.mp4", 30))
    nano = PROFILES["nano"]
    cascade = encoder_source(nano)
    files = [
        write_yunet(tmp_path / f"{name}.onnx", box)
        for name, box in (("one", (40, 30, 64, 72)), ("two", (8, 8, 24, 24)))
    ]
    one, two = (encoder_source(nano.but(face_model=path)) for path in files)
    assert len({source.key(clip) for source in (cascade, one, two)}) == 3
    frames = encoder_source(nano.but(face_model=files[0], view="frame"))
    assert frames.key(clip) == encoder_source(nano.but(view="frame")).key(clip)
    with pytest.raises(MissingFileError, match=r"gone\.onnx"):
        encoder_source(nano.but(face_model=tmp_path / "gone.onnx"))

    model, _ = create_model(nano, one, seed=0, lora=LoraSettings())
    again = encoders_of(model.config)
    assert again.key(clip) == one.key(clip)
    assert again.face_model == files[0]
    again.load()
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(ModelFolderError, match="face detector"):
        encoders_of(model.config).load()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, ...]:
    lines = [line for line in demo_lines() if line.split == "grpo"][:2]
    return read_manifest(write_demo(tmp_path_factory.mktemp("demo"), lines=lines).grpo)


def test_written_crops_give_the_features_that_detection_gave(
    demo: tuple[Clip, ...], tmp_path: Path
) -> None:
    source = encoder_source(PROFILES["nano"])
    cache, crops = FeatureCache(tmp_path / "cache"), tmp_path / "crops"
    encode_clips(demo, source, cache, Guard(1), crops=crops)
    for before in demo:
        after = replace(before, faces=crops / f"{before.id}.npy")
        media = read_media(after)
        assert np.array_equal(media.faces, read_media(before).faces)
        assert MediaFlag.GIVEN_FACES in media.flags
        assert np.array_equal(perceive(before, source).visual, perceive(after, source).visual)
    # What lacks is written though the features are known, and what is there stays as it is.
    first, second = (crops / f"{clip.id}.npy" for clip in demo[:2])
    first.unlink()
    stamp = second.stat().st_mtime_ns
    assert encode_clips(demo, source, cache, Guard(1), crops=crops)["cached"] == len(demo)
    assert np.load(first).shape == (8, 224, 224, 3)
    assert second.stat().st_mtime_ns == stamp


def test_a_clip_without_a_face_gets_empty_crops_and_a_bad_id_none(tmp_path: Path) -> None:
    tone = np.zeros((1, 16000), np.float32)
    faceless = write_video(tmp_path / "faceless.mp4", 20)
    clips = [
        Clip("faceless", video=faceless),
        Clip("sound", audio=write_sound(tmp_path / "a.wav", "pcm_s16le", tone, 16000)),
        Clip("../outside", video=write_video(tmp_path / "other.mp4", 25)),
    ]
    cache = FeatureCache(tmp_path / "cache")
    fates = encode_clips(
        clips, encoder_source(PROFILES["nano"]), cache, Guard(1), crops=tmp_path / "crops"
    )
    assert fates == {"encoded": 2, "failed": 1}
    (path,) = (tmp_path / "crops").rglob("*")
    assert np.load(path).size == 0
    given = replace(clips[0], faces=path)
    assert {MediaFlag.GIVEN_FACES_EMPTY, MediaFlag.NO_FACE} <= read_media(given).flags
    assert not (tmp_path / "outside.npy").exists()


def test_the_command_writes_crops_and_a_manifest_with_them(
    demo: tuple[Clip, ...], tmp_path: Path
) -> None:
    write_manifest(tmp_path / "clips.jsonl", [*demo, Clip("blind", audio=demo[0].video)])
    command = [str(Path(sys.executable).with_name("affectgpt-r1")), "encode", "--profile", "nano"]
    for shard in ("1/2", "2/2"):  # two machines with one folder
        subprocess.run(
            [*command, "clips.jsonl", "--cache=cache", "--write-faces=faces", f"--shard={shard}"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    clips = read_manifest(tmp_path / "faces/clips.jsonl")
    assert [clip.faces is not None for clip in clips] == [True] * len(demo) + [False]
    for clip in clips[:-1]:
        assert clip.faces == tmp_path / "faces" / f"{clip.id}.npy"


def test_the_cascade_is_equally_sure_of_all(demo: tuple[Clip, ...]) -> None:
    picture = read_media(demo[0]).frames[0]
    assert {confidence for _, confidence in detect_with_cascade(picture)} == {1.0}
