"""The tokenizer of a directory of Hugging Face: its files in one piece, special tokens and chat template included.

What such a directory may hold: `tokenizer.json`, or the older `vocab.txt` (WordPiece) or `vocab.json` and `merges.txt` (byte pairs);
`tokenizer_config.json` and `special_tokens_map.json`, which name the special tokens; a chat template of its own or in the former.
"""

import json
import pathlib
from typing import Any

from decoder_lab.core.errors import UserError

FORMAT = "decoder_lab tokenizer 1"
SPECIAL = ("bos", "eos", "pad", "cls", "sep", "mask", "unk")


def bundle(directory: pathlib.Path) -> bytes:
    """Returns {"format", "tokenizer" (the content of tokenizer.json), "special" ({"bos": string, ...}), "chat_template"} as JSON.

    Errors: UserError where the directory has no tokenizer of a kind that is known.
    """
    config = _json(directory / "tokenizer_config.json")
    named = {**_json(directory / "special_tokens_map.json"), **config}
    special = {name: _text(named[f"{name}_token"]) for name in SPECIAL if named.get(f"{name}_token")}
    tokenizer = _json(directory / "tokenizer.json") or _older(directory, config)
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), "")
    if (directory / "chat_template.jinja").is_file():
        template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    made = dict(format=FORMAT, tokenizer=tokenizer, special=special, chat_template=template)
    return json.dumps(made, ensure_ascii=False).encode()


def parts(artefact: bytes) -> tuple[dict, dict[str, str], str]:
    """Returns (tokenizer.json, special strings, chat template) of a bundle, or of a bare tokenizer.json. Errors: ValueError."""
    found = json.loads(artefact)
    if isinstance(found, dict) and found.get("format") == FORMAT:
        return found["tokenizer"], found["special"], found["chat_template"]
    return found, {}, ""


def write(directory: pathlib.Path, artefact: bytes, ids: dict[str, int]) -> None:
    """Writes the files of a tokenizer as transformers reads them; `ids` are {"eos": id, ...} of a tokenizer that names none itself."""
    tokenizer, special, template = parts(artefact)
    directory.mkdir(parents=True, exist_ok=True)
    by_id = strings(tokenizer)
    special = {**{name: by_id[i] for name, i in ids.items() if i in by_id}, **special}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{name}_token": text for name, text in special.items()}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if template:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def strings(tokenizer: dict) -> dict[int, str]:
    """Returns {id: string} of a tokenizer.json."""
    vocab = tokenizer["model"].get("vocab", {})
    found = {i: text for text, i in vocab.items()} if isinstance(vocab, dict) else {i: text for i, (text, _) in enumerate(vocab)}
    return found | {token["id"]: token["content"] for token in tokenizer.get("added_tokens", ())}


def _older(directory: pathlib.Path, config: dict) -> dict:
    """Returns tokenizer.json made of the files that were there before it."""
    from tokenizers import implementations

    if (directory / "vocab.txt").is_file():
        lower = config.get("do_lower_case", True)
        settings = dict(
            lowercase=lower,
            strip_accents=config.get("strip_accents"),
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        )
        made = implementations.BertWordPieceTokenizer(str(directory / "vocab.txt"), **settings)
    elif (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        files = str(directory / "vocab.json"), str(directory / "merges.txt")
        made = implementations.ByteLevelBPETokenizer(*files, add_prefix_space=config.get("add_prefix_space", False))
        end = "<|endoftext|>"
        if made.token_to_id(end) is not None:
            made.add_special_tokens([end])
    else:
        pieces = sorted(p.name for pattern in ("*.model", "*.spm") for p in directory.glob(pattern)) if directory.is_dir() else []
        hint = f" It has {', '.join(pieces)}: that is for the tokenizer sentencepiece_model." if pieces else ""
        raise UserError(f"tokenizer huggingface: {directory} has no tokenizer.json, vocab.txt, or vocab.json with merges.txt.{hint}")
    return json.loads(made.to_str())


def _json(path: pathlib.Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}.") from None


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token
