"""The authors' checkpoint: read as tensors and nothing else, or refused."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from affectgpt_r1.errors import CheckpointError, InputError, MissingFileError, ModelFolderError
from affectgpt_r1.evaluation.predict import load_predictor, predict
from affectgpt_r1.model.convert import convert
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration, read_config
from affectgpt_r1.model.profiles import NANO_FOLDER, load_processor
from tiny import examples, fill_adapter, tiny_model

HIDDEN, LAYERS, RANK = 16, 2, 3
VISUAL, AUDIO = 12, 8
LINEARS = {
    "affectgpt_proj": (VISUAL, HIDDEN),
    "audio_llama_proj": (AUDIO, HIDDEN),
    "multi_llama_proj": (VISUAL, HIDDEN),
    "image_llama_proj": (7, HIDDEN),
    "video_attention_mlp": (VISUAL, 1),
    "audio_attention_mlp": (AUDIO, 1),
    "multi_audio_embs": (AUDIO, VISUAL),
    "multi_video_embs": (VISUAL, VISUAL),
    "attention_mlp": (2 * VISUAL, VISUAL),
    "fc_att": (VISUAL, 2),
}
SHAPES = {
    "self_attn.q_proj": (16, 16),
    "self_attn.k_proj": (16, 8),
    "self_attn.v_proj": (16, 8),
    "self_attn.o_proj": (16, 16),
    "mlp.gate_proj": (16, 24),
    "mlp.up_proj": (16, 24),
    "mlp.down_proj": (24, 16),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def authors_state() -> dict[str, torch.Tensor]:
    """Tensors under the authors' names."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, (width, out) in LINEARS.items():
        state[f"{name}.weight"] = torch.randn(out, width, generator=draw)
        state[f"{name}.bias"] = torch.randn(out, generator=draw)
    for layer in range(LAYERS):
        for name, (width, out) in SHAPES.items():
            place = f"llama_model.base_model.model.model.layers.{layer}.{name}"
            for side, shape in (("A", (RANK, width)), ("B", (out, RANK))):
                state[f"{place}.lora_{side}.default.weight"] = torch.randn(shape, generator=draw)
    return state


def write(path: Path, state: Any) -> Path:
    torch.save({"model": state, "optimizer": {"step": 3}, "config": {"name": "x"}}, path)
    return path


def pool(steps: torch.Tensor, score: Any) -> torch.Tensor:
    return torch.einsum("td,t->d", steps, score(steps)[:, 0])


