"""python -m decoder_lab.main --config=experiments/... --workdir=...: the only file that reads the command line.

JAX is imported only once the config is known to be sane.
"""

from decoder_lab.core import runtime

if __name__ == "__main__":
    runtime.prefer_huge_pages()  # starts the process again, hence before the other imports, which would be made twice

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import sys

from decoder_lab import __version__
from decoder_lab.core import config as config_lib
from decoder_lab.core import fields
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.decoding.settings import Sampling
from decoder_lab.parallel import places, processes
from decoder_lab.serving.generate import Options

MODES = {
    "train": "train a model, or go on with the run that is in the workdir",
    "evaluate": "evaluate a run's checkpoint on a full pass over a split",
    "generate": "write text with a run's checkpoint: go on from --prompt, or translate, summarise, answer it",
    "predict": "predict for every item of --input with a run's checkpoint: JSON lines, a table, or a text a line",
    "attention": "draw where a run's model looks in --prompt (and --target): a picture and a page",
    "import": "make a run of a model's directory of Hugging Face (--huggingface), to generate with, evaluate or begin from",
    "export": "write a run's model for others (--format, --output): a directory for transformers, or compiled functions",
    "merge": "make an ordinary run of an adapted one: its adapter merged into the weights, in the folder --output",
    "plan": "say whether a run fits its devices, or those of --topology, and how fast it can be, before anything is run",
    "plot_schedule": "draw the learning rate of a config before anything is run",
    "replay": "run the step again that stopped a run by a non-finite loss or gradient",
}
READ = ("generate", "predict", "plan")  # modes for somebody who reads: who has seen enough may go
FORMATS = ("huggingface", "stablehlo", "peft")


