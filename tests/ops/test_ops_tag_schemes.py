"""Tag schemes against their definitions as regular expressions."""

import itertools
import re

import pytest

from decoder_lab.ops import tag_schemes

SCHEME_TAGS = {
    "BIO": ("O", "B-a", "I-a", "B-b", "I-b"),
    "IOB1": ("O", "B-a", "I-a", "I-b"),
    "BIOES": ("O", "B-a", "I-a", "E-a", "S-a", "S-b"),
    "BMES": ("B", "M", "E", "S"),
}
VALID = {  # the scheme's definition as a regular expression over one letter a tag
    "BIO": r"(O|BI*|DJ*)*",
    "IOB1": r"(?!.*OB)(?!.*JB)(?!^B).*",
    "BIOES": r"(O|S|T|BI*E)*",
    "BMES": r"(S|BM*E)*",
}
LETTERS = {"BIO": "OBIDJ", "IOB1": "OBIJ", "BIOES": "OBIEST", "BMES": "BMES"}


@pytest.mark.parametrize("scheme", tag_schemes.SCHEMES)
def test_constraints_are_the_scheme(scheme):
    """A path is allowed exactly when the scheme's regular expression matches it."""
    tags = SCHEME_TAGS[scheme]
    allowed = tag_schemes.allowed(tags, scheme)
    for length in (1, 2, 3, 4):
        for path in itertools.product(range(len(tags)), repeat=length):
            ours = (
                allowed.start_C[path[0]] and allowed.end_C[path[-1]] and all(allowed.between_CC[a, b] for a, b in itertools.pairwise(path))
            )
            text = "".join(LETTERS[scheme][c] for c in path)
            assert bool(ours) == bool(re.fullmatch(VALID[scheme], text)), text
            assert (tag_schemes.first_violation([tags[c] for c in path], scheme) is None) == bool(ours)


@pytest.mark.parametrize(
    "tags, scheme, place",
    [
        (["O", "I-a"], "BIO", 1),
        (["B-a", "I-b"], "BIO", 1),
        (["O", "I-a"], "IOB1", None),
        (["O", "B-a"], "IOB1", 1),
        (["B-a"], "BIOES", 1),
        (["E-a"], "BIOES", 0),
        (["O", "X-a"], "BIO", 1),
        ([], "BIO", None),
    ],
)
def test_first_violation_says_where(tags, scheme, place):
    assert tag_schemes.first_violation(tags, scheme) == place


def test_a_tag_of_another_scheme_is_named():
    with pytest.raises(ValueError, match="E-a"):
        tag_schemes.allowed(("O", "B-a", "E-a"), "BIO")


def test_all_tags_of_a_type_come_together():
    assert tag_schemes.complete(["I-b", "O", "B-a"], "BIO") == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert tag_schemes.complete(["B", "E"], "BMES") == ["B", "M", "E", "S"]
