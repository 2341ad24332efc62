"""python -m decoder_lab.report RUN [RUN ...] [--output=report.html]: runs as one HTML file that needs nothing else.

A folder that holds runs stands for all of them. Files are read, JAX is not started, unless --attention or --evaluate ask for it.
"""

import argparse
import os
import pathlib
import subprocess
import sys

from decoder_lab.core.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The flags of the program."""
    made = argparse.ArgumentParser(
        "python -m decoder_lab.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs, or folders that hold some")
    made.add_argument(
        "--output", help="the file, or its folder, FOLDER/ (default: report.html in the run's folder, or here for several runs)"
    )
    made.add_argument("--title", default="", help="the page's title")
    made.add_argument("--compare", action="store_true", help="print what two runs differ in: settings, code, data, numbers")
    made.add_argument("--watch", action="store_true", help="serve the report of live runs on this machine; it follows them")
    made.add_argument("--port", type=int, default=8000, help="of --watch (default: 8000, or the next free one; 0: any)")
    made.add_argument("--figure", default="", metavar="NAME", help="one figure for a paper instead of the page; a wrong name lists them")
    made.add_argument("--format", default="png", choices=("png", "svg", "pdf"), help="of --figure (default: png)")
    made.add_argument("--attention", default="", metavar="TEXT", help="first draw where each run's model looks in this text")
    made.add_argument("--target", default=None, metavar="TEXT", help="of --attention: the target that the text is aligned with")
    made.add_argument("--evaluate", default="", metavar="NAME,NAME", help="first run these evaluators, such as token_loss, on each run")
    return made


def main(argv: list[str]) -> int:
    """Does what the flags say; returns the exit code."""
    flags = parser().parse_args(argv)
    from decoder_lab.report import run

    for path in run.folders(flags.runs) if flags.attention or flags.evaluate else []:
        if flags.attention:
            target = [] if flags.target is None else [f"--target={flags.target}"]
            _run_lab(["--mode=attention", f"--workdir={path}", f"--prompt={flags.attention}", *target])
        if flags.evaluate:
            _run_lab(["--mode=evaluate", f"--workdir={path}", *(f"--evaluator={name}" for name in flags.evaluate.split(","))])
    if flags.watch:
        from decoder_lab.report import watch

        return watch.serve(flags.runs, flags.port, flags.title)
    runs = run.read(flags.runs)
    if flags.compare:
        from decoder_lab.report import differences

        print("\n".join(differences.lines(runs)))
        return 0
    folder = runs[0].path if len(runs) == 1 else pathlib.Path(".")
    if flags.figure:
        from decoder_lab.report import figures

        path = _place(flags.output or folder, f"{flags.figure.replace('/', '_')}.{flags.format}")
        having = figures.save(flags.figure, runs, path)
        print(f"figure: {path}" + (f", of {having[0].name}, the first of {len(having)} runs that have one" if len(having) > 1 else ""))
        return 0
    from decoder_lab.report import page

    path = _place(flags.output or folder, "report.html")
    path.write_text(page.page(runs, flags.title), encoding="utf-8", errors="backslashreplace")
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB, {len(runs)} run{'s' if len(runs) > 1 else ''})")
    return 0


def _place(where: str | pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file to write: `where` itself, or `name` in it where it is a folder or ends as one. Errors: UserError if none can be."""
    output, is_folder = pathlib.Path(where), str(where).endswith(os.sep)
    path = output / name if is_folder or output.is_dir() else output if output.suffix else output.with_suffix(pathlib.Path(name).suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {path.parent} cannot be made: {error.strerror}.") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output: {path.parent} cannot be written to.")
    return path


def _run_lab(arguments: list[str]) -> None:
    """Runs the lab in a process of its own. Errors: UserError where it fails; what it said stands above."""
    if subprocess.run([sys.executable, "-m", "decoder_lab.main", *arguments]).returncode:
        raise UserError(f"python -m decoder_lab.main {' '.join(arguments)} failed; see above.")


def entry_point() -> None:
    """Runs `main`; an error that the user can act on is printed without a traceback and ends with exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    entry_point()
