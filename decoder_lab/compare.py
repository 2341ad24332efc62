"""python -m decoder_lab.compare RUN RUN [RUN ...]: what runs differ in, as text: settings, code, data and numbers."""

import sys

from decoder_lab.report import __main__ as report

if __name__ == "__main__":
    sys.argv.insert(1, "--compare")
    report.entry_point()
