"""`wyoming-rknn models verify`: prove that models are whole and that the NPU computes them as it should."""

import argparse

from wyoming_rknn.cli.arguments import add_settings, quiet_settings

HELP = "check the installed models' files, and let the NPU reproduce their golden outputs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="models to verify (default: all)")
    add_settings(
        parser,
        ("data_dir", "cache_dir", "runtime", "soc", "rknn_library", "threads", "cpu_affinity", "log_level",
         "log_format"),
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Verify."""
    settings = quiet_settings(arguments)
    from wyoming_rknn.cli import doctor
    from wyoming_rknn.cli.doctor.lines import Line
    from wyoming_rknn.cli.doctor.verify import check_models
    from wyoming_rknn.models.catalogs import load_catalog
    from wyoming_rknn.runtime.runtimes import Runtimes

    runtimes = Runtimes.of(settings)
    runtimes.report()
    lines: list[Line] = []
    try:
        for line in check_models(settings, runtimes, arguments.names, catalog=load_catalog(settings)):
            lines.append(line)
            doctor.show(line)
    finally:
        runtimes.close()
    return doctor.exit_code(lines)
