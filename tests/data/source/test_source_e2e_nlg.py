import gzip

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import e2e_nlg

MEANING = "name[The Mill], priceRange[£20-25], customer rating[5 out of 5]"
TOKENS = (
    "__start_name__ The Mill __end_name__ __start_priceRange__ £ 20 - 25 __end_priceRange__ "
    "__start_customerrating__ 5 out of 5 __end_customerrating__\n"
)
TEXT = "The Mill 's prices are £ 20 - 25 , it is kid - friendly . Don 't wait ! <eos>|||0,2,0 4,5,7\n"


def source(tmp_path, split="train"):
    (tmp_path / "src_train.txt.gz").write_bytes(gzip.compress(TOKENS.encode()))
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "dev.csv").write_text(f'mr,ref\n"{MEANING}","One."\n"name[X]",Two.\n"{MEANING}","Three  ."\n')
    return e2e_nlg.Source(split=split, train=str(tmp_path / "{}.txt.gz"), validation=str(tmp_path / "dev.csv"))


def test_both_forms_become_one(tmp_path):
    train, validation = source(tmp_path), source(tmp_path, "validation")
    assert train[0] == {"source": MEANING, "target": "The Mill's prices are £20-25, it is kid-friendly. Don't wait!"}
    assert len(train) == 1 and len(validation) == 2
    assert validation[0] == {"source": MEANING, "target": "One.", "references": ["One.", "Three."]}


def test_other_lines_say_where(tmp_path):
    found = source(tmp_path)
    (tmp_path / "src_train.txt.gz").write_bytes(gzip.compress(b"name[The Mill]\n"))
    with pytest.raises(UserError, match="src_train.txt.gz:1: .*expected .__start_name__"):
        found[0]