@pytest.fixture(scope="module")
def converted(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder made from `authors_state`."""
    folder = tmp_path_factory.mktemp("converted")
    checkpoint = write(folder / "c.pth", authors_state())
    return convert(checkpoint, folder / "out", language_model=str(qwen))


def test_the_published_crops_are_shown_as_they_were_fed(converted: Path) -> None:
    assert read_config(converted).face_channel_order == "bgr"


def test_a_converted_checkpoint_gives_the_tokens_of_the_published_formulas(
    converted: Path,
) -> None:
    state = authors_state()
    model = AffectGPTForConditionalGeneration.from_pretrained(converted)

    def linear(name: str) -> Any:
        return lambda x: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    visual, audio = torch.randn(8, VISUAL), torch.randn(8, AUDIO)
    seen = linear("multi_video_embs")(visual.mean(0))
    heard = linear("multi_audio_embs")(audio.mean(0))
    weights = linear("fc_att")(linear("attention_mlp")(torch.cat([seen, heard])))
    expected = torch.stack(
        [
            linear("multi_llama_proj")(weights[0] * seen + weights[1] * heard),
            linear("audio_llama_proj")(pool(audio, linear("audio_attention_mlp"))),
            linear("affectgpt_proj")(pool(visual, linear("video_attention_mlp"))),
        ]
    )
    with torch.no_grad():
        tokens = model.fusion(visual[None], audio[None])[0]
    assert (tokens - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_converted_adapter_is_the_language_model_with_the_products_added(
    qwen: Path, converted: Path
) -> None:
    state = authors_state()
    model = AffectGPTForConditionalGeneration.from_pretrained(converted)
    plain = Qwen2ForCausalLM.from_pretrained(qwen).eval()
    for layer in range(LAYERS):
        for name in SHAPES:
            place = f"llama_model.base_model.model.model.layers.{layer}.{name}"
            a, b = (state[f"{place}.lora_{side}.default.weight"] for side in "AB")
            module = plain.get_submodule(f"model.layers.{layer}.{name}")
            module.weight.data += (32 / RANK) * b @ a
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected, found = plain(input_ids=ids).logits, model(input_ids=ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    processor = load_processor(converted)
    assert processor.bos_at_inference is False
    assert sorted(p.name for p in converted.parent.iterdir()) == ["c.pth", "out"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    qwen: Path, tmp_path: Path, protocol: int
) -> None:
    planted = tmp_path / "planted"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {planted}",)

    for name, content in (("m.pth", {"model": Evil()}), ("o.pth", {"model": {}, "other": Evil()})):
        torch.save(content, tmp_path / name, pickle_protocol=protocol)
        with pytest.raises(ModelFolderError, match="no whole checkpoint of tensors alone"):
            convert(tmp_path / name, tmp_path / "out", language_model=str(qwen))
    torch.load(tmp_path / "m.pth", weights_only=False)
    assert planted.exists()  # it would have run
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lacking", "1 tensors lack or are unknown, .*merge_weights.bias"),
        ("unknown", "1 tensors lack or are unknown, .*another"),
        ("shape", "does not fit"),
        ("no tensor", "other things than named tensors"),
        ("no fusion", "does not fit"),
    ],
)
def test_other_names_and_shapes_are_refused(
    qwen: Path, tmp_path: Path, change: str, said: str
) -> None:
    state: dict[str, Any] = authors_state()
    if change == "lacking":
        del state["fc_att.bias"]
    elif change == "unknown":
        state["another.weight"] = torch.zeros(2)
    elif change == "shape":
        state["fc_att.weight"] = torch.zeros(3, VISUAL)
    elif change == "no tensor":
        state["fc_att.weight"] = "text"
    else:
        state = {name: t for name, t in state.items() if "lora" in name}
    with pytest.raises(CheckpointError, match=said):
        convert(write(tmp_path / "c.pth", state), tmp_path / "out", language_model=str(qwen))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_any_damage_ends_in_one_line(qwen: Path, tmp_path: Path) -> None:
    whole, draw = write(tmp_path / "c.pth", authors_state()).read_bytes(), random.Random(0)
    refused: list[str] = []
    for _ in range(60):
        content = bytearray(whole)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        for _ in range(draw.randint(1, 8)):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "d.pth").write_bytes(content)
        out = tmp_path / "out"
        try:
            convert(tmp_path / "d.pth", out, language_model=str(qwen))
        except InputError as error:
            refused.append(str(error))
        else:
            AffectGPTForConditionalGeneration.from_pretrained(out)
            out.rename(tmp_path / f"whole-{draw.getrandbits(40)}")
    assert len(refused) > 10
    assert not any("\n" in message for message in refused)


def test_the_command_converts_and_names_what_lacks(qwen: Path, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "c.pth", copy.deepcopy(authors_state()))
    command = [str(Path(sys.executable).with_name("affectgpt-r1")), "convert", str(checkpoint)]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    done = run(str(tmp_path / "out"), "--language-model", str(qwen))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": str(tmp_path / "out")}
    again = run(str(tmp_path / "out"), "--language-model", str(qwen))
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already" in again.stderr
    lacking = run(str(tmp_path / "other"))
    assert lacking.returncode == 2
    assert "hf download Qwen/Qwen2.5-7B-Instruct" in lacking.stderr
    with pytest.raises(MissingFileError, match=r"gone\.pth"):
        convert(tmp_path / "gone.pth", tmp_path / "x", language_model=str(qwen))


def test_a_merged_model_says_the_same_words_and_a_plain_one_is_refused(tmp_path: Path) -> None:
    model, processor = tiny_model(lora_rank=4)
    fill_adapter(model, 0.1)
    model.save_pretrained(tmp_path / "lora")
    processor.save_pretrained(tmp_path / "lora")
    command = [sys.executable, "-m", "affectgpt_r1.cli", "merge"]

    def merged(source: str, out: str) -> subprocess.CompletedProcess[str]:
        folders = [str(tmp_path / source), str(tmp_path / out)]
        return subprocess.run([*command, *folders], capture_output=True, text=True, check=False)

    done = merged("lora", "plain")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": str(tmp_path / "plain")}
    said = [
        [replace(row, model="") for row in predict(load_predictor(tmp_path / name), examples(6))]
        for name in ("lora", "plain")
    ]
    assert said[0] == said[1]
    assert len({row.completion for row in said[0]}) > 1
    (tmp_path / "file").write_text("")
    for limit, out in (("100", "full"), ("unlimited", "file/out")):
        words = [*command, str(tmp_path / "lora"), str(tmp_path / out)]
        told = subprocess.run(
            ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "-", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (told.returncode, told.stderr.count("\n")) == (2, 1), told.stderr
        assert "cannot be written" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lora", "plain", "file"}
    again = merged("plain", "twice")
    assert (again.returncode, again.stdout) == (2, "")
    assert "no adapter to merge" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lora", "plain"]
