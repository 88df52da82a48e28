"""Small tokenizers of every family, trained here, and text that is hard for them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

LETTERS = pre_tokenizers.ByteLevel.alphabet()
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)

PROSE = """It was the best of times, it was the worst of times; it wasn't 1859 yet.
"We'll see," they'd say.
def fetch(items, n=12):
    for i, item in enumerate(items):
        if item['key'] != None and item["n"] >= 3.14e-10:
            yield {**item, 'i': i}   # don't\n\n\n\treturn\r\n
文は短い。短い文は読みやすい、と彼は言った。中文句子，没有空格！第二句話？
한국어 문장은 띄어쓰기가 있다.
Größe naïve café cafe\u0301 Ελλάδα Москва straße I\u0307stanbul ﬁne
½ ① Ａ \u212b ﷺ न\u0940ति हि\u0902दी
\N{GRINNING FACE}\N{PARTY POPPER} \N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN} \U0001f1e9\U0001f1ea
https://example.org/a?b=c&d=%20#frag  user@host  ``quoted'' '' -- … — « »\u00a0\u2003\u200b\ufeff|
<s> </s> <pad> [MASK] [CLS] <tool> token  TOKEN  word
"""


def byte_level(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None = None,
    *,
    vocabulary: int = 600,
    **settings: bool,
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**settings))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=LETTERS, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE] * 4, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def split(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def sentencepiece(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None = None,
    *,
    fallback: bool = True,
) -> Tokenizer:
    """Byte-pair encoding of characters; unknown ones become bytes, or are fused into one token."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256) if fallback]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    else:  # As in Llama 2: merges are learnt from words, but used without splitting into words.
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=["<unk>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(PROSE.splitlines(), trainer)
    learnt = tokenizer.model.__getstate__()
    model = models.BPE()
    model.__setstate__(learnt)
    plain = Tokenizer(model)
    if normalizer:
        plain.normalizer = normalizer
    if pre_tokenizer:
        plain.pre_tokenizer = pre_tokenizer
    return plain


def unigram(
    pre_tokenizer: pre_tokenizers.PreTokenizer | None,
    normalizer: normalizers.Normalizer | None = None,
) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(PROSE.splitlines(), trainer)
    return tokenizer


def charsmap(changes: dict[str, str]) -> bytes:
    """A normalizer as SentencePiece writes it: a trie as a double array, then what is put in.

    A unit has its label, whether a value follows, and where its children are, relative to itself;
    here those of each node have 256 places of their own.
    """
    nodes: list[bytes] = [b""]
    for text in changes:
        key = text.encode()
        nodes += [key[:n] for n in range(1, len(key) + 1) if key[:n] not in nodes]
    place = {b"": 0} | {
        node: 256 * (nodes.index(node[:-1]) + 1) + node[-1] for node in nodes if node
    }
    units = [1 << 31] * (256 * (len(nodes) + 1))
    put_in = b""
    for number, node in enumerate(nodes):
        offset = place[node] ^ (256 * (number + 1))
        value = {text.encode(): new for text, new in changes.items()}.get(node)
        label = node[-1] if node else 0
        units[place[node]] = offset << 10 | (value is not None) << 8 | label
        if value is not None:
            units[256 * (number + 1)] = len(put_in)
            put_in += value.encode() + b"\0"
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + put_in


def word_piece(normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(PROSE.splitlines(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def with_tokens(tokenizer: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def word_level() -> Tokenizer:
    words = {word: i for i, word in enumerate(["[UNK]", *sorted(set(PROSE.split()))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SENTENCEPIECE = {
    **{"\n": " ", "\t": " ", "\r": " ", "\u00a0": " ", "\u200b": " ", "\x00": ""},
    **{"ﬁ": "fi", "①": "1", "½": "1/2", "Ａ": "A", "e\u0301": "é", "か\u3099": "が"},
    **{"\u0600a": "b", "\u0601\u0602c": "", "z\u0301": "", "\u212b": "Å"},
}
SPACED_TOKENS = [
    AddedToken("<s>", special=True),
    AddedToken("</s>", special=True, lstrip=True),
    AddedToken("<pad>", special=True, rstrip=True),
    AddedToken("[MASK]", special=True, lstrip=True, rstrip=True),
    AddedToken("<tool>", normalized=True),
    AddedToken("Token", single_word=True, normalized=True),
    AddedToken("word", single_word=True, normalized=False, lstrip=True),
    AddedToken("    ", normalized=False),
    AddedToken("\n\n", normalized=True),
]

FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: with_tokens(byte_level(GPT2), AddedToken("<s>", special=True)),
    "gpt2, prefix space": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt2, digits": lambda: byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
    ),
    "gpt2, spaced tokens": lambda: with_tokens(byte_level(GPT2), *SPACED_TOKENS),
    "gpt2, left tokens": lambda: with_tokens(byte_level(GPT2), *SPACED_TOKENS[:2]),
    "llama3": lambda: byte_level(split(LLAMA3), ignore_merges=True),
    "llama3, NFC": lambda: byte_level(split(LLAMA3), normalizers.NFC()),
    "cl100k": lambda: byte_level(split(CL100K)),
    "o200k": lambda: byte_level(split(O200K)),
    "deepseek": lambda: byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
                pre_tokenizers.Split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
                pre_tokenizers.Split(
                    Regex(
                        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
                        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                    ),
                    "isolated",
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
    "bytes, nothing splits": lambda: byte_level(None),
    "bytes, nothing splits, NFC": lambda: byte_level(None, normalizers.NFC()),
    "spaces apart": lambda: with_tokens(byte_level(split(r"\s")), *SPACED_TOKENS[:2]),
    "spaces apart, stripped": lambda: byte_level(split(r"\s"), normalizers.Strip()),
    "words, marked": lambda: with_tokens(
        byte_level(
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.WhitespaceSplit(),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
            normalizers.Prepend("="),
        ),
        *SPACED_TOKENS[:4],
    ),
    "bytes, case folded": lambda: with_tokens(
        byte_level(GPT2, normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
        *SPACED_TOKENS,
    ),
    "llama2": lambda: with_tokens(
        sentencepiece(
            None,
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ),
        AddedToken("<s>", special=True),
        AddedToken("</s>", special=True, normalized=True),
    ),
    "gemma": lambda: sentencepiece(
        pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁")
    ),
    "gemma, unknown characters": lambda: sentencepiece(
        None, normalizers.Replace(" ", "▁"), fallback=False
    ),
    "metaspace, always": lambda: sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace, first": lambda: with_tokens(
        sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first")), *SPACED_TOKENS
    ),
    "metaspace, never": lambda: sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="never")),
    "metaspace, whole": lambda: sentencepiece(
        pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "unigram": lambda: unigram(pre_tokenizers.Metaspace(), normalizers.NFKC()),
    "unigram, words": lambda: unigram(
        pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
        ),
        normalizers.Sequence(
            [
                normalizers.Replace("``", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Lowercase(),
            ]
        ),
    ),
    "unigram, spaces joined": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence([normalizers.Nmt(), normalizers.Replace(Regex(" {2,}"), " ")]),
    ),
    "unigram, SentencePiece's own": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence(
            [
                normalizers.Precompiled(charsmap(SENTENCEPIECE)),
                normalizers.Replace(Regex(" {2,}"), " "),
            ]
        ),
    ),
    "bert": lambda: word_piece(normalizers.BertNormalizer()),
    "bert, cased": lambda: word_piece(normalizers.BertNormalizer(lowercase=False)),
    "bert, stripped": lambda: with_tokens(
        word_piece(
            normalizers.Sequence([normalizers.Strip(), normalizers.NFD(), normalizers.Lowercase()])
        ),
        *SPACED_TOKENS[:4],
    ),
    "word level": word_level,
    "punctuation": lambda: byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Punctuation("merged_with_previous"),
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.CharDelimiterSplit("|"),
                pre_tokenizers.Split(Regex(r"\s+"), "merged_with_next"),
                pre_tokenizers.Split(Regex(r"[aeiou]+"), "contiguous", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            ]
        )
    ),
}
# Tokenizers for which nothing can be proven, and why.
UNSPLIT: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "scripts": (
        lambda: unigram(pre_tokenizers.UnicodeScripts()),
        "the pre-tokenizer UnicodeScripts",
    ),
    "fixed length": (
        lambda: byte_level(
            pre_tokenizers.Sequence(
                [pre_tokenizers.FixedLength(5), pre_tokenizers.ByteLevel(False, use_regex=False)]
            )
        ),
        "the pre-tokenizer FixedLength",
    ),
    "looking back": (lambda: byte_level(split(r"(?<=a)\w+|\s+")), "(?<=a)"),
    "unigram, whole": (lambda: unigram(None), "the model Unigram"),
}


@cache
def family(name: str) -> Tokenizer:
    """The tokenizer of that name. Do not change it."""
    return UNSPLIT[name][0]() if name in UNSPLIT else FAMILIES[name]()


PIECES = [
    *PROSE.split(" "),
    *"aeiostné ,.;:'\"!?-_/\\|<>[](){}#=+*&%$@^~`0123456789\t\n\r\u00a0\u2003\u200d\u0301\u0338▁",
    *[
        "  ",
        "    ",
        "\n\n",
        " \n ",
        "\r\n",
        "'s",
        "'LL",
        "'ſ",
        "ß",
        "ŉ",
        "ﬆ",
        "I\u0307",
        "가",
        "각",
        "ᄀ",
        "ᅡ",
        "ᆨ",
    ],
    *[
        "<s>",
        "</s>",
        "<pad>",
        "[MASK]",
        "<tool>",
        "Token",
        "tokens",
        "word",
        "words",
        "[CLS]",
        "\x00",
        "\x1c",
        "\ufffd",
    ],
    *[
        "か",
        "か\u3099",
        "\u3099",
        "文。短",
        "漢字",
        "\U000e0001",
        "\u0600",
        "\u0600a\n",
        "\u0601\u0602",
        "\U0001f1e9",
        "\N{GRINNING FACE}",
        "\N{ZERO WIDTH JOINER}",
        "\ufe0f",
    ],
]
TRICKY = ["<s>", "</s>", "<pad>", "[MASK]", "<tool>", "word", " ", "  ", "\n", "a", "=", "\u0301"]
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.sampled_from(TRICKY), st.text(max_size=3)), max_size=25
).map("".join)
