"""The command line of a gateway: `mpreg-nb gateway`, `python -m mpreg_nb.engines`."""

import argparse

import msgspec
from msgspec.structs import replace

from mpreg_nb.engines.engine import check_installed, dask_address
from mpreg_nb.node.options import NodeOptions, add_arguments, options_of


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line of a gateway says."""

    node: NodeOptions  # of the gateway's own node
    address: str  # of the Dask scheduler, as Dask writes it
    security_file: str = ""
    """Arguments of `distributed.Security` as JSON; empty: as Dask is configured."""


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` every option of a gateway; read them with `gateway_options`."""
    add_arguments(parser, name="gateway")
    parser.usage = "%(prog)s dask://HOST:PORT [options]"
    parser.add_argument(
        "dask", metavar="URL", help="URL of the Dask scheduler: dask://HOST:PORT"
    )
    parser.add_argument(
        "--dask-security",
        default="",
        metavar="FILE",
        help="arguments of distributed.Security as JSON; the file is deleted once it "
        "has been read (default: as Dask is configured)",
    )


def gateway_options(
    parser: argparse.ArgumentParser, given: argparse.Namespace
) -> GatewayOptions:
    """Return what `parser` read; options that make no sense exit with 2.

    Raises:
        ModuleNotFoundError: `distributed` is not installed.
    """
    options = options_of(parser, given)
    try:
        address = dask_address(given.dask)
    except ValueError as error:
        parser.error(str(error))
    check_installed()
    # The gateway's own node is where clients connect to, and runs nothing.
    own = replace(options.settings, workers=0, engine=given.dask)
    return GatewayOptions(
        node=replace(options, settings=own),
        address=address,
        security_file=given.dask_security,
    )
