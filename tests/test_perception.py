"""Features: signal processing, the full profile's encoders on tiny checkpoints, one clip's way."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import InputError, MediaError, MissingFileError, ModelFolderError
from affectgpt_r1.media import read_media
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import encode_clips
from affectgpt_r1.perception.features import (
    EncoderSource,
    encoder_identity,
    perceive,
)
from affectgpt_r1.perception.pretrained import (
    ClipImageEncoder,
    PretrainedSpeechEncoder,
    normalised,
    weights_revision,
)
from affectgpt_r1.perception.signal import (
    DATA_FOLDER,
    GradientFaceEncoder,
    SignalSpeechEncoder,
    Standard,
    measure_edges,
)
from affectgpt_r1.perception.voice import NAMES, measure_voice
from standardise import fit, save
from test_media import write_sound

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]

RATE_HZ = 16_000


def voice(
    duration_s: float = 2.0, pitch_hz: float = 200.0, syllables_hz: float = 4.0, gain: float = 0.1
) -> Floats:
    """Harmonics under a syllable-like envelope, with a little breath: (n,)."""
    time_s = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 12))
    envelope = 0.02 + np.sin(np.pi * syllables_hz * time_s) ** 2
    breath = 0.01 * np.random.default_rng(0).normal(size=time_s.shape)
    return (gain * (tone * envelope + breath)).astype(np.float32)


def pictures(count: int = 8, height: int = 224, width: int = 224, seed: int = 0) -> Images:
    """Smooth random RGB pictures (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    size = (width, height)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in coarse]
    )


def write_wav(path: Path, samples: Floats) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_video(path: Path, images: Images) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


class MeanEncoder:
    """The mean of each picture or window, `width` times; counts its calls."""

    name = "mean"

    def __init__(self, width: int = 3, **options: str | int) -> None:
        self.width, self.settings, self.calls = width, options, 0

    def encode(self, steps: NDArray[Any]) -> Floats:
        self.calls += 1
        means = steps.reshape(len(steps), -1).mean(axis=1, dtype=np.float64)
        return np.repeat(means[:, None], self.width, axis=1).astype(np.float32)


def source(visual: Any, audio: Any, view: Any = "face") -> EncoderSource:
    return EncoderSource.of(visual, audio, view)


class WrongEncoder(MeanEncoder):
    """Says a width that it does not give, or gives infinities."""

    name = "wrong"

    def encode(self, steps: NDArray[Any]) -> Floats:
        values = super().encode(steps)
        return np.full_like(values, np.inf) if "infinite" in self.settings else values[:, 1:]


@pytest.fixture
def sound_clip(tmp_path: Path) -> Clip:
    return Clip(id="a", audio=write_wav(tmp_path / "a.wav", voice(3.0)))


@pytest.fixture
def silent_film(tmp_path: Path) -> Clip:
    return Clip(id="b", video=write_video(tmp_path / "b.mp4", pictures(12, 96, 128)))


# ---------------------------------------------------------------- one clip's way


def test_absent_modality_is_zeros_said_to_be_absent(sound_clip: Clip, silent_film: Clip) -> None:
    heard = perceive(sound_clip, source(MeanEncoder(5), MeanEncoder(7)))
    assert heard.has_audio
    assert not heard.has_visual
    assert heard.visual.shape == (8, 5)
    assert not heard.visual.any()
    assert heard.audio.shape == (8, 7)
    assert heard.audio.any()
    seen = perceive(silent_film, source(MeanEncoder(5), MeanEncoder(7)))
    assert seen.has_visual
    assert not seen.has_audio
    assert seen.audio.shape == (8, 7)
    assert not seen.audio.any()
    assert seen.visual.any()
    for features in (heard, seen):
        assert features.visual.dtype == features.audio.dtype == np.float32


