import io
import json

import pytest
import sentencepiece

from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer import sentencepiece_model

TEXT = "Hello world, hello  again! 12"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with SentencePiece's own defaults (normalising, a space in front), as published ones are."""
    made, folder = io.BytesIO(), tmp_path_factory.mktemp("spm")
    lines = ["Hello world, hello again!", "the world says hello 12 times, and again"] * 50
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, vocab_size=28, minloglevel=2)
    (folder / "spiece.model").write_bytes(made.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    vocab = {"</s>": 0, "<unk>": 1, **{p: i + 2 for i, p in enumerate(p for p in pieces if p not in ("<s>", "</s>", "<unk>"))}, "<pad>": 47}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    return folder


def loaded(**kw):
    tokenizer = sentencepiece_model.Tokenizer(**{k: str(v) if k in ("path", "vocab") else v for k, v in kw.items()})
    tokenizer.load(tokenizer.train(iter(())))
    return tokenizer


def test_ids_are_those_of_the_model(folder):
    tokenizer = loaded(path=folder / "spiece.model", num_ids=60, start=("<s>",))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert tokenizer.encode(TEXT).tolist() == processor.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == "Hello world, hello again! 12"
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.start_ids) == (60, processor.eos_id(), (processor.bos_id(),))
    assert tokenizer.decode([processor.eos_id(), 59]) == ""
    assert not {processor.bos_id(), processor.eos_id()} & set(tokenizer.encode("<s> </s>").tolist())


def test_a_vocabulary_of_its_own_numbers_the_pieces(folder):
    """As Marian's source.spm and target.spm, which share vocab.json."""
    tokenizer = loaded(path=folder / "spiece.model", vocab=folder / "vocab.json")
    vocab = json.loads((folder / "vocab.json").read_text())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert tokenizer.encode("hello world").tolist() == [vocab[p] for p in processor.encode("hello world", out_type=str)]
    assert tokenizer.encode("\u4e00").tolist()[-1] == vocab["<unk>"] == 1
    assert tokenizer.decode([*tokenizer.encode("hello world"), 0]) == "hello world" and tokenizer.eos_id == 0
    assert tokenizer.special_ids() == {"eos": 0, "pad": 47, "unk": 1}


def test_wrong_settings_are_named(folder):
    with pytest.raises(UserError, match='has no piece "<eos>"'):
        loaded(path=folder / "spiece.model", eos="<eos>")
    with pytest.raises(UserError, match="num_ids=7"):
        loaded(path=folder / "spiece.model", num_ids=7).vocab_size  # noqa: B018
    with pytest.raises(UserError, match="is no SentencePiece model"):
        loaded(path=folder / "vocab.json")
