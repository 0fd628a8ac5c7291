"""The report: one page that needs no network, whatever stands in the files that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.answers import Kept, read_answers
from affectgpt_r1.evaluation.report import write_report
from affectgpt_r1.evaluation.scoring import Rule, keep, score_row

LEXICON = Lexicon.load("builtin")
LABELS = [["happy", "proud"], ["sad"], ["angry", "hurt"], ["afraid"], ["calm", "loving"]]
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """A page's elements with their attributes, and its texts; every element must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and attributes.items() <= found.items()
        ]


def checked(html: str) -> Page:
    """What must hold of every report."""
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"script", "link", "iframe", "object", "base"}
    )
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in page.elements:
        assert not any(name.startswith("on") for name in found)
        for name in ("href", "src", "srcset", "xlink:href", "action", "data", "poster"):
            assert (found.get(name) or "#").startswith(("#", "data:image/jpeg;base64,")), name
            if (found.get(name) or "").startswith("#"):
                assert (found[name] or "")[1:] in ids
        for name in {"d", "points", "r", "cx", "cy", "x", "y", "transform", "style"} & found.keys():
            assert not re.search("nan|inf|none", found[name] or "", re.IGNORECASE), found[name]
    (style,) = re.findall("<style>.*?</style>", html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = page.named("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'")
    for svg in re.findall("<svg.*?</svg>", html, re.DOTALL):
        picture = ElementTree.fromstring(svg)
        assert picture.get("role") == "img"
        assert picture[0].tag == "title"
        assert picture[1].tag == "desc"
    return page


def rows_of(answers: Iterable[list[str]], **more: object) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "words": words, "labels": labels, **more}
        for i, (words, labels) in enumerate(zip(answers, LABELS, strict=True))
    ]


def reported(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    clips: Iterable[Clip] = (),
    before: Path | None = None,
    level: int = 1,
) -> tuple[Page, str]:
    answers = folder / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rule = Rule(levels=(level,))
    kept = keep(read_answers(answers), rule, "the answers")
    others = {str(before): keep(read_answers(before), rule, str(before))} if before else {}
    result = score_row(kept, rule, LEXICON, others)
    write_report(folder / "report.html", LEXICON, kept, result, clips, others, level=level)
    html = (folder / "report.html").read_text()
    return checked(html), html


def test_a_page_is_made_of_a_predictions_file_alone(tmp_path: Path) -> None:
    page, html = reported(tmp_path, rows_of(LABELS, model="a model", flags=["no audio"]))
    for part in ("scores", "wheels", "words", "clips"):
        assert page.named("h2", id=part)
    assert not page.named("h2", id="training")
    assert not page.named("h2", id="comparison")
    assert not page.named("img")
    assert "a model" in page.text
    assert "no audio (5)" in page.text
    assert "bootstrapped by group: 5 clips of 5 independent groups" in page.text
    assert "Unknown words cost the score nothing, so coverage stands beside it" in page.text
    assert "ew|lexicon:builtin#" in html


def test_each_of_the_five_wheels_tells_its_masses(tmp_path: Path) -> None:
    _, html = reported(tmp_path, rows_of([["sad"]] * 5))
    assert len(re.findall(r'<title id="wheel-\d">', html)) == 5
    assert "sad: labels 20 %, answers 100 %." in html
    assert html.count("happy → sad") >= 1
    assert html.count('class="sector label"') > html.count('class="sector"') > 0


@pytest.mark.parametrize("level", [1, 2])
def test_both_rings_are_drawn(tmp_path: Path, level: int) -> None:
    page, _ = reported(tmp_path, rows_of(LABELS), level=level)
    assert "F 1.00" in page.text


def test_a_page_is_made_of_a_run_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": i, "reward": i / 9, "coverage": 0.9, "loss": -1e-3, "words_per_answer": 2.0}
        for i in range(1, 1001)
    ]
    rows[3] |= {"reward": None, "coverage": float("nan"), "loss": "?"}
    for row in rows[10:13]:
        row["alarms"] = ["words_per_answer", "grad_norm"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 1001, "rew')
    write_report(tmp_path / "report.html", LEXICON, Kept((), ()), None, run=tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = checked(html)
    assert not page.named("h2", id="scores")
    assert html.count("<svg") == 4
    assert "alarm at 3 updates, first 11" in page.text
    (mark,) = page.named("path", **{"class": "mark"})
    assert (mark["d"] or "").count("M") == 3
    longest = max(len((line["points"] or "").split()) for line in page.named("polyline"))
    assert longest <= 240


def test_a_single_update_that_says_nothing_new_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0, "loss": 1e99}\n')
    write_report(tmp_path / "report.html", LEXICON, Kept((), ()), None, run=tmp_path)
    assert (tmp_path / "report.html").read_text().count("<svg") == 2
    checked((tmp_path / "report.html").read_text())


def test_a_folder_without_metrics_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no metrics\.jsonl: name a run folder"):
        write_report(tmp_path / "report.html", LEXICON, Kept((), ()), None, run=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0}\n')
    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path, LEXICON, Kept((), ()), None, run=tmp_path)


