"""Faces found by a model file, and crops written for others: the way of OpenFace without it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.config import EncoderSettings, LoraSettings
from affectgpt_r1.datasets.demo import demo_lines, write_demo
from affectgpt_r1.errors import MissingFileError, ModelFolderError
from affectgpt_r1.media import MediaFlag, read_media
from affectgpt_r1.media.crops import write_crops
from affectgpt_r1.media.faces import crop_faces, detect_with_cascade, yunet_detector
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source, encoders_of
from affectgpt_r1.perception.features import perceive
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
    one, two = (encoder_source(nano.but(EncoderSettings(face_model=path))) for path in files)
    assert len({source.key(clip) for source in (cascade, one, two)}) == 3
    frames = encoder_source(nano.but(EncoderSettings(face_model=files[0], view="frame")))
    assert frames.key(clip) == encoder_source(nano.but(EncoderSettings(view="frame"))).key(clip)
    with pytest.raises(MissingFileError, match=r"gone\.onnx"):
        encoder_source(nano.but(EncoderSettings(face_model=tmp_path / "gone.onnx")))

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
    cropped, reasons = write_crops(demo, tmp_path, Guard(1))
    assert reasons == {}
    for before, after in zip(demo, cropped, strict=True):
        assert after.faces is not None
        assert np.load(after.faces).shape == (8, 224, 224, 3)
        media = read_media(after)
        assert np.array_equal(media.faces, read_media(before).faces)
        assert MediaFlag.GIVEN_FACES in media.flags
        assert np.array_equal(perceive(before, source).visual, perceive(after, source).visual)


def test_crops_are_written_once_and_what_cannot_be_cropped_is_a_reason(tmp_path: Path) -> None:
    tone = np.zeros((1, 16000), np.float32)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"junk" * 99)
    faceless = write_video(tmp_path / "faceless.mp4", 20)
    clips = [
        Clip("faceless", video=faceless),
        Clip("broken", video=broken),
        Clip("sound", audio=write_sound(tmp_path / "a.wav", "pcm_s16le", tone, 16000)),
        Clip("../outside", video=faceless),
    ]
    cropped, reasons = write_crops(clips, tmp_path / "crops", Guard(1))
    assert reasons.keys() == {"broken", "sound", "../outside"}
    assert "no file name" in reasons["../outside"]
    (path,) = (tmp_path / "crops").rglob("*")
    assert cropped[0].faces == path
    assert np.load(path).size == 0
    assert {MediaFlag.GIVEN_FACES_EMPTY, MediaFlag.NO_FACE} <= read_media(cropped[0]).flags
    stamp = path.stat().st_mtime_ns
    write_crops(clips, tmp_path / "crops", Guard(1))
    assert path.stat().st_mtime_ns == stamp
    assert not (tmp_path / "outside.npy").exists()


def test_the_command_writes_crops_and_a_manifest_with_them(
    demo: tuple[Clip, ...], tmp_path: Path
) -> None:
    write_manifest(tmp_path / "clips.jsonl", [*demo, Clip("blind", audio=demo[0].video)])
    command = [str(Path(sys.executable).with_name("affectgpt-r1")), "faces"]
    done = subprocess.run(
        [*command, str(tmp_path / "clips.jsonl"), str(tmp_path / "out"), "--workers", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert (told["clips"], told["cropped"], told["failed"]) == (len(demo) + 1, len(demo), 1)
    assert "blind" in done.stderr
    clips = read_manifest(tmp_path / "out/clips.jsonl")
    assert [clip.faces is not None for clip in clips] == [True] * len(demo) + [False]
    for clip in clips[:-1]:
        assert str(clip.faces).endswith(f"openface_face/{clip.id}.npy")


def test_the_cascade_is_equally_sure_of_all(demo: tuple[Clip, ...]) -> None:
    picture = read_media(demo[0]).frames[0]
    assert {confidence for _, confidence in detect_with_cascade(picture)} == {1.0}