def test_flags_of_the_media_are_kept(sound_clip: Clip, silent_film: Clip) -> None:
    for clip in (sound_clip, silent_film):
        flags = perceive(clip, source(MeanEncoder(), MeanEncoder())).flags
        assert flags == {str(flag) for flag in read_media(clip).flags}
        assert flags


def test_view_chooses_faces_or_whole_frames(tmp_path: Path, silent_film: Clip) -> None:
    faces = tmp_path / "faces.npy"
    np.save(faces, np.full((8, 64, 64, 3), 200, dtype=np.uint8))
    clip = replace(silent_film, faces=faces)
    face = perceive(clip, source(MeanEncoder(), MeanEncoder(), "face"))
    frame = perceive(clip, source(MeanEncoder(), MeanEncoder(), "frame"))
    assert np.allclose(face.visual, 200)
    assert not np.allclose(frame.visual, 200)
    assert face.key != frame.key


def test_a_perceived_clip_is_not_read_again(tmp_path: Path, sound_clip: Clip) -> None:
    cache, visual, audio = FeatureCache(tmp_path / "cache"), MeanEncoder(), MeanEncoder()
    first = perceive(sound_clip, source(visual, audio), cache)
    renamed = replace(sound_clip, id="other", subtitle="Oh.", labels=("sad",))
    again = perceive(renamed, source(visual, audio), cache)
    assert (cache.damaged, audio.calls) == (0, 1)
    assert first.key == again.key
    assert np.array_equal(first.audio, again.audio)
    assert first.flags == again.flags


def test_key_changes_with_media_encoder_settings_width_and_view(
    tmp_path: Path, sound_clip: Clip
) -> None:
    other = Clip(id="a", audio=write_wav(tmp_path / "c.wav", voice(3.0, gain=0.2)))
    visual, audio = MeanEncoder(3, revision="a"), MeanEncoder(3, revision="a")
    keys = [
        source(visual, audio, "face").key(sound_clip),
        source(visual, audio, "frame").key(sound_clip),
        source(visual, audio, "face").key(other),
        source(visual, MeanEncoder(3, revision="b"), "face").key(sound_clip),
        source(MeanEncoder(3, revision="b"), audio, "face").key(sound_clip),
        source(MeanEncoder(4, revision="a"), audio, "face").key(sound_clip),
    ]
    assert len(set(keys)) == len(keys)
    moved = shutil.copy(str(sound_clip.audio), tmp_path / "moved.wav")
    same = source(visual, audio, "face").key(Clip(id="z", audio=Path(moved)))
    assert same == keys[0]
    assert all(len(key) == 64 and int(key, 16) >= 0 for key in keys)


def test_identity_is_stable_and_does_not_depend_on_the_order_of_settings() -> None:
    assert encoder_identity(MeanEncoder(3, a=1, b=2)) == encoder_identity(MeanEncoder(3, b=2, a=1))
    assert encoder_identity(MeanEncoder(3, revision="x")) == "mean#6cdf891cc7c5cd5d"


