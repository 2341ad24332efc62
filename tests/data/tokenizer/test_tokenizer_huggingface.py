import hypothesis
import hypothesis.strategies as st
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer import huggingface

TEXTS = ["hello world, don't say hello\n    return x", "abc abc < s > <s> x <|endoftext|> ["] * 20
SPECIAL = ["[UNK]", "<s>", "<|endoftext|>"]


def make(kind, path):
    """A small tokenizer of each family, with a template that puts <s> in front, padding and truncation, all of which must stay unused."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        unk = dict(unk_token="[UNK]")
        made = Tokenizer(dict(wordpiece=models.WordPiece(**unk), words=models.WordLevel(**unk), unigram=models.Unigram())[kind])
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = dict(
            wordpiece=lambda: trainers.WordPieceTrainer(vocab_size=80, special_tokens=SPECIAL),
            words=lambda: trainers.WordLevelTrainer(special_tokens=SPECIAL),
            unigram=lambda: trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="[UNK]"),
        )[kind]()
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    made.enable_padding(length=50)
    made.enable_truncation(3)
    made.save(str(path))
    return str(path)


def loaded(path, **kw):
    tokenizer = huggingface.Tokenizer(path=path, **kw)
    tokenizer.load(tokenizer.train(iter(())))
    return tokenizer


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return loaded(make("bytes", tmp_path_factory.mktemp("hf") / "tokenizer.json"))


@hypothesis.given(st.text() | st.lists(st.sampled_from([*SPECIAL, " ", "\n", "hello", "\u2581", "\0", "😀"])).map("".join))
@hypothesis.settings(max_examples=200, deadline=None)
def test_byte_level_files_are_lossless_and_special_strings_stay_text(byte_level, text):
    """KNOWN_BUGS 10, 24: nothing is put in front, cut or padded, and what looks like a special token in a text is text."""
    ids = byte_level.encode(text)
    assert byte_level.decode(ids) == text
    assert not set(ids.tolist()) & {0, 1, 2}


def test_byte_level_properties(byte_level):
    assert byte_level.lossless and byte_level.eos_id == 2
    assert max(byte_level.encode("".join(TEXTS))) < byte_level.vocab_size
    assert byte_level.decode([*byte_level.encode("hello"), byte_level.eos_id]) == "hello"


@pytest.mark.parametrize("kind", ["wordpiece", "words", "unigram"])
def test_special_strings_stay_text_where_the_model_has_them_as_words(tmp_path, kind):
    """KNOWN_BUGS 24: these models would match "<s>" themselves, even if told not to."""
    tokenizer = loaded(make(kind, tmp_path / "t.json"))
    for text in ("hello <s> x", "<s>", "a<s><|endoftext|>b", "<|endoftext|> hello"):
        ids = tokenizer.encode(text).tolist()
        assert ids and not set(ids) & {1, 2}
    assert tokenizer.encode("hello x").tolist() == tokenizer.encode("hello").tolist() + tokenizer.encode("x").tolist()
    assert not tokenizer.lossless  # and says so


def test_eos_by_name(tmp_path):
    path = make("bytes", tmp_path / "t.json")
    assert loaded(path, eos="<s>").eos_id == 1
    with pytest.raises(UserError, match='"<|endoftxt|>" is not known. Did you mean "<|endoftext|>"'.replace("|", r"\|")):
        loaded(path, eos="<|endoftxt|>")


def test_artefact_is_the_file_and_fingerprint_its_content(tmp_path, byte_level):
    first = make("words", tmp_path / "a.json")
    tokenizer = loaded(first)
    artefact = tokenizer.train(iter(()))
    (tmp_path / "a.json").unlink()
    tokenizer.load(artefact)
    assert tokenizer.fingerprint() != byte_level.fingerprint()


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        loaded(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer.json file"):
        loaded(str(tmp_path / "bad.json"))
    assert "no file" in lookup.problems("tokenizer", "huggingface", dict(path="", eos=""))[0]