def test_the_baseline_is_compared_and_what_changed_most_is_shown(tmp_path: Path) -> None:
    before = tmp_path / "before.jsonl"
    answers = [["sad"], ["sad"], ["angry"], ["happy"], ["calm"]]
    before.write_text("".join(json.dumps(row) + "\n" for row in rows_of(answers)))
    after = [["happy", "proud"], ["happy"], ["angry"], ["afraid"], ["calm"]]
    page, html = reported(tmp_path, rows_of(after), before=before)
    assert "p = 0." in page.text
    assert "better on 2 clips, equal on 2, worse on 1" in page.text
    gains = html[html.index("Largest gains") : html.index("Largest losses")]
    losses = html[html.index("Largest losses") : html.index("Highest scores")]
    assert sorted(re.findall("<span>(.)</span>", gains)) == ["0", "3"]
    assert re.findall("<span>(.)</span>", losses) == ["1"]
    assert "before" in losses
    assert '<li class="hit">sad</li>' in losses
    assert '<li class="miss">happy</li>' in losses


def test_what_stands_in_files_is_inert(tmp_path: Path) -> None:
    attack = "\"'><script>alert(1)</script><img src=http://x.example/ onerror=alert(1)>{{ 7 * 7 }}"
    rows = rows_of([[attack, "don't", "it's <b>x"]] * 5, model=attack, flags=[attack], think=attack)
    clips = [Clip(str(i), subtitle=attack) for i in range(5)]
    page, html = reported(tmp_path, [{**row, "problems": [attack]} for row in rows], clips)
    assert "<script" not in html
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "{{ 7 * 7 }}" in page.text
    assert "don't" in page.text
    assert "it's <b>x" in page.text


@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(st.sampled_from(["happy", "sad", "neutral", "zzz"]) | st.text(), max_size=3),
    text=st.text(),
    value=st.none() | st.integers() | st.lists(st.integers() | st.text()) | st.floats() | st.text(),
)
def test_any_text_and_any_value_makes_a_whole_page(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], text: str, value: object
) -> None:
    names = ("think", "flags", "problems", "model", "signature", "subtitle", "completion")
    rows = [*rows_of([words] * 5), {"id": "t", "labels": [text or "x"], "completion": text}]
    reported(tmp_path_factory.mktemp("p"), [{**dict.fromkeys(names, value), **row} for row in rows])


def test_half_a_character_does_no_harm(tmp_path: Path) -> None:
    page, _ = reported(tmp_path, rows_of(LABELS, subtitle="so \ud83d sad"))
    assert "so ? sad" in page.text


def test_long_texts_stand_whole_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    rows = rows_of(LABELS)
    rows[0] |= {"think": "because " * 5000, "subtitle": "x" * 20_000}
    rows[1] |= {"think": "", "completion": "<think></think><answer>sad</answer>"}
    page, html = reported(tmp_path, rows)
    assert "thinking (5000 words)" in page.text
    assert "x" * 20_000 in html
    assert html.count("<details><summary>thinking") == 1
    assert "overflow-wrap: anywhere" in html


def test_thinking_is_read_out_of_a_completion(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "labels": ["sad"], "completion": "<think>a tear</think><answer>sad</answer>"},
        {"id": "b", "labels": ["happy"], "completion": "<answer>glad</answer>"},
    ]
    page, _ = reported(tmp_path, rows)
    assert "a tear" in page.text
    assert "thinking (2 words)" in page.text


def test_clips_whose_media_vanished_or_broke_are_shown_without(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video\n" * 50)
    clips = [
        Clip(str(i), video=broken if i % 2 else tmp_path / "gone.mp4", subtitle="Oh.")
        for i in range(5)
    ]
    page, _ = reported(tmp_path, rows_of(LABELS), clips)
    assert "Its media cannot be shown: no file at" in page.text
    assert "broken.mp4" in page.text
    assert "Oh." in page.text
    assert not page.named("img")


def test_what_cannot_be_scored_is_not_shown_as_zero(tmp_path: Path) -> None:
    rows = [*rows_of(LABELS), {"id": "n", "labels": ["neutral"], "words": ["sad"]}]
    rows.append({"id": "f", "labels": ["sad"], "prediction": None})
    page, html = reported(tmp_path, rows)
    assert "no label has a class (1), no prediction (1)" in page.text
    assert "<span>n</span>" not in html
    assert "F 0.00" not in page.text


def test_one_group_has_no_interval(tmp_path: Path) -> None:
    before = tmp_path / "before.jsonl"
    before.write_text("".join(json.dumps(row) + "\n" for row in rows_of([["sad"]] * 5)))
    page, html = reported(tmp_path, rows_of(LABELS, group="g"), before=before)
    assert "unknown: one group" in page.text
    assert "p =" not in page.text
    assert not re.search(r"\bnan\b", html)


def test_intensities_and_samples_answered_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs labels that are emotion words"):
        reported(tmp_path, [{"id": "a", "labels": 0.5, "words": ["sad"]}])
    twice = [{**rows_of(LABELS)[0], "checkpoint": name} for name in "ab"]
    with pytest.raises(InputError, match="answered twice"):
        reported(tmp_path, twice)