@pytest.mark.parametrize("encoder", [WrongEncoder(4), WrongEncoder(4, infinite="yes")])
def test_wrong_output_of_an_encoder_is_refused_and_not_kept(
    tmp_path: Path, sound_clip: Clip, encoder: WrongEncoder
) -> None:
    with pytest.raises(InputError, match="encoder 'wrong' gave"):
        perceive(sound_clip, source(MeanEncoder(), encoder), FeatureCache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_unreadable_and_missing_media_are_errors_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(MediaError):
        perceive(Clip(id="a", audio=tmp_path / "empty.wav"), source(MeanEncoder(), MeanEncoder()))
    with pytest.raises(MissingFileError):
        perceive(Clip(id="a", audio=tmp_path / "none.wav"), source(MeanEncoder(), MeanEncoder()))


def test_signal_encoders_load_without_torch() -> None:
    code = (
        "import sys, affectgpt_r1.perception.signal, affectgpt_r1.perception.features, "
        "affectgpt_r1.perception.cache; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- speech measures


def measure(samples: Floats) -> dict[str, float]:
    return dict(zip(NAMES, measure_voice(samples[None])[0].tolist(), strict=True))


@pytest.mark.parametrize("pitch_hz", [70.0, 120.0, 200.0, 330.0, 431.0, 550.0])
def test_pitch_of_a_voice_is_found(pitch_hz: float) -> None:
    found = measure(voice(pitch_hz=pitch_hz))
    assert 2 ** found["pitch"] == pytest.approx(pitch_hz, rel=0.01)
    assert found["pitch range"] < 0.05
    assert found["voiced share"] > 0.8
    assert found["harmonicity"] > 10


def test_noise_has_no_pitch_and_a_rising_voice_a_slope() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=2 * RATE_HZ).astype(np.float32)
    found = measure(noise)
    assert found["voiced share"] < 0.05
    assert found["active share"] > 0.9
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    phase = 2 * np.pi * 120 * (2 ** (0.5 * time_s) - 1) / (0.5 * np.log(2))
    rising = sum(np.sin(phase * k) / k for k in range(1, 8)).astype(np.float32)
    assert measure(rising)["pitch slope"] == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("syllables_hz", [2.0, 4.0, 6.0])
def test_syllables_are_counted(syllables_hz: float) -> None:
    found = measure(voice(syllables_hz=syllables_hz))
    active_s = found["active share"] * 2
    assert found["syllable rate"] * active_s == pytest.approx(2 * syllables_hz, abs=1.1)


def test_only_the_level_depends_on_the_gain() -> None:
    quiet, loud = (measure_voice(voice(gain=gain)[None])[0] for gain in (0.005, 0.2))
    assert loud[0] - quiet[0] == pytest.approx(20 * np.log10(0.2 / 0.005), abs=1e-3)
    assert np.allclose(quiet[1:], loud[1:], atol=2e-3)


def test_padding_of_a_short_clip_is_not_measured() -> None:
    short = voice(1.2)
    alone = measure_voice(short[None])[0]
    padded = measure_voice(np.pad(short, (0, 2 * RATE_HZ - len(short)))[None])[0]
    spread = Standard.load(DATA_FOLDER / "speech-signal.json").std
    difference = np.abs((alone - padded) / spread)  # at the edge alone, in standard deviations
    # The package's constants are of drawn clips, where some measures hardly vary.
    assert np.quantile(difference, 0.95) < 0.5
    assert difference.max() < 1.5
    assert np.median(difference) < 0.05


def test_a_window_is_measured_alone() -> None:
    windows = np.stack([voice(pitch_hz=hz) for hz in (100.0, 150.0, 220.0)])
    together = measure_voice(windows)
    for index in range(3):
        assert np.allclose(measure_voice(windows[index : index + 1])[0], together[index], atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_silence_is_all_zeros(offset: float) -> None:
    windows = np.full((8, 2 * RATE_HZ), offset, dtype=np.float32)
    encoded = SignalSpeechEncoder().encode(windows)
    assert encoded.shape == (8, 114)
    assert not encoded[:, 1:].any()
    assert np.isfinite(encoded).all()


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float32, (2, 4000), elements=st.floats(-1, 1, width=32), fill=st.just(0.0)),
    st.sampled_from([1e-30, 1e-4, 1.0]),
)
def test_any_sound_gives_values_within_limits(windows: Floats, gain: float) -> None:
    encoder = SignalSpeechEncoder()
    encoded = encoder.encode((windows * np.float32(gain)).astype(np.float32))
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 5 * encoder.standard.scale + 1e-3
    assert encoded.dtype == np.float32


