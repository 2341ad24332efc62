"""English text as the words of the Penn Treebank: quotation marks tell which side they stand on, contractions come apart (do n't, it 's,
can not), punctuation stands alone, but for commas in numbers, full stops inside the text and hyphens.

Equal to nltk's `word_tokenize` of lower-cased text without its splitter of sentences, but for chains of contractions without a vowel
between them (d'ye'tis'twas) and combining accents. A rule sees what those before it left, so their order counts.
"""

import re

_PARTED = {"cannot": 3, "d'ye": 1, "gimme": 3, "gonna": 3, "gotta": 3, "lemme": 3, "more'n": 4, "wanna": 3}  # after so many letters

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«‘„“]|`{1,2}", r" \g<0> "),
        (r"""(?:^|(?<=^")|(?<=[ (\[{<]))"|(?:(?<=^")|(?<=[ (\[{<]))''""", " `` "),  # opening: first of all, or behind a blank or bracket
        (r"(?<!\w)'(?=\w)(?!(?:[dmnst]|ll|re|ve)\b)", "' "),  # opening, unless a contraction's ending
        (r"""(?<=[^.])\.(?=[\])}>"'»”’ ]*(?:[^\S ]\s*)?$)""", " . "),  # the last full stop, whatever closes behind it
        (r"([,:])(\D|$)", r" \1 \2"),
        (r"\.{2,}|[;@#$%&?!\u2012-\u2015]", r" \g<0> "),
        (r"(?<=[^'])'(?= )", " ' "),
        (r"[()\[\]{}<>*]|--", r" \g<0> "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),  # what is left of them closes
    )
)
_SHORT = re.compile(r"(?<=[^' ])'[dms]?(?=\s|$)")
_LONG = re.compile(r"(?<=[^' ])(?:'ll|'re|'ve|n't)(?=\s|$)")
_WHOLE = re.compile(rf"\b(?:(?!wanna)(?:{'|'.join(_PARTED)})\b|wanna(?=\s|$))")

_TIS = re.compile(r"(?<= )'t(is|was)\b")  # elsewhere its apostrophe was taken for a quotation mark


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    for pattern in (_SHORT, _LONG):
        text = pattern.sub(r" \g<0> ", text)
    return _TIS.sub(r"'t \1 ", _WHOLE.sub(lambda found: _apart(found.group()), text)).split()


def _apart(word: str) -> str:
    first = _PARTED[word]
    return f" {word[:first]} {word[first:]} "