class _Unread(Exception):
    """Nobody reads the output any more, of a command that was under way."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"flag: {message}. All flags: python -m decoder_lab.main --help")


def parser() -> argparse.ArgumentParser:
    """The flags of the program; the settings of an experiment are `--config.x=y` and come from the config itself."""
    made = _Parser(
        "python -m decoder_lab.main",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="modes:\n" + "\n".join(f"  {k:14} {v}" for k, v in MODES.items()),
        epilog="Any setting of the config: --config.lr=1e-3 --config.model.kw.num_layers=4. All of them: --config=FILE --print_config.",
    )
    made.add_argument("--mode", default="train", help=f"one of {', '.join(MODES)} (default: train)")
    made.add_argument(
        "--config", metavar="FILE[:KEY=VALUE,...]", help="a file with get_config(arg); not needed where the workdir holds a run"
    )
    made.add_argument("--workdir", type=pathlib.Path, help="the run's folder: config, numbers, checkpoints, plots")
    made.add_argument("--print_config", action="store_true", help="print every setting of the resolved config and stop")
    made.add_argument(
        "--allow_changes", action="store_true", help="go on in a workdir although the config differs from the one it was begun with"
    )
    made.add_argument("--split", default="", help="evaluate: only this split, whole, with the task's own metrics")
    made.add_argument(
        "--evaluator", action="append", default=[], metavar="NAME", help="evaluate: this evaluator instead of the run's own (several times)"
    )
    made.add_argument("--version", action="version", version=__version__)
    group = made.add_argument_group("plan")
    group.add_argument(
        "--topology", default="", help="devices that need not be there: v5e:16x16, v5p:4x4x8*2 (two slices), h100x8 (default: those here)"
    )
    group.add_argument(
        "--vocab_size", type=int, default=0, help="plan without data, for a vocabulary of this size (default: 0, the run's own tokenizer)"
    )
    group = made.add_argument_group("predict and attention")
    group.add_argument("--input", default="", metavar="FILE", help="predict: .jsonl, .csv, .tsv or a text a line; - is standard input")
    group.add_argument(
        "--output", default="", metavar="FILE", help="predict: where to (default: the terminal); attention: the picture's name"
    )
    group.add_argument("--batch_size", type=int, default=32, help="predict: items at once; changes nothing but speed (default: 32)")
    group.add_argument(
        "--target", default=None, help="attention: the target that the prompt is aligned with (default: what the model writes)"
    )
    group.add_argument("--layer", type=int, default=-1, help="attention: which layer the picture shows, from 0 (default: -1, the last)")
    group = made.add_argument_group("import and export")
    group.add_argument("--huggingface", type=pathlib.Path, metavar="DIR", help="import: the directory, with config.json and safetensors")
    group.add_argument("--format", default="huggingface", help=f"export: one of {', '.join(FORMATS)} (default: huggingface), to --output")
    group.add_argument("--family", default="", help="export: the model_type to write (default: the first that has all of the model)")
    _add_processes(made.add_argument_group("several processes (train and evaluate)"))
    group = made.add_argument_group("generate (--checkpoint for all that read a run; beam, num_tokens for predict, prompt for attention)")
    helps = _attribute_docs(Options) | _attribute_docs(Sampling)  # Options refers to Sampling for its fields
    for field in dataclasses.fields(Options):
        _add_option(group, field, helps.get(field.name, ""))
    return made


def _add_processes(group) -> None:
    group.add_argument(
        "--distributed",
        default="auto",
        metavar="WHERE",
        help=f"where to learn who is who: {places.SETTING} (default: auto, what the environment says)",
    )
    group.add_argument(
        "--patience",
        type=float,
        default=None,
        metavar="SECONDS",
        help="how long to wait for others, at the start or in a step, before the run ends with exit code 75, to be started again "
        f"(default: {processes.PATIENCE_SECONDS:g} where there are several, else no limit)",
    )


def _attribute_docs(cls: type) -> dict[str, str]:
    """{field: what the class's docstring says of it}, from its paragraphs "name, name: text"."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n {6}(?=\w)", (cls.__doc__ or "").partition("Attributes:")[2]):
        names, colon, text = entry.strip().partition(": ")
        if colon:
            found |= {name: " ".join(text.split()).rstrip(".").replace("%", "%%") for name in names.split(", ")}
    return found


def _add_option(group, field: dataclasses.Field, doc: str) -> None:
    name, default = f"--{field.name}", field.default
    if isinstance(default, tuple):
        group.add_argument(name, action="append", metavar="TEXT", help=f"{doc} (may be given several times)")
    elif isinstance(default, bool):
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=doc)
    else:
        group.add_argument(name, type=int if default is None else type(default), default=default, help=f"{doc} (default: {default!r})")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns (flags, overrides of the config). Errors: UserError for a flag that is not known, with the nearest."""
    argv = list(argv)
    overrides, rest = [], []
    while argv:
        word = argv.pop(0)
        if word.startswith("--config."):
            if "=" not in word and argv and not argv[0].startswith("--"):
                word += "=" + argv.pop(0)
            overrides.append(word.removeprefix("--config."))
        else:
            rest.append(word)
    made = parser()
    flags, unknown = made.parse_known_args(rest)
    known = [o.lstrip("-") for a in made._actions for o in a.option_strings]
    if unknown:
        lines = [f"flag {u} is not known.{nearest(u.lstrip('-').split('=')[0], [*known, *fields.FIELDS])}" for u in unknown]
        raise UserError("\n".join([*lines, "Settings of the experiment are written --config.<name>=<value>."]))
    if flags.mode not in MODES:
        raise UserError(f'--mode: "{flags.mode}" is not known.{nearest(flags.mode, MODES)} Known: {", ".join(MODES)}.')
    if flags.format not in FORMATS:
        raise UserError(f'--format: "{flags.format}" is not known.{nearest(flags.format, FORMATS)} Known: {", ".join(FORMATS)}.')
    return flags, overrides


def main(argv: list[str]) -> int:
    """Does what the flags say; returns the exit code."""
    flags, overrides = parse(argv)
    from decoder_lab import commands  # light: JAX comes with the first command that computes

    config = commands.config_for(flags, overrides)
    if flags.print_config:
        for name, value in config_lib.flat(config):
            print(f"{name} = {value!r}")
        return 0
    try:
        return getattr(commands, commands.NAMES.get(flags.mode, flags.mode))(config, flags)
    except BrokenPipeError as error:
        if flags.mode in READ:
            raise
        raise _Unread from error


def entry_point() -> None:
    """Runs `main`; an error that the user can act on is printed without a traceback and ends with its exit code, 2.

    With several processes all of them end when one does, with its exit code.
    """
    code, said = 1, ""
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        said, code = str(error), error.exit_code
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; what was saved before stays", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")
        code = 0
    except _Unread:
        sys.stdout = open(os.devnull, "w")
        code, said = runtime.EXIT_RESUMABLE, "whoever read its output is gone"
        with contextlib.suppress(OSError):
            print(f"error: {said}; what was saved before stays, and the same command goes on", file=sys.stderr)
    finally:
        processes.leave(code, said)
    sys.exit(code)


if __name__ == "__main__":
    entry_point()
