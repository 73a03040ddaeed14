"""Ids equal to transformers' CLIPTokenizer, for any text; and what happens to text that does not fit."""

from __future__ import annotations

import random
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

import mlxdiff
from mlxdiff.errors import MlxdiffWarning, RequestError
from mlxdiff.text import Tokenizer

EMOJI = Path(mlxdiff.__file__).parent / "assets" / "emoji" / "tokenizer"

TRICKY = [
    "",
    " ",
    "a photo of a cat",
    "A  Photo\tOF\na\r\nCat",
    "it's they're I've we'll I'd I'm don't IT'S 's's ''s 'S",
    "2023 was 3.14159, 1/2 and ½ Ⅷ ٣ ①",
    "café cafe\u0301 CAFE\u0301 Å \u212b \u1e9b\u0323 ﬁ ﬀ ſ",
    "ΑΣ ΑΣ. Σ ὈΔΥΣΣΕΎΣ İstanbul ß ẞ Ǆ ŉ",
    "猫 のら猫 고양이 \u1100\u1161\u11a8 ไทย हिन्दी العربية עִבְרִית",
    "🐈 🐈‍⬛ 👩‍👩‍👧 🏳️‍🌈 👍🏽 🇨🇭 #️⃣",
    "a\u0300\u0316\u0334 \u0316\u0300 q\u0307\u0323 \u0344",
    "zero\u200bwidth no\u00a0break \u3000 \u2028 \u1680 \u180e \ufeff soft\u00adhyphen",
    "nul\x00 bel\x07 us\x1f fs\x1c nel\x85 del\x7f",
    "&amp; &lt;b&gt; &#39; &nbsp;",
    "<|startoftext|> <|endoftext|> <|ENDOFTEXT|> <|StartOfText|>x <|endoftext",
    "a<|endoftext|>b <|<|endoftext|>|> <|endoftext|>> <|startoftext|><|startoftext|>",
    "!!! ! !? ?! (((masterpiece:1.3))), [[blurry]], --ar 16:9 </w> a</w>",
    "\U0001e130\U0001e131 \u08d3\u0301 \U00011938 \U00011935\U00011930 \U000105d2\u0307 \ua7cb \U00016ea0",
    "\ufffe\uffff\U0010ffff\ue000",
]

tricky = st.one_of(
    st.sampled_from(TRICKY),
    st.sampled_from(["'s", "'RE", "<|endoftext|>", "<|startoftext|>", "<|ENDOFTEXT|>", "</w>", "&amp;", "!", "1234"]),
    st.text(st.characters(categories=["Mn", "Mc", "Me", "Lm", "Sk"]), max_size=6),
    st.text(st.characters(categories=["Lu", "Lt", "Ll"]), max_size=8),
    st.text(st.characters(categories=["Zs", "Zl", "Zp", "Cc", "Cf"]), max_size=4),
    st.text(st.characters(categories=["Nd", "Nl", "No"]), max_size=4),
    st.text(st.characters(categories=["So", "Sc", "Sm", "Po", "Co", "Cn"]), max_size=4),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=4),
    st.text(st.characters(min_codepoint=0x1100, max_codepoint=0x11FF), max_size=4),
    st.text(st.sampled_from("👩👧❤️‍🔥🏽🇨🇭\u200d\ufe0f"), max_size=6),
    st.text(st.sampled_from("abcxyz \u0300\u0316\u0345'"), max_size=12),
)
any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.lists(tricky, max_size=12).map("".join)
)
relaxed = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def clip(clip_folder) -> Tokenizer:
    return Tokenizer.from_folder(clip_folder)


@pytest.fixture(scope="module")
def emoji() -> tuple[Tokenizer, CLIPTokenizer]:
    return Tokenizer.from_folder(EMOJI), CLIPTokenizer.from_pretrained(EMOJI)


def test_ids_that_openai_published():
    assert Tokenizer.clip().encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_text_has_the_ids_of_transformers(clip, reference, emoji, text):
    assert clip.encode(text) == reference(text).input_ids
    ours, theirs = emoji
    assert ours.encode(text) == theirs(text).input_ids


@relaxed
@given(text=any_text)
def test_any_text_has_the_ids_of_transformers(clip, reference, text):
    assert clip.encode(text) == reference(text).input_ids