def test_angry_and_sad_voices_of_new_speakers_are_told_apart(shared_dir: Path) -> None:
    encoder = SignalSpeechEncoder()
    rows, angry, speaker = [], [], []
    for actor in (1, 2, 3, 4, 17, 18):
        folder = shared_dir / "data" / "ravdess_speech" / f"Actor_{actor:02}"
        for path in sorted(folder.glob("03-01-0[45]-*-01-*.ogg")):
            rows.append(encoder.encode(read_media(Clip(id="a", audio=path)).windows).mean(axis=0))
            angry.append(1.0 if path.name[7] == "5" else -1.0)
            speaker.append(actor)
    features, target, held_out = np.stack(rows), np.array(angry), np.array(speaker) > 16
    train = features[~held_out]
    ridge = train.T @ train + 100 * np.eye(train.shape[1])
    weights = np.linalg.solve(ridge, train.T @ target[~held_out])
    right = np.sign(features[held_out] @ weights) == target[held_out]
    assert right.mean() >= 0.75  # chance 0.5


# ---------------------------------------------------------------- faces


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (224, 224), (720, 1280)])
def test_faces_of_any_size_are_encoded(size: tuple[int, int]) -> None:
    encoder = GradientFaceEncoder()
    encoded = encoder.encode(pictures(2, *size))
    assert encoded.shape == (2, 512)
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 5 * encoder.standard.scale + 1e-3


def test_directions_of_edges_are_told_apart() -> None:
    stripes = np.zeros((96, 96, 3), dtype=np.uint8)
    stripes[(np.arange(96) // 6) % 2 == 0] = 255  # horizontal: the gradient points down
    cells = measure_edges(np.stack([stripes, stripes.transpose(1, 0, 2)])).reshape(2, 64, 8)
    assert (cells[0].argmax(axis=1) == 4).all()
    assert (cells[1].argmax(axis=1) == 0).all()
    assert np.allclose(cells[0][:, 4], cells[1][:, 0].reshape(8, 8).T.ravel(), atol=1e-6)


def test_light_hardly_changes_a_face() -> None:
    images = pictures(4)
    dim = (images * 0.6 + 30).astype(np.uint8)
    bright, dark, other = (measure_edges(i) for i in (images, dim, pictures(4, seed=1)))
    assert np.abs(bright - dark).mean() < 0.1 * np.abs(bright - other).mean()


def test_a_picture_is_encoded_alone() -> None:
    images = pictures(5)
    encoder = GradientFaceEncoder()
    alone = np.concatenate([encoder.encode(image[None]) for image in images])
    assert np.allclose(encoder.encode(images), alone, atol=1e-6)


# ---------------------------------------------------------------- constants


def test_constants_bring_clips_to_size_one() -> None:
    rng = np.random.default_rng(0)
    clips = [
        (rng.normal(5, 2, 6) + rng.normal(0, 1, (8, 6))).astype(np.float32) for _ in range(200)
    ]
    standard = fit(clips)
    means = np.stack([standard.apply(clip).mean(axis=0) for clip in clips])
    assert np.sqrt((means**2).mean()) == pytest.approx(1, abs=1e-3)
    assert standard.clips == 200


def test_unknown_values_are_left_out_of_constants_and_become_zero() -> None:
    clip = np.array([[1, np.nan, 7], [3, np.nan, 7]], dtype=np.float32)
    standard = fit([clip])
    assert standard.mean.tolist() == [2, 0, 7]
    assert standard.std.tolist() == [1, 1, 1]
    assert fit([clip], least_std=2.0).std.tolist() == [2, 2, 2]
    assert standard.apply(clip)[:, 1].tolist() == [0, 0]


def test_constants_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    standard = fit([rng.normal(1e-3, 1e3, (8, 40)).astype(np.float32)])
    save(standard, tmp_path / "x" / "a.json")
    read = Standard.load(tmp_path / "x" / "a.json")
    assert np.array_equal(read.mean, standard.mean)
    assert np.array_equal(read.std, standard.std)
    assert (read.scale, read.clips, read.digest) == (standard.scale, 1, standard.digest)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"mean": ["a"]}', '{"mean": [1], "std": [1]}'])
def test_damaged_constants_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"tools/standardise\.py"):
        Standard.load(path)
    with pytest.raises(MissingFileError, match=r"tools/standardise\.py"):
        Standard.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="no clip"):
        fit([])


