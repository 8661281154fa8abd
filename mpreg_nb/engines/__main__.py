"""`python -m mpreg_nb.engines dask://HOST:PORT`: run a gateway."""

import sys

from mpreg_nb.engines.gateway import main

if __name__ == "__main__":
    sys.exit(main())