@relaxed
@given(text=any_text)
def test_any_text_has_the_ids_of_transformers_on_the_emoji_vocabulary(emoji, text):
    ours, theirs = emoji
    assert ours.encode(text) == theirs(text).input_ids


def test_the_shipped_vocabulary_is_the_one_in_checkpoints(clip, reference):
    text = " ".join(TRICKY[:13])
    assert Tokenizer.clip().encode(text) == clip.encode(text)
    assert Tokenizer.clip().vocab_size == clip.vocab_size == len(reference) == 49408


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
def test_batches_are_padded_and_cut_as_by_transformers(clip_folder, pad_token):
    theirs = CLIPTokenizer.from_pretrained(clip_folder, pad_token=pad_token)
    ours = Tokenizer.clip(pad_token)
    texts = ["", "a cat!", "wow! " * 36 + "no", "a cat and a dog! " * 20, " ".join(map(str, range(75)))]
    expected = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxdiffWarning)
        assert ours.batch(texts) == expected
    assert {len(row) for row in expected} == {77}


def test_what_fits_exactly_is_not_cut(clip):
    ids = clip.encode("cat " * 75)
    assert len(ids) == 77
    assert clip.pad(ids) == ids


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ("dog", "'dog'"),
        ("Großes Haus!", "'großes haus !'"),
        ("猫", "'猫'"),
        ("<|endoftext|> dog", "'dog'"),
        ("tree " * 40, f"'{'tree ' * 11}tr...'"),
    ],
)
def test_the_warning_shows_what_is_lost(clip, reference, extra, shown):
    with pytest.warns(MlxdiffWarning) as caught:
        row = clip.pad(clip.encode("cat " * 75 + extra))
    assert len(row) == 77
    assert row[-1] == clip.eos_id
    (warning,) = caught
    lost = len(reference(extra).input_ids) - 2
    assert f"its last {lost} token{' does' if lost == 1 else 's do'} not fit" in str(warning.message)
    assert shown in str(warning.message)
    assert "75 tokens" in str(warning.message)


@relaxed
@given(text=st.text(st.sampled_from("abc é猫🐈1!' "), max_size=30))
def test_decode_is_that_of_transformers(clip, reference, text):
    ids = clip.encode(text)
    assert clip.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert clip.decode(clip.pad(ids)) == clip.decode(ids)


def test_decode_keeps_exclamation_marks_where_they_also_pad():
    tokenizer = Tokenizer.clip("!")
    assert tokenizer.decode(tokenizer.pad(tokenizer.encode("wow!"))) == "wow !"


def test_ids_outside_the_vocabulary_decode_to_a_replacement(clip):
    assert clip.decode([320, 10**6]) == "a \ufffd"


@pytest.mark.parametrize("text", ["\ud800", "cat \udc80"])
def test_a_lone_surrogate_is_an_error(clip, text):
    with pytest.raises(RequestError, match="surrogate"):
        clip.encode(text)


def test_what_is_no_text_is_an_error(clip):
    with pytest.raises(RequestError, match="NoneType"):
        clip.encode(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["one letter", "one word", "two letters", "marks", "words", "han", "family"])
def test_ten_thousand_characters_take_no_time(clip, reference, kind):
    draw = random.Random(0)
    text = {
        "one letter": "a" * 10_000,
        "one word": "".join(draw.choices("etaoinshrdlu", k=10_000)),
        "two letters": "ab" * 5_000,
        "marks": "!?" * 5_000,
        "words": " ".join("".join(draw.choices("etaoinshrdlu", k=5)) for _ in range(1_667)),
        "han": "猫" * 10_000,
        "family": "👩‍👩‍👧" * 2_000,
    }[kind]
    start = time.process_time()  # which other work on the machine does not change
    ids = clip.encode(text)
    assert time.process_time() - start < 0.5
    assert ids == reference(text).input_ids


def test_the_cache_is_bounded(clip):
    for number in range(20_000):
        clip.encode(f"{chr(0x4E00 + number % 5000)}{chr(0x6000 + number)}")
    cached = clip._encode_cached.cache_info()
    assert cached.currsize <= cached.maxsize == 16_384
    before = clip._encode_cached.cache_info().currsize
    clip.encode("z" * 5_000)
    assert clip._encode_cached.cache_info().currsize == before
