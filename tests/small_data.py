"""Folders in the formats of the well-known data sets that experiments read from outside: a few dozen items each, made here."""

import csv
import gzip
import io
import json
import pathlib

SUBJECTS = ("the old dog", "a small child", "my neighbour", "the red train", "one green bottle", "the tall woman")
VERBS = ("sees", "likes", "follows", "paints", "forgets", "finds")
OBJECTS = ("the river", "a blue house", "two birds", "the market", "an apple tree", "the long road")
NUM_ITEMS = 96


def sentences(num_items: int = NUM_ITEMS) -> list[str]:
    """Different short sentences, the same in every call."""
    every = [f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS]
    return [every[i * 37 % len(every)] for i in range(num_items)]


def labels() -> list[int]:
    return [i % 4 for i in range(NUM_ITEMS)]


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def table(rows: list, delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def tags(sentence: str) -> list[str]:
    """The object is a span of one of two kinds."""
    words = sentence.split()
    size = len(next(o for o in OBJECTS if sentence.endswith(o)).split())
    kind = "place" if words[-1] in ("river", "house", "market", "road") else "thing"
    return ["O"] * (len(words) - size) + [f"B-{kind}"] + [f"I-{kind}"] * (size - 1)


def _shakespeare(folder):
    text = "".join(f"{n} green bottles hanging on the wall, and if one should fall...\n" for n in range(400))
    write(folder / "train.txt", text)
    write(folder / "val.txt", text[:4000])


def _agnews(folder):
    rows = [[label + 1, s, f"More on {s}."] for s, label in zip(sentences(), labels(), strict=True)]
    for name in ("train_from_test.csv.gz", "dev_from_test.csv.gz"):
        write(folder / name, table(rows))


def _banking77(folder):
    rows = [["text", "category"], *([s, f"intent_{label}"] for s, label in zip(sentences(), labels(), strict=True))]
    for name in ("train.csv.gz", "test_part1.csv"):
        write(folder / name, table(rows))


def _chnsenticorp(folder):
    rows = [["label", "text_a"], *([label % 2, f"房间{i}很好，{'不' * (label % 2)}喜欢"] for i, label in enumerate(labels()))]
    for name in ("train.tsv.gz", "dev.tsv.gz"):
        write(folder / name, table(rows, "\t"))


def _sst2(folder):
    rows = [[s, label % 2] for s, label in zip(sentences(), labels(), strict=True)]
    for name in ("train.tsv.gz", "dev.tsv"):
        write(folder / name, table(rows, "\t"))


def _trec(folder):
    lines = [f"{('DESC', 'ENTY', 'HUM', 'NUM')[label]}:fine What does {s} ?\n" for s, label in zip(sentences(), labels(), strict=True)]
    write(folder / "TREC.train", "".join(lines))


def _glue(folder):
    columns = ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"]  # as MRPC has them, byte order mark and all
    columns += ["sentence1", "sentence2", "score"]  # and STS-B
    rows = [[label % 2, i, i, s, f'"{s}', s, s, label * 1.25] for i, (s, label) in enumerate(zip(sentences(), labels(), strict=True))]
    for name in ("train.tsv", "dev.tsv"):
        write(folder / name, "".join("\t".join(map(str, row)) + "\r\n" for row in [columns, *rows]))


def _reuters(folder):
    items = [dict(text=s, topics=["crude", "ship", "trade"][: label % 3]) for s, label in zip(sentences(), labels(), strict=True)]
    for name in ("train.jsonl.gz", "test.jsonl.gz"):
        write(folder / name, "".join(json.dumps(item) + "\n" for item in items))


def _conll(*names):
    def make(folder):
        text = "".join("".join(f"{w}\t{t}\n" for w, t in zip(s.split(), tags(s), strict=True)) + "\n" for s in sentences())
        for name in names:
            write(folder / name, text)

    return make


def _snips(folder):
    columns = {
        "seq.in": sentences(),
        "seq.out": [" ".join(tags(s)) for s in sentences()],
        "label": [f"Intent{label}" for label in labels()],
    }
    for name, lines in columns.items():
        write(folder / "train" / f"{name}.gz", "\n".join(lines) + "\n")
        write(folder / "valid" / name, "\n".join(lines) + "\n")


def _squad(*names):
    def make(folder):
        paragraphs = []
        for i, s in enumerate(sentences()):
            answer = next(o for o in OBJECTS if s.endswith(o))
            asked = dict(id=str(i), question="What is it about?", answers=[dict(text=answer, answer_start=s.index(answer))])
            paragraphs.append(dict(context=s, qas=[asked]))
        articles = [dict(title=str(i), paragraphs=paragraphs[i::16]) for i in range(16)]
        for name in names:
            write(folder / name, json.dumps(dict(version="1.1", data=articles)))

    return make


def _multi30k(folder):
    for split in ("train", "val", "test_2016_flickr"):
        for side in ("de", "en"):
            lines = "\n".join(s if side == "en" else s[::-1] for s in sentences()) + "\n"
            write(folder / "raw" / f"{split}.{side}.gz", lines)
            write(folder / "tok" / f"{split}.lc.norm.tok.{side}.gz", lines)


def _tatoeba(folder):
    for name in ("train.tsv.gz", "dev.tsv"):
        write(folder / name, "".join(f"{s}.\t句子{i}。\n" for i, s in enumerate(sentences())))


def _scitldr(folder):
    items = [dict(source=[f"{s}.", "This is shown."], target=[s]) for s in sentences()]
    for name in ("train.jsonl.gz", "dev.jsonl.gz"):
        write(folder / name, "".join(json.dumps(item) + "\n" for item in items))


def _sgd(folder):
    items = [
        dict(dialogue_id=str(i), turns=[dict(speaker=("USER", "SYSTEM")[j % 2], utterance=f"{s} {j}") for j in range(4)])
        for i, s in enumerate(sentences(32))
    ]
    for name in ("train.jsonl.gz", "dev.jsonl.gz"):
        write(folder / name, "".join(json.dumps(item) + "\n" for item in items))


def _e2e(folder):
    write(folder / "train_tokenised" / "src_train.txt.gz", "".join(f"__start_name__ {s} __end_name__\n" for s in sentences()))
    write(folder / "train_tokenised" / "train.txt.gz", "".join(f"{s} is nice . <eos>|||0,1,0\n" for s in sentences()))
    rows = [["mr", "ref"], *([f"name[{s}]", f"{s} is nice."] for s in sentences())]
    for name in ("devset.csv.gz", "testset_w_refs_part1.csv.gz"):
        write(folder / name, table(rows))


def _instruction(folder):
    items = [dict(instruction=f"What does {s.split()[1]} do?", input=s, output=s.split()[-1]) for s in sentences()]
    for name in ("train.json", "val.json"):
        write(folder / name, json.dumps(items))


def _preference(folder):
    items = [dict(instruction="What is it?", input=s, chosen=s.split()[-1], rejected="a b") for s in sentences()]
    write(folder / "preference.json.gz", json.dumps(items))


MAKERS = {
    "experiments/finetune/preference.py": _preference,
    "experiments/finetune/reward.py": _preference,
    "experiments/finetune/instruction.py": _instruction,
    "experiments/pretrain/shakespeare_char.py": _shakespeare,
    "experiments/finetune/shakespeare.py": _shakespeare,
    "experiments/finetune/domain.py": _shakespeare,
    "experiments/finetune/minilm.py": _sst2,
    "experiments/classification/agnews.py": _agnews,
    "experiments/classification/banking77.py": _banking77,
    "experiments/classification/chnsenticorp.py": _chnsenticorp,
    "experiments/classification/sst2.py": _sst2,
    "experiments/classification/trec.py": _trec,
    "experiments/classification/glue.py": _glue,
    "experiments/classification/reuters.py": _reuters,
    "experiments/retrieval/tatoeba.py": _tatoeba,
    "experiments/tagging/ncbi_disease.py": _conll("train.tsv.gz", "devel.tsv"),
    "experiments/tagging/wnut17.py": _conll("wnut17train.conll.gz", "emerging.dev.conll"),
    "experiments/tagging/snips.py": _snips,
    "experiments/question_answering/squad.py": _squad("train.json", "dev.json"),
    "experiments/question_answering/cmrc2018.py": _squad("cmrc2018_dev.json"),
    "experiments/translation/multi30k.py": _multi30k,
    "experiments/translation/tatoeba.py": _tatoeba,
    "experiments/summarisation/scitldr.py": _scitldr,
    "experiments/dialogue/sgd.py": _sgd,
    "experiments/data_to_text/e2e.py": _e2e,
}
# what else is said of them, such as weights that need not be installed here
ARGUMENTS = {"experiments/finetune/minilm.py": "weights=nowhere"}
PATHS = {"data", "base", "teacher", "files", "weights", "tokenizer", "seed"}  # arguments that choose nothing but files, or chance
# other than the default arguments of every config that has any: other branches of the file, as many as fit together, sets parted by |
VARIANTS = {
    "experiments/classification/agnews.py": "encoder=transformer",
    "experiments/classification/banking77.py": "encoder=gru",
    "experiments/classification/chnsenticorp.py": "encoder=lstm",
    "experiments/classification/glue.py": "set=stsb,encoder=bert",
    "experiments/classification/grokking.py": "operation=/,share=0.3",
    "experiments/classification/reuters.py": "encoder=gru",
    "experiments/classification/sst2.py": "encoder=lstm,pooling=state,characters=false,masked=false | learn=words | words=nowhere",
    "experiments/classification/stdlib_claims.py": "encoder=transformer",
    "experiments/classification/stdlib_constructs.py": "encoder=bag",
    "experiments/classification/stdlib_depth.py": "encoder=lstm",
    "experiments/classification/stdlib_package.py": "encoder=transformer",
    "experiments/classification/trec.py": "fine=true,encoder=bag,characters=false",
    "experiments/finetune/distillation.py": "hidden=0.5",
    "experiments/finetune/domain.py": "replay=0.3",
    "experiments/finetune/long_context.py": "scaling=linear",
    "experiments/finetune/minilm.py": "method=lora",
    "experiments/finetune/preference.py": "loss=ipo",
    "experiments/finetune/shakespeare.py": "method=houlsby",
    "experiments/pretrain/gpt2.py": "size=gpt2-medium",
    "experiments/pretrain/masked_lm.py": "size=bert-base",
    "experiments/pretrain/prefix_lm.py": "prefix=causal",
    "experiments/pretrain/shakespeare_char.py": "size=gpu",
    "experiments/pretrain/span_corruption.py": "size=t5-v1.1-small",
    "experiments/pretrain/stdlib.py": "size=small",
    "experiments/question_answering/cmrc2018.py": "model=transformer",
    "experiments/question_answering/squad.py": "model=recurrent,version=2",
    "experiments/question_answering/stdlib_parameters.py": "model=bidaf,no_answer=true",
    "experiments/retrieval/stdlib_docstring.py": "encoder=transformer",
    "experiments/retrieval/tatoeba.py": "encoder=gru",
    "experiments/schedules/compare.py": "schedule=constant",
    "experiments/sequence_to_sequence/reverse.py": "sampling=0.25",
    "experiments/tagging/ncbi_disease.py": "crf=false,characters=lstm",
    "experiments/tagging/snips.py": "crf=false",
    "experiments/tagging/stdlib_identifiers.py": "crf=false,characters=none",
    "experiments/tagging/stdlib_joint.py": "crf=false",
    "experiments/tagging/wnut17.py": "crf=false,characters=none",
    "experiments/translation/multi30k.py": "model=bahdanau,text=tok,direction=en-de,beam=1",
    "experiments/translation/tatoeba.py": "model=bahdanau",
}