@pytest.mark.parametrize("encoder", [GradientFaceEncoder(), SignalSpeechEncoder()])
def test_constants_of_the_package_fit_their_encoder_and_are_part_of_its_settings(
    encoder: GradientFaceEncoder | SignalSpeechEncoder,
) -> None:
    assert encoder.standard.mean.shape == encoder.standard.std.shape == (encoder.width,)
    assert (encoder.standard.std > 0).all()
    assert 0.5 < encoder.standard.scale < 3
    other = type(encoder)(replace(encoder.standard, scale=2.5))
    assert encoder_identity(other) != encoder_identity(encoder)


def test_standardise_writes_both_files_from_a_manifest(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", voice(2.5))
    write_video(tmp_path / "a.mp4", pictures(8, 96, 96))
    np.save(tmp_path / "a.npy", pictures(8, 64, 64))
    row = {"id": "a", "video": "a.mp4", "audio": "a.wav", "faces": "a.npy"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    tool = Path(__file__).parents[1] / "tools" / "standardise.py"
    command = [sys.executable, tool, "--manifest", tmp_path / "train.jsonl"]
    subprocess.run([*command, "--output", tmp_path / "out"], check=True, capture_output=True)
    face = Standard.load(tmp_path / "out" / "oriented-gradients.json")
    speech = Standard.load(tmp_path / "out" / "speech-signal.json")
    assert (face.mean.shape, speech.mean.shape) == ((512,), (114,))
    assert face.std.min() == pytest.approx(GradientFaceEncoder.least_std)


# ---------------------------------------------------------------- the full profile, tiny

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = {**TOWER, "patch_size": 32, "image_size": 224}
TEXT = {**TOWER, "vocab_size": 60, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def make_image_folder(folder: Path, kind: str = "clip") -> Path:
    torch.manual_seed(0)
    if kind == "clip":
        clip = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
        transformers.CLIPModel(clip).save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
    elif kind == "siglip":
        siglip = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
        transformers.SiglipModel(siglip).save_pretrained(folder)
        SiglipImageProcessorPil().save_pretrained(folder)
    else:
        transformers.Dinov2Model(transformers.Dinov2Config(**VISION)).save_pretrained(folder)
        CLIPImageProcessorPil(do_center_crop=True).save_pretrained(folder)
    return folder


SPEECH: dict[str, Any] = {
    **TOWER,
    "num_hidden_layers": 5,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
SPEECH_KINDS = {
    "hubert": (transformers.HubertConfig, transformers.HubertModel),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
}


def make_speech_folder(
    folder: Path, kind: str = "hubert", *, large: bool = True, **options: Any
) -> Path:
    """A tiny checkpoint; `large`: layer norms placed as in the large models."""
    torch.manual_seed(0)
    make_config, make_model = SPEECH_KINDS[kind]
    config = make_config(
        **{**SPEECH, **options},
        do_stable_layer_norm=large,
        feat_extract_norm="layer" if large else "group",
    )
    model = make_model(config)
    for name, parameter in model.named_parameters():
        # A fresh LayerNorm hides whether it was applied once or twice.
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    model.save_pretrained(folder)
    return folder


def squashed(images: Images) -> torch.Tensor:
    """CLIP's input, without transformers: (t, 3, 224, 224)."""
    small = [
        np.asarray(Image.fromarray(i).resize((224, 224), Image.Resampling.BILINEAR)) for i in images
    ]
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    values = (np.stack(small) / 255 - mean) / std
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize("size", [(224, 224), (90, 160)])
def test_clip_gives_projected_features_of_squashed_pictures(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    encoder = ClipImageEncoder.load(str(make_image_folder(tmp_path)))
    images = pictures(8, *size)
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        pooled = model.vision_model(squashed(images)).pooler_output
        expected = model.visual_projection(pooled).numpy()
    found = encoder.encode(images)
    assert (encoder.name, encoder.width, found.shape) == ("clip", 12, (8, 12))
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(found, axis=1) - 1).min() > 1e-3  # not normalised


def test_colours_the_other_way_round_are_another_encoder(tmp_path: Path) -> None:
    folder, images = str(make_image_folder(tmp_path)), pictures()
    plain, same, turned = (
        ClipImageEncoder.load(folder, **how)
        for how in ({}, {"channels": "rgb"}, {"channels": "bgr"})
    )
    assert np.array_equal(turned.encode(images), plain.encode(images[..., ::-1]))
    assert encoder_identity(plain) == encoder_identity(same) != encoder_identity(turned)


@pytest.mark.parametrize("kind", ["siglip", "dinov2"])
def test_other_image_models_give_their_pooled_output(tmp_path: Path, kind: str) -> None:
    encoder = ClipImageEncoder.load(str(make_image_folder(tmp_path, kind)))
    pixels = squashed(pictures())
    if kind == "siglip":
        pixels = torch.from_numpy(pictures().transpose(0, 3, 1, 2) / 127.5 - 1).float()
        whole = transformers.SiglipVisionModel.from_pretrained(tmp_path).eval()
    else:
        whole = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = whole(pixel_values=pixels).pooler_output.numpy()
    assert np.abs(encoder.encode(pictures()) - expected).max() < 1e-5


def windows_of_noise(seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    gains, offsets = rng.uniform(0.01, 0.3, (8, 1)), rng.uniform(-0.1, 0.1, (8, 1))
    return (gains * rng.normal(size=(8, 2 * RATE_HZ)) + offsets).astype(np.float32)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("kind", list(SPEECH_KINDS))
def test_speech_features_are_the_mean_of_three_layers_and_the_normed_last(
    tmp_path: Path, kind: str, large: bool
) -> None:
    folder = make_speech_folder(tmp_path, kind, large=large)
    encoder = PretrainedSpeechEncoder.load(str(folder))
    model = SPEECH_KINDS[kind][1].from_pretrained(folder).eval()
    outputs: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    for layer in model.encoder.layers:
        layer.register_forward_hook(keep)
    windows = windows_of_noise()
    centred = windows.astype(np.float64) - windows.mean(axis=1, keepdims=True, dtype=np.float64)
    joint = (centred - centred.mean()) / np.sqrt(centred.var() + 1e-7)
    with torch.inference_mode():
        model(torch.from_numpy(joint).float())
        last = model.encoder.layer_norm(outputs[-1]) if large else outputs[-1]
        states = torch.stack([*outputs[-4:-1], last])  # (4, t, frames, 16)
        expected = states.mean(dim=(0, 2)).numpy()
    found = encoder.encode(windows)
    assert (encoder.name, encoder.width, found.shape) == (kind, 16, (8, 16))
    assert np.abs(found - expected).max() < 2e-5


def make_whisper_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=60,
        d_model=16,
        num_mel_bins=20,
        encoder_layers=5,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
        decoder_start_token_id=1,
    )
    model = transformers.WhisperModel(config)
    torch.nn.init.normal_(model.encoder.layer_norm.weight, 1.0, 0.3)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=20).save_pretrained(folder)
    return folder


def test_of_whisper_the_two_seconds_that_are_heard_are_averaged(tmp_path: Path) -> None:
    folder = make_whisper_folder(tmp_path)
    encoder = PretrainedSpeechEncoder.load(str(folder))
    model = transformers.WhisperModel.from_pretrained(folder).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    outputs: list[torch.Tensor] = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(
            lambda _module, _inputs, output: outputs.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
    windows = windows_of_noise()
    mel = extractor(list(windows), sampling_rate=16_000, return_tensors="pt").input_features
    assert mel.shape == (8, 20, 3000)
    with torch.inference_mode():
        model.encoder(mel)
        states = torch.stack([*outputs[-4:-1], model.encoder.layer_norm(outputs[-1])])
        expected = states[:, :, :100].mean(dim=(0, 2)).numpy()
    found = encoder.encode(windows)
    assert (encoder.name, encoder.width, found.shape) == ("whisper", 16, (8, 16))
    assert np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize("kind", [*SPEECH_KINDS, "whisper", "clip", "siglip", "dinov2"])
def test_a_batch_of_clips_gives_each_what_it_gets_alone(tmp_path: Path, kind: str) -> None:
    encoder: PretrainedSpeechEncoder | ClipImageEncoder
    clips: list[Any]
    if kind in ("clip", "siglip", "dinov2"):
        encoder = ClipImageEncoder.load(str(make_image_folder(tmp_path, kind)))
        clips = [pictures(8), pictures(3, 90, 160), pictures(8, 300, 200)]
    else:
        whisper = kind == "whisper"
        folder = make_whisper_folder(tmp_path) if whisper else make_speech_folder(tmp_path, kind)
        encoder = PretrainedSpeechEncoder.load(str(folder))
        clips = [windows_of_noise(seed) * 10.0**seed for seed in range(3)]
    together = encoder.encode_batch(clips)
    for clip, found in zip(clips, together, strict=True):
        assert np.abs(found - encoder.encode(clip)).max() < 1e-5


def test_one_clip_that_encodes_to_nonsense_does_not_spoil_its_batch(tmp_path: Path) -> None:
    encoder = PretrainedSpeechEncoder.load(str(make_speech_folder(tmp_path / "speech")))
    clips = []
    for name, gain in (("a", 0.1), ("b", np.nan), ("c", 0.2)):
        samples = (gain * np.sin(np.arange(3 * RATE_HZ) / 9))[None].astype("f4")
        wav = write_sound(tmp_path / f"{name}.wav", "pcm_f32le", samples, RATE_HZ)
        clips.append(Clip(name, audio=wav))
    encoders = EncoderSource.of(GradientFaceEncoder(), encoder)
    cache = FeatureCache(tmp_path / "cache")
    fates = encode_clips(clips, encoders, cache, Guard(1), batch_clips=3)
    assert fates == {"encoded": 2, "failed": 1}
    assert cache.get(encoders.key(clips[1])) is None
    for clip in (clips[0], clips[2]):
        kept, alone = cache.get(encoders.key(clip)), perceive(clip, encoders)
        assert kept is not None
        assert np.abs(kept.audio - alone.audio).max() < 1e-5


def test_encoders_that_cannot_be_loaded_are_no_fault_of_the_clips(
    tmp_path: Path, sound_clip: Clip
) -> None:
    def load() -> NoReturn:
        raise MissingFileError("no weights here")

    cache = FeatureCache(tmp_path / "cache")
    waiting = replace(source(MeanEncoder(), MeanEncoder()), load=load)
    with pytest.raises(MissingFileError, match="no weights"):
        encode_clips([sound_clip], waiting, cache, Guard(1))
    assert not (cache.folder / "failures.jsonl").exists()


def test_windows_are_normalised_together() -> None:
    values = normalised(windows_of_noise())
    assert values.dtype == np.float32
    assert np.abs(values.mean(axis=1)).max() < 1e-5
    assert values.var() == pytest.approx(1, abs=1e-4)
    assert np.ptp(values.var(axis=1)) > 0.5  # a quiet window stays quiet among loud ones
    assert not normalised(np.zeros((8, 100), dtype=np.float32)).any()


def test_windows_meet_only_in_their_normalisation(tmp_path: Path) -> None:
    encoder = PretrainedSpeechEncoder.load(str(make_speech_folder(tmp_path)))
    windows = windows_of_noise()
    order = np.random.default_rng(1).permutation(8)
    assert np.abs(encoder.encode(windows)[order] - encoder.encode(windows[order])).max() < 1e-5
    # Another window of the same mean square leaves the joint normalisation as it was.
    changed = windows.copy()
    changed[0] = windows[0][::-1]
    first, second = encoder.encode(windows), encoder.encode(changed)
    assert np.abs(first[1:] - second[1:]).max() < 1e-5
    assert np.abs(first[0] - second[0]).max() > 1e-4


def test_encoding_is_repeatable_although_the_checkpoint_has_dropout(tmp_path: Path) -> None:
    folder = make_speech_folder(tmp_path, layerdrop=0.5, hidden_dropout=0.5)
    encoder = PretrainedSpeechEncoder.load(str(folder))
    windows = windows_of_noise()
    assert np.array_equal(encoder.encode(windows), encoder.encode(windows))


def test_settings_hold_revision_and_dtype_but_not_the_place(tmp_path: Path) -> None:
    folder = make_speech_folder(tmp_path / "a")
    moved = shutil.copytree(folder, tmp_path / "b")
    here, there = (PretrainedSpeechEncoder.load(str(path)) for path in (folder, moved))
    half = PretrainedSpeechEncoder.load(str(folder), dtype=torch.bfloat16)
    assert encoder_identity(here) == encoder_identity(there) != encoder_identity(half)
    assert half.settings["dtype"] == "torch.bfloat16"
    encoded = half.encode(windows_of_noise())
    assert encoded.dtype == np.float32
    assert np.abs(encoded - here.encode(windows_of_noise())).mean() < 0.05


def test_revision_changes_with_a_single_weight() -> None:
    layer = torch.nn.Linear(3, 3)
    changed = copy.deepcopy(layer)
    with torch.no_grad():
        changed.weight[0, 0] += 1e-3
    assert weights_revision(layer) == weights_revision(copy.deepcopy(layer))
    assert weights_revision(layer) != weights_revision(changed)


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        (ClipImageEncoder, "openai/clip-vit-large-patch14"),
        (PretrainedSpeechEncoder, "TencentGameMate/chinese-hubert-large"),
    ],
)
def test_missing_weights_name_profile_and_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoder: type[ClipImageEncoder] | type[PretrainedSpeechEncoder],
    name: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    with pytest.raises(MissingFileError, match=f"'full' needs '{name}'.*`hf download {name}`"):
        encoder.load(name)
    with pytest.raises(MissingFileError, match="name a folder that exists"):
        encoder.load(str(tmp_path / "none"))


@pytest.fixture
def speech_folder(tmp_path: Path) -> Path:
    return make_speech_folder(tmp_path / "speech")


def load_speech(folder: Path) -> PretrainedSpeechEncoder:
    return PretrainedSpeechEncoder.load(str(folder))


def test_a_checkpoint_without_some_weights_is_not_filled_with_random_ones(
    speech_folder: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    path = speech_folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer_norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelFolderError, match=r"1 tensors are missing.*encoder\.layer_norm"):
        load_speech(speech_folder)


def test_a_damaged_checkpoint_is_an_error_of_the_input(speech_folder: Path) -> None:
    path = speech_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelFolderError, match="no whole model"):
        load_speech(speech_folder)
    path.unlink()
    with pytest.raises(ModelFolderError, match="no whole model"):
        load_speech(speech_folder)
    for text in ('{"model_type": "hubert", "hidden_size": "wide"}', "{}"):
        (speech_folder / "config.json").write_text(text)
        with pytest.raises(ModelFolderError, match="no whole model"):
            load_speech(speech_folder)


def test_a_model_of_another_kind_or_too_small_is_refused(tmp_path: Path) -> None:
    images = make_image_folder(tmp_path / "images")
    with pytest.raises(ModelFolderError, match="'clip' model"):
        load_speech(images)
    small = make_speech_folder(tmp_path / "small", num_hidden_layers=3)
    with pytest.raises(ModelFolderError, match="3 layers"):
        load_speech(small)
    (images / "preprocessor_config.json").unlink()
    with pytest.raises(ModelFolderError, match="no whole model"):
        ClipImageEncoder.load(str(images))
